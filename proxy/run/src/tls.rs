//! TLS towards clients and upstreams, on rustls with ring: sessions made of the configuration and of secrets.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use thiserror::Error;
use trireme_proxy_decide::config::{
    DownstreamTls, SecretSource, StringMatch, StringMatcher, UpstreamTls, ValidationContext,
};

/// A certificate file larger than this is none.
const MAX_SECRET_BYTES: u64 = 1024 * 1024;

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The secret discovery service has not sent it.
    #[error("secret {0} has not arrived")]
    Absent(Arc<str>),
    /// A file could not be read.
    #[error("{file}: {error}")]
    File {
        /// Which file.
        file: Arc<str>,
        /// Why.
        error: io::Error,
    },
    /// A secret holds no certificate, no key, or a broken one.
    #[error("{0}")]
    Secret(String),
    /// rustls refuses.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A secret that discovery sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secret {
    /// Certificates, in PEM.
    pub certificate_chain: Arc<[u8]>,
    /// The private key, in PEM.
    pub private_key: Arc<[u8]>,
    /// Authorities, in PEM.
    pub trusted_ca: Arc<[u8]>,
}

/// Secrets by name.
pub type Secrets = BTreeMap<Arc<str>, Arc<Secret>>;

#[derive(Clone, Copy)]
enum Part {
    Chain,
    Key,
    Authorities,
}

fn load(source: &SecretSource, part: Part, secrets: &Secrets) -> Result<Arc<[u8]>, TlsError> {
    match source {
        SecretSource::Inline(bytes) => Ok(bytes.clone()),
        SecretSource::File(path) => {
            let fail = |error| TlsError::File {
                file: path.clone(),
                error,
            };
            let length = std::fs::metadata(&**path).map_err(fail)?.len();
            if length > MAX_SECRET_BYTES {
                return Err(TlsError::Secret(format!(
                    "{path} is larger than {MAX_SECRET_BYTES} bytes"
                )));
            }
            Ok(std::fs::read(&**path).map_err(fail)?.into())
        }
        SecretSource::Sds(name) => {
            let secret = secrets
                .get(name)
                .ok_or_else(|| TlsError::Absent(name.clone()))?;
            Ok(match part {
                Part::Chain => secret.certificate_chain.clone(),
                Part::Key => secret.private_key.clone(),
                Part::Authorities => secret.trusted_ca.clone(),
            })
        }
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(TlsError::Secret(
            "there is no certificate in the secret".into(),
        )),
        Err(error) => Err(TlsError::Secret(format!("certificate: {error}"))),
    }
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| TlsError::Secret(format!("private key: {error}")))
}

fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store.add(certificate)?;
    }
    Ok(Arc::new(store))
}

/// The authorities that distributions install.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

fn authorities(
    context: &ValidationContext,
    secrets: &Secrets,
) -> Result<Option<Arc<RootCertStore>>, TlsError> {
    if let Some(source) = &context.trusted_ca {
        return roots(&load(source, Part::Authorities, secrets)?).map(Some);
    }
    if !context.system_roots {
        return Ok(None);
    }
    let found = SYSTEM_ROOTS
        .iter()
        .find_map(|path| std::fs::read(path).ok());
    let pem =
        found.ok_or_else(|| TlsError::Secret("the system has no authorities installed".into()))?;
    roots(&pem).map(Some)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn versions(least: Option<u8>, most: Option<u8>) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let mut versions = Vec::with_capacity(2);
    if most != Some(12) {
        versions.push(&rustls::version::TLS13);
    }
    if least != Some(13) {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

fn alpn(names: &[Arc<str>]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// A session maker for a listener.
///
/// # Errors
/// When a secret is absent or broken.
pub fn server(tls: &DownstreamTls, secrets: &Secrets) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(tls.min_version, tls.max_version))?;
    let builder = match &tls.validation {
        Some(context) => match authorities(context, secrets)? {
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = if tls.require_client_certificate {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| TlsError::Secret(format!("client authorities: {error}")))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        },
        None => builder.with_no_client_auth(),
    };
    let (certificate, private_key) = tls
        .certificates
        .first()
        .ok_or_else(|| TlsError::Secret("the listener has no certificate".into()))?;
    let certificate = chain(&load(certificate, Part::Chain, secrets)?)?;
    let private_key = key(&load(private_key, Part::Key, secrets)?)?;
    let mut config = builder.with_single_cert(certificate, private_key)?;
    config.alpn_protocols = alpn(&tls.alpn);
    Ok(Arc::new(config))
}

/// Checks a server as Envoy does: the chain where there are authorities, names only where matchers say so.
#[derive(Debug)]
struct Verifier {
    roots: Option<Arc<RootCertStore>>,
    names: Vec<StringMatcher>,
    /// The certificate must be for the name that was sent.
    sent_name: bool,
    hashes: Vec<Arc<str>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whether a name in a certificate is one that is wanted. A certificate for `*.example.com` is one for each name with
/// one label more.
fn names(wanted: &StringMatcher, present: &str) -> bool {
    let fold = |text: &str| {
        if wanted.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    let present = fold(present);
    match &wanted.pattern {
        StringMatch::Exact(name) => {
            let name = fold(name);
            let by_wildcard = present.strip_prefix("*.").is_some_and(|parent| {
                name.split_once('.')
                    .is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            });
            present == name || by_wildcard
        }
        StringMatch::Prefix(start) => present.starts_with(&fold(start)),
        StringMatch::Suffix(end) => present.ends_with(&fold(end)),
        StringMatch::Contains(part) => present.contains(&fold(part)),
        StringMatch::Regex(pattern) => pattern.matches(&present),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn alternative_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, rustls::Error> {
    use x509_parser::extensions::GeneralName;
    let bad = || rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad())?;
    let Some(extension) = parsed.subject_alternative_name().map_err(|_| bad())? else {
        return Ok(Vec::new());
    };
    let names = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
                Some((*name).to_owned())
            }
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes)
                    .ok()
                    .map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
                16 => <[u8; 16]>::try_from(*bytes)
                    .ok()
                    .map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
                _ => None,
            },
            _ => None,
        });
    Ok(names.collect())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refuse = || {
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            )
        };
        if self.roots.is_some() || self.sent_name {
            let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
            if let Some(roots) = &self.roots {
                let algorithms = self.algorithms.all;
                rustls::client::verify_server_cert_signed_by_trust_anchor(
                    &parsed,
                    roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
            }
            if self.sent_name {
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
        }
        if !self.hashes.is_empty() {
            let digest = hex(ring::digest::digest(&ring::digest::SHA256, end_entity).as_ref());
            let plain = |hash: &str| hash.replace(':', "").to_ascii_lowercase();
            if !self.hashes.iter().any(|hash| plain(hash) == digest) {
                return Err(refuse());
            }
        }
        if !self.names.is_empty() {
            let present = alternative_names(end_entity)?;
            if !self
                .names
                .iter()
                .any(|wanted| present.iter().any(|name| names(wanted, name)))
            {
                return Err(refuse());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A session maker for a cluster. `protocols` is offered where the configuration offers none.
///
/// # Errors
/// When a secret is absent or broken.
pub fn client(
    tls: &UpstreamTls,
    secrets: &Secrets,
    protocols: &[&str],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let context = tls.validation.clone().unwrap_or_default();
    let verifier = Verifier {
        roots: authorities(&context, secrets)?,
        names: context.subject_alt_names,
        sent_name: tls.auto_san_validation,
        hashes: context.certificate_hashes,
        algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(tls.min_version, tls.max_version))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.certificate {
        Some((certificate, private_key)) => {
            let certificate = chain(&load(certificate, Part::Chain, secrets)?)?;
            builder
                .with_client_auth_cert(certificate, key(&load(private_key, Part::Key, secrets)?)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if tls.alpn.is_empty() {
        protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect()
    } else {
        alpn(&tls.alpn)
    };
    Ok(Arc::new(config))
}

/// The name to send: the configured one, or the address.
///
/// # Errors
/// When it is no name.
pub fn server_name(
    sni: Option<&str>,
    address: std::net::IpAddr,
) -> Result<ServerName<'static>, TlsError> {
    match sni {
        Some(name) if !name.is_empty() => ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::Secret(format!("{name:?} cannot be sent as a server name"))),
        _ => Ok(ServerName::IpAddress(address.into())),
    }
}
