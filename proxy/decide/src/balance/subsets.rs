//! Subsets of a cluster's hosts by labels, each with its own balancer.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use rand_core::RngCore;

use super::Choice;
use super::balancer::Balancer;
use crate::config::{Cluster, CommonLb, LbPolicy, SubsetFallback, SubsetLb};
use crate::time::Nanos;
use crate::upstream::{ClusterStats, Host, Members};

type LabelSet = Vec<(Arc<str>, Arc<str>)>;

/// Subsets of one cluster that are remembered; a request may name labels at will, but only those
/// that hosts have make one, so this bounds only odd configurations.
const SUBSETS_MAX: usize = 1024;

/// The balancer of a cluster with its subsets.
#[derive(Debug)]
pub struct Subsets {
    whole: Balancer,
    policy: LbPolicy,
    common: CommonLb,
    settings: Option<Arc<SubsetLb>>,
    made: Mutex<BTreeMap<LabelSet, Option<Arc<Balancer>>>>,
}

impl Subsets {
    /// A balancer for `cluster` over `members`.
    #[must_use]
    pub fn new(cluster: &Cluster, members: Arc<Members>) -> Subsets {
        Subsets {
            whole: Balancer::new(cluster.lb, cluster.common_lb, members),
            policy: cluster.lb,
            common: cluster.common_lb,
            settings: cluster
                .subsets
                .clone()
                .filter(|settings| !settings.selectors.is_empty()),
            made: Mutex::new(BTreeMap::new()),
        }
    }

    /// Chooses a host within the subset of the request's labels, or by the fallback.
    pub fn choose(
        &self,
        choice: &Choice<'_>,
        generation: &AtomicU64,
        stats: &ClusterStats,
        now: Nanos,
        rng: &mut dyn RngCore,
    ) -> Option<Arc<Host>> {
        let Some(settings) = &self.settings else {
            return self.whole.choose(choice, generation, stats, now, rng);
        };
        let selector = settings.selectors.iter().find(|selector| {
            selector.keys.len() == choice.labels.len()
                && selector
                    .keys
                    .iter()
                    .zip(choice.labels)
                    .all(|(key, (name, _))| key == name)
        });
        if selector.is_some()
            && !choice.labels.is_empty()
            && let Some(subset) = self.subset(choice.labels)
            && let Some(host) = subset.choose(choice, generation, stats, now, rng)
        {
            ClusterStats::inc(&stats.lb_subsets_selected);
            return Some(host);
        }
        let fallback = selector
            .and_then(|selector| selector.fallback)
            .unwrap_or(settings.fallback);
        let host = match fallback {
            SubsetFallback::NoFallback => None,
            SubsetFallback::AnyEndpoint => self.whole.choose(choice, generation, stats, now, rng),
            SubsetFallback::DefaultSubset => self
                .subset(&settings.default_subset)
                .and_then(|subset| subset.choose(choice, generation, stats, now, rng)),
        };
        if host.is_some() {
            ClusterStats::inc(&stats.lb_subsets_fallback);
        } else if settings.panic_mode_any {
            return self.whole.choose(choice, generation, stats, now, rng);
        }
        host
    }

    /// The balancer of the hosts with `labels`; none where no host has them.
    fn subset(&self, labels: &[(Arc<str>, Arc<str>)]) -> Option<Arc<Balancer>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subset) = made.get(labels) {
            return subset.clone();
        }
        let members = self.whole.members().subset(labels);
        let subset = (!members.is_empty())
            .then(|| Arc::new(Balancer::new(self.policy, self.common, Arc::new(members))));
        if made.len() < SUBSETS_MAX {
            made.insert(labels.to_vec(), subset.clone());
        }
        subset
    }
}
