//! The changes of the cluster's objects, in their order, as servers of the control plane learn of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use trireme_mesh::{Change, ObjectKey};
use trireme_model::kinds::Kind;

/// Changes that belong together.
#[derive(Clone, Debug)]
pub struct Batch {
    pub at_ms: u64,
    pub changes: Vec<(&'static Kind, Change)>,
}

/// Shared by the world, which writes, and the servers, which read.
#[derive(Clone)]
pub struct Journal {
    batches: Arc<Mutex<Vec<Batch>>>,
    length: watch::Sender<usize>,
}

fn key(change: &Change) -> ObjectKey {
    match change {
        Change::Delete(key) => key.clone(),
        Change::Upsert(object) => key_of(object),
    }
}

pub fn key_of(object: &serde_json::Value) -> ObjectKey {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    ObjectKey::new(text("namespace"), text("name"))
}

impl Journal {
    pub fn new() -> Journal {
        Journal {
            batches: Arc::default(),
            length: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.batches
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn push(&self, batch: Batch) {
        let mut batches = self.lock();
        batches.push(batch);
        self.length.send_replace(batches.len());
    }

    /// To wait for more.
    pub fn length(&self) -> watch::Receiver<usize> {
        self.length.subscribe()
    }

    pub fn get(&self, place: usize) -> Option<Batch> {
        self.lock().get(place).cloned()
    }

    /// Every object as it was when the first batches had been written, up to that moment; and how many they were.
    pub fn listed(&self, until_ms: u64) -> (Vec<(&'static Kind, Change)>, usize) {
        let batches = self.lock();
        let end = batches.partition_point(|batch| batch.at_ms <= until_ms);
        let mut newest = BTreeMap::new();
        for (kind, change) in batches[..end].iter().flat_map(|batch| &batch.changes) {
            newest.insert((kind.kind, key(change)), (*kind, change.clone()));
        }
        let there = newest.into_values();
        let there = there.filter(|(_, change)| matches!(change, Change::Upsert(_)));
        (there.collect(), end)
    }
}
