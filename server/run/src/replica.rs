//! This server's replica: RocksDB in the data directory, mutual TLS to and from its peers.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trireme_raft::{Replica, ReplicaConfig, Storage, Timing, TlsDial, serve_listener};

use crate::authority::{Credential, certificates, private_key};
use crate::directory::{Directory, Identity};

/// Opens the replica and serves its peers until `ended`.
pub async fn open(
    directory: &Directory,
    identity: &Identity,
    timing: Timing,
    listener: TcpListener,
    ended: CancellationToken,
) -> Result<(Arc<Replica>, JoinHandle<()>)> {
    let own = directory
        .credential("peer")?
        .context("tls/peer.pem is missing from the data directory")?;
    let authority = directory
        .credential("peer-ca")?
        .context("tls/peer-ca.pem is missing from the data directory")?;
    let dial = trireme_client::client_config(
        &authority.certificate_pem,
        Some((&own.certificate_pem, &own.key_pem)),
    )?;
    let replica = Replica::open(ReplicaConfig {
        id: identity.id,
        storage: Storage::Directory(directory.store()),
        dial: Arc::new(TlsDial::new(Arc::new(dial), None)),
        timing,
        free_space: None,
    })
    .await
    .with_context(|| format!("opening {}", directory.store().display()))?;
    let tls = Arc::new(peer_tls(&own, &authority.certificate_pem)?);
    let server = tokio::spawn(serve_listener(
        replica.service(),
        listener,
        Some(tls),
        ended,
    ));
    Ok((replica, server))
}

/// Only certificates of the peer authority may speak here.
fn peer_tls(own: &Credential, authority_pem: &str) -> Result<rustls::ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(authority_pem)? {
        roots.add(certificate)?;
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let mut tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&own.certificate_pem)?,
            private_key(&own.key_pem)?,
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}
