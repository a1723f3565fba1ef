//! The cluster's certificate authorities.
//!
//! Two roots: `cluster` signs what speaks to the API (servers, nodes, people), `peer` signs what
//! speaks Raft, so that no API credential ever opens the replication port.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Certificates are issued for a year; a restart renews what is past half of that.
const CERTIFICATE_DAYS: i64 = 365;
/// Roots live ten years, as kubeadm's.
const ROOT_DAYS: i64 = 3650;
/// Clocks of machines that join may be behind ours by this much.
const CLOCK_SKEW_HOURS: i64 = 1;

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("certificate authority: {what} is not valid PEM: {cause}")]
    Pem { what: &'static str, cause: String },
    #[error("certificate authority: {address:?} is neither an IP address nor a DNS name")]
    Address { address: String },
}

/// A root certificate with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    key_pem: String,
}

/// A certificate chain (leaf, then root) and its private key, both PEM.
#[derive(Clone)]
pub struct Credential {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Who a certificate names, and what it may be used for.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The user name.
    pub common_name: String,
    /// The group; rcgen keeps one attribute of a type, and nobody of ours needs two.
    pub organization: Option<String>,
    /// IP addresses and DNS names it may serve as; empty for a client only.
    pub addresses: Vec<String>,
}

impl Authority {
    /// A new self-signed root.
    pub fn generate(common_name: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name(common_name, None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        set_validity(&mut parameters, ROOT_DAYS);
        let certificate_pem = parameters.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Self::from_pem(&certificate_pem, &key_pem)
    }

    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(certificate_pem, key)?,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
        })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A new key and a certificate for it.
    pub fn issue(&self, subject: &Subject) -> Result<Credential, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(subject)?.signed_by(&key, &self.issuer)?;
        Ok(Credential {
            certificate_pem: self.chain(&certificate.pem()),
            key_pem: key.serialize_pem(),
        })
    }

    /// A certificate for somebody else's key. Only the public key of the request is used: the
    /// subject and the addresses are what we say, never what was asked for.
    pub fn sign(&self, request_pem: &str, subject: &Subject) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let certificate = leaf(subject)?.signed_by(&request.public_key, &self.issuer)?;
        Ok(self.chain(&certificate.pem()))
    }

    fn chain(&self, leaf_pem: &str) -> String {
        format!("{}\n{}", leaf_pem.trim_end(), self.certificate_pem)
    }
}

/// A key and a request to have it certified; the subject is chosen by whoever signs.
pub fn certificate_request() -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate()?;
    let parameters = CertificateParams::default();
    let request = parameters.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// A private key for signing service account tokens (ES256).
pub fn signing_key_pem() -> Result<String, AuthorityError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| AuthorityError::Pem {
            what: "the certificate",
            cause: cause.to_string(),
        })
}

pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, AuthorityError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|cause| AuthorityError::Pem {
        what: "the private key",
        cause: cause.to_string(),
    })
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(organization) = organization {
        distinguished.push(DnType::OrganizationName, organization);
    }
    distinguished.push(DnType::CommonName, common_name);
    distinguished
}

fn leaf(subject: &Subject) -> Result<CertificateParams, AuthorityError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name(&subject.common_name, subject.organization.as_deref());
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !subject.addresses.is_empty() {
        parameters
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    for address in &subject.addresses {
        let san = match address.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => {
                let dns = address.as_str().try_into();
                SanType::DnsName(dns.map_err(|_| AuthorityError::Address {
                    address: address.clone(),
                })?)
            }
        };
        parameters.subject_alt_names.push(san);
    }
    set_validity(&mut parameters, CERTIFICATE_DAYS);
    Ok(parameters)
}

fn set_validity(parameters: &mut CertificateParams, days: i64) {
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_secs(3600);
    let before = now - hour * CLOCK_SKEW_HOURS.unsigned_abs() as u32;
    let after = now + hour * 24 * days.unsigned_abs() as u32;
    parameters.not_before = before.into();
    parameters.not_after = after.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_requests_with_our_subject_only() -> Result<(), AuthorityError> {
        let authority = Authority::generate("trireme-cluster")?;
        let (_key, request) = certificate_request()?;
        let subject = Subject {
            common_name: "system:node:a".to_owned(),
            organization: Some("system:nodes".to_owned()),
            addresses: vec!["10.0.0.7".to_owned(), "a.example".to_owned()],
        };
        let chain = certificates(&authority.sign(&request, &subject)?)?;
        assert_eq!(chain.len(), 2, "leaf and root");
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("DER");
        let text = leaf.subject().to_string();
        assert!(text.contains("CN=system:node:a"), "{text}");
        assert!(text.contains("O=system:nodes"), "{text}");
        Ok(())
    }

    #[test]
    fn refuses_an_address_that_is_none() -> Result<(), AuthorityError> {
        let authority = Authority::generate("trireme-cluster")?;
        let subject = Subject {
            common_name: "x".to_owned(),
            addresses: vec!["höst".to_owned()],
            ..Subject::default()
        };
        assert!(matches!(
            authority.issue(&subject),
            Err(AuthorityError::Address { .. })
        ));
        Ok(())
    }

    #[test]
    fn a_root_survives_its_own_pem() -> Result<(), AuthorityError> {
        let authority = Authority::generate("trireme-cluster")?;
        let again = Authority::from_pem(authority.certificate_pem(), authority.key_pem())?;
        assert_eq!(authority.certificate_pem(), again.certificate_pem());
        Ok(())
    }
}
