//! A small cluster: one shared store, several servers in front of it.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response};
use trireme_client::v1::cluster_server::{Cluster, ClusterServer};
use trireme_client::v1::resources_server::{Resources, ResourcesServer};
use trireme_client::{Client, ClientConfig, Dialer, Stream, client_config, v1};
use trireme_model::kinds;
use trireme_model::status::Status;

/// A CA and a certificate of its for the names `s0` to `s3`.
pub struct Authority {
    pub certificate: Certificate,
    server: rustls::ServerConfig,
    leaf: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    server
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let names: Vec<String> = (0..4).map(|i| format!("s{i}")).collect();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let chain = vec![leaf.der().clone(), certificate.der().clone()];
        let leaf = (leaf.der().clone(), key.clone_key());
        let server = server_config(chain, key);
        Authority {
            certificate,
            server,
            leaf,
        }
    }

    /// Shows `other`'s CA certificate behind a leaf that `other` did not sign.
    pub fn impostor(other: &Authority) -> Authority {
        let mut own = Authority::new("impostor");
        let chain = vec![own.leaf.0.clone(), other.certificate.der().clone()];
        own.server = server_config(chain, own.leaf.1.clone_key());
        own
    }
}

/// A TLS connection as tonic wants it.
pub struct Secured(TlsStream<DuplexStream>);

impl Connected for Secured {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What all servers share.
#[derive(Default)]
pub struct Store {
    pub revision: u64,
    pub compacted: u64,
    pub objects: BTreeMap<String, Value>,
    /// Every change: revision, event type, object.
    pub log: Vec<(u64, v1::watch_event::Type, Value)>,
}

impl Store {
    pub fn put(&mut self, name: &str, uid: &str, data: &str) -> Value {
        self.revision += 1;
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default", "uid": uid,
                "resourceVersion": self.revision.to_string()},
            "data": {"v": data}});
        let event = if self
            .objects
            .insert(name.to_string(), object.clone())
            .is_some()
        {
            v1::watch_event::Type::Modified
        } else {
            v1::watch_event::Type::Added
        };
        self.log.push((self.revision, event, object.clone()));
        object
    }

    pub fn delete(&mut self, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(name)?;
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.log.push((
            self.revision,
            v1::watch_event::Type::Deleted,
            object.clone(),
        ));
        Some(object)
    }
}

/// How a server misbehaves.
#[derive(Default)]
pub struct Faults {
    /// Connections are refused.
    pub down: AtomicBool,
    /// Everything is answered with 503.
    pub leaderless: AtomicBool,
    /// The next write is done, then the server dies without an answer.
    pub die_after_write: AtomicBool,
    /// Requests that reached the server.
    pub requests: AtomicUsize,
}

pub struct Server {
    pub faults: Arc<Faults>,
    /// Each change cuts all connections.
    cut: watch::Sender<u64>,
    connections: mpsc::UnboundedSender<DuplexStream>,
}

impl Server {
    /// Cuts every connection and refuses new ones.
    pub fn kill(&self) {
        self.faults.down.store(true, Ordering::SeqCst);
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    pub fn revive(&self) {
        self.faults.down.store(false, Ordering::SeqCst);
    }
}

pub struct FakeCluster {
    pub authority: Arc<Authority>,
    pub store: Arc<Mutex<Store>>,
    changed: watch::Sender<u64>,
    pub servers: Arc<Vec<Server>>,
    _tasks: JoinSet<()>,
}

impl FakeCluster {
    pub fn start(count: usize) -> FakeCluster {
        FakeCluster::start_with(count, Arc::new(Authority::new("cluster CA")))
    }

    pub fn start_with(count: usize, authority: Arc<Authority>) -> FakeCluster {
        let store = Arc::new(Mutex::new(Store::default()));
        let (changed, _) = watch::channel(0);
        let mut tasks = JoinSet::new();
        let mut servers = Vec::new();
        for _ in 0..count {
            let faults = Arc::new(Faults::default());
            let (cut, _) = watch::channel(0);
            let (connections, mut incoming) = mpsc::unbounded_channel::<DuplexStream>();
            let (secured, ready) = mpsc::channel::<io::Result<Secured>>(16);
            let acceptor = TlsAcceptor::from(Arc::new(authority.server.clone()));
            tasks.spawn(async move {
                while let Some(stream) = incoming.recv().await {
                    let (acceptor, secured) = (acceptor.clone(), secured.clone());
                    tokio::spawn(async move {
                        // A client that refuses the certificate ends the handshake.
                        if let Ok(stream) = acceptor.accept(stream).await {
                            let _ = secured.send(Ok(Secured(stream))).await;
                        }
                    });
                }
            });
            let service = Service {
                store: store.clone(),
                changed: changed.clone(),
                faults: faults.clone(),
                cut: cut.clone(),
            };
            tasks.spawn(async move {
                let _ = tonic::transport::Server::builder()
                    .add_service(ResourcesServer::new(service.clone()))
                    .add_service(ClusterServer::new(service))
                    .serve_with_incoming(ReceiverStream::new(ready))
                    .await;
            });
            servers.push(Server {
                faults,
                cut,
                connections,
            });
        }
        FakeCluster {
            authority,
            store,
            changed,
            servers: Arc::new(servers),
            _tasks: tasks,
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        (0..self.servers.len())
            .map(|i| format!("s{i}:6443"))
            .collect()
    }

    /// Connects in memory; a cut drops both ends.
    pub fn dialer(&self) -> Dialer {
        let servers = self.servers.clone();
        Arc::new(move |address| {
            let servers = servers.clone();
            Box::pin(async move {
                let index: usize = address[1..2].parse().unwrap();
                let server = &servers[index];
                if server.faults.down.load(Ordering::SeqCst) {
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused"));
                }
                let (ours, mut near) = tokio::io::duplex(1 << 16);
                let (theirs, mut far) = tokio::io::duplex(1 << 16);
                let mut cut = server.cut.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
                server.connections.send(theirs).map_err(io::Error::other)?;
                Ok(Box::new(ours) as Box<dyn Stream>)
            })
        })
    }

    pub fn client(&self) -> Client {
        self.client_with_deadline(Duration::from_secs(10))
    }

    pub fn client_with_deadline(&self, deadline: Duration) -> Client {
        let tls = client_config(&self.authority.certificate.pem(), None).unwrap();
        let mut config = ClientConfig::new(self.addresses(), tls, "tester");
        config.dialer = self.dialer();
        config.deadline = deadline;
        Client::new(config).unwrap()
    }

    /// Changes the store and wakes the watches.
    pub fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.store.lock().unwrap());
        self.changed.send_modify(|changes| *changes += 1);
        result
    }

    pub fn requests(&self, server: usize) -> usize {
        self.servers[server].faults.requests.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Service {
    store: Arc<Mutex<Store>>,
    changed: watch::Sender<u64>,
    faults: Arc<Faults>,
    cut: watch::Sender<u64>,
}

fn refuse(code: Code, status: &Status) -> tonic::Status {
    let mut refusal = tonic::Status::new(code, status.message.clone());
    let json = status.to_value().to_string();
    refusal.metadata_mut().insert_bin(
        "trireme-status-bin",
        MetadataValue::from_bytes(json.as_bytes()),
    );
    refusal
}

fn object(value: &Value) -> v1::Object {
    v1::Object {
        json: value.to_string().into(),
    }
}

fn parse(object: Option<v1::Object>) -> Value {
    serde_json::from_slice(&object.unwrap_or_default().json).unwrap()
}

impl Service {
    fn enter(&self) -> Result<(), tonic::Status> {
        self.faults.requests.fetch_add(1, Ordering::SeqCst);
        if self.faults.leaderless.load(Ordering::SeqCst) {
            return Err(refuse(Code::Unavailable, &Status::unavailable("no leader")));
        }
        Ok(())
    }

    /// Ends a write: with its answer, or with the server's death.
    async fn written(&self, value: Value) -> Result<Response<v1::Object>, tonic::Status> {
        self.changed.send_modify(|changes| *changes += 1);
        if self.faults.die_after_write.swap(false, Ordering::SeqCst) {
            self.faults.down.store(true, Ordering::SeqCst);
            self.cut.send_modify(|cuts| *cuts += 1);
            std::future::pending::<()>().await;
        }
        Ok(Response::new(object(&value)))
    }
}

type WatchStream = ReceiverStream<Result<v1::WatchEvent, tonic::Status>>;

#[tonic::async_trait]
impl Resources for Service {
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Object>, tonic::Status> {
        self.enter()?;
        let name = request.into_inner().name;
        match self.store.lock().unwrap().objects.get(&name) {
            Some(found) => Ok(Response::new(object(found))),
            None => Err(refuse(
                Code::NotFound,
                &Status::not_found(kinds::CONFIG_MAP, &name),
            )),
        }
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListReply>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        let store = self.store.lock().unwrap();
        let rest: Vec<&Value> = store
            .objects
            .range(request.r#continue.clone()..)
            .map(|(_, object)| object)
            .collect();
        let limit = request.limit as usize;
        let next = rest
            .get(limit)
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_string());
        Ok(Response::new(v1::ListReply {
            resource_version: store.revision.to_string(),
            r#continue: next.unwrap_or_default(),
            items: rest.into_iter().take(limit).map(object).collect(),
        }))
    }

    type WatchStream = WatchStream;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<WatchStream>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        let mut after: u64 = request.resource_version.parse().unwrap();
        if after < self.store.lock().unwrap().compacted {
            let expired = Status::expired("too old resource version");
            return Err(refuse(Code::OutOfRange, &expired));
        }
        let (events, receiver) = mpsc::channel(16);
        let (store, mut changed) = (self.store.clone(), self.changed.subscribe());
        tokio::spawn(async move {
            loop {
                changed.borrow_and_update();
                let (new, revision) = {
                    let store = store.lock().unwrap();
                    let new: Vec<_> = store
                        .log
                        .iter()
                        .filter(|(at, _, _)| *at > after)
                        .cloned()
                        .collect();
                    (new, store.revision)
                };
                for (at, kind, value) in new {
                    after = at;
                    let event = v1::WatchEvent {
                        r#type: kind.into(),
                        object: Some(object(&value)),
                    };
                    if events.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                let bookmark = json!({"kind": "ConfigMap", "apiVersion": "v1",
                    "metadata": {"resourceVersion": revision.to_string()}});
                let event = v1::WatchEvent {
                    r#type: v1::watch_event::Type::Bookmark.into(),
                    object: Some(object(&bookmark)),
                };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    () = events.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::Object>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        if request
            .resource
            .as_ref()
            .is_some_and(|r| r.subresource == "binding")
        {
            let binding = parse(request.object);
            let target = binding["target"]["name"].as_str().unwrap().to_string();
            self.store
                .lock()
                .unwrap()
                .put(&format!("bound-{}", request.name), &target, "");
            return self
                .written(json!({"kind": "Status", "status": "Success"}))
                .await;
        }
        let name = parse(request.object)["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_string();
        let created = {
            let mut store = self.store.lock().unwrap();
            if store.objects.contains_key(&name) {
                let exists = Status::already_exists(kinds::CONFIG_MAP, &name);
                return Err(refuse(Code::AlreadyExists, &exists));
            }
            store.put(&name, "u1", &request.field_manager)
        };
        self.written(created).await
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::Object>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        let sent = parse(request.object);
        let updated = {
            let mut store = self.store.lock().unwrap();
            let current = store
                .objects
                .get(&request.name)
                .cloned()
                .unwrap_or_default();
            if sent["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"] {
                let conflict = Status::modified(kinds::CONFIG_MAP, &request.name);
                return Err(refuse(Code::Aborted, &conflict));
            }
            store.put(&request.name, "u1", sent["data"]["v"].as_str().unwrap())
        };
        self.written(updated).await
    }

    async fn patch(
        &self,
        request: Request<v1::PatchRequest>,
    ) -> Result<Response<v1::Object>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        let patch: Value = serde_json::from_slice(&request.patch).unwrap();
        let data = format!(
            "{:?} {} {patch}",
            request.r#type(),
            request.resource.unwrap().subresource
        );
        let patched = self.store.lock().unwrap().put(&request.name, "u1", &data);
        self.written(patched).await
    }

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::Object>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        let data = format!("{} {}", request.field_manager, request.force);
        let applied = self.store.lock().unwrap().put(&request.name, "u1", &data);
        self.written(applied).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteReply>, tonic::Status> {
        self.enter()?;
        let name = request.into_inner().name;
        match self.store.lock().unwrap().delete(&name) {
            Some(deleted) => Ok(Response::new(v1::DeleteReply {
                object: Some(object(&deleted)),
                deleted: true,
            })),
            None => Err(refuse(
                Code::NotFound,
                &Status::not_found(kinds::CONFIG_MAP, &name),
            )),
        }
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinReply>, tonic::Status> {
        self.enter()?;
        let request = request.into_inner();
        Ok(Response::new(v1::JoinReply {
            certificate_pem: format!("{} with {}", request.name, request.token),
            ..Default::default()
        }))
    }

    async fn add_server(
        &self,
        request: Request<v1::AddServerRequest>,
    ) -> Result<Response<v1::AddServerReply>, tonic::Status> {
        self.enter()?;
        let servers = request.into_inner().server.into_iter().collect();
        Ok(Response::new(v1::AddServerReply { servers }))
    }

    async fn remove_server(
        &self,
        _: Request<v1::RemoveServerRequest>,
    ) -> Result<Response<v1::RemoveServerReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not here"))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, tonic::Status> {
        self.enter()?;
        Ok(Response::new(v1::StatusReply {
            servers: Vec::new(),
            answered_by: 7,
        }))
    }
}
