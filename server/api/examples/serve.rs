//! Serves the API alone on 127.0.0.1, with certificates of its own, for trying clients against it:
//! `cargo run --release -p trireme-api --example serve -- DIR`, then `kubectl --kubeconfig DIR/kubeconfig …`.
//! No controllers and no nodes run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio_util::sync::CancellationToken;
use trireme_api::{Api, ApiConfig, Limits};
use trireme_raft::{Member, Replica, ReplicaConfig};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve DIR")?);
    std::fs::create_dir_all(&directory)?;
    let replica = Replica::open(ReplicaConfig::single(1, directory.join("store"))).await?;
    if !replica.is_initialized().await? {
        let member = Member {
            name: "one".into(),
            ..Member::default()
        };
        replica.initialize(BTreeMap::from([(1, member)])).await?;
    }
    replica
        .wait_for_leader(Duration::from_secs(10))
        .await
        .ok_or("no leader")?;

    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "example CA");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let issue = |user: &str, group: &str| -> Result<(rcgen::Certificate, KeyPair), Failure> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &authority)?, key))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let roots = Arc::new(roots);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.clone(),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()?;
    let (certificate, key) = issue("server", "servers")?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der())?,
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let node_tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let api = Api::new(ApiConfig {
        replica: replica.clone(),
        service_cidr: "10.43.0.0/16".into(),
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".into(),
        node_tls: Arc::new(node_tls),
        service_account_key_pem: KeyPair::generate()?.serialize_pem(),
        server_addresses: vec![address],
        mesh_gateways: false,
        extra_grpc: None,
        open_grpc_methods: Vec::new(),
        limits: Limits::default(),
    })?;
    api.ensure_bootstrap()
        .await
        .map_err(|status| status.to_string())?;

    let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    let (certificate, key) = issue("admin", "system:masters")?;
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: example\n\
         clusters: [{{name: example, cluster: {{server: 'https://{address}', certificate-authority-data: {ca}}}}}]\n\
         contexts: [{{name: example, context: {{cluster: example, user: admin}}}}]\n\
         users: [{{name: admin, user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}]\n",
        ca = encode(authority.pem()),
        certificate = encode(certificate.pem()),
        key = encode(key.serialize_pem()),
    );
    std::fs::write(directory.join("kubeconfig"), kubeconfig)?;
    println!("serving on https://{address}");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    trireme_api::serve(listener, Arc::new(tls), api, shutdown).await;
    replica.shutdown().await;
    Ok(())
}
