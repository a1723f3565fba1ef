//! An authority of this run, certificates of its, and both ends of TLS.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the certificates are for.
const NAMES: &[&str] = &["a.oracle.test", "b.oracle.test", "oracle.test"];

/// The run's authority and its one certificate, in PEM.
pub struct Identity {
    pub authority_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
    authority: rustls::pki_types::CertificateDer<'static>,
}

fn make() -> Result<Identity> {
    // Another part of the process may have chosen it already; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority_key = rcgen::KeyPair::generate()?;
    // One whose name is also the certificate's would make that one look as if it had signed itself.
    let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
    let name = &mut parameters.distinguished_name;
    name.push(rcgen::DnType::CommonName, "the oracle's authority");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let names: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
    let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    Ok(Identity {
        authority_pem: authority.pem(),
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        certificate: certificate.der().clone(),
        key: key.serialize_der(),
        authority: authority.der().clone(),
    })
}

/// The same for the whole run.
///
/// # Panics
/// When a key cannot be made.
pub fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| make().expect("certificates"))
}

/// An authority that has signed nothing, in PEM.
///
/// # Errors
/// When a key cannot be made.
pub fn strange_authority() -> Result<String> {
    Ok(make()?.authority_pem)
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

pub fn acceptor(alpn: &[&str]) -> Result<TlsAcceptor> {
    let identity = identity();
    let key = PrivateKeyDer::try_from(identity.key.clone()).map_err(anyhow::Error::msg)?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key)?;
    config.alpn_protocols = protocols(alpn);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connects as a client that trusts the run's authority.
///
/// # Errors
/// When the connection or the handshake fails.
pub async fn connect(
    to: std::net::SocketAddr,
    name: &str,
    alpn: &[&str],
) -> Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity().authority.clone())?;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    let name = ServerName::try_from(name.to_owned()).context("a name")?;
    let stream = TcpStream::connect(to).await?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}
