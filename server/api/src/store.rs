//! Objects in the replica: reading them, and writing them with their preconditions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use trireme_model::status::Status;
use trireme_model::{Value, meta};
use trireme_raft::{ProposeError, Replica};
use trireme_state::{
    Command, KeyValue, RangeError, RangeReply, RangeRequest, Reply, Revision, Txn, TxnReply,
};

use crate::failure;

/// How long a read waits for this server to reach a revision that the caller has seen elsewhere:
/// kube-apiserver waits as long.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it looks.
const CATCH_UP_POLL: Duration = Duration::from_millis(5);
/// What every stored object begins with; the version is spliced in behind it.
const HEAD: &[u8] = b"{\"metadata\":{";

#[derive(Clone)]
pub(crate) struct Store {
    replica: Arc<Replica>,
    max_object_bytes: usize,
}

/// One object as it is kept. The value has no resourceVersion: that is the key's `mod_revision`.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub raw: Bytes,
    pub mod_revision: Revision,
}

impl Stored {
    pub fn new(kv: &KeyValue) -> Self {
        Stored {
            raw: kv.value.clone(),
            mod_revision: kv.mod_revision,
        }
    }

    /// The object with its resourceVersion.
    pub fn value(&self) -> Result<Value, Status> {
        let mut value: Value = serde_json::from_slice(&self.raw)
            .map_err(|error| Status::internal(format!("a stored object is not JSON: {error}")))?;
        meta::set_resource_version(&mut value, &self.mod_revision.to_string());
        Ok(value)
    }

    /// Appends the object as JSON with its resourceVersion, without parsing it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(self.raw.len() + 40);
        match self.raw.strip_prefix(HEAD) {
            Some(rest) => {
                out.extend_from_slice(HEAD);
                out.extend_from_slice(b"\"resourceVersion\":\"");
                out.extend_from_slice(self.mod_revision.to_string().as_bytes());
                out.extend_from_slice(if rest.first() == Some(&b'}') {
                    b"\""
                } else {
                    b"\","
                });
                out.extend_from_slice(rest);
            }
            // Written by someone else than this crate, such as a restore.
            None => match self.value() {
                Ok(value) => out.extend_from_slice(value.to_string().as_bytes()),
                Err(_) => out.extend_from_slice(b"{}"),
            },
        }
    }
}

/// An object with `metadata` first, so that [`Stored::write_json`] finds it without parsing.
struct MetadataFirst<'a>(&'a serde_json::Map<String, Value>);

impl Serialize for MetadataFirst<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        if let Some(metadata) = self.0.get("metadata") {
            map.serialize_entry("metadata", metadata)?;
        }
        for (key, value) in self.0 {
            if key != "metadata" {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Everything committed before the read began.
    Linearizable,
    /// Whatever this server has applied.
    Any,
    /// At least this revision.
    NotOlderThan(Revision),
}

impl Store {
    pub fn new(replica: Arc<Replica>, max_object_bytes: usize) -> Self {
        Store {
            replica,
            max_object_bytes,
        }
    }

    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub fn revision(&self) -> Revision {
        self.replica.revision()
    }

    /// The bytes under which `object` is kept.
    pub fn encode(&self, object: &Value) -> Result<Bytes, Status> {
        let Value::Object(map) = object else {
            return Err(Status::internal("an object to store is not a map"));
        };
        let stripped;
        let map = if meta::resource_version(object).is_empty() {
            map
        } else {
            let mut copy = object.clone();
            meta::clear_resource_version(&mut copy);
            let Value::Object(copy) = copy else {
                unreachable!("a copy of a map")
            };
            stripped = copy;
            &stripped
        };
        let bytes = serde_json::to_vec(&MetadataFirst(map))
            .map_err(|error| Status::internal(format!("writing an object as JSON: {error}")))?;
        if bytes.len() > self.max_object_bytes {
            return Err(failure::too_large(self.max_object_bytes));
        }
        Ok(bytes.into())
    }

    /// Returns when this server's state is as fresh as asked.
    pub async fn fresh(&self, freshness: Freshness) -> Result<(), Status> {
        match freshness {
            Freshness::Any => Ok(()),
            Freshness::Linearizable => {
                self.replica.read_barrier().await.map_err(|error| {
                    failure::unavailable(format!(
                        "the cluster cannot serve consistent reads now: {error}"
                    ))
                })?;
                Ok(())
            }
            Freshness::NotOlderThan(revision) => self.catch_up(revision).await,
        }
    }

    async fn catch_up(&self, revision: Revision) -> Result<(), Status> {
        let deadline = tokio::time::Instant::now() + CATCH_UP_TIMEOUT;
        while self.replica.revision() < revision {
            if tokio::time::Instant::now() >= deadline {
                return Err(failure::version_too_large(
                    revision,
                    self.replica.revision(),
                ));
            }
            tokio::time::sleep(CATCH_UP_POLL).await;
        }
        Ok(())
    }

    /// One object as this server has it.
    pub fn read(&self, key: &str) -> Result<Option<Stored>, Status> {
        let request = RangeRequest {
            start: Bytes::copy_from_slice(key.as_bytes()),
            limit: 1,
            ..RangeRequest::default()
        };
        let reply = self.replica.range(&request).map_err(range_failure)?;
        Ok(reply.kvs.first().map(Stored::new))
    }

    pub fn read_value(&self, key: &str) -> Result<Option<Value>, Status> {
        self.read(key)?.map(|stored| stored.value()).transpose()
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeReply, RangeError> {
        self.replica.range(request)
    }

    /// All objects under a prefix, as this server has them, with the revision they were read at.
    pub fn read_prefix(&self, prefix: &str) -> Result<(Vec<KeyValue>, Revision), Status> {
        let (start, end) = prefix_range(prefix);
        let reply = self
            .replica
            .range(&RangeRequest {
                start,
                end,
                ..RangeRequest::default()
            })
            .map_err(range_failure)?;
        Ok((reply.kvs, reply.revision))
    }

    /// Proposes one transaction: the only way in which this crate changes anything.
    pub async fn commit(&self, txn: Txn) -> Result<TxnReply, Status> {
        match self.replica.propose(Command::Txn(txn)).await {
            Ok(Reply::Txn(reply)) => Ok(reply),
            Ok(Reply::Refused { reason }) => Err(Status::internal(reason)),
            Ok(Reply::Compacted { .. }) => Err(Status::internal(
                "a transaction was answered as a compaction",
            )),
            Err(error) => Err(propose_failure(error)),
        }
    }

    /// Why this server should not be sent requests now, if so.
    pub async fn ready(&self) -> Result<(), String> {
        if self.replica.status().leader.is_none() {
            return Err("no leader is known".to_owned());
        }
        match tokio::time::timeout(CATCH_UP_TIMEOUT, self.replica.read_barrier()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the leader did not confirm a read in time".to_owned()),
        }
    }
}

/// Start and end of the range that holds every key with this prefix.
pub(crate) fn prefix_range(prefix: &str) -> (Bytes, Bytes) {
    let start = Bytes::copy_from_slice(prefix.as_bytes());
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes here end with '/', so that the last byte can always be raised.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (start, end.into())
}

pub(crate) fn range_failure(error: RangeError) -> Status {
    match error {
        RangeError::Compacted { requested, oldest } => {
            Status::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        RangeError::Future { requested, newest } => failure::version_too_large(requested, newest),
        RangeError::Storage(message) => Status::internal(format!("reading the store: {message}")),
    }
}

fn propose_failure(error: ProposeError) -> Status {
    match error {
        ProposeError::NoLeader(_) => failure::unavailable(format!(
            "the cluster has no leader at the moment, so that nothing was written; try again ({error})"
        )),
        ProposeError::DiskFull(place) => Status::unavailable(format!(
            "nothing was written because the disk of a server is full: {place}; free space there and writes go on \
             by themselves, reads go on meanwhile"
        )),
        ProposeError::TooLarge { limit, .. } => failure::too_large(limit),
        ProposeError::Unknown(why) => Status::timeout(
            format!(
                "whether the write took effect is not known ({why}); read the object before trying again"
            ),
            0,
        ),
        ProposeError::Stopped(why) => {
            failure::unavailable(format!("this server is stopping: {why}"))
        }
    }
}
