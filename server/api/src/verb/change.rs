//! The one write path: decide on what is there, commit with the precondition that it still is.

use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use trireme_model::kinds::Kind;
use trireme_model::status::Status;
use trireme_model::{Value, meta};
use trireme_state::{Compare, Operation, Revision, Txn};

use super::Caller;
use crate::document::stored_kind;
use crate::route::Target;
use crate::store::{Freshness, Stored};

/// Tries before a write that lost every race is refused. Each lost race means that another write won;
/// with the pause below, 16 tries outlast some hundred writers on one object.
const MAX_ATTEMPTS: u32 = 16;
/// Pause after the first lost race; doubles up to the limit, with jitter.
const FIRST_PAUSE_MS: u64 = 1;
const MAX_PAUSE_MS: u64 = 50;

/// What to do with an object, decided on its current state.
pub(crate) enum Proposal {
    /// Nothing would change.
    Unchanged,
    Put {
        object: Value,
        allocation: Allocation,
    },
    /// Gone; `last` is what the caller and watchers of the deletion see.
    Delete { last: Value, allocation: Allocation },
}

/// What else a write of an object rests on and changes.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    /// Keys that must be free, and are then held by the object.
    pub take: Vec<String>,
    pub free: Vec<String>,
    /// Keys that must still be as they were when the write was decided.
    pub unchanged: Vec<(String, Revision)>,
}

impl Allocation {
    fn add(self, owner: &str, txn: &mut Txn) {
        for (key, equals) in self.unchanged {
            txn.compare.push(Compare::ModRevision {
                key: key.into(),
                equals,
            });
        }
        for key in self.take {
            let key = Bytes::from(key);
            txn.compare.push(Compare::ModRevision {
                key: key.clone(),
                equals: 0,
            });
            let value = Bytes::copy_from_slice(owner.as_bytes());
            txn.success.push(Operation::Put { key, value });
        }
        for key in self.free {
            txn.success.push(Operation::Delete { key: key.into() });
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Changed {
    /// Stored, or as it already was.
    Stored(Stored),
    /// As it would have been stored.
    DryRun(Value),
    Deleted(Value),
}

/// Changes one existing object. `decide` sees it in its stored form, with its resourceVersion, and may run
/// several times.
pub(crate) async fn change(
    caller: &Caller<'_>,
    target: &Target,
    dry_run: bool,
    mut decide: impl FnMut(&Value) -> Result<Proposal, Status>,
) -> Result<Changed, Status> {
    let store = &caller.api.store;
    let kind = stored_kind(target.kind);
    let key = target.key();
    let mut fresh = false;
    for attempt in 0..MAX_ATTEMPTS {
        let stored = store.read(&key)?;
        let decision = match &stored {
            None => Err(Status::not_found(target.kind, &target.name)),
            Some(stored) => decide(&stored.value()?),
        };
        let (Some(stored), Ok(proposal)) = (stored, &decision) else {
            // A refusal may rest on state that another server has left behind already.
            if fresh {
                return Err(refusal(decision));
            }
            store.fresh(Freshness::Linearizable).await?;
            fresh = true;
            continue;
        };
        if matches!(proposal, Proposal::Unchanged) && !fresh {
            store.fresh(Freshness::Linearizable).await?;
            fresh = true;
            continue;
        }
        let mut txn = Txn::default();
        txn.compare.push(Compare::ModRevision {
            key: Bytes::copy_from_slice(key.as_bytes()),
            equals: stored.mod_revision,
        });
        let (written, last) = match decision? {
            Proposal::Unchanged => return Ok(Changed::Stored(stored)),
            Proposal::Put { object, .. } if dry_run => return Ok(Changed::DryRun(object)),
            Proposal::Delete { last, .. } if dry_run => return Ok(Changed::Deleted(last)),
            Proposal::Put { object, allocation } => {
                let raw = store.encode(&object)?;
                txn.success.push(Operation::Put {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    value: raw.clone(),
                });
                allocation.add(&key, &mut txn);
                (raw, None)
            }
            Proposal::Delete { last, allocation } => {
                txn.success.push(Operation::Delete {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                });
                allocation.add(&key, &mut txn);
                (Bytes::new(), Some(last))
            }
        };
        let reply = store.commit(txn).await?;
        if reply.succeeded {
            settle(caller, kind, reply.revision).await;
            return Ok(match last {
                Some(mut last) => {
                    meta::set_resource_version(&mut last, &reply.revision.to_string());
                    Changed::Deleted(last)
                }
                None => Changed::Stored(Stored {
                    raw: written,
                    mod_revision: reply.revision,
                }),
            });
        }
        // The reply was applied here, so that the next read sees what won.
        fresh = false;
        pause(attempt).await;
    }
    Err(Status::modified(target.kind, &target.name))
}

fn refusal(decision: Result<Proposal, Status>) -> Status {
    match decision {
        Err(status) => status,
        Ok(_) => Status::internal("a decision without an object"),
    }
}

/// Later requests of this client meet the rules that it has just written.
pub(crate) async fn settle(caller: &Caller<'_>, kind: &Kind, revision: Revision) {
    if kind.group == trireme_model::kinds::ROLE.group {
        caller.api.authorizer.settle(revision).await;
    }
}

/// Waits a little longer after each lost race, so that racing writers drift apart.
pub(crate) async fn pause(attempt: u32) {
    let limit = FIRST_PAUSE_MS
        .saturating_mul(1 << attempt.min(16))
        .min(MAX_PAUSE_MS);
    let pause = rand::rng().random_range(0..=limit);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

/// Puts a new object where there is none. Answers `None` when the key, or one to be taken, is taken.
pub(crate) async fn insert(
    caller: &Caller<'_>,
    target: &Target,
    object: &Value,
    allocation: Allocation,
) -> Result<Option<Stored>, Status> {
    let store = &caller.api.store;
    let key = target.key();
    let raw = store.encode(object)?;
    let mut txn = Txn::default();
    txn.compare.push(Compare::ModRevision {
        key: Bytes::copy_from_slice(key.as_bytes()),
        equals: 0,
    });
    txn.success.push(Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: raw.clone(),
    });
    allocation.add(&key, &mut txn);
    let reply = store.commit(txn).await?;
    if !reply.succeeded {
        return Ok(None);
    }
    settle(caller, stored_kind(target.kind), reply.revision).await;
    Ok(Some(Stored {
        raw,
        mod_revision: reply.revision,
    }))
}

/// Whether two objects are the same but for their version and the times in their managed fields.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return one == other;
    };
    let rest = |map: &serde_json::Map<String, Value>| {
        map.iter().filter(|(key, _)| *key != "metadata").count()
    };
    rest(one) == rest(other)
        && one
            .iter()
            .filter(|(key, _)| *key != "metadata")
            .all(|(key, value)| other.get(key) == Some(value))
        && bare(one.get("metadata")) == bare(other.get("metadata"))
}

fn bare(metadata: Option<&Value>) -> Value {
    let mut metadata = metadata.cloned().unwrap_or_default();
    if let Some(map) = metadata.as_object_mut() {
        map.remove("resourceVersion");
        for entry in map
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_and_times_of_managers_do_not_count() {
        let one = json!({"metadata": {"name": "a", "resourceVersion": "1", "managedFields": [{"time": "x", "manager": "m"}]}, "spec": 1});
        let mut other = one.clone();
        other["metadata"]["resourceVersion"] = "2".into();
        other["metadata"]["managedFields"][0]["time"] = "y".into();
        assert!(same(&one, &other));
        other["metadata"]["managedFields"][0]["manager"] = "n".into();
        assert!(!same(&one, &other));
        assert!(!same(
            &one,
            &json!({"metadata": one["metadata"], "spec": 1, "status": {}})
        ));
        assert!(!same(&one, &json!({"metadata": one["metadata"]})));
    }
}
