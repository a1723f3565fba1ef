//! Which workloads are connected, and what each has acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use trireme_xds::Kind;

use crate::session::Protocol;

/// How far a workload has followed in one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindState {
    /// It asked, and there was nothing to send.
    NotSent,
    /// It has acknowledged what was sent last.
    Synced,
    /// It has yet to answer.
    Stale,
    /// It refused what was sent last and keeps what it had.
    Refused,
}

impl KindState {
    /// As `trireme mesh status` prints it, in the manner of `istioctl proxy-status`.
    pub fn as_str(self) -> &'static str {
        match self {
            KindState::NotSent => "NOT SENT",
            KindState::Synced => "SYNCED",
            KindState::Stale => "STALE",
            KindState::Refused => "NACK",
        }
    }
}

/// One kind of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindStatus {
    pub kind: Kind,
    pub state: KindState,
    /// Version in force: what it acknowledged last; empty before that.
    pub version: String,
    pub sent_version: String,
    /// The text of its refusal.
    pub error: String,
    /// Resources that it holds.
    pub resources: usize,
}

/// One connected workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadStatus {
    pub node_id: String,
    pub protocol: Protocol,
    pub user_agent: String,
    pub connected: SystemTime,
    pub kinds: Vec<KindStatus>,
}

/// Every connected workload of one server.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    workloads: BTreeMap<u64, WorkloadStatus>,
}

impl Registry {
    pub fn new() -> Arc<Registry> {
        Arc::default()
    }

    /// All, in the order in which they connected.
    pub fn workloads(&self) -> Vec<WorkloadStatus> {
        self.lock().workloads.values().cloned().collect()
    }

    pub(crate) fn register(self: &Arc<Self>, workload: WorkloadStatus) -> Registered {
        let mut state = self.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.workloads.insert(id, workload);
        Registered {
            registry: self.clone(),
            id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A workload's entry, which goes when its stream ends.
pub(crate) struct Registered {
    registry: Arc<Registry>,
    id: u64,
}

impl Registered {
    pub fn update(&self, kinds: Vec<KindStatus>) {
        if let Some(workload) = self.registry.lock().workloads.get_mut(&self.id) {
            workload.kinds = kinds;
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().workloads.remove(&self.id);
    }
}
