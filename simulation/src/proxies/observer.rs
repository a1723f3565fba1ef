//! Clients that only hold what servers of the control plane tell them, one in each protocol: what they hold is
//! compared, for whatever happened on the way, it has to be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use trireme_check::configuration::Client;
use trireme_proxy::xds::Known;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use trireme_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use trireme_xds::pb::google::protobuf::Any;
use trireme_xds::{Kind, parse};
use turmoil::net::TcpStream;
use twox_hash::XxHash64;

use super::record::Record;
use super::server::{PORT, name_of};

/// Turmoil never sends again what was lost: a connection without an answer is given up.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(100);
/// Requests that wait to be sent.
const OUTGOING: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Delta,
    StateOfTheWorld,
}

/// Shared with the world, which compares.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Client>>);

impl Held {
    pub fn lock(&self) -> MutexGuard<'_, Client> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[derive(Clone)]
pub struct Observer {
    pub protocol: Protocol,
    pub servers: u64,
    pub node: Node,
    pub held: Held,
    pub record: Record,
}

impl Observer {
    pub fn name(&self) -> String {
        format!("observer in {:?}", self.protocol)
    }
}

/// What it asked for and knows, besides what it holds.
#[derive(Default)]
struct Asking {
    known: Known,
    asked: BTreeMap<Kind, BTreeSet<String>>,
    nonces: BTreeMap<Kind, String>,
}

/// Kinds that are asked for by the names that others refer to.
const BY_NAME: [Kind; 3] = [Kind::Endpoint, Kind::Route, Kind::Secret];

pub async fn run(observer: Observer) -> turmoil::Result {
    let mut server = 0;
    let mut asking = Asking::default();
    loop {
        server = server % observer.servers + 1;
        let why = match follow(&observer, server, &mut asking).await {
            Ok(()) => "the stream has ended".to_owned(),
            Err(why) => why,
        };
        observer.record.note(
            observer.name(),
            format_args!("leaves {}: {why}", name_of(server)),
        );
        tokio::time::sleep(PAUSE).await;
    }
}

async fn dial(server: u64) -> Result<Channel, String> {
    let endpoint = Endpoint::from_static("http://control")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let dialing = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| async move {
        TcpStream::connect((name_of(server), PORT))
            .await
            .map(TokioIo::new)
    }));
    let connected = tokio::time::timeout(CONNECT, dialing).await;
    let connected = connected.map_err(|_| "no connection".to_owned())?;
    connected.map_err(|error| error.to_string())
}

async fn follow(observer: &Observer, server: u64, asking: &mut Asking) -> Result<(), String> {
    let mut client = AggregatedDiscoveryServiceClient::new(dial(server).await?);
    asking.nonces.clear();
    match observer.protocol {
        Protocol::Delta => {
            let (send, requests) = mpsc::channel(OUTGOING);
            // What it is subscribed to is asked for anew, with what it has of it.
            asking.asked.clear();
            for kind in [Kind::Cluster, Kind::Listener] {
                let first = asking.delta(observer, kind, &BTreeSet::new(), &BTreeSet::new(), true);
                send.send(first).await.map_err(|_| "closed".to_owned())?;
            }
            let requests = ReceiverStream::new(requests);
            let mut responses = client
                .delta_aggregated_resources(requests)
                .await
                .map_err(|status| status.to_string())?
                .into_inner();
            loop {
                for request in asking.follow_delta(observer) {
                    send.send(request).await.map_err(|_| "closed".to_owned())?;
                }
                let response = responses.message().await;
                let Some(response) = response.map_err(|status| status.to_string())? else {
                    return Ok(());
                };
                let Some(kind) = Kind::of_type_url(&response.type_url) else {
                    continue;
                };
                let mut changed = Vec::new();
                for resource in &response.resources {
                    if let Some(any) = &resource.resource {
                        changed.extend(asking.read(kind, &resource.name, any));
                    }
                }
                for name in &response.removed_resources {
                    asking.known.remove(kind, name);
                }
                let removed = response.removed_resources.iter().map(String::as_str);
                let kind_name = kind.to_string();
                observer
                    .held
                    .lock()
                    .take_changes(&kind_name, changed, removed);
                asking.nonces.insert(kind, response.nonce.clone());
                for request in asking.follow_delta(observer) {
                    send.send(request).await.map_err(|_| "closed".to_owned())?;
                }
                let nothing = BTreeSet::new();
                let answer = DeltaDiscoveryRequest {
                    response_nonce: response.nonce,
                    ..asking.delta(observer, kind, &nothing, &nothing, false)
                };
                send.send(answer).await.map_err(|_| "closed".to_owned())?;
            }
        }
        Protocol::StateOfTheWorld => {
            let (send, requests) = mpsc::channel(OUTGOING);
            // It cannot say what it has, and begins as one that has just started.
            *asking = Asking::default();
            observer.held.lock().forget();
            for kind in [Kind::Cluster, Kind::Listener] {
                let first = asking.world(observer, kind);
                send.send(first).await.map_err(|_| "closed".to_owned())?;
            }
            let requests = ReceiverStream::new(requests);
            let mut responses = client
                .stream_aggregated_resources(requests)
                .await
                .map_err(|status| status.to_string())?
                .into_inner();
            loop {
                let response = responses.message().await;
                let Some(response) = response.map_err(|status| status.to_string())? else {
                    return Ok(());
                };
                let Some(kind) = Kind::of_type_url(&response.type_url) else {
                    continue;
                };
                let mut resources = Vec::new();
                for any in &response.resources {
                    let name = name_in(kind, any).ok_or("a resource without a name")?;
                    resources.extend(asking.read(kind, &name, any));
                }
                let complete = kind.is_complete();
                if complete {
                    let names: BTreeSet<&str> =
                        resources.iter().map(|(name, _)| name.as_str()).collect();
                    let held = observer.held.lock();
                    let before = held.held().get(&kind.to_string());
                    for gone in before.into_iter().flatten() {
                        if !names.contains(gone.0.as_str()) {
                            asking.known.remove(kind, gone.0);
                        }
                    }
                }
                let kind_name = kind.to_string();
                observer
                    .held
                    .lock()
                    .take_world(&kind_name, complete, resources);
                asking.nonces.insert(kind, response.nonce);
                for other in asking.follow(observer) {
                    let request = asking.world(observer, other);
                    send.send(request).await.map_err(|_| "closed".to_owned())?;
                }
                let answer = asking.world(observer, kind);
                send.send(answer).await.map_err(|_| "closed".to_owned())?;
            }
        }
    }
}

/// The name inside a resource: in the state of the world nothing else tells it.
fn name_in(kind: Kind, any: &Any) -> Option<String> {
    use trireme_xds::pb::envoy::config;
    use trireme_xds::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
    let name = match kind {
        Kind::Cluster => {
            trireme_xds::unpack::<config::cluster::v3::Cluster>(any)
                .ok()?
                .name
        }
        Kind::Endpoint => {
            trireme_xds::unpack::<config::endpoint::v3::ClusterLoadAssignment>(any)
                .ok()?
                .cluster_name
        }
        Kind::Listener => {
            trireme_xds::unpack::<config::listener::v3::Listener>(any)
                .ok()?
                .name
        }
        Kind::Route => {
            trireme_xds::unpack::<config::route::v3::RouteConfiguration>(any)
                .ok()?
                .name
        }
        Kind::Secret => trireme_xds::unpack::<Secret>(any).ok()?.name,
    };
    Some(name)
}

impl Asking {
    /// Name and digest; of what can be read, what it refers to is remembered.
    fn read(&mut self, kind: Kind, name: &str, any: &Any) -> Option<(String, u64)> {
        if !kind.is_complete()
            && !self
                .asked
                .get(&kind)
                .is_some_and(|asked| asked.contains(name))
        {
            // Under way when it was unsubscribed from.
            return None;
        }
        if let Ok(parsed) = parse::resource(any) {
            self.known.put(parsed);
        }
        Some((name.to_owned(), XxHash64::oneshot(0, &any.value)))
    }

    /// Looks for what is referred to now; the kinds of which that has changed.
    fn follow(&mut self, observer: &Observer) -> Vec<Kind> {
        self.known.prune();
        let mut changed = Vec::new();
        for kind in BY_NAME {
            let wanted: BTreeSet<String> = self
                .known
                .wanted(kind)
                .iter()
                .map(ToString::to_string)
                .collect();
            observer.held.lock().retain(&kind.to_string(), &wanted);
            let asked = self.asked.entry(kind).or_default();
            if *asked != wanted {
                *asked = wanted;
                changed.push(kind);
            }
        }
        changed
    }

    fn follow_delta(&mut self, observer: &Observer) -> Vec<DeltaDiscoveryRequest> {
        let before = self.asked.clone();
        let changed = self.follow(observer);
        let nothing = BTreeSet::new();
        let requests = changed.into_iter().map(|kind| {
            let old = before.get(&kind).unwrap_or(&nothing);
            let new = self.asked.get(&kind).unwrap_or(&nothing);
            let added = new.difference(old).cloned().collect();
            let gone = old.difference(new).cloned().collect();
            self.delta(observer, kind, &added, &gone, old.is_empty())
        });
        requests.collect()
    }

    fn delta(
        &self,
        observer: &Observer,
        kind: Kind,
        added: &BTreeSet<String>,
        gone: &BTreeSet<String>,
        first: bool,
    ) -> DeltaDiscoveryRequest {
        let held = observer.held.lock();
        let held = held.held().get(&kind.to_string());
        let versions = held.filter(|_| first).into_iter().flatten();
        let told = |name: &String| kind.is_complete() || added.contains(name);
        DeltaDiscoveryRequest {
            node: Some(observer.node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: added.iter().cloned().collect(),
            resource_names_unsubscribe: gone.iter().cloned().collect(),
            initial_resource_versions: versions
                .filter(|(name, _)| told(name))
                .map(|(name, digest)| {
                    let version = trireme_xds_server::session::version(*digest);
                    (name.clone(), version)
                })
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn world(&self, observer: &Observer, kind: Kind) -> DiscoveryRequest {
        let names = self.asked.get(&kind).into_iter().flatten();
        DiscoveryRequest {
            node: Some(observer.node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names: names.cloned().collect(),
            response_nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            ..DiscoveryRequest::default()
        }
    }
}
