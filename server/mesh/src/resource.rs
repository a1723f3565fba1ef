//! One resource as it goes over the wire, and which of them a proxy asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::{Message, Name};
use trireme_xds::pb::google::protobuf::Any;

/// A named resource, its encoded form and a digest of that: two of the same name and version are the same bytes, on
/// every server.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub name: String,
    pub version: u64,
    pub body: Arc<Any>,
}

impl Resource {
    pub fn new<M: Message + Name>(name: impl Into<String>, message: &M) -> Resource {
        let body = trireme_xds::pack(message);
        Resource {
            name: name.into(),
            version: twox_hash::XxHash64::oneshot(0, &body.value),
            body: Arc::new(body),
        }
    }
}

/// What a proxy asks for of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// Everything that is for this workload (listeners and clusters).
    All,
    Names(BTreeSet<String>),
}

impl Subscription {
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Subscription::All => true,
            Subscription::Names(names) => names.contains(name),
        }
    }
}
