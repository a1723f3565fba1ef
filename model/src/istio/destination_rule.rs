//! DestinationRule: what happens to connections to a host, and its subsets.

use std::collections::BTreeMap;

use super::{MatchLabelsSelector, Object, TrafficPolicy};

pub type DestinationRule = Object<DestinationRuleSpec>;

message! {
    pub struct DestinationRuleSpec {
        pub host: String,
        pub traffic_policy: Option<TrafficPolicy>,
        pub subsets: Vec<Subset>,
        /// Empty means every namespace.
        pub export_to: Vec<String>,
        /// Workloads whose outbound traffic is meant; absent means all.
        pub workload_selector: Option<MatchLabelsSelector>,
    }

    pub struct Subset {
        pub name: String,
        pub labels: BTreeMap<String, String>,
        /// What it leaves out is the rule's.
        pub traffic_policy: Option<TrafficPolicy>,
    }
}
