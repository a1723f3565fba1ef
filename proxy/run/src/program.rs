//! The program: its arguments and environment (Istio's names), its workers, and how it ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use prost::Message as _;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trireme_proxy_decide::config::Snapshot;
use trireme_xds::node::NodeMetadata;
use trireme_xds::pb::envoy::config::core::v3::node::UserAgentVersionType;
use trireme_xds::pb::envoy::config::core::v3::{Locality, Node};
use trireme_xds::pb::envoy::service::discovery::v3::DiscoveryResponse;
use trireme_xds::{NodeId, NodeType, parse};

use crate::drain::Drain;
use crate::net::{Net, System};
use crate::shared::Shared;
use crate::telemetry::istio::Peer;
use crate::worker::Worker;
use crate::{admin, xds};

const USAGE: &str = "usage: trireme-proxy [proxy] sidecar|router|static FILE
  sidecar    beside a workload; who and where it is comes from the environment (POD_NAME, POD_NAMESPACE,
             INSTANCE_IP, SERVICE_ACCOUNT, DISCOVERY_ADDRESS, ISTIO_META_*), as Istio's injection sets it
  router     the same, as a gateway
  static     serves a configuration from a file: an envoy.service.discovery.v3.DiscoveryResponse, encoded
options:
  --concurrency N       workers (default 1, or PROXY_CONCURRENCY)
  --admin ADDRESS       administration (default 127.0.0.1:15000; `none` has none)
  --status ADDRESS      /healthz/ready (default 0.0.0.0:15021)
  --metrics ADDRESS     /stats/prometheus (default 0.0.0.0:15090)
  --discovery A,B       servers of the control plane as host:port (default DISCOVERY_ADDRESS)
  --authorities FILE    who signs their certificates (default /var/run/secrets/istio/root-cert.pem;
                        `none` speaks in the clear)
  --token FILE          our token (default /var/run/secrets/tokens/istio-token)
  (PROXY_LOG: error, warn, info, debug or trace)
  --drain SECONDS       how long connections may finish at the end (default 5, or TERMINATION_DRAIN_DURATION_SECONDS)";

/// Workers beyond this are a mistake.
const MAX_CONCURRENCY: usize = 64;
/// Istio's terminationDrainDuration.
const DRAIN: Duration = Duration::from_secs(5);
/// How often is looked whether all connections have gone.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// A task's future and its stack live on the heap; a worker's own stack needs little.
const WORKER_STACK_BYTES: usize = 1024 * 1024;

/// What the program was asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Member(NodeType),
    Static(PathBuf),
}

#[derive(Clone, Debug)]
struct Options {
    role: Role,
    concurrency: usize,
    admin: Option<SocketAddr>,
    status: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    discovery: Option<String>,
    authorities: Option<PathBuf>,
    token: Option<PathBuf>,
    drain: Duration,
}

fn address(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .with_context(|| format!("{text:?} is not ADDRESS:PORT"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn options(args: impl IntoIterator<Item = String>) -> anyhow::Result<Options> {
    let mut words = args.into_iter().peekable();
    if words.peek().is_some_and(|word| word == "proxy") {
        words.next();
    }
    let role = match words.next().as_deref() {
        Some("sidecar") => Role::Member(NodeType::Sidecar),
        Some("router") => Role::Member(NodeType::Router),
        Some("static") => Role::Static(words.next().context("static needs a file")?.into()),
        Some("--help" | "-h") | None => bail!("{USAGE}"),
        Some(other) => bail!("{other:?} is none of sidecar, router, static\n{USAGE}"),
    };
    let mut found = Options {
        role,
        concurrency: variable("PROXY_CONCURRENCY")
            .and_then(|text| text.parse().ok())
            .unwrap_or(1),
        admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 15000))),
        status: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15021))),
        metrics: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15090))),
        discovery: variable("DISCOVERY_ADDRESS"),
        authorities: Some("/var/run/secrets/istio/root-cert.pem".into()),
        token: Some("/var/run/secrets/tokens/istio-token".into()),
        drain: variable("TERMINATION_DRAIN_DURATION_SECONDS")
            .and_then(|text| text.parse().ok())
            .map_or(DRAIN, Duration::from_secs),
    };
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = words
                    .next()
                    .with_context(|| format!("{word} needs a value"))?;
                (word, value)
            }
        };
        match name.as_str() {
            "--concurrency" => {
                found.concurrency = value
                    .parse()
                    .with_context(|| format!("--concurrency {value}"))?;
            }
            "--admin" => found.admin = address(&value)?,
            "--status" => found.status = address(&value)?,
            "--metrics" => found.metrics = address(&value)?,
            "--discovery" => found.discovery = Some(value),
            "--authorities" => {
                found.authorities =
                    Some(value.into()).filter(|file: &PathBuf| file.as_os_str() != "none")
            }
            "--token" => {
                found.token = Some(value.into()).filter(|file: &PathBuf| file.as_os_str() != "none")
            }
            "--drain" => {
                let seconds = value.parse().with_context(|| format!("--drain {value}"))?;
                found.drain = Duration::from_secs(seconds);
            }
            other => bail!("unknown option {other}\n{USAGE}"),
        }
    }
    found.concurrency = found.concurrency.clamp(1, MAX_CONCURRENCY);
    Ok(found)
}

/// Labels as the downward API writes them: `name="value"` lines, values quoted as Go does.
fn labels(text: &str) -> std::collections::BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value: String = serde_json::from_str(value).ok()?;
        Some((name.to_owned(), value))
    });
    lines.collect()
}

struct Identity {
    node: Node,
    peer: Peer,
}

fn identity(node_type: NodeType) -> anyhow::Result<Identity> {
    let need =
        |name: &str| variable(name).with_context(|| format!("the environment has no {name}"));
    let namespace = need("POD_NAMESPACE")?;
    let pod = need("POD_NAME")?;
    let address = need("INSTANCE_IP")?;
    let address: IpAddr = address
        .parse()
        .with_context(|| format!("INSTANCE_IP {address:?} is no address"))?;
    let domain = variable("CLUSTER_DOMAIN").unwrap_or_else(|| "cluster.local".into());
    let id = NodeId {
        node_type,
        address,
        pod: pod.clone(),
        namespace: namespace.clone(),
        domain: format!("{namespace}.svc.{domain}"),
    };
    let labels = std::fs::read_to_string("/etc/istio/pod/labels")
        .map(|text| labels(&text))
        .unwrap_or_default();
    let metadata = NodeMetadata {
        name: pod.clone(),
        namespace: namespace.clone(),
        labels,
        service_account: variable("SERVICE_ACCOUNT").unwrap_or_default(),
        node_name: variable("ISTIO_META_NODE_NAME")
            .or_else(|| variable("NODE_NAME"))
            .unwrap_or_default(),
        cluster_id: variable("ISTIO_META_CLUSTER_ID").unwrap_or_else(|| "Kubernetes".into()),
        workload_name: variable("ISTIO_META_WORKLOAD_NAME").unwrap_or_default(),
        generator: String::new(),
    };
    let label = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| metadata.labels.get(*name).cloned())
            .unwrap_or_default()
    };
    let workload = if metadata.workload_name.is_empty() {
        pod
    } else {
        metadata.workload_name.clone()
    };
    let canonical = label(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    let revision = label(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]);
    let peer = Peer {
        canonical_service: if canonical.is_empty() {
            workload.clone()
        } else {
            canonical
        },
        canonical_revision: if revision.is_empty() {
            "latest".into()
        } else {
            revision
        },
        app: label(&["app"]),
        version: label(&["version"]),
        workload,
        namespace: namespace.clone(),
        cluster: metadata.cluster_id.clone(),
    };
    let locality = variable("ISTIO_META_LOCALITY").map(|text| {
        let mut parts = text.split('/').map(str::to_owned);
        Locality {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            sub_zone: parts.next().unwrap_or_default(),
        }
    });
    let cluster = format!("{}.{namespace}", peer.canonical_service);
    Ok(Identity {
        node: Node {
            user_agent_name: "trireme-proxy".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
                env!("CARGO_PKG_VERSION").to_owned(),
            )),
            ..trireme_xds::node::node(&id, &metadata, &cluster, locality)
        },
        peer,
    })
}

/// Reads a static configuration.
///
/// # Errors
/// When the file cannot be read, or names what cannot be applied.
fn from_file(file: &Path) -> anyhow::Result<Snapshot> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let response = DiscoveryResponse::decode(bytes.as_slice())
        .with_context(|| format!("{} is no DiscoveryResponse", file.display()))?;
    let mut known = xds::Known::default();
    for any in &response.resources {
        known.put(parse::resource(any)?);
    }
    Ok(Snapshot::default().with(&known.update(&Snapshot::default())))
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Says what happens on standard error. Access logs go to standard output; the two do not mix.
fn start_logging() {
    let level = variable("PROXY_LOG")
        .and_then(|text| text.parse().ok())
        .unwrap_or(tracing::Level::INFO);
    // Another subscriber may be there already, in tests.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .try_init();
}

/// Asks the kernel for small pages: a proxy's heap is a few MiB, and stands beside every workload.
pub fn without_huge_pages() {
    // SAFETY: it takes numbers only and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// The program. `args` without the program's own name.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    without_huge_pages();
    start_logging();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let run = options(args).and_then(run);
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trireme-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("starting a worker")
}

fn run(options: Options) -> anyhow::Result<()> {
    let runtime = runtime()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let (node, peer, snapshot) = match &options.role {
        Role::Member(node_type) => {
            let identity = identity(*node_type)?;
            (Some(identity.node), identity.peer, None)
        }
        Role::Static(file) => (None, Peer::default(), Some(from_file(file)?)),
    };
    let shared = Shared::new(peer, rand::random(), unix_nanos());
    if let Some(snapshot) = snapshot {
        shared.replace(snapshot);
        shared.configured();
    }
    let net: Rc<dyn Net> = Rc::new(System);
    let stop = CancellationToken::new();
    let drain = Drain::new();
    let mut threads = Vec::new();
    for number in 1..options.concurrency {
        let (shared, stop, drain) = (shared.clone(), stop.clone(), drain.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .stack_size(WORKER_STACK_BYTES);
        threads.push(thread.spawn(move || -> anyhow::Result<()> {
            let runtime = self::runtime()?;
            runtime.block_on(async {
                let worker = Worker::new(shared, Rc::new(System), drain);
                worker.run(stop.cancelled()).await;
            });
            Ok(())
        })?);
    }
    let worker = Worker::new(shared.clone(), net.clone(), drain.clone());
    let control = admin::Control {
        shared: shared.clone(),
        drain: drain.clone(),
        quit: CancellationToken::new(),
    };
    for (address, scope) in [
        (options.admin, admin::Scope::Everything),
        (options.status, admin::Scope::Health),
        (options.metrics, admin::Scope::Metrics),
    ] {
        if let Some(address) = address {
            admin::listen(&net, address, scope, &control)
                .await
                .with_context(|| format!("listening on {address}"))?;
        }
    }
    crate::spawn_background(&shared, &net);
    if let (Some(node), Some(discovery)) = (node, &options.discovery) {
        let servers = discovery
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect();
        let options = xds::Options {
            servers,
            authorities: options.authorities.clone(),
            server_name: None,
            token: options.token.clone(),
            node,
        };
        tokio::task::spawn_local(xds::run(shared.clone(), net.clone(), options));
    } else if matches!(options.role, Role::Member(_)) {
        bail!("no control plane: set DISCOVERY_ADDRESS or --discovery");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ending = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = control.quit.cancelled() => {}
        }
        shared.drain();
        drain.ask();
        finish(&shared, options.drain).await;
        drain.close();
        stop.cancel();
    };
    tokio::join!(worker.run(stop.cancelled()), ending);
    for thread in threads {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a worker panicked"),
        }
    }
    Ok(())
}

/// Waits until clients have gone, but no longer than `most`.
async fn finish(shared: &Arc<Shared>, most: Duration) {
    let end = Instant::now() + most;
    while shared.active_connections() > 0 && Instant::now() < end {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> anyhow::Result<Options> {
        options(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn reads_arguments() {
        let found =
            of(&["proxy", "static", "f", "--concurrency", "2", "--admin=none"]).expect("valid");
        assert_eq!(found.role, Role::Static("f".into()));
        assert_eq!((found.concurrency, found.admin), (2, None));
        assert!(of(&["sidecar", "--nonsense", "1"]).is_err());
        assert!(of(&["sidecar", "--admin", "here"]).is_err());
        assert!(of(&["elsewhere"]).is_err());
    }

    #[test]
    fn reads_labels_as_the_downward_interface_writes_them() {
        let found = labels("app=\"shop\"\nquote=\"a\\\"b\"\nbroken\n");
        assert_eq!(found.get("app").map(String::as_str), Some("shop"));
        assert_eq!(found.get("quote").map(String::as_str), Some("a\"b"));
        assert_eq!(found.len(), 2);
    }
}
