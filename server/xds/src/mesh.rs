//! The real source: configuration that `trireme-mesh` makes from the cluster's objects.
//!
//! Whoever follows the objects hands changes to [`MeshSource::apply`]. Streams wake, and each asks
//! for what concerns its own workload when it can send: work is done once a change and workload,
//! never for those who cannot take it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;
use trireme_mesh::{
    Affected, Change, Mesh, Sight, Stale, Subscription, Types, Workload as MeshWorkload,
};
use trireme_model::kinds::Kind as ObjectKind;
use trireme_xds::Kind;
use trireme_xds::pb::envoy::config::core::v3::Node;

use crate::source::{ChangeLog, Resource, Resources, Source, SourceError, View, Workload};

/// Changes that are remembered for streams which have not looked yet. One that is further behind
/// makes everything of its workload again: 1,024 batches are seconds of heavy churn.
const STALES_REMEMBERED: usize = 1024;

/// Shared by all streams of a server.
#[derive(Clone, Default)]
pub struct MeshSource {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: RwLock<State>,
    /// The newest generation.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    mesh: Mesh,
    /// Whether every kind was listed once: before that, what is there is not what is missing.
    complete: bool,
    generation: u64,
    /// Generation and content of each change, the newest last.
    stales: VecDeque<(u64, Stale)>,
    /// The newest generation that is no longer remembered.
    forgotten: u64,
}

impl MeshSource {
    pub fn new() -> MeshSource {
        MeshSource::default()
    }

    /// Takes in a batch of changes as one and wakes the streams. Answers what it made stale.
    /// Objects that cannot be understood are logged and leave things as they were.
    pub fn apply(&self, batch: impl IntoIterator<Item = (&'static ObjectKind, Change)>) -> Stale {
        let mut state = self
            .shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all = Stale::default();
        for (kind, change) in batch {
            match state.mesh.update(kind, change) {
                Ok(stale) => all.merge(stale),
                Err(error) => tracing::warn!(%error, "an object of the mesh cannot be understood"),
            }
        }
        if all.is_empty() {
            return all;
        }
        state.generation += 1;
        let generation = state.generation;
        state.stales.push_back((generation, all.clone()));
        if state.stales.len() > STALES_REMEMBERED
            && let Some((oldest, _)) = state.stales.pop_front()
        {
            state.forgotten = oldest;
        }
        drop(state);
        self.shared.changes.send_replace(generation);
        all
    }

    /// From now on workloads are answered.
    pub fn complete(&self) {
        let mut state = self
            .shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        state.complete = true;
        let generation = state.generation;
        drop(state);
        self.shared.changes.send_replace(generation);
    }

    /// Forgets everything, before all objects are listed anew; workloads keep what they have.
    pub fn restart(&self) {
        let mut state = self
            .shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = state.generation + 1;
        *state = State {
            generation,
            forgotten: generation,
            ..State::default()
        };
    }

    /// Lends the mesh, for explanations and conditions. `None` before everything was listed.
    pub fn with<R>(&self, look: impl FnOnce(&Mesh) -> R) -> Option<R> {
        let state = self.shared.read();
        state.complete.then(|| look(&state.mesh))
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic while the mesh is changed is our own bug; what is inside stays readable.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for MeshSource {
    fn workload(&self, node: &Node) -> Result<Arc<dyn Workload>, SourceError> {
        let state = self.shared.read();
        if !state.complete {
            return Err(SourceError::NotReady(
                "this server has not read the cluster's objects yet; try again".to_owned(),
            ));
        }
        let workload = state.mesh.workload(node);
        let workload = workload.map_err(|error| SourceError::Node(error.to_string()))?;
        let sight = state.mesh.scope(&workload).sight;
        Ok(Arc::new(Member {
            shared: self.shared.clone(),
            node: node.clone(),
            made: Mutex::new(Made {
                workload,
                sight,
                seen: state.generation,
                clusters: None,
                listeners: None,
                logs: BTreeMap::new(),
                clusters_before: Arc::default(),
                listeners_before: Arc::default(),
            }),
        }))
    }
}

/// One connected workload.
struct Member {
    shared: Arc<Shared>,
    node: Node,
    made: Mutex<Made>,
}

/// What was made for a workload.
struct Made {
    workload: MeshWorkload,
    sight: Sight,
    /// The generation up to which changes were taken in.
    seen: u64,
    /// `None` when they have to be made anew.
    clusters: Option<Arc<Resources>>,
    listeners: Option<Arc<Resources>>,
    /// Of the kinds that are looked up.
    logs: BTreeMap<Kind, ChangeLog>,
    /// What was made before, of which the same resources are kept.
    clusters_before: Arc<Resources>,
    listeners_before: Arc<Resources>,
}

impl Member {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workload for Member {
    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn look(&self, at: &mut dyn FnMut(&mut dyn View)) {
        let state = self.shared.read();
        if !state.complete {
            // Objects are being listed anew: what is missing now is not gone.
            return;
        }
        let mut made = self.made();
        made.catch_up(&state, &self.node);
        at(&mut Seen {
            mesh: &state.mesh,
            made: &mut made,
        });
    }
}

impl Made {
    fn catch_up(&mut self, state: &State, node: &Node) {
        if self.seen == state.generation {
            return;
        }
        let affected = if self.seen < state.forgotten {
            None
        } else {
            let newer = state.stales.iter().rev();
            let newer = newer.take_while(|(generation, _)| *generation > self.seen);
            let mut stale = Stale::default();
            for (_, one) in newer {
                stale.merge(one.clone());
            }
            let itself = stale.workloads.contains(&self.workload.key());
            (!itself).then(|| state.mesh.affected(&stale, &self.workload, self.sight))
        };
        self.seen = state.generation;
        let affected = affected.unwrap_or_else(|| {
            // Its own pod has changed, or too much has: labels and place are read anew.
            if let Ok(workload) = state.mesh.workload(node) {
                self.workload = workload;
            }
            Affected {
                types: Types::ALL,
                endpoints: BTreeSet::new(),
                sight: state.mesh.scope(&self.workload).sight,
            }
        });
        self.sight = affected.sight;
        if affected.types.contains(Types::CLUSTERS)
            && let Some(before) = self.clusters.take()
        {
            self.clusters_before = before;
        }
        if affected.types.contains(Types::LISTENERS)
            && let Some(before) = self.listeners.take()
        {
            self.listeners_before = before;
        }
        for kind in [Kind::Route, Kind::Endpoint, Kind::Secret] {
            if affected.types.contains(Types::of(kind)) {
                self.logs.entry(kind).or_default().note_all();
            }
        }
        let endpoints = self.logs.entry(Kind::Endpoint).or_default();
        for name in &affected.endpoints {
            endpoints.note(name.as_str().into());
        }
    }
}

/// What a workload's stream sees while the mesh is lent to it.
struct Seen<'a> {
    mesh: &'a Mesh,
    made: &'a mut Made,
}

impl Seen<'_> {
    fn make(&self, kind: Kind, before: &Arc<Resources>) -> Arc<Resources> {
        let generated = self
            .mesh
            .generate(&self.made.workload, kind, &Subscription::All);
        let mut same = generated.len() == before.len();
        let mut table = Resources::new();
        for resource in generated {
            let known = before.get(resource.name.as_str());
            let known = known.filter(|known| known.version == resource.version);
            same &= known.is_some();
            let resource = match known {
                Some(known) => known.clone(),
                None => Arc::new(resource_of(kind, resource)),
            };
            table.insert(resource.name.clone(), resource);
        }
        if same {
            before.clone()
        } else {
            Arc::new(table)
        }
    }
}

fn resource_of(kind: Kind, resource: trireme_mesh::Resource) -> Resource {
    let name: Arc<str> = resource.name.into();
    Resource {
        // A cluster's endpoints have its name; for one that needs none nobody asks for them.
        endpoints: (kind == Kind::Cluster).then(|| name.clone()),
        name,
        version: resource.version,
        body: resource.body,
    }
}

impl View for Seen<'_> {
    fn all(&mut self, kind: Kind) -> Option<Arc<Resources>> {
        match kind {
            Kind::Cluster => {
                if self.made.clusters.is_none() {
                    let before = std::mem::take(&mut self.made.clusters_before);
                    self.made.clusters = Some(self.make(kind, &before));
                }
                self.made.clusters.clone()
            }
            Kind::Listener => {
                if self.made.listeners.is_none() {
                    let before = std::mem::take(&mut self.made.listeners_before);
                    self.made.listeners = Some(self.make(kind, &before));
                }
                self.made.listeners.clone()
            }
            Kind::Route | Kind::Endpoint | Kind::Secret => None,
        }
    }

    fn get(&mut self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        if let Some(all) = self.all(kind) {
            return all.get(name).cloned();
        }
        let names = Subscription::Names(BTreeSet::from([name.to_owned()]));
        let generated = self.mesh.generate(&self.made.workload, kind, &names);
        let found = generated.into_iter().find(|resource| resource.name == name);
        found.map(|resource| Arc::new(resource_of(kind, resource)))
    }

    fn generation(&self, kind: Kind) -> u64 {
        self.made.logs.get(&kind).map_or(0, ChangeLog::generation)
    }

    fn changed_since(&self, kind: Kind, generation: u64) -> Option<Vec<Arc<str>>> {
        match self.made.logs.get(&kind) {
            Some(log) => log.since(generation),
            None => Some(Vec::new()),
        }
    }
}
