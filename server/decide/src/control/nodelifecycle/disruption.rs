//! How much of the cluster is unwell: the protection against emptying healthy nodes because we
//! ourselves were cut off. The rules and numbers are those of Kubernetes' node lifecycle controller.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Node;

use super::{SILENCE_LIMIT, ready_status, silent_for};
use crate::view::View;

/// A node heard within this is alive for certain. Half the limit, so that nodes that fall silent
/// together are seen to have done so before the first of them is judged.
const HEARD_WITHIN: SignedDuration = SignedDuration::from_secs(SILENCE_LIMIT.as_secs() / 2);
/// A zone with more unwell nodes than this, and a larger share than the next, is disrupted …
const FEW_NODES: usize = 2;
const UNHEALTHY_PERCENT: usize = 55;
/// … and evicts nothing, unless it is larger than this: then the share lost is a real loss.
const SMALL_ZONE_NODES: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disruption {
    /// Not one node is known to be well.
    pub nobody_heard: bool,
    /// Most of a small zone is gone.
    zone_disrupted: bool,
}

fn zone_of(node: &Node) -> (Option<&String>, Option<&String>) {
    let label = |name: &str| node.metadata.labels.as_ref().and_then(|it| it.get(name));
    (
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone"),
    )
}

impl Disruption {
    pub const NONE: Disruption = Disruption {
        nobody_heard: false,
        zone_disrupted: false,
    };

    pub fn of(view: &View, node: &Node) -> Disruption {
        let zone = zone_of(node);
        let (mut heard, mut well_in_zone, mut in_zone) = (false, 0usize, 0usize);
        for other in view.nodes() {
            let silence = silent_for(view, other);
            heard |= silence < HEARD_WITHIN && ready_status(other) == Some("True");
            if zone_of(other) == zone {
                in_zone += 1;
                let well = silence < SILENCE_LIMIT && ready_status(other) == Some("True");
                well_in_zone += usize::from(well);
            }
        }
        let unwell = in_zone - well_in_zone;
        Disruption {
            nobody_heard: !heard,
            zone_disrupted: well_in_zone > 0
                && unwell > FEW_NODES
                && unwell * 100 >= in_zone * UNHEALTHY_PERCENT
                && in_zone <= SMALL_ZONE_NODES,
        }
    }

    pub fn may_evict(&self) -> bool {
        !self.nobody_heard && !self.zone_disrupted
    }
}
