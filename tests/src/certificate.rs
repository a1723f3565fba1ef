//! Client certificates of the wrong kinds.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, date_time_ymd,
};

use crate::rest::Credential;

/// An authority that signs certificates of users.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl Authority {
    /// One that no cluster knows.
    pub fn unknown() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = common_name("somebody else's authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate_pem = parameters.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(parameters, key),
            certificate_pem,
        })
    }

    /// A cluster's own, from the data of one of its servers.
    pub fn of_server(data: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = data.join("tls").join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let key = KeyPair::from_pem(&read("ca-key.pem")?)?;
        let certificate_pem = read("ca.pem")?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&certificate_pem, key)?,
            certificate_pem,
        })
    }

    /// Its own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate of `user`, in files below `scratch`; one that has expired, where asked.
    pub fn issue(&self, user: &str, expired: bool, scratch: &Path) -> Result<Credential> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = common_name(user);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(if expired { 2021 } else { 4096 }, 1, 1);
        let signed = parameters.signed_by(&key, &self.issuer)?;
        let certificate = scratch.join(format!("{user}.pem"));
        let key_file = scratch.join(format!("{user}-key.pem"));
        std::fs::write(&certificate, signed.pem())?;
        std::fs::write(&key_file, key.serialize_pem())?;
        Ok(Credential::Certificate {
            certificate,
            key: key_file,
        })
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
