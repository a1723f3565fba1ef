//! Node addresses: every node gets its own range of pod addresses, cut from the cluster's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::json;
use trireme_model::kinds::{self, Kind};

use super::Controller;
use crate::intent::{Action, EventRecord, Intent, Plan, Subresource};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "node-ipam-controller";

/// All nodes are looked at under one key: two ranges handed out side by side could be the same.
const ALL: &str = "nodes";

pub(crate) struct NodeRanges {
    pub cluster_cidr: String,
    pub node_prefix: u8,
}

/// First address and prefix length of an IPv4 range.
fn parse_cidr(text: &str) -> Option<(u32, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Some((u32::from(address) & mask, prefix))
}

fn size(prefix: u8) -> u64 {
    1u64 << (32 - prefix)
}

impl NodeRanges {
    /// The free ranges in order, given those in use (which may have other sizes).
    fn free(&self, used: &BTreeSet<(u32, u8)>) -> impl Iterator<Item = String> {
        let (base, cluster_prefix) = parse_cidr(&self.cluster_cidr).unwrap_or((0, 32));
        let step = size(self.node_prefix);
        let count = if self.node_prefix < cluster_prefix || self.node_prefix > 32 {
            0
        } else {
            size(cluster_prefix) / step
        };
        let used: Vec<(u64, u64)> = used
            .iter()
            .map(|(start, prefix)| (u64::from(*start), u64::from(*start) + size(*prefix)))
            .collect();
        let prefix = self.node_prefix;
        (0..count).filter_map(move |index| {
            let start = u64::from(base) + index * step;
            let end = start + step;
            if used.iter().any(|(from, to)| start < *to && *from < end) {
                return None;
            }
            let address = Ipv4Addr::from(u32::try_from(start).ok()?);
            Some(format!("{address}/{prefix}"))
        })
    }
}

impl Controller for NodeRanges {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        _before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind != kinds::NODE {
            return Vec::new();
        }
        // A node that leaves frees its range for one that waits.
        let waits = match after {
            Some(Object::Node(node)) => lacks_range(node),
            _ => view.nodes().any(|node| lacks_range(node)),
        };
        if waits {
            vec![ObjectKey::cluster(ALL)]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, view: &View, _key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let used: BTreeSet<(u32, u8)> = view
            .nodes()
            .filter_map(|node| parse_cidr(node.spec.as_ref()?.pod_cidr.as_deref()?))
            .collect();
        let mut free = self.free(&used);
        for node in view.nodes().filter(|node| lacks_range(node)) {
            let metadata = &node.metadata;
            let name = metadata.name.clone().unwrap_or_default();
            let Some(range) = free.next() else {
                plan.push(
                    Intent::new(NAME, "every range is in use", Action::Record).with_event(
                        EventRecord::warning(
                            kinds::NODE,
                            metadata,
                            "CIDRNotAvailable",
                            format!("Node {name} status is now: CIDRNotAvailable"),
                        ),
                    ),
                );
                continue;
            };
            plan.push(Intent::new(
                NAME,
                format!("node {name} has no range of pod addresses"),
                Action::Patch {
                    kind: kinds::NODE,
                    namespace: String::new(),
                    name,
                    subresource: Subresource::Main,
                    // No resource version: the field is empty until it is set once and for all, and
                    // the node's heartbeats would make a conflict of every other attempt.
                    patch: json!({
                        "metadata": {"uid": metadata.uid},
                        "spec": {"podCIDR": range, "podCIDRs": [range]},
                    }),
                },
            ));
        }
        plan
    }
}

fn lacks_range(node: &k8s_openapi::api::core::v1::Node) -> bool {
    let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
    range.unwrap_or_default().is_empty() && node.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_in_order_around_those_in_use() {
        let ranges = NodeRanges {
            cluster_cidr: "10.42.0.0/22".to_owned(),
            node_prefix: 24,
        };
        let used = [parse_cidr("10.42.1.0/24").unwrap()].into();
        let free: Vec<String> = ranges.free(&used).collect();
        assert_eq!(free, ["10.42.0.0/24", "10.42.2.0/24", "10.42.3.0/24"]);
        let wide = [parse_cidr("10.42.0.0/23").unwrap()].into();
        assert_eq!(ranges.free(&wide).next().unwrap(), "10.42.2.0/24");
        let small = NodeRanges {
            cluster_cidr: "10.42.0.0/25".to_owned(),
            node_prefix: 24,
        };
        assert_eq!(small.free(&BTreeSet::new()).count(), 0);
        assert_eq!(parse_cidr("10.42.0.0/33"), None);
    }
}
