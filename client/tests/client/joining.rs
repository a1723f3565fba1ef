//! Joining with a token that pins the CA.

use rcgen::Certificate;
use sha2::{Digest, Sha256};
use trireme_client::{Error, JoinToken, certificate_sha256, join, v1};

use crate::support::{Authority, FakeCluster};

fn hash(certificate: &Certificate) -> [u8; 32] {
    Sha256::digest(certificate.der()).into()
}

fn request() -> v1::JoinRequest {
    v1::JoinRequest {
        name: "node-1".to_string(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_right_token_is_sent_to_the_right_cluster() {
    let cluster = FakeCluster::start(2);
    cluster.servers[0].kill();
    let certificate = &cluster.authority.certificate;
    assert_eq!(
        certificate_sha256(&certificate.pem()).unwrap(),
        hash(certificate)
    );
    let token = JoinToken::new(b"secret".to_vec(), hash(certificate));
    let reply = join(cluster.addresses(), &token, request(), cluster.dialer())
        .await
        .unwrap();
    assert_eq!(reply.certificate_pem, format!("node-1 with {token}"));
}

#[tokio::test]
async fn another_clusters_server_never_sees_the_token() {
    let cluster = FakeCluster::start(1);
    let other = Authority::new("another CA");
    let token = JoinToken::new(b"secret".to_vec(), hash(&other.certificate));
    let tls = trireme_client::pinned_config(*token.ca_sha256()).unwrap();
    let mut config = trireme_client::ClientConfig::new(cluster.addresses(), tls, "x");
    config.dialer = cluster.dialer();
    config.deadline = std::time::Duration::from_millis(300);
    let client = trireme_client::Client::new(config).unwrap();
    let error = client.cluster_status().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("does not present the CA that the join token names"),
        "{error}"
    );
    assert_eq!(cluster.requests(0), 0);
}

#[tokio::test]
async fn the_leaf_itself_is_no_authority() {
    // A server could show the pinned CA's certificate, which is public, behind a leaf of its own:
    // the leaf must be signed by that CA.
    let cluster = FakeCluster::start(1);
    let impostor = Authority::impostor(&cluster.authority);
    let impostor = FakeCluster::start_with(1, std::sync::Arc::new(impostor));
    let tls = trireme_client::pinned_config(hash(&cluster.authority.certificate)).unwrap();
    let mut config = trireme_client::ClientConfig::new(impostor.addresses(), tls, "x");
    config.dialer = impostor.dialer();
    config.deadline = std::time::Duration::from_millis(300);
    let client = trireme_client::Client::new(config).unwrap();
    let error = client.cluster_status().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(impostor.requests(0), 0);
}
