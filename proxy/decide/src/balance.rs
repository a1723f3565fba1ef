//! Which host a request goes to: Envoy's balancers over priorities, places and subsets.
//!
//! **In:** the cluster's members, their health (what the control plane says and what outlier
//! detection knows), and for a request its hash, labels and the hosts already tried. **Out:** a
//! host. Source of the algorithms: Envoy's `load_balancing_policies`, and for rings ketama, for
//! tables Google's Maglev paper.
//!
//! A balancer is rebuilt when its hosts' health changes and not otherwise; choosing takes one
//! lock and, but for rings, no search.

mod balancer;
mod edf;
mod maglev;
mod ring;
mod source;
mod subsets;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;

pub use balancer::Balancer;
pub use edf::Edf;
pub use maglev::MaglevTable;
pub use ring::Ring;
pub use subsets::Subsets;
pub use view::{PriorityLoads, View};

use crate::config::{LbPolicy, SlowStart};
use crate::upstream::Host;

/// What a choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// The request's hash; none draws at random where a hash is needed.
    pub hash: Option<u64>,
    /// Labels that the host must have, sorted by key.
    pub labels: &'a [(Arc<str>, Arc<str>)],
    /// The connection's original destination.
    pub destination: Option<SocketAddr>,
    /// Hosts already tried.
    pub tried: &'a [Arc<Host>],
    /// Whether those are avoided.
    pub avoid_tried: bool,
    /// Whether canary hosts (label `canary` is `true`) are avoided.
    pub omit_canary: bool,
    /// How often another host is drawn when one is to be avoided.
    pub more_attempts: u32,
    /// Whether priorities already tried are avoided, looked at anew after this many attempts.
    pub avoid_priorities_every: Option<u32>,
}

impl Choice<'_> {
    /// Whether `host` is to be avoided.
    #[must_use]
    pub fn avoids(&self, host: &Arc<Host>) -> bool {
        let tried = self.avoid_tried
            && !crate::planted::on(crate::planted::Bug::RetrySameHost)
            && self.tried.iter().any(|other| Arc::ptr_eq(other, host));
        tried || (self.omit_canary && host.labels.get("canary") == Some("true"))
    }
}

/// The slow start of a policy.
pub(crate) fn slow_start(policy: &LbPolicy) -> Option<&SlowStart> {
    match policy {
        LbPolicy::RoundRobin { slow_start } => slow_start.as_ref(),
        LbPolicy::LeastRequest(least) => least.slow_start.as_ref(),
        _ => None,
    }
}

/// Whether a policy looks at hosts' ages.
#[must_use]
pub fn has_slow_start(policy: &LbPolicy) -> bool {
    slow_start(policy).is_some()
}
