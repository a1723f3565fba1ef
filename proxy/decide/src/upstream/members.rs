//! A cluster's hosts by priority and place, in the order in which the configuration has them
//! (rings and tables depend on it).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use super::host::Host;
use crate::config::{Endpoints, Locality};
use crate::time::Nanos;

/// The hosts of one priority.
#[derive(Clone, Debug, Default)]
pub struct PriorityHosts {
    /// The hosts; those of one place are neighbours.
    pub hosts: Vec<Arc<Host>>,
    /// The places.
    pub localities: Vec<LocalityHosts>,
}

/// The hosts of one place.
#[derive(Clone, Debug)]
pub struct LocalityHosts {
    /// Which place.
    pub locality: Arc<Locality>,
    /// Its weight; zero takes no traffic where localities are weighted.
    pub weight: u32,
    /// Its hosts among the priority's.
    pub range: Range<usize>,
}

/// All hosts of a cluster.
#[derive(Clone, Debug)]
pub struct Members {
    /// By priority.
    pub priorities: Vec<PriorityHosts>,
    /// How many hosts count for one, percent.
    pub overprovisioning_factor: u32,
    /// Whether health counts hosts by weight.
    pub weighted_priority_health: bool,
}

impl Default for Members {
    fn default() -> Members {
        Members {
            priorities: vec![PriorityHosts::default()],
            overprovisioning_factor: 140,
            weighted_priority_health: false,
        }
    }
}

/// Most priorities a cluster may have; the control plane sends as many as there are places, and
/// each costs every request a comparison. Later ones join the last.
const PRIORITIES_MAX: u32 = 128;

impl Members {
    /// The hosts of `endpoints`, keeping those of `before` that are the same. Of an address that
    /// occurs twice in a priority, the first counts, as in Envoy.
    #[must_use]
    pub fn new(endpoints: &Endpoints, before: Option<&Members>, now: Nanos) -> Members {
        let mut known: BTreeMap<SocketAddr, &Arc<Host>> = BTreeMap::new();
        for host in before.into_iter().flat_map(Members::iter) {
            known.insert(host.address, host);
        }
        let mut members = Members {
            priorities: vec![PriorityHosts::default()],
            overprovisioning_factor: match endpoints.overprovisioning_factor {
                0 => 140,
                factor => factor,
            },
            weighted_priority_health: endpoints.weighted_priority_health,
        };
        let mut seen = BTreeMap::new();
        for group in &endpoints.localities {
            let priority = group.priority.min(PRIORITIES_MAX - 1);
            while members.priorities.len() <= priority as usize {
                members.priorities.push(PriorityHosts::default());
            }
            let locality = Arc::new(group.locality.clone());
            let into = &mut members.priorities[priority as usize];
            let start = into.hosts.len();
            for endpoint in &group.endpoints {
                let Some(address) = endpoint.address.socket() else {
                    continue;
                };
                if seen.insert(address, ()).is_some() {
                    continue;
                }
                let host = match known.remove(&address) {
                    Some(host) if host.is(endpoint, &locality, priority) => {
                        host.refresh(endpoint);
                        host.clone()
                    }
                    other => {
                        let created = other.map_or(now, |host| host.created);
                        let Some(host) = Host::new(endpoint, locality.clone(), priority, created)
                        else {
                            continue;
                        };
                        if let Some(other) = other {
                            host.monitor.inherit(&other.monitor);
                            other.leave();
                        }
                        Arc::new(host)
                    }
                };
                into.hosts.push(host);
            }
            let range = start..into.hosts.len();
            into.localities.push(LocalityHosts {
                locality,
                weight: group.weight.unwrap_or(0),
                range,
            });
        }
        for host in known.values() {
            host.leave();
        }
        members
    }

    /// Every host.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities
            .iter()
            .flat_map(|priority| priority.hosts.iter())
    }

    /// How many hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.priorities
            .iter()
            .map(|priority| priority.hosts.len())
            .sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.priorities
            .iter()
            .all(|priority| priority.hosts.is_empty())
    }

    /// The hosts that have all of `labels`, in the same priorities and places.
    #[must_use]
    pub fn subset(&self, labels: &[(Arc<str>, Arc<str>)]) -> Members {
        let priorities = self
            .priorities
            .iter()
            .map(|priority| {
                let mut subset = PriorityHosts::default();
                for place in &priority.localities {
                    let start = subset.hosts.len();
                    subset.hosts.extend(
                        priority.hosts[place.range.clone()]
                            .iter()
                            .filter(|host| host.labels.contain(labels))
                            .cloned(),
                    );
                    subset.localities.push(LocalityHosts {
                        locality: place.locality.clone(),
                        weight: place.weight,
                        range: start..subset.hosts.len(),
                    });
                }
                subset
            })
            .collect();
        Members {
            priorities,
            overprovisioning_factor: self.overprovisioning_factor,
            weighted_priority_health: self.weighted_priority_health,
        }
    }
}
