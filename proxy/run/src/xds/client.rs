//! The incremental stream: subscribe, take what comes, acknowledge or refuse it, and go to another server when it
//! breaks. What was taken stays in force meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use thiserror::Error;
use tokio::time::Instant;
use trireme_proxy_decide::config::{SecretSource, UpstreamTls, ValidationContext};
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use trireme_xds::{Kind, parse, pb};

use super::assemble::Known;
use super::grpc::{self, Requests, Responses, StreamError};
use crate::h2;
use crate::net::Net;
use crate::pool::Dialer;
use crate::shared::Shared;
use crate::tls;

const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// How long connecting to a server may take before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The first pause after all servers failed; it doubles.
const MIN_PAUSE: Duration = Duration::from_millis(25);
/// The longest: a proxy finds a control plane that came back within this time.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Envoy's initial fetch timeout: after it a cluster without endpoints has none, and a listener without routes
/// answers 404.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// A stream that lasted this long was healthy: the pauses start over.
const HEALTHY: Duration = Duration::from_secs(10);
/// A server that does not answer pings for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Errors named in one refusal; a refusal is read by people.
const MAX_ERRORS: usize = 16;
/// Invalid argument: gRPC's code in a refusal.
const INVALID_ARGUMENT: i32 = 3;

/// Where configuration comes from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, each as `host:port`, in the order of preference.
    pub servers: Vec<String>,
    /// The file of the authorities that sign the servers' certificates; none speaks in the clear.
    pub authorities: Option<PathBuf>,
    /// The name in their certificates; none is the host.
    pub server_name: Option<String>,
    /// The file of our token, read for each stream since it is rotated.
    pub token: Option<PathBuf>,
    /// Who we are.
    pub node: Node,
}

/// Why a server could not be used.
#[derive(Debug, Error)]
enum ConnectError {
    #[error("{0:?} is not host:port")]
    Address(String),
    #[error("resolving: {0}")]
    Resolve(std::io::Error),
    #[error("{0}")]
    Tls(#[from] tls::TlsError),
    #[error("{0}")]
    Dial(#[from] crate::pool::PoolError),
    #[error("token {file}: {error}")]
    Token { file: String, error: std::io::Error },
    #[error("{0}")]
    Stream(#[from] StreamError),
}

struct Client {
    shared: Arc<Shared>,
    net: Rc<dyn Net>,
    options: Options,
    known: Known,
    versions: BTreeMap<(Kind, Arc<str>), String>,
    subscribed: BTreeMap<Kind, BTreeSet<Arc<str>>>,
    /// When a missing resource was first missed.
    missed: BTreeMap<(Kind, Arc<str>), Instant>,
    /// The servers have said which listeners there are; for a gateway that nothing is bound to yet, none.
    listed: bool,
    last: usize,
}

/// Follows the configuration for ever.
pub async fn run(shared: Arc<Shared>, net: Rc<dyn Net>, options: Options) {
    let mut client = Client {
        shared,
        net,
        options,
        known: Known::default(),
        versions: BTreeMap::new(),
        subscribed: BTreeMap::new(),
        missed: BTreeMap::new(),
        listed: false,
        last: 0,
    };
    let mut pause = MIN_PAUSE;
    let mut failures = 0;
    loop {
        let begin = Instant::now();
        let server = client.options.servers[client.last % client.options.servers.len()].clone();
        let error = match client.follow(&server).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        client.shared.xds_disconnected(&server, &error.to_string());
        client.last = (client.last + 1) % client.options.servers.len();
        if begin.elapsed() >= HEALTHY {
            pause = MIN_PAUSE;
            failures = 0;
        }
        failures += 1;
        tracing::debug!(%server, %error, "configuration stream");
        if failures >= client.options.servers.len() {
            if failures == client.options.servers.len() {
                tracing::warn!(%server, %error, "no server gives configuration; going on with the last one");
            }
            let jitter = client.shared.draw() % 1000;
            tokio::time::sleep(
                pause + pause.mul_f64(f64::from(u32::try_from(jitter).unwrap_or(0)) / 1000.0),
            )
            .await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

fn split(server: &str) -> Option<(&str, u16)> {
    let (host, port) = server.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some((host, port.parse().ok()?))
}

impl Client {
    async fn dial(&self, server: &str) -> Result<h2::Sender, ConnectError> {
        let (host, port) = split(server).ok_or_else(|| ConnectError::Address(server.to_owned()))?;
        let address = match host.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => {
                let resolved = self
                    .net
                    .resolve(host)
                    .await
                    .map_err(ConnectError::Resolve)?;
                let none = || ConnectError::Resolve(std::io::ErrorKind::NotFound.into());
                resolved.addresses.first().copied().ok_or_else(none)?
            }
        };
        let tls = match &self.options.authorities {
            None => None,
            Some(file) => {
                let name = self.options.server_name.as_deref().unwrap_or(host);
                let sni: Option<Arc<str>> =
                    name.parse::<IpAddr>().is_err().then(|| Arc::from(name));
                let session = UpstreamTls {
                    sni: sni.clone(),
                    auto_sni: false,
                    auto_san_validation: true,
                    certificate: None,
                    validation: Some(ValidationContext {
                        trusted_ca: Some(SecretSource::File(Arc::from(file.to_string_lossy()))),
                        ..ValidationContext::default()
                    }),
                    alpn: vec![Arc::from("h2")],
                    min_version: None,
                    max_version: None,
                };
                let config = tls::client(&session, &tls::Secrets::new(), &[])?;
                let address = name.parse::<IpAddr>().unwrap_or(address);
                Some((
                    tokio_rustls::TlsConnector::from(config),
                    tls::server_name(sni.as_deref(), address)?,
                ))
            }
        };
        let dialer = Dialer {
            net: self.net.clone(),
            address: SocketAddr::new(address, port),
            source: None,
            tls,
            timeout: CONNECT_TIMEOUT,
        };
        let (stream, _) = dialer.dial().await?;
        let http2 = trireme_proxy_decide::config::Http2Options {
            keepalive_interval: Some(KEEPALIVE),
            keepalive_timeout: Some(KEEPALIVE),
            ..trireme_proxy_decide::config::Http2Options::default()
        };
        let (sender, connection) = h2::connect(stream, &http2);
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    async fn follow(&mut self, server: &str) -> Result<std::convert::Infallible, ConnectError> {
        let token = match &self.options.token {
            None => None,
            Some(file) => {
                Some(
                    std::fs::read_to_string(file).map_err(|error| ConnectError::Token {
                        file: file.display().to_string(),
                        error,
                    })?,
                )
            }
        };
        let sender = self.dial(server).await?;
        self.subscribed.clear();
        let mut first = self.subscription(Kind::Cluster, &BTreeSet::new());
        first.node = Some(self.options.node.clone());
        let https = self.options.authorities.is_some();
        let token = token.as_deref().map(str::trim);
        let opening = grpc::open(&sender, https, server, PATH, token, &first);
        let (requests, mut responses) = tokio::time::timeout(FETCH_TIMEOUT, opening)
            .await
            .map_err(|_| StreamError::Message("the server does not answer".into()))??;
        self.shared.xds_connected(server);
        requests
            .send(&self.subscription(Kind::Listener, &BTreeSet::new()))
            .await?;
        self.subscribe(&requests).await?;
        loop {
            let response = self.next(&mut responses).await?;
            if let Some(response) = response {
                self.take(&requests, response).await?;
            }
            self.subscribe(&requests).await?;
            self.publish();
        }
    }

    /// The next response; none when something that is missing was waited for long enough.
    async fn next(
        &mut self,
        responses: &mut Responses,
    ) -> Result<Option<DeltaDiscoveryResponse>, StreamError> {
        let now = Instant::now();
        let missing = self.known.missing();
        self.missed.retain(|key, _| missing.contains(key));
        for key in missing {
            self.missed.entry(key).or_insert(now);
        }
        let Some(first) = self.missed.values().min().copied() else {
            return responses.next().await.map(Some);
        };
        match tokio::time::timeout_at(first + FETCH_TIMEOUT, responses.next()).await {
            Ok(response) => response.map(Some),
            Err(_) => {
                let late: Vec<_> = self
                    .missed
                    .iter()
                    .filter(|(_, since)| **since + FETCH_TIMEOUT <= Instant::now())
                    .map(|(key, _)| key.clone())
                    .collect();
                for (kind, name) in late {
                    tracing::warn!(%kind, %name, "did not arrive; going on without it");
                    self.known.give_up(kind, name);
                }
                Ok(None)
            }
        }
    }

    fn subscription(&self, kind: Kind, add: &BTreeSet<Arc<str>>) -> DeltaDiscoveryRequest {
        let known = self.versions.iter().filter(|((of, name), _)| {
            *of == kind && (matches!(kind, Kind::Cluster | Kind::Listener) || add.contains(name))
        });
        DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: add.iter().map(ToString::to_string).collect(),
            initial_resource_versions: known
                .map(|((_, name), version)| (name.to_string(), version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Subscribes to what clusters and listeners refer to, and to nothing else.
    async fn subscribe(&mut self, requests: &Requests) -> Result<(), StreamError> {
        for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
            let wanted = self.known.wanted(kind);
            let first = !self.subscribed.contains_key(&kind);
            let now = self.subscribed.entry(kind).or_default();
            let add: BTreeSet<Arc<str>> = wanted.difference(now).cloned().collect();
            let remove: Vec<Arc<str>> = now.difference(&wanted).cloned().collect();
            if add.is_empty() && remove.is_empty() {
                if first {
                    self.subscribed.remove(&kind);
                }
                continue;
            }
            *now = wanted;
            let mut request = self.subscription(kind, &add);
            if !first {
                request.initial_resource_versions.clear();
            }
            for name in &remove {
                self.versions.remove(&(kind, name.clone()));
            }
            request.resource_names_unsubscribe = remove.iter().map(ToString::to_string).collect();
            requests.send(&request).await?;
        }
        Ok(())
    }

    async fn take(
        &mut self,
        requests: &Requests,
        response: DeltaDiscoveryResponse,
    ) -> Result<(), StreamError> {
        let mut errors = Vec::new();
        let kind = Kind::of_type_url(&response.type_url);
        if kind.is_none() {
            errors.push(format!("{} was not subscribed to", response.type_url));
        }
        for resource in &response.resources {
            let parsed = match &resource.resource {
                Some(any) => parse::resource(any),
                None => continue,
            };
            match parsed {
                Ok(parsed) => {
                    if let Some(kind) = kind {
                        let name = parsed.name().clone();
                        self.versions.insert((kind, name), resource.version.clone());
                    }
                    self.known.put(parsed);
                }
                Err(error) => {
                    tracing::warn!(%error, "configuration refused; the last good one stays");
                    errors.push(error.to_string());
                }
            }
        }
        if let Some(kind) = kind {
            for name in &response.removed_resources {
                self.known.remove(kind, name);
                self.versions.remove(&(kind, Arc::from(name.as_str())));
            }
            if matches!(kind, Kind::Cluster | Kind::Listener) {
                self.known.prune();
            }
            self.listed |= kind == Kind::Listener && errors.is_empty();
        }
        self.shared
            .xds_received(kind, &response.system_version_info, &errors);
        self.publish();
        let refusal = (!errors.is_empty()).then(|| {
            errors.truncate(MAX_ERRORS);
            pb::google::rpc::Status {
                code: INVALID_ARGUMENT,
                message: errors.join("\n"),
                ..pb::google::rpc::Status::default()
            }
        });
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refusal,
            ..DeltaDiscoveryRequest::default()
        };
        // What clusters and listeners refer to is asked for before they are acknowledged: the server then sends it
        // before the routes that need it.
        self.subscribe(requests).await?;
        tracing::trace!(bytes = request.encoded_len(), "acknowledged");
        requests.send(&request).await
    }

    fn publish(&mut self) {
        let update = self.known.update(&self.shared.snapshot());
        self.shared.set_secrets(&self.known.secrets);
        if !update.is_empty() {
            self.shared.publish(&update);
        }
        if self.known.missing().is_empty() && (self.listed || self.shared.has_listeners()) {
            self.shared.configured();
        }
    }
}
