use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use trireme_proxy_decide::config::{
    DownstreamTls, Filter, ListenerFilters, RouteAction, SecretSource, Snapshot, StringMatch,
    StringMatcher, TcpProxy, UpstreamTls, ValidationContext,
};

use super::support::{
    Upstream, answering, chain, cluster, forward, free, get, http, listener, manager, ok, proxy,
    route, run, upstream,
};

struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("authority");
        Self {
            certificate,
            issuer: rcgen::Issuer::new(parameters, key),
        }
    }

    fn pem(&self) -> SecretSource {
        SecretSource::Inline(self.certificate.pem().into_bytes().into())
    }

    fn issue(&self, name: &str) -> (SecretSource, SecretSource) {
        let key = rcgen::KeyPair::generate().expect("key");
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("certificate");
        let bytes = |text: String| SecretSource::Inline(text.into_bytes().into());
        (bytes(certificate.pem()), bytes(key.serialize_pem()))
    }

    fn client(&self) -> tokio_rustls::TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("root");
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    }
}

fn terminating(certificate: (SecretSource, SecretSource)) -> DownstreamTls {
    DownstreamTls {
        certificates: vec![certificate],
        validation: None,
        require_client_certificate: false,
        alpn: vec![Arc::from("h2"), Arc::from("http/1.1")],
        min_version: None,
        max_version: None,
        cipher_suites: Vec::new(),
    }
}

fn originating(authority: &Authority, names: &[&str]) -> UpstreamTls {
    UpstreamTls {
        sni: Some(Arc::from("back.test")),
        auto_sni: false,
        auto_san_validation: false,
        certificate: None,
        validation: Some(ValidationContext {
            trusted_ca: Some(authority.pem()),
            subject_alt_names: names
                .iter()
                .map(|name| StringMatcher {
                    pattern: StringMatch::Exact(Arc::from(*name)),
                    ignore_case: false,
                })
                .collect(),
            ..ValidationContext::default()
        }),
        alpn: Vec::new(),
        min_version: None,
        max_version: None,
    }
}

/// An upstream that ends TLS by our own listener code, in front of a plain one.
async fn secure(
    authority: &Authority,
    behind: &Upstream,
) -> (super::support::Proxy, std::net::SocketAddr) {
    let address = free();
    let list = vec![route("/", RouteAction::Forward(Box::new(forward("plain"))))];
    let mut secured = chain(Filter::Http(Arc::new(manager(list))));
    secured.tls = Some(Arc::new(terminating(authority.issue("back.test"))));
    let snapshot = Snapshot::default()
        .with_listener(listener("tls", address, vec![secured]))
        .with_cluster(cluster("plain", &[behind.address]));
    (proxy(snapshot, address).await, address)
}

#[test]
fn ends_tls_and_begins_it_again() {
    run(async {
        let authority = Authority::new();
        let back = answering(|request| {
            ok(if request.contains("x-forwarded-proto: ") {
                "seen"
            } else {
                ""
            })
        })
        .await;
        let (_inner, secured) = secure(&authority, &back).await;
        let mut reached = cluster("back", &[secured]);
        reached.tls = Some(Arc::new(originating(&authority, &["back.test"])));
        let outer = http(
            vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
            vec![reached],
        )
        .await;
        let answer = get(outer.address, "/").await;
        assert_eq!((answer.status, &*answer.body), (200, "seen"), "{answer:?}");
    });
}

#[test]
fn a_server_of_another_name_or_authority_is_refused() {
    run(async {
        let authority = Authority::new();
        let back = answering(|_| ok("")).await;
        let (_inner, secured) = secure(&authority, &back).await;
        for (trusted, names) in [
            (&authority, ["other.test"]),
            (&Authority::new(), ["back.test"]),
        ] {
            let mut reached = cluster("back", &[secured]);
            reached.tls = Some(Arc::new(originating(trusted, &names)));
            let outer = http(
                vec![route("/", RouteAction::Forward(Box::new(forward("back"))))],
                vec![reached],
            )
            .await;
            let answer = get(outer.address, "/").await;
            assert_eq!(answer.status, 503);
            assert!(
                answer
                    .body
                    .ends_with("reset reason: remote connection failure"),
                "{}",
                answer.body
            );
        }
        assert!(back.seen.borrow().is_empty());
    });
}

#[test]
fn a_client_agrees_on_http2() {
    run(async {
        let authority = Authority::new();
        let back = answering(|_| ok("well")).await;
        let (_inner, secured) = secure(&authority, &back).await;
        let stream = TcpStream::connect(secured).await.expect("connect");
        let name = ServerName::try_from("back.test").expect("name");
        let mut stream = authority
            .client()
            .connect(name, stream)
            .await
            .expect("handshake");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .expect("write");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    });
}

#[test]
fn passes_tls_through_by_its_server_name() {
    run(async {
        let authority = Authority::new();
        let plain = answering(|_| ok("through")).await;
        let (_inner, secured) = secure(&authority, &plain).await;
        let nothing = upstream(|stream, _| async move { drop(stream) }).await;
        let address = free();
        let tcp = |name: &str| {
            Filter::Tcp(Arc::new(TcpProxy {
                stat_prefix: Arc::from(name),
                cluster: Arc::from(name),
                weighted: Vec::new(),
                metadata_match: Vec::new(),
                idle_timeout: Duration::from_secs(60),
                max_connection_duration: None,
                max_connect_attempts: 1,
                hash_policy: Vec::new(),
                access_logs: Vec::new(),
            }))
        };
        let mut named = chain(tcp("named"));
        named.matches.server_names = vec![Arc::from("*.test")];
        let mut passing = listener("sni", address, vec![named]);
        passing.default_filter_chain = Some(chain(tcp("other")));
        passing.listener_filters = ListenerFilters {
            tls_inspector: true,
            ..ListenerFilters::default()
        };
        let snapshot = Snapshot::default()
            .with_listener(passing)
            .with_cluster(cluster("named", &[secured]))
            .with_cluster(cluster("other", &[nothing.address]));
        let _proxy = proxy(snapshot, address).await;
        let stream = TcpStream::connect(address).await.expect("connect");
        let name = ServerName::try_from("back.test").expect("name");
        let mut stream = authority
            .client()
            .connect(name, stream)
            .await
            .expect("handshake");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .expect("write");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.ends_with("through"), "{answer}");
        let stream = TcpStream::connect(address).await.expect("connect");
        let other = ServerName::try_from("elsewhere.example").expect("name");
        assert!(authority.client().connect(other, stream).await.is_err());
        assert_eq!(nothing.connections.get(), 1);
    });
}
