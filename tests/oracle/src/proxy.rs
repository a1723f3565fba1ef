//! The two proxies, each a process subscribed to an ADS server of its own in this one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trireme_xds::Kind;
use trireme_xds_server::{Ads, Registry, Resource, StaticSource};

use crate::client::{self, Request};
use crate::place;
use crate::shape::Resources;
use crate::transcode;

const ADS_PORT: u16 = 7001;
const ADMIN_PORT: u16 = 7002;
/// A proxy on a loaded machine with some hundred listeners.
const START_LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// A line reaches the access log within the proxies' flush intervals, a second at most.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// Where a stock Envoy is: `TRIREME_ENVOY`, or where `scripts/peers.sh` puts it.
pub fn envoy_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRIREME_ENVOY") {
        return Ok(PathBuf::from(path));
    }
    let peers = std::env::var_os("TRIREME_PEERS").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
            PathBuf::from(home).join(".cache/trireme/peers")
        },
        PathBuf::from,
    );
    let program = peers.join("envoy/bin/envoy");
    ensure!(
        program.exists(),
        "{} is missing; scripts/peers.sh fetches it",
        program.display()
    );
    Ok(program)
}

/// Our proxy: `TRIREME_PROXY`, or beside this test's own program.
pub fn own_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRIREME_PROXY") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let path = own
        .parent()
        .and_then(Path::parent)
        .context("a test lies in target/PROFILE/deps")?
        .join("trireme-proxy");
    ensure!(
        path.exists(),
        "{} is missing; build it first (scripts/build.sh)",
        path.display()
    );
    Ok(path)
}

/// Where a proxy writes a line for each request of every case.
pub fn access_log(side: &str, scratch: &Path) -> PathBuf {
    scratch.join(format!("{side}.access"))
}

/// A running proxy.
pub struct Proxy {
    pub side: &'static str,
    admin: SocketAddr,
    log: Mutex<Log>,
    source: StaticSource,
    _process: Child,
    _ads: Served,
}

/// Ends the ADS server with the proxy.
struct Served(CancellationToken);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Proxy {
    /// Starts one with the resources of all cases; its files lie below `scratch`.
    pub async fn start(side: &'static str, resources: &Resources, scratch: &Path) -> Result<Proxy> {
        let number = usize::from(side != "envoy");
        let ads = place::service(number, ADS_PORT);
        let admin = place::service(number, ADMIN_PORT);
        let source = StaticSource::new();
        let served = serve(ads, source.clone(), resources).await?;
        let log = std::fs::File::create(scratch.join(format!("{side}.log")))?;
        let mut command = if side == "envoy" {
            envoy(ads, admin, scratch)?
        } else {
            own(ads, admin, scratch)?
        };
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {side}"))?;
        let proxy = Proxy {
            side,
            admin,
            log: Mutex::new(Log::new(access_log(side, scratch))),
            source,
            _process: process,
            _ads: served,
        };
        Ok(proxy)
    }

    /// Tells the proxy of changed routes and endpoints; what they are called stays.
    ///
    /// # Errors
    /// When one of them cannot be said in Envoy's messages.
    pub fn change(&self, resources: &Resources) -> Result<()> {
        for (kind, list) in [
            (Kind::Endpoint, &resources.endpoints),
            (Kind::Route, &resources.routes),
        ] {
            for resource in pack(kind, list)? {
                let name = resource.name.clone();
                self.source.set_one(kind, &name, Some(resource));
            }
        }
        Ok(())
    }

    /// Waits until every listener takes connections.
    pub async fn ready(&self, listeners: &[SocketAddr], scratch: &Path) -> Result<()> {
        let begin = Instant::now();
        for listener in listeners {
            while let Err(error) = tokio::net::TcpStream::connect(listener).await {
                if begin.elapsed() > START_LIMIT {
                    let log = scratch.join(format!("{}.log", self.side));
                    let log = std::fs::read_to_string(log).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let end = lines[lines.len().saturating_sub(20)..].join("\n");
                    bail!(
                        "{} does not listen at {listener}: {error}\n{end}",
                        self.side
                    );
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Counters and gauges whose names begin so.
    pub async fn statistics(&self, prefix: &str) -> Result<BTreeMap<String, u64>> {
        let request = Request::get("/stats").header("connection", "close");
        let response = client::send(self.admin, &request).await?;
        ensure!(
            response.status == 200,
            "/stats answered {}",
            response.status
        );
        Ok(response
            .body
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.starts_with(prefix))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// The access log's line of a request; `KEY no line` where none comes.
    pub async fn log_line(&self, key: &str) -> Result<String> {
        let begin = Instant::now();
        loop {
            if let Some(line) = self.log.lock().await.line(key).await? {
                return Ok(line);
            }
            if begin.elapsed() > LOG_LIMIT {
                return Ok(format!("{key} no line"));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// The access log of all cases, as far as it has been read.
struct Log {
    path: PathBuf,
    read_bytes: u64,
    /// The beginning of a line whose end is not written yet.
    rest: String,
    lines: BTreeMap<String, String>,
}

impl Log {
    fn new(path: PathBuf) -> Log {
        Log {
            path,
            read_bytes: 0,
            rest: String::new(),
            lines: BTreeMap::new(),
        }
    }

    async fn line(&mut self, key: &str) -> Result<Option<String>> {
        if let Some(line) = self.lines.get(key) {
            return Ok(Some(line.clone()));
        }
        let Ok(mut file) = tokio::fs::File::open(&self.path).await else {
            return Ok(None);
        };
        file.seek(std::io::SeekFrom::Start(self.read_bytes)).await?;
        let mut more = Vec::new();
        file.read_to_end(&mut more).await?;
        self.read_bytes += more.len() as u64;
        self.rest.push_str(&String::from_utf8_lossy(&more));
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let key = line.split(' ').next().unwrap_or_default().to_owned();
            self.lines.insert(key, line.to_owned());
            self.rest = rest.to_owned();
        }
        Ok(self.lines.get(key).cloned())
    }
}

fn pack(kind: Kind, list: &[Value]) -> Result<Vec<Resource>> {
    let (full_name, field) = match kind {
        Kind::Cluster => ("envoy.config.cluster.v3.Cluster", "name"),
        Kind::Listener => ("envoy.config.listener.v3.Listener", "name"),
        Kind::Route => ("envoy.config.route.v3.RouteConfiguration", "name"),
        Kind::Endpoint => (
            "envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name",
        ),
        Kind::Secret => bail!("no case has secrets discovered"),
    };
    let packed = list.iter().map(|json| {
        let name = json[field].as_str().context("a resource has a name")?;
        let packed = transcode::pack(full_name, json).with_context(|| name.to_owned())?;
        Ok(Resource::new(name, packed))
    });
    packed.collect()
}

async fn serve(at: SocketAddr, source: StaticSource, resources: &Resources) -> Result<Served> {
    let mut all = Vec::new();
    for (kind, list) in [
        (Kind::Cluster, &resources.clusters),
        (Kind::Endpoint, &resources.endpoints),
        (Kind::Listener, &resources.listeners),
        (Kind::Route, &resources.routes),
    ] {
        all.push((kind, pack(kind, list)?));
    }
    source.set(all);
    let closing = CancellationToken::new();
    let ads = Ads::new(
        "oracle",
        Arc::new(source),
        Arc::new(|_, _| Ok(())),
        Arc::new(Registry::default()),
        closing.clone(),
    );
    let ended = closing.clone();
    let incoming = tonic::transport::server::TcpIncoming::bind(at)
        .map_err(|error| anyhow::anyhow!("listening at {at}: {error}"))?;
    tokio::spawn(async move {
        let _ = tonic::transport::Server::builder()
            .add_service(ads.into_service())
            .serve_with_incoming_shutdown(incoming, ended.cancelled_owned())
            .await;
    });
    Ok(Served(closing))
}

fn envoy(ads: SocketAddr, admin: SocketAddr, scratch: &Path) -> Result<Command> {
    let address = |at: SocketAddr| crate::shape::address(at);
    let own = crate::shape::http2();
    let mut cluster = json!({
        "name": "ads",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": "ads", "endpoints": [
            { "lb_endpoints": [{ "endpoint": { "address": address(ads) } }] }] },
    });
    cluster["typed_extension_protocol_options"] = own["typed_extension_protocol_options"].clone();
    let by_ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let bootstrap = json!({
        "node": { "id": "router~127.0.0.1~oracle.test~test.svc.cluster.local", "cluster": "oracle" },
        "admin": { "address": address(admin) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "ads" } }],
            },
            "lds_config": by_ads,
            "cds_config": by_ads,
        },
        "static_resources": { "clusters": [cluster] },
        "layered_runtime": { "layers": [{ "name": "static", "static_layer": {
            "re2.max_program_size.error_level": 1000,
        } }] },
    });
    let path = scratch.join("envoy.json");
    std::fs::write(&path, bootstrap.to_string())?;
    let mut command = Command::new(envoy_program()?);
    command
        .arg("--config-path")
        .arg(&path)
        .args(["--concurrency", "1", "--disable-hot-restart"])
        .args(["--file-flush-interval-msec", "10", "--log-level", "warning"]);
    Ok(command)
}

fn own(ads: SocketAddr, admin: SocketAddr, scratch: &Path) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    command
        .arg("router")
        .args([
            "--discovery",
            &ads.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .args([
            "--status",
            "none",
            "--metrics",
            "none",
            "--concurrency",
            "1",
        ])
        .args(["--authorities", "none", "--token", "none"])
        .envs([
            ("POD_NAME", "oracle"),
            ("POD_NAMESPACE", "test"),
            ("INSTANCE_IP", "127.0.0.1"),
        ])
        .current_dir(scratch);
    Ok(command)
}
