//! What a change of an object makes out of date, and for whom.

use std::collections::BTreeSet;

use trireme_decide::ObjectKey;
use trireme_xds::Kind;

use crate::sight::Sight;

/// A set of kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Types(u8);

impl Types {
    pub const NONE: Types = Types(0);
    pub const CLUSTERS: Types = Types(1);
    pub const ENDPOINTS: Types = Types(2);
    pub const SECRETS: Types = Types(4);
    pub const LISTENERS: Types = Types(8);
    pub const ROUTES: Types = Types(16);
    pub const ALL: Types = Types(31);

    pub const fn and(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub fn contains(self, other: Types) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn meets(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn of(kind: Kind) -> Types {
        match kind {
            Kind::Cluster => Types::CLUSTERS,
            Kind::Endpoint => Types::ENDPOINTS,
            Kind::Secret => Types::SECRETS,
            Kind::Listener => Types::LISTENERS,
            Kind::Route => Types::ROUTES,
        }
    }
}

/// The outcome of [`crate::Mesh::update`]; several may be put together with [`Stale::merge`] before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stale {
    /// Hosts whose endpoints changed and nothing else about them.
    pub endpoints: BTreeSet<String>,
    /// Types of which any resource of any workload may have changed.
    pub types: Types,
    /// Pods that changed in a way that only their own configuration shows.
    pub workloads: BTreeSet<ObjectKey>,
    /// What changed, as `kind namespace/name`, for logs and status.
    pub objects: BTreeSet<String>,
    /// Whether conditions of Istio objects are to be looked at again.
    pub conditions: bool,
}

impl Stale {
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.types.is_empty() && self.workloads.is_empty()
    }

    pub fn merge(&mut self, other: Stale) {
        self.endpoints.extend(other.endpoints);
        self.types = self.types.and(other.types);
        self.workloads.extend(other.workloads);
        self.objects.extend(other.objects);
        self.conditions |= other.conditions;
    }
}

/// What of a [`Stale`] concerns one workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affected {
    /// To be generated again for everything subscribed.
    pub types: Types,
    /// Names of endpoint resources to be generated again besides.
    pub endpoints: BTreeSet<String>,
    /// What the workload sees now.
    pub sight: Sight,
}

impl Affected {
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.endpoints.is_empty()
    }
}
