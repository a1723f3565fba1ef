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
    /// Shared by all who are sent it.
    pub body: Arc<Any>,
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
            body: Arc::new(body),
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

/// What one workload should have at one moment.
///
/// Clusters and listeners are known as a whole; routes, endpoints and secrets are looked up by the
/// names that the client asks for.
pub trait View {
    /// All of a kind that is known as a whole, `None` for the others. Where nothing changed it is
    /// the same `Arc` as before, which is how a stream knows that it need not compare.
    fn all(&mut self, kind: Kind) -> Option<Arc<Resources>>;
    fn get(&mut self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// Of a kind that is looked up: rises with every change.
    fn generation(&self, kind: Kind) -> u64;
    /// Of a kind that is looked up: names that may have changed after `generation`; `None` where
    /// that is not known, so that all that is subscribed to must be compared.
    fn changed_since(&self, kind: Kind, generation: u64) -> Option<Vec<Arc<str>>>;
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
    /// Marked as changed whenever [`Workload::look`] may show something else.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Shows what the workload should have now; nothing changes while it is shown. Called by the
    /// stream when it can send, not for every change.
    fn look(&self, at: &mut dyn FnMut(&mut dyn View));
}

/// Changes of one kind that are remembered by name. A stream that is further behind compares all
/// that it is subscribed to: 4,096 names are 64 KB of pointers and a second of heavy churn.
const CHANGES_REMEMBERED: usize = 4096;

/// Which names changed lately.
#[derive(Clone, Debug, Default)]
pub struct ChangeLog {
    generation: u64,
    /// Generation and name of each change, the newest last.
    changes: VecDeque<(u64, Arc<str>)>,
    /// The newest generation whose changes are not known by name.
    forgotten: u64,
}

impl ChangeLog {
    pub fn note(&mut self, name: Arc<str>) {
        self.generation += 1;
        self.changes.push_back((self.generation, name));
        if self.changes.len() > CHANGES_REMEMBERED
            && let Some((oldest, _)) = self.changes.pop_front()
        {
            self.forgotten = oldest;
        }
    }

    /// Anything may have changed.
    pub fn note_all(&mut self) {
        self.generation += 1;
        self.forgotten = self.generation;
        self.changes.clear();
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// `None` where it is not known.
    pub fn since(&self, generation: u64) -> Option<Vec<Arc<str>>> {
        if generation < self.forgotten {
            return None;
        }
        let newer = self.changes.iter().rev();
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
    tables: Mutex<Tables>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Tables {
    clusters: Arc<Resources>,
    listeners: Arc<Resources>,
    /// Of the kinds that are looked up.
    by_name: BTreeMap<Kind, (Resources, ChangeLog)>,
}

impl Tables {
    fn set(&mut self, kind: Kind, name: &str, resource: Option<Arc<Resource>>) {
        let (table, log) = self.by_name.entry(kind).or_default();
        let before = table.get(name).map(|resource| resource.version);
        if before == resource.as_ref().map(|resource| resource.version) {
            return;
        }
        let name: Arc<str> = name.into();
        match resource {
            Some(resource) => table.insert(name.clone(), resource),
            None => table.remove(&name),
        };
        log.note(name);
    }
}

impl View for Tables {
    fn all(&mut self, kind: Kind) -> Option<Arc<Resources>> {
        match kind {
            Kind::Cluster => Some(self.clusters.clone()),
            Kind::Listener => Some(self.listeners.clone()),
            Kind::Route | Kind::Endpoint | Kind::Secret => None,
        }
    }

    fn get(&mut self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let table = match kind {
            Kind::Cluster => &*self.clusters,
            Kind::Listener => &*self.listeners,
            Kind::Route | Kind::Endpoint | Kind::Secret => &self.by_name.get(&kind)?.0,
        };
        table.get(name).cloned()
    }

    fn generation(&self, kind: Kind) -> u64 {
        self.by_name
            .get(&kind)
            .map_or(0, |(_, log)| log.generation())
    }

    fn changed_since(&self, kind: Kind, generation: u64) -> Option<Vec<Arc<str>>> {
        match self.by_name.get(&kind) {
            Some((_, log)) => log.since(generation),
            None => Some(Vec::new()),
        }
    }
}

impl Default for StaticSource {
    fn default() -> StaticSource {
        StaticSource::new()
    }
}

impl StaticSource {
    /// Nothing of any kind.
    pub fn new() -> StaticSource {
        StaticSource {
            shared: Arc::new(StaticShared {
                tables: Mutex::default(),
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// Replaces everything of the kinds that are named, at once; other kinds stay.
    pub fn set(&self, resources: Vec<(Kind, Vec<Resource>)>) {
        let mut tables = self.lock();
        for (kind, resources) in resources {
            let table: Resources = resources
                .into_iter()
                .map(|resource| (resource.name.clone(), Arc::new(resource)))
                .collect();
            match kind {
                Kind::Cluster => tables.clusters = Arc::new(table),
                Kind::Listener => tables.listeners = Arc::new(table),
                Kind::Route | Kind::Endpoint | Kind::Secret => {
                    let known = tables.by_name.entry(kind).or_default();
                    let gone = known.0.keys().filter(|name| !table.contains_key(*name));
                    for name in gone.cloned().collect::<Vec<_>>() {
                        tables.set(kind, &name, None);
                    }
                    for (name, resource) in table {
                        tables.set(kind, &name, Some(resource));
                    }
                }
            }
        }
        drop(tables);
        self.announce();
    }

    /// Puts one resource of a kind that is looked up (routes, endpoints, secrets) in, or takes it out.
    pub fn set_one(&self, kind: Kind, name: &str, resource: Option<Resource>) {
        self.lock().set(kind, name, resource.map(Arc::new));
        self.announce();
    }

    fn announce(&self) {
        self.shared
            .changes
            .send_modify(|generation| *generation += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        // Nothing panics while it is held.
        let locked = self.shared.tables.lock();
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

    fn look(&self, at: &mut dyn FnMut(&mut dyn View)) {
        at(&mut *self.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_remembered_up_to_the_limit() {
        let mut log = ChangeLog::default();
        log.note("a".into());
        let before = log.generation();
        assert_eq!(log.since(before), Some(vec![]));
        log.note("b".into());
        log.note("a".into());
        assert_eq!(log.since(before), Some(vec!["a".into(), "b".into()]));
        for _ in 0..=CHANGES_REMEMBERED {
            log.note("c".into());
        }
        assert_eq!(log.since(before), None, "too long ago");
        let last = log.generation() - 1;
        assert_eq!(log.since(last), Some(vec!["c".into()]));
        log.note_all();
        assert_eq!(log.since(last), None);
        assert_eq!(log.since(log.generation()), Some(vec![]));
    }

    #[test]
    fn what_is_set_again_is_no_change() {
        let source = StaticSource::new();
        let one = || Resource::new("a", Any::default());
        source.set_one(Kind::Endpoint, "a", Some(one()));
        let before = source.lock().generation(Kind::Endpoint);
        source.set(vec![(Kind::Endpoint, vec![one()])]);
        assert_eq!(source.lock().generation(Kind::Endpoint), before);
        source.set(vec![(Kind::Endpoint, vec![])]);
        let changed = source.lock().changed_since(Kind::Endpoint, before);
        assert_eq!(changed, Some(vec!["a".into()]));
    }
}
