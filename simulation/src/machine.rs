//! Machines: a name and an address that stay, a server's id and disk that may be replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use trireme_raft::Replica;

use crate::disk::Disk;

/// The host's name on the network.
pub fn name(machine: u64) -> String {
    format!("server-{machine}")
}

/// What is installed on a machine.
#[derive(Clone)]
pub struct Installed {
    /// The server's id, as the membership knows it: never used for another disk.
    pub id: u64,
    pub disk: Arc<Disk>,
}

/// All machines, and the servers' processes that run on them now.
#[derive(Clone, Default)]
pub struct Machines {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    installed: BTreeMap<u64, Installed>,
    running: BTreeMap<u64, Arc<Replica>>,
    /// Processes that ended by themselves and wait to be started again.
    ended: BTreeSet<u64>,
    /// Machines whose disks are to be wiped, and the ids of the servers that come then.
    to_wipe: Vec<(u64, u64)>,
    /// Snapshots installed on disks that are gone.
    installed_before: u64,
}

impl Machines {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn install(&self, machine: u64, id: u64, disk: Arc<Disk>) {
        let mut inner = self.lock();
        if let Some(old) = inner.installed.insert(machine, Installed { id, disk }) {
            inner.installed_before += old.disk.installed();
        }
    }

    pub fn installed(&self, machine: u64) -> Option<Installed> {
        self.lock().installed.get(&machine).cloned()
    }

    pub fn disk(&self, machine: u64) -> Option<Arc<Disk>> {
        self.installed(machine).map(|installed| installed.disk)
    }

    pub fn disks(&self) -> Vec<(u64, Arc<Disk>)> {
        let inner = self.lock();
        let disks = inner.installed.iter();
        disks
            .map(|(machine, installed)| (*machine, installed.disk.clone()))
            .collect()
    }

    pub fn count(&self) -> u64 {
        self.lock().installed.len() as u64
    }

    /// Ids of the servers that are on the machines, by machine.
    pub fn installed_ids(&self) -> BTreeMap<u64, u64> {
        let inner = self.lock();
        let ids = inner.installed.iter();
        ids.map(|(machine, installed)| (*machine, installed.id))
            .collect()
    }

    /// Asks for a machine's disk to be wiped: a server of another id comes up on an empty one.
    pub fn wipe(&self, machine: u64, id: u64) {
        self.lock().to_wipe.push((machine, id));
    }

    /// What has been asked for.
    pub fn to_wipe(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.lock().to_wipe)
    }

    /// Snapshots of other servers that were installed, on all disks since ever.
    pub fn snapshots_installed(&self) -> u64 {
        let inner = self.lock();
        let now = inner.installed.values();
        inner.installed_before + now.map(|installed| installed.disk.installed()).sum::<u64>()
    }

    pub fn started(&self, machine: u64, replica: Arc<Replica>) {
        self.lock().running.insert(machine, replica);
    }

    /// The process is gone.
    pub fn stopped(&self, machine: u64) {
        let mut inner = self.lock();
        inner.running.remove(&machine);
        inner.ended.remove(&machine);
    }

    /// The process says that it ends by itself.
    pub fn ends(&self, machine: u64) {
        self.lock().ended.insert(machine);
    }

    pub fn ended(&self) -> BTreeSet<u64> {
        self.lock().ended.clone()
    }

    pub fn running(&self) -> Vec<(u64, Arc<Replica>)> {
        let inner = self.lock();
        let running = inner.running.iter();
        running
            .map(|(machine, replica)| (*machine, replica.clone()))
            .collect()
    }

    /// The machine of the leader of the greatest term, as the servers see themselves.
    pub fn leader(&self) -> Option<u64> {
        let leading = self.running().into_iter().filter_map(|(machine, replica)| {
            let leadership = *replica.leadership().borrow();
            leadership.is_leader.then_some((leadership.term, machine))
        });
        leading.max_by_key(|(term, _)| *term).map(|(_, id)| id)
    }
}
