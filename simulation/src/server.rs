//! A server's host: the real replica and the real API, over a simulated disk and network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use trireme_api::{Api, ApiConfig, Body, Identity, Limits, MASTERS};
use trireme_raft::dial::Dialing;
use trireme_raft::{
    Dial, Member, PeerStream, ProposeError, Replica, ReplicaConfig, Storage, Timing,
    serve_connection,
};
use trireme_state::{Command, Compare, Operation, RangeRequest, Reply, Txn};
use turmoil::net::{TcpListener, TcpStream};

use crate::disk::{Disk, SimulatedEngine};
use crate::machine::{Installed, Machines, name};
use crate::operator;
use crate::record::Record;
use crate::verdict;

pub const PEER_PORT: u16 = 7000;
pub const API_PORT: u16 = 6443;
/// Keys that are changed by raw transactions live under it, and are asked for under it over HTTP.
pub const RAW_PREFIX: &str = "/simulation/";
/// An idle connection whose client may be gone.
const IDLE: Duration = Duration::from_secs(10);

/// What a machine needs to start its server, and start it again.
#[derive(Clone)]
pub struct Server {
    pub machine: u64,
    pub machines: Machines,
    pub timing: Timing,
    /// How long what is overwritten can still be read.
    pub history: Duration,
    pub token_key_pem: String,
    pub record: Record,
}

/// Dials over the simulated network.
struct SimulatedDial;

impl Dial for SimulatedDial {
    fn dial(&self, _id: u64, member: &Member) -> Dialing {
        let address = member.peer_address.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn PeerStream>)
        })
    }
}

/// A machine as the membership records it.
pub fn member(machine: u64) -> Member {
    let name = name(machine);
    Member {
        peer_address: format!("{name}:{PEER_PORT}"),
        api_address: format!("{name}:{API_PORT}"),
        name,
    }
}

fn no_node_tls() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The server's process, from its start until it is crashed.
pub async fn run(server: Server) -> turmoil::Result {
    let (me, disk) = (name(server.machine), server.machines.disk(server.machine));
    let disk = disk.ok_or("a machine without a disk")?;
    let refused = disk.refused();
    let why = match serve(&server).await {
        Ok(replica) => replica.failed().await,
        Err(error) => error.to_string(),
    };
    // Only a disk that refused a write may end a server.
    if disk.refused() == refused {
        server.record.violation(format_args!("{me} failed: {why}"));
        return Ok(());
    }
    server.record.note(&me, format_args!("ends: {why}"));
    server.machines.ends(server.machine);
    // Whoever starts it again takes its tasks down first.
    std::future::pending().await
}

async fn serve(server: &Server) -> anyhow::Result<Arc<Replica>> {
    let Server {
        machine,
        machines,
        record,
        ..
    } = server;
    let Some(Installed { id, disk }) = machines.installed(*machine) else {
        anyhow::bail!("nothing is installed");
    };
    record.note(&name(*machine), format_args!("starts as {id}"));
    let replica = Replica::open(ReplicaConfig {
        id,
        storage: Storage::Engine(Arc::new(SimulatedEngine::open(disk.clone())?)),
        dial: Arc::new(SimulatedDial),
        timing: server.timing.clone(),
        free_space: None,
    })
    .await?;
    machines.started(*machine, replica.clone());

    let peers = TcpListener::bind(("0.0.0.0", PEER_PORT)).await?;
    tokio::task::spawn_local(serve_peers(replica.clone(), peers));
    tokio::task::spawn_local(watch_leadership(replica.clone(), *machine, record.clone()));
    tokio::task::spawn_local(sample(replica.clone(), disk, record.clone()));
    if id == 1 && !replica.is_initialized().await? {
        let members = (1..=machines.count()).map(|machine| (machine, member(machine)));
        replica.initialize(members.collect()).await?;
    }

    let api = Api::new(ApiConfig {
        replica: replica.clone(),
        service_cidr: "10.43.0.0/16".into(),
        node_port_range: 30_000..=32_767,
        cluster_domain: "cluster.local".into(),
        node_tls: no_node_tls()?,
        service_account_key_pem: server.token_key_pem.clone(),
        server_addresses: Vec::new(),
        mesh_gateways: false,
        extra_grpc: None,
        open_grpc_methods: Vec::new(),
        limits: Limits::default(),
    })?;
    tokio::task::spawn_local(bootstrap(api.clone(), replica.clone(), record.clone()));
    tokio::task::spawn_local(trireme_server::compaction::run(
        replica.clone(),
        server.history,
        CancellationToken::new(),
    ));
    let clients = TcpListener::bind(("0.0.0.0", API_PORT)).await?;
    tokio::task::spawn_local(serve_clients(api, replica.clone(), clients));
    Ok(replica)
}

async fn serve_peers(replica: Arc<Replica>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let stop = CancellationToken::new();
        tokio::spawn(serve_connection(replica.service(), stream, stop));
    }
}

async fn watch_leadership(replica: Arc<Replica>, machine: u64, record: Record) {
    let mut leadership = replica.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.is_leader {
            record.leads(replica.id(), now.term);
        } else {
            record.note(
                &name(machine),
                format_args!("term {} leader {:?}", now.term, now.leader),
            );
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Notes the state's hash after every batch that this server applies, and what was written.
async fn sample(replica: Arc<Replica>, disk: Arc<Disk>, record: Record) {
    let mut last = 0;
    loop {
        // Nothing awaits between these two, so that they belong together.
        let (index, state) = (replica.status().applied_index, disk.state_hash());
        if index != last {
            record.applied(replica.id(), index, state);
            last = index;
        }
        verdict::note_writes(&record, &disk);
        let next = replica.revision() + 1;
        replica
            .wait_for_revision(next, Duration::from_millis(250))
            .await;
    }
}

/// Whoever leads makes what every cluster has, as the product's servers do.
async fn bootstrap(api: Arc<Api>, replica: Arc<Replica>, record: Record) {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut leadership = replica.leadership();
    if leadership
        .wait_for(|leadership| leadership.is_leader)
        .await
        .is_err()
    {
        return;
    }
    while api.ensure_bootstrap().await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    record.note(&format!("id-{}", replica.id()), "bootstrapped");
}

async fn serve_clients(api: Arc<Api>, replica: Arc<Replica>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let (api, replica) = (api.clone(), replica.clone());
        let service = hyper::service::service_fn(move |request| {
            let (api, replica) = (api.clone(), replica.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&api, &replica, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service);
        tokio::task::spawn_local(async move { connection.await.ok() });
    }
}

async fn answer(
    api: &Arc<Api>,
    replica: &Replica,
    request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return text(StatusCode::BAD_REQUEST, "the request was cut".into());
    };
    if let Some(rest) = head.uri.path().strip_prefix(operator::PREFIX) {
        let (code, said) = operator::answer(replica, &head.method, rest).await;
        return text(code, said);
    }
    if let Some(rest) = head.uri.path().strip_prefix(RAW_PREFIX) {
        let parts: Vec<&str> = rest.split('/').collect();
        return match (&head.method, parts.as_slice()) {
            (&Method::GET, [key]) => raw_read(replica, key).await,
            (&Method::POST, [key, expected, value]) => {
                raw_swap(replica, key, expected, value).await
            }
            _ => text(StatusCode::NOT_FOUND, rest.to_owned()),
        };
    }
    let identity = Identity::new("simulation", [MASTERS]);
    let request = Request::from_parts(head, body.to_bytes());
    api.handle(Some(identity), request).await
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = code;
    response
}

fn raw_key(key: &str) -> Bytes {
    Bytes::from(format!("{RAW_PREFIX}{key}"))
}

/// `none`, or value and revision.
async fn raw_read(replica: &Replica, key: &str) -> Response<Body> {
    if let Err(error) = replica.read_barrier().await {
        return text(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    }
    let request = RangeRequest {
        start: raw_key(key),
        ..RangeRequest::default()
    };
    match replica.range(&request) {
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Ok(reply) => {
            let found = reply.kvs.first().map(|kv| {
                let value = String::from_utf8_lossy(&kv.value);
                format!("{value} {}", kv.mod_revision)
            });
            text(StatusCode::OK, found.unwrap_or_else(|| "none".into()))
        }
    }
}

/// One transaction; the code says how it ended: 200 with the revision, 409 for a failed comparison,
/// 503 for surely not done, 504 for unknown.
async fn raw_swap(replica: &Replica, key: &str, expected: &str, value: &str) -> Response<Body> {
    let Ok(equals) = expected.parse() else {
        return text(StatusCode::BAD_REQUEST, expected.to_owned());
    };
    let key = raw_key(key);
    let operation = match value {
        "none" => Operation::Delete { key: key.clone() },
        value => Operation::Put {
            key: key.clone(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        },
    };
    let txn = Txn {
        compare: vec![Compare::ModRevision { key, equals }],
        success: vec![operation],
        failure: Vec::new(),
    };
    match replica.propose(Command::Txn(txn)).await {
        Ok(Reply::Txn(reply)) if reply.succeeded => {
            text(StatusCode::OK, reply.revision.to_string())
        }
        Ok(Reply::Txn(_)) => text(StatusCode::CONFLICT, String::new()),
        Ok(other) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{other:?}")),
        Err(error @ ProposeError::Unknown(_)) => {
            text(StatusCode::GATEWAY_TIMEOUT, error.to_string())
        }
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
