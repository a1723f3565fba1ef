//! The same API over sockets: TLS, HTTP/1.1, HTTP/2 and gRPC on one port.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use trireme_proto::v1;
use trireme_proto::v1::resources_client::ResourcesClient;

use crate::cluster::{CONFIG_MAPS, Cluster, PATIENCE, config_map};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
        Authority {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    fn issue(&self, user: &str, group: &str) -> Pair {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate, key }
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivateKeyDer::try_from(pair.key.serialize_der()).unwrap();
    (vec![pair.certificate.der().clone()], key)
}

struct Served {
    cluster: Cluster,
    authority: Authority,
    address: SocketAddr,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

async fn serve(adjust: impl FnOnce(&mut trireme_api::ApiConfig)) -> Served {
    let cluster = Cluster::with(adjust).await;
    let authority = Authority::new();
    let (certificates, key) = chain(&authority.issue("server", "servers"));
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(authority.roots(), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(trireme_api::serve(
        listener,
        Arc::new(tls),
        cluster.api.clone(),
        shutdown.clone(),
    ));
    Served {
        cluster,
        authority,
        address,
        shutdown,
        server,
    }
}

impl Served {
    async fn request(
        &self,
        client: Option<&Pair>,
        http2: bool,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let stream = self.dial(client, http2).await;
        let io = TokioIo::new(stream);
        let uri = if http2 {
            format!("https://{}{path}", self.address)
        } else {
            path.to_owned()
        };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        let response = if http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn dial(
        &self,
        client: Option<&Pair>,
        http2: bool,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let mut tls = match client {
            Some(pair) => {
                let (certificates, key) = chain(pair);
                builder.with_client_auth_cert(certificates, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![if http2 {
            b"h2".to_vec()
        } else {
            b"http/1.1".to_vec()
        }];
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await
            .unwrap()
    }

    /// A gRPC channel over one connection.
    async fn channel(&self, client: Option<&Pair>) -> Channel {
        let mut stream = Some(TokioIo::new(self.dial(client, true).await));
        let connector = tower::service_fn(move |_| {
            let stream = stream
                .take()
                .ok_or_else(|| std::io::Error::other("one connection only"));
            async move { stream }
        });
        Endpoint::from_static("http://server")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }
}

fn resource(plural: &str) -> Option<v1::Resource> {
    Some(v1::Resource {
        resource: plural.to_owned(),
        version: "v1".to_owned(),
        ..v1::Resource::default()
    })
}

fn message(value: &Value) -> Option<v1::Object> {
    Some(v1::Object {
        json: value.to_string().into(),
    })
}

fn shown(object: &v1::Object) -> Value {
    serde_json::from_slice(&object.json).unwrap()
}

#[tokio::test]
async fn both_http_versions_carry_the_certificates_identity() {
    let served = serve(|_| {}).await;
    let admin = served.authority.issue("root", "system:masters");
    let eve = served.authority.issue("eve", "people");
    for http2 in [false, true] {
        let name = format!("over-{http2}");
        let body = config_map(&name, "1").to_string();
        let (code, made) = served
            .request(Some(&admin), http2, "POST", CONFIG_MAPS, body)
            .await;
        assert_eq!(
            (code, made["metadata"]["name"].as_str()),
            (201, Some(name.as_str()))
        );
        let (code, refused) = served
            .request(Some(&eve), http2, "GET", CONFIG_MAPS, "")
            .await;
        assert_eq!(code, 403);
        assert!(
            refused["message"]
                .as_str()
                .unwrap()
                .contains("User \"eve\"")
        );
        assert_eq!(
            served.request(None, http2, "GET", CONFIG_MAPS, "").await.0,
            401
        );
        assert_eq!(
            served.request(None, http2, "GET", "/readyz", "").await.0,
            200
        );
        let big = config_map("big", &"x".repeat(1_600_000)).to_string();
        let (code, refused) = served
            .request(Some(&admin), http2, "POST", CONFIG_MAPS, big)
            .await;
        assert_eq!(
            (code, refused["reason"].as_str()),
            (413, Some("RequestEntityTooLarge"))
        );
    }
    // A certificate of another authority does not get as far as a request.
    let stranger = Authority::new().issue("root", "system:masters");
    let refused = tokio::spawn(async move {
        served
            .request(Some(&stranger), false, "GET", CONFIG_MAPS, "")
            .await
    })
    .await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn grpc_means_the_same() {
    let served = serve(|_| {}).await;
    let admin = served.authority.issue("root", "system:masters");
    let mut client = ResourcesClient::new(served.channel(Some(&admin)).await);
    let watch = v1::WatchRequest {
        resource: resource("configmaps"),
        namespace: "default".into(),
        bookmarks: true,
        ..Default::default()
    };
    let mut watch = client.watch(watch).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.r#type(), v1::watch_event::Type::Bookmark);

    let create = v1::CreateRequest {
        resource: resource("configmaps"),
        namespace: "default".into(),
        object: message(&config_map("a", "1")),
        ..Default::default()
    };
    let made = shown(&client.create(create.clone()).await.unwrap().into_inner());
    let again = client.create(create).await.unwrap_err();
    assert_eq!(again.code(), tonic::Code::AlreadyExists);
    let status = again
        .metadata()
        .get_bin("trireme-status-bin")
        .unwrap()
        .to_bytes()
        .unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(
        (status["code"].as_u64(), status["reason"].as_str()),
        (Some(409), Some("AlreadyExists"))
    );
    let event = watch.message().await.unwrap().unwrap();
    assert_eq!(event.r#type(), v1::watch_event::Type::Added);
    assert_eq!(shown(event.object.as_ref().unwrap()), made);

    let patch = v1::PatchRequest {
        resource: resource("configmaps"),
        namespace: "default".into(),
        name: "a".into(),
        r#type: v1::patch_request::Type::Merge.into(),
        patch: json!({"data": {"key": "2"}}).to_string().into(),
        ..Default::default()
    };
    let patched = shown(&client.patch(patch).await.unwrap().into_inner());
    assert_eq!(patched["data"]["key"], "2");
    let list = v1::ListRequest {
        resource: resource("configmaps"),
        namespace: "default".into(),
        ..Default::default()
    };
    let list = client.list(list).await.unwrap().into_inner();
    assert_eq!(list.items.len(), 1);
    assert_eq!(shown(&list.items[0]), patched);
    let delete = v1::DeleteRequest {
        resource: resource("configmaps"),
        namespace: "default".into(),
        name: "a".into(),
        uid: "other".into(),
        ..Default::default()
    };
    assert_eq!(
        client.delete(delete.clone()).await.unwrap_err().code(),
        tonic::Code::Aborted
    );
    let delete = v1::DeleteRequest {
        uid: String::new(),
        ..delete
    };
    assert!(client.delete(delete).await.unwrap().into_inner().deleted);
    let get = v1::GetRequest {
        resource: resource("configmaps"),
        namespace: "default".into(),
        name: "a".into(),
        ..Default::default()
    };
    assert_eq!(
        client.get(get.clone()).await.unwrap_err().code(),
        tonic::Code::NotFound
    );

    let mut nobody = ResourcesClient::new(served.channel(None).await);
    assert_eq!(
        nobody.get(get.clone()).await.unwrap_err().code(),
        tonic::Code::Unauthenticated
    );
    let eve = served.authority.issue("eve", "people");
    let mut eve = ResourcesClient::new(served.channel(Some(&eve)).await);
    assert_eq!(
        eve.get(get).await.unwrap_err().code(),
        tonic::Code::PermissionDenied
    );

    // Health needs no identity.
    let mut health = tonic_health::pb::health_client::HealthClient::new(served.channel(None).await);
    let serving = health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        serving.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
}

#[tokio::test]
async fn shutdown_ends_open_watches() {
    let served = serve(|_| {}).await;
    let admin = served.authority.issue("root", "system:masters");
    let mut client = ResourcesClient::new(served.channel(Some(&admin)).await);
    let watch = v1::WatchRequest {
        resource: resource("pods"),
        bookmarks: true,
        ..Default::default()
    };
    let mut watch = client.watch(watch).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    served.shutdown.cancel();
    tokio::time::timeout(PATIENCE, served.server)
        .await
        .unwrap()
        .unwrap();
    assert!(!matches!(watch.message().await, Ok(Some(_))));
    served.cluster.replica.shutdown().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let served = serve(|config| config.limits.max_connections = 1).await;
    let held = served.dial(None, false).await;
    let tcp = tokio::net::TcpStream::connect(served.address)
        .await
        .unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(served.authority.roots())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let mut waiting = std::pin::pin!(connector.connect(name, tcp));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut waiting).await;
    assert!(
        early.is_err(),
        "the second connection was served beside the first"
    );
    drop(held);
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    use tokio::io::AsyncReadExt;
    let limit = std::time::Duration::from_millis(100);
    let served = serve(|config| config.limits.header_timeout = limit).await;
    // No handshake, and a handshake without a request.
    let mut silent = tokio::net::TcpStream::connect(served.address)
        .await
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 16]))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    for http2 in [false, true] {
        let mut idle = served.dial(None, http2).await;
        tokio::time::timeout(PATIENCE, idle.read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .ok();
    }
    // A known client may keep a connection ready.
    let admin = served.authority.issue("root", "system:masters");
    let channel = served.channel(Some(&admin)).await;
    tokio::time::sleep(limit * 3).await;
    let get = v1::GetRequest {
        resource: resource("nodes"),
        name: "x".into(),
        ..Default::default()
    };
    let answer = ResourcesClient::new(channel).get(get).await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::NotFound);
}
