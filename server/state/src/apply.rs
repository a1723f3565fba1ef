//! Applying committed commands.

use bytes::Bytes;

use crate::command::{
    Command, Compare, Event, EventKind, KeyValue, Operation, OperationResult, Reply, Revision, Txn,
    TxnReply,
};
use crate::layout::{
    Change, META_KEY, Meta, Record, changes_key, encode_changes, history_key, live_key,
};
use crate::sweep::{COMPACT_REVISIONS, SWEEP_REVISIONS, sweep};
use crate::view::{Mutation, Overlay, StateError, View};

/// Operations in one list of a transaction, and comparisons: as many as a scheduler binds at once
/// with room to spare, few enough that one command cannot stall the log.
pub const MAX_TXN_OPERATIONS: usize = 4096;

/// Kubernetes' longest key is below 1 KiB (a name and a namespace of 253 bytes each).
pub const MAX_KEY_BYTES: usize = 4096;

/// What one command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub reply: Reply,
    /// In the order of the operations; all at one revision.
    pub events: Vec<Event>,
}

/// One command applied on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub reply: Reply,
    pub events: Vec<Event>,
    pub mutations: Vec<Mutation>,
}

/// Applies one command; the mutations must be written as one.
pub fn apply(view: &dyn View, command: &Command) -> Result<Applied, StateError> {
    let mut transition = Transition::new(view)?;
    let step = transition.apply(command)?;
    Ok(Applied {
        reply: step.reply,
        events: step.events,
        mutations: transition.finish(),
    })
}

/// Several commands on their way into one write: each sees what those before it did.
pub struct Transition<'v> {
    store: Overlay<'v>,
    meta: Meta,
}

impl<'v> Transition<'v> {
    pub fn new(view: &'v dyn View) -> Result<Self, StateError> {
        let meta = Meta::read(view)?;
        Ok(Transition {
            store: Overlay::new(view),
            meta,
        })
    }

    pub fn meta(&self) -> Meta {
        self.meta
    }

    pub fn apply(&mut self, command: &Command) -> Result<Step, StateError> {
        let before = self.meta;
        let step = match command {
            Command::Txn(txn) => {
                let step = self.txn(txn)?;
                sweep(&mut self.store, &mut self.meta, SWEEP_REVISIONS)?;
                step
            }
            Command::Compact { revision } => self.compact(*revision)?,
        };
        if self.meta != before {
            self.store
                .put(Bytes::from_static(META_KEY), self.meta.encode());
        }
        Ok(step)
    }

    /// What to write, all of it or nothing.
    pub fn finish(self) -> Vec<Mutation> {
        self.store.into_mutations()
    }

    fn compact(&mut self, revision: Revision) -> Result<Step, StateError> {
        if revision > self.meta.revision {
            let newest = self.meta.revision;
            return Ok(refused(format!(
                "cannot compact at revision {revision}: the store is at {newest}"
            )));
        }
        self.meta.compacted = self.meta.compacted.max(revision);
        sweep(&mut self.store, &mut self.meta, COMPACT_REVISIONS)?;
        let reply = Reply::Compacted {
            revision: self.meta.compacted,
        };
        Ok(Step {
            reply,
            events: Vec::new(),
        })
    }

    fn txn(&mut self, txn: &Txn) -> Result<Step, StateError> {
        if let Err(reason) = check(txn) {
            return Ok(refused(reason));
        }
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let operations = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let revision = self.meta.revision + 1;
        let mut results = Vec::with_capacity(operations.len());
        let mut changes = Vec::new();
        let mut events = Vec::new();
        for operation in operations {
            let result = match operation {
                Operation::Get { key } => OperationResult::Get {
                    found: self.live(key)?,
                },
                Operation::Put { key, value } => {
                    let (change, event) = self.put(key, value, revision)?;
                    let previous = event.previous.clone();
                    changes.push(change);
                    events.push(event);
                    OperationResult::Put { previous }
                }
                Operation::Delete { key } => match self.delete(key, revision)? {
                    None => OperationResult::Delete { previous: None },
                    Some((change, event)) => {
                        let previous = event.previous.clone();
                        changes.push(change);
                        events.push(event);
                        OperationResult::Delete { previous }
                    }
                },
            };
            results.push(result);
        }
        if !changes.is_empty() {
            self.store
                .put(changes_key(revision), encode_changes(&changes));
            self.meta.revision = revision;
        }
        let reply = Reply::Txn(TxnReply {
            revision: self.meta.revision,
            succeeded,
            results,
        });
        Ok(Step { reply, events })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, StateError> {
        Ok(match compare {
            Compare::ModRevision { key, equals } => {
                let record = self.record(key)?;
                record.map_or(0, |record| record.mod_revision) == *equals
            }
            Compare::Exists { key } => self.record(key)?.is_some(),
        })
    }

    fn record(&self, key: &Bytes) -> Result<Option<Record>, StateError> {
        let store_key = live_key(key);
        match self.store.get(&store_key)? {
            None => Ok(None),
            Some(value) => Record::decode(&store_key, &value).map(Some),
        }
    }

    fn live(&self, key: &Bytes) -> Result<Option<KeyValue>, StateError> {
        Ok(self
            .record(key)?
            .map(|record| record.into_key_value(key.clone())))
    }

    fn put(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        revision: Revision,
    ) -> Result<(Change, Event), StateError> {
        let previous = self.retire(key)?;
        let record = Record {
            create_revision: previous
                .as_ref()
                .map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(0, |old| old.version) + 1,
            value: value.clone(),
        };
        self.store.put(live_key(key), record.encode());
        let change = Change {
            kind: EventKind::Put,
            key: key.clone(),
            replaced: previous.as_ref().map_or(0, |old| old.mod_revision),
        };
        let event = Event {
            kind: EventKind::Put,
            kv: record.into_key_value(key.clone()),
            previous,
        };
        Ok((change, event))
    }

    fn delete(
        &mut self,
        key: &Bytes,
        revision: Revision,
    ) -> Result<Option<(Change, Event)>, StateError> {
        let Some(previous) = self.retire(key)? else {
            return Ok(None);
        };
        let deletion = Record::deletion(revision);
        self.store.delete(live_key(key));
        self.store
            .put(history_key(key, revision), deletion.encode());
        let change = Change {
            kind: EventKind::Delete,
            key: key.clone(),
            replaced: previous.mod_revision,
        };
        let event = Event {
            kind: EventKind::Delete,
            kv: deletion.into_key_value(key.clone()),
            previous: Some(previous),
        };
        Ok(Some((change, event)))
    }

    /// Moves the newest version of a key into its history.
    fn retire(&mut self, key: &Bytes) -> Result<Option<KeyValue>, StateError> {
        let Some(record) = self.record(key)? else {
            return Ok(None);
        };
        self.store
            .put(history_key(key, record.mod_revision), record.encode());
        Ok(Some(record.into_key_value(key.clone())))
    }
}

fn refused(reason: String) -> Step {
    Step {
        reply: Reply::Refused { reason },
        events: Vec::new(),
    }
}

/// Refuses what has no meaning, whichever list would run.
fn check(txn: &Txn) -> Result<(), String> {
    for (what, count) in [
        ("comparisons", txn.compare.len()),
        ("operations", txn.success.len()),
        ("operations", txn.failure.len()),
    ] {
        if count > MAX_TXN_OPERATIONS {
            return Err(format!(
                "{count} {what} in a transaction; at most {MAX_TXN_OPERATIONS}"
            ));
        }
    }
    let compared = txn.compare.iter().map(|compare| match compare {
        Compare::ModRevision { key, .. } | Compare::Exists { key } => key,
    });
    let touched = txn
        .success
        .iter()
        .chain(&txn.failure)
        .map(|operation| match operation {
            Operation::Put { key, .. } | Operation::Delete { key } | Operation::Get { key } => key,
        });
    for key in compared.chain(touched) {
        if key.is_empty() {
            return Err("an empty key".into());
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(format!(
                "a key of {} bytes; at most {MAX_KEY_BYTES}",
                key.len()
            ));
        }
    }
    for operations in [&txn.success, &txn.failure] {
        let mut written = std::collections::BTreeSet::new();
        for operation in operations {
            if let Operation::Put { key, .. } | Operation::Delete { key } = operation
                && !written.insert(key)
            {
                return Err(format!(
                    "key {:?} is written twice in one transaction",
                    String::from_utf8_lossy(key)
                ));
            }
        }
    }
    Ok(())
}
