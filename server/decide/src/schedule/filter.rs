//! Filters: why a node can not take a pod, in kube-scheduler's order and words.

use k8s_openapi::api::core::v1::Taint;

use super::cluster::NodeState;
use super::profile::Profile;
use super::{nodeaffinity, toleration};
use crate::view::{HostPort, NodeUsage};

/// The first filter that refused a node, and why.
#[derive(Clone, Debug)]
pub(super) enum Refusal<'a> {
    Unschedulable,
    Taint(&'a Taint),
    NodeAffinity,
    Ports,
    Resources {
        lacking: Vec<String>,
        too_many_pods: bool,
        /// More than the node has even when it is empty.
        hopeless: bool,
    },
    SpreadLabel,
    Spread,
    PodAffinity,
    PodAntiAffinity,
    ExistingAntiAffinity,
}

impl Refusal<'_> {
    pub fn plugin(&self) -> &'static str {
        match self {
            Refusal::Unschedulable => "NodeUnschedulable",
            Refusal::Taint(_) => "TaintToleration",
            Refusal::NodeAffinity => "NodeAffinity",
            Refusal::Ports => "NodePorts",
            Refusal::Resources { .. } => "NodeResourcesFit",
            Refusal::SpreadLabel | Refusal::Spread => "PodTopologySpread",
            Refusal::PodAffinity | Refusal::PodAntiAffinity | Refusal::ExistingAntiAffinity => {
                "InterPodAffinity"
            }
        }
    }

    /// Kubernetes' words; a node can lack several resources at once.
    pub fn reasons(&self) -> Vec<String> {
        let one = |reason: &str| vec![reason.to_owned()];
        match self {
            Refusal::Unschedulable => one("node(s) were unschedulable"),
            Refusal::Taint(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                vec![format!(
                    "node(s) had untolerated taint {{{}: {value}}}",
                    taint.key
                )]
            }
            Refusal::NodeAffinity => one("node(s) didn't match Pod's node affinity/selector"),
            Refusal::Ports => one("node(s) didn't have free ports for the requested pod ports"),
            Refusal::Resources {
                lacking,
                too_many_pods,
                ..
            } => {
                let pods = too_many_pods.then(|| "Too many pods".to_owned());
                let lacking = lacking.iter().map(|name| format!("Insufficient {name}"));
                pods.into_iter().chain(lacking).collect()
            }
            Refusal::SpreadLabel => {
                one("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Refusal::Spread => one("node(s) didn't match pod topology spread constraints"),
            Refusal::PodAffinity => one("node(s) didn't match pod affinity rules"),
            Refusal::PodAntiAffinity => one("node(s) didn't match pod anti-affinity rules"),
            Refusal::ExistingAntiAffinity => {
                one("node(s) didn't satisfy existing pods anti-affinity rules")
            }
        }
    }

    /// Whether the node would fit were other pods not there.
    pub fn is_curable(&self) -> bool {
        match self {
            Refusal::Resources { hopeless, .. } => !hopeless,
            Refusal::Ports
            | Refusal::Spread
            | Refusal::PodAntiAffinity
            | Refusal::ExistingAntiAffinity => true,
            Refusal::Unschedulable
            | Refusal::Taint(_)
            | Refusal::NodeAffinity
            | Refusal::SpreadLabel
            | Refusal::PodAffinity => false,
        }
    }
}

/// All filters in kube-scheduler's order.
pub(super) fn check<'a>(
    profile: &Profile<'_>,
    state: &NodeState<'a>,
    node: usize,
) -> Result<(), Refusal<'a>> {
    if state.unschedulable && !profile.tolerates_unschedulable {
        return Err(Refusal::Unschedulable);
    }
    let untolerated = state
        .taints
        .iter()
        .find(|taint| !toleration::any_tolerates(profile.tolerations, taint));
    if let Some(taint) = untolerated {
        return Err(Refusal::Taint(taint));
    }
    if profile.selects_nodes && !nodeaffinity::allows(profile.spec, state.node) {
        return Err(Refusal::NodeAffinity);
    }
    if profile
        .demand
        .host_ports
        .iter()
        .any(|port| is_taken(port, &state.usage))
    {
        return Err(Refusal::Ports);
    }
    fits(profile, state)?;
    for constraint in &profile.hard_spread {
        constraint.check(node)?;
    }
    profile.company.check(node)
}

fn is_taken(port: &HostPort, usage: &NodeUsage) -> bool {
    const ANY: &str = "0.0.0.0";
    let (protocol, address, number) = port;
    usage
        .host_ports
        .keys()
        .any(|(other_protocol, other_address, other_number)| {
            number == other_number
                && protocol == other_protocol
                && (address == other_address || address == ANY || other_address == ANY)
        })
}

fn fits<'a>(profile: &Profile<'_>, state: &NodeState<'a>) -> Result<(), Refusal<'a>> {
    let wanted = &profile.demand.requests;
    let (has, used) = (state.allocatable, &state.usage.requested);
    let too_many_pods = used.pods + 1 > has.pods;
    let mut lacking = Vec::new();
    let mut hopeless = false;
    let mut measure = |name: &str, wanted: i64, has: i64, used: i64| {
        // What a pod does not ask for can not be lacking.
        if wanted > 0 && wanted > has.saturating_sub(used) {
            lacking.push(name.to_owned());
            hopeless |= wanted > has;
        }
    };
    measure("cpu", wanted.cpu_milli, has.cpu_milli, used.cpu_milli);
    measure(
        "memory",
        wanted.memory_bytes,
        has.memory_bytes,
        used.memory_bytes,
    );
    measure(
        "ephemeral-storage",
        wanted.ephemeral_storage_bytes,
        has.ephemeral_storage_bytes,
        used.ephemeral_storage_bytes,
    );
    for (name, wanted) in &wanted.extended {
        let has = has.extended.get(name).copied().unwrap_or(0);
        let used = used.extended.get(name).copied().unwrap_or(0);
        measure(name, *wanted, has, used);
    }
    if lacking.is_empty() && !too_many_pods {
        return Ok(());
    }
    Err(Refusal::Resources {
        lacking,
        too_many_pods,
        hopeless,
    })
}
