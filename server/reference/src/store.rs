//! The state machine as it would be if nothing cost anything.

use std::collections::BTreeMap;

use bytes::Bytes;
use trireme_state::{
    Command, Compare, EventKind, MemoryView, Operation, RangeError, RangeRequest, Revision, events,
    meta, range,
};

/// key → (value, create revision, mod revision, version)
type State = BTreeMap<Bytes, (Bytes, Revision, Revision, u64)>;

/// Every revision, whole.
pub struct Naive {
    revisions: Vec<State>,
    compacted: Revision,
}

impl Default for Naive {
    fn default() -> Self {
        Naive {
            // An empty store is at revision 1.
            revisions: vec![State::new(), State::new()],
            compacted: 0,
        }
    }
}

impl Naive {
    pub fn revision(&self) -> Revision {
        self.revisions.len() as Revision - 1
    }

    fn newest(&self) -> &State {
        &self.revisions[self.revisions.len() - 1]
    }

    pub fn apply(&mut self, command: &Command) {
        match command {
            Command::Compact { revision } => {
                if *revision <= self.revision() {
                    self.compacted = self.compacted.max(*revision);
                }
            }
            Command::Txn(txn) => {
                let holds = txn.compare.iter().all(|compare| match compare {
                    Compare::ModRevision { key, equals } => {
                        self.newest().get(key).map_or(0, |entry| entry.2) == *equals
                    }
                    Compare::Exists { key } => self.newest().contains_key(key),
                });
                let next = self.revision() + 1;
                let mut state = self.newest().clone();
                let mut changed = false;
                for operation in if holds { &txn.success } else { &txn.failure } {
                    match operation {
                        Operation::Get { .. } => {}
                        Operation::Put { key, value } => {
                            let (created, version) =
                                state.get(key).map_or((next, 1), |old| (old.1, old.3 + 1));
                            state.insert(key.clone(), (value.clone(), created, next, version));
                            changed = true;
                        }
                        Operation::Delete { key } => changed |= state.remove(key).is_some(),
                    }
                }
                if changed {
                    self.revisions.push(state);
                }
            }
        }
    }

    /// Compares all that can be asked of a store with what is known here, for keys from `start` to `end`; an
    /// error says what differs.
    pub fn compare(&self, view: &MemoryView, start: &[u8], end: &[u8]) -> Result<(), String> {
        let meta = meta(view).map_err(|error| error.to_string())?;
        same("revision", &meta.revision, &self.revision())?;
        same("compacted", &meta.compacted, &self.compacted)?;
        let all = |revision, limit| RangeRequest {
            start: Bytes::copy_from_slice(start),
            end: Bytes::copy_from_slice(end),
            revision: Some(revision),
            limit,
            keys_only: false,
        };
        for (revision, state) in self.revisions.iter().enumerate() {
            let revision = revision as Revision;
            let found = range(view, &all(revision, 0));
            if revision < self.compacted {
                let compacted = RangeError::Compacted {
                    requested: revision,
                    oldest: self.compacted,
                };
                same("a compacted revision", &found, &Err(compacted))?;
                continue;
            }
            let found: State = found
                .map_err(|error| error.to_string())?
                .kvs
                .into_iter()
                .map(|kv| {
                    let entry = (kv.value, kv.create_revision, kv.mod_revision, kv.version);
                    (kv.key, entry)
                })
                .collect();
            same(&format!("revision {revision}"), &found, state)?;
            for (key, entry) in state {
                let one = RangeRequest {
                    start: key.clone(),
                    revision: Some(revision),
                    ..RangeRequest::default()
                };
                let one = range(view, &one).map_err(|error| error.to_string())?;
                let value = one.kvs.first().map(|kv| &kv.value);
                same("one key", &value, &Some(&entry.0))?;
            }
            let page = range(view, &all(revision, 2)).map_err(|error| error.to_string())?;
            let rest = state.len().saturating_sub(2);
            same("a page", &page.kvs.len(), &state.len().min(2))?;
            same("more behind a page", &page.more, &(rest > 0))?;
            same("what is behind a page", &page.remaining, &(rest as u64))?;
        }
        (self.compacted..=self.revision())
            .try_for_each(|after| self.replay(view, start, end, after))
    }

    /// The events after a readable revision lead to the newest state.
    fn replay(
        &self,
        view: &MemoryView,
        start: &[u8],
        end: &[u8],
        after: Revision,
    ) -> Result<(), String> {
        let mut state = self.revisions[after as usize].clone();
        let mut at = after;
        loop {
            let page = events(view, start, end, at, 3).map_err(|error| error.to_string())?;
            for happened in page.revisions {
                for event in happened.events {
                    let previous = state.get(&event.kv.key).map(|old| old.0.clone());
                    let told = event.previous.map(|kv| kv.value);
                    same("an event's previous value", &told, &previous)?;
                    let revision = event.kv.mod_revision;
                    same("an event's revision", &revision, &happened.revision)?;
                    match event.kind {
                        EventKind::Delete => {
                            state.remove(&event.kv.key);
                        }
                        EventKind::Put => {
                            let kv = event.kv;
                            let entry = (kv.value, kv.create_revision, kv.mod_revision, kv.version);
                            state.insert(kv.key, entry);
                        }
                    }
                }
                let then = &self.revisions[happened.revision as usize];
                same("the state after events", &state, then)?;
            }
            if page.through >= page.newest {
                break;
            }
            if page.through <= at {
                return Err(format!("events after {at} do not go on"));
            }
            at = page.through;
        }
        same("the state after all events", &state, self.newest())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?} instead of {expected:?}"))
}
