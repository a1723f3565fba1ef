//! Where configuration comes from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use prost::{Message, Name};
use tokio::sync::watch;
use trireme_xds::pb::envoy::config::cluster::v3::Cluster;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::pb::google::protobuf::Any;
use trireme_xds::{Kind, pack, unpack};
use twox_hash::XxHash64;

/// One resource as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub name: Arc<str>,
    /// Digest of the content.
    pub version: u64,
    pub body: Any,
    /// For a cluster whose endpoints are discovered: the name of their resource.
    pub endpoints: Option<Arc<str>>,
}

impl Resource {
    /// A packed message under its name. `body` should come from [`pack`], whose bytes are equal for
    /// equal messages.
    pub fn new(name: impl Into<Arc<str>>, body: Any) -> Resource {
        let name = name.into();
        let endpoints = discovered_endpoints(&name, &body);
        Resource {
            version: XxHash64::oneshot(0, &body.value),
            name,
            body,
            endpoints,
        }
    }

    pub fn of<T: Message + Name>(name: impl Into<Arc<str>>, message: &T) -> Resource {
        Resource::new(name, pack(message))
    }
}

fn discovered_endpoints(name: &Arc<str>, body: &Any) -> Option<Arc<str>> {
    if body.type_url != Kind::Cluster.type_url() {
        return None;
    }
    let cluster: Cluster = unpack(body).ok()?;
    let service = cluster.eds_cluster_config?.service_name;
    Some(if service.is_empty() {
        name.clone()
    } else {
        service.into()
    })
}

/// Resources of one kind by name.
pub type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

/// Endpoint resources, which change on their own and are looked up by name.
pub trait Endpoints: Send + Sync + 'static {
    fn get(&self, name: &str) -> Option<Arc<Resource>>;
    /// Rises with every change.
    fn generation(&self) -> u64;
    /// Names that may have changed after `generation`; `None` where that is no longer known.
    fn changed_since(&self, generation: u64) -> Option<Vec<Arc<str>>>;
}

/// What one workload should have at one moment. Parts that did not change are the same `Arc`s in
/// the next snapshot, which is how a stream knows that it need not compare them.
#[derive(Clone)]
pub struct Snapshot {
    pub clusters: Arc<Resources>,
    pub listeners: Arc<Resources>,
    pub routes: Arc<Resources>,
    pub secrets: Arc<Resources>,
    pub endpoints: Arc<dyn Endpoints>,
}

impl Snapshot {
    /// `None` for endpoints, which are only looked up.
    pub(crate) fn all(&self, kind: Kind) -> Option<&Arc<Resources>> {
        match kind {
            Kind::Cluster => Some(&self.clusters),
            Kind::Listener => Some(&self.listeners),
            Kind::Route => Some(&self.routes),
            Kind::Secret => Some(&self.secrets),
            Kind::Endpoint => None,
        }
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        match self.all(kind) {
            Some(all) => all.get(name).cloned(),
            None => self.endpoints.get(name),
        }
    }
}

/// Why a node gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The node's id or metadata are not what this source can answer.
    #[error("{0}")]
    Node(String),
    /// For now: the source has not seen the cluster yet.
    #[error("{0}")]
    NotReady(String),
}

/// Answers for each node that connects.
pub trait Source: Send + Sync + 'static {
    fn workload(&self, node: &Node) -> Result<Arc<dyn Workload>, SourceError>;
}

/// The configuration of one connected node. Dropped when its stream ends.
pub trait Workload: Send + Sync + 'static {
    /// Marked as changed whenever [`Workload::snapshot`] may answer something else.
    fn changes(&self) -> watch::Receiver<u64>;
    /// What the workload should have now. Called by the stream when it can send, not for every
    /// change.
    fn snapshot(&self) -> Arc<Snapshot>;
}

/// Changes of endpoints that are remembered by name. A stream that is further behind compares all
/// that it is subscribed to: 4,096 names are 64 KB of pointers and a second of heavy churn.
const CHANGES_REMEMBERED: usize = 4096;

/// Endpoint resources in memory that remember what changed last.
#[derive(Default)]
pub struct EndpointTable {
    state: Mutex<TableState>,
}

#[derive(Default)]
struct TableState {
    resources: Resources,
    generation: u64,
    /// Generation and name of each change, the newest last.
    changes: VecDeque<(u64, Arc<str>)>,
    /// The generation before the oldest change that is remembered.
    forgotten: u64,
}

impl EndpointTable {
    pub fn new() -> EndpointTable {
        EndpointTable::default()
    }

    /// Puts a resource in, or takes it out; nothing changes where it is the same already.
    pub fn set(&self, name: &str, resource: Option<Arc<Resource>>) {
        let mut state = self.lock();
        let before = state.resources.get(name).map(|resource| resource.version);
        if before == resource.as_ref().map(|resource| resource.version) {
            return;
        }
        state.generation += 1;
        let key: Arc<str> = match state.resources.get_key_value(name) {
            Some((key, _)) => key.clone(),
            None => name.into(),
        };
        let generation = state.generation;
        state.changes.push_back((generation, key.clone()));
        if state.changes.len() > CHANGES_REMEMBERED
            && let Some((oldest, _)) = state.changes.pop_front()
        {
            state.forgotten = oldest;
        }
        match resource {
            Some(resource) => state.resources.insert(key, resource),
            None => state.resources.remove(name),
        };
    }

    /// The names that are there.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.lock().resources.keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TableState> {
        // Nothing panics while it is held; what is inside is whole at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoints for EndpointTable {
    fn get(&self, name: &str) -> Option<Arc<Resource>> {
        self.lock().resources.get(name).cloned()
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn changed_since(&self, generation: u64) -> Option<Vec<Arc<str>>> {
        let state = self.lock();
        if generation < state.forgotten {
            return None;
        }
        let newer = state.changes.iter().rev();
        let newer = newer.take_while(|(changed, _)| *changed > generation);
        Some(newer.map(|(_, name)| name.clone()).collect())
    }
}

/// A source that gives every node what a test or a benchmark sets.
#[derive(Clone)]
pub struct StaticSource {
    shared: Arc<StaticShared>,
}

struct StaticShared {
    snapshot: Mutex<Arc<Snapshot>>,
    endpoints: Arc<EndpointTable>,
    changes: watch::Sender<u64>,
}

impl Default for StaticSource {
    fn default() -> StaticSource {
        StaticSource::new()
    }
}

impl StaticSource {
    /// Nothing of any kind.
    pub fn new() -> StaticSource {
        let endpoints = Arc::new(EndpointTable::new());
        let none = Arc::new(Resources::new());
        let snapshot = Snapshot {
            clusters: none.clone(),
            listeners: none.clone(),
            routes: none.clone(),
            secrets: none,
            endpoints: endpoints.clone(),
        };
        StaticSource {
            shared: Arc::new(StaticShared {
                snapshot: Mutex::new(Arc::new(snapshot)),
                endpoints,
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// Replaces everything of the kinds named in `resources`; other kinds stay. For endpoints,
    /// those not named go.
    pub fn set(&self, resources: Vec<(Kind, Vec<Resource>)>) {
        {
            let mut current = self.lock();
            let mut next = Snapshot::clone(&current);
            for (kind, resources) in resources {
                let table: Resources = resources
                    .into_iter()
                    .map(|resource| (resource.name.clone(), Arc::new(resource)))
                    .collect();
                match kind {
                    Kind::Cluster => next.clusters = Arc::new(table),
                    Kind::Listener => next.listeners = Arc::new(table),
                    Kind::Route => next.routes = Arc::new(table),
                    Kind::Secret => next.secrets = Arc::new(table),
                    Kind::Endpoint => {
                        let endpoints = &self.shared.endpoints;
                        for name in endpoints.names() {
                            if !table.contains_key(&name) {
                                endpoints.set(&name, None);
                            }
                        }
                        for (name, resource) in table {
                            endpoints.set(&name, Some(resource));
                        }
                    }
                }
            }
            *current = Arc::new(next);
        }
        self.shared
            .changes
            .send_modify(|generation| *generation += 1);
    }

    /// Puts one endpoint resource in, or takes it out.
    pub fn set_endpoints(&self, name: &str, resource: Option<Resource>) {
        self.shared.endpoints.set(name, resource.map(Arc::new));
        self.shared
            .changes
            .send_modify(|generation| *generation += 1);
    }

    pub fn current(&self) -> Arc<Snapshot> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Snapshot>> {
        let locked = self.shared.snapshot.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for StaticSource {
    fn workload(&self, _: &Node) -> Result<Arc<dyn Workload>, SourceError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Workload for StaticSource {
    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, value: u8) -> Arc<Resource> {
        Arc::new(Resource::new(
            name,
            Any {
                type_url: Kind::Endpoint.type_url().into(),
                value: vec![value],
            },
        ))
    }

    #[test]
    fn changes_are_remembered_up_to_the_limit() {
        let table = EndpointTable::new();
        table.set("a", Some(resource("a", 1)));
        let before = table.generation();
        table.set("a", Some(resource("a", 1)));
        assert_eq!(table.changed_since(before), Some(vec![]), "the same again");
        table.set("b", Some(resource("b", 1)));
        table.set("a", None);
        let changed = table.changed_since(before).expect("remembered");
        assert_eq!(changed, ["a".into(), "b".into()]);
        for round in 0..=CHANGES_REMEMBERED {
            table.set("c", Some(resource("c", (round % 200) as u8)));
        }
        assert_eq!(table.changed_since(before), None, "too long ago");
        let last = table.generation() - 1;
        assert_eq!(table.changed_since(last), Some(vec!["c".into()]));
    }
}
