//! Whether a node takes a pod that was bound to it: the scheduler may have decided on an old view.

use crate::runtime::Outcome;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use std::collections::BTreeMap;
use trireme_model::quantity::Quantity;

/// A pod's requests: milli-CPU, bytes of memory, bytes of ephemeral storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a CPU.
    pub cpu_milli: i128,
    /// Bytes.
    pub memory_bytes: i128,
}

fn amount(
    pod_list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    name: &str,
) -> Option<Quantity> {
    Quantity::parse(&pod_list?.get(name)?.0).ok()
}

/// The effective request of a pod: application containers and sidecars together, or the largest
/// init container with the sidecars before it, whichever is more.
pub fn requests(pod: &Pod) -> Requests {
    let Some(spec) = &pod.spec else {
        return Requests::default();
    };
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let table = container
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref());
        Requests {
            cpu_milli: amount(table, "cpu").map_or(0, |q| q.milli()),
            memory_bytes: amount(table, "memory").map_or(0, |q| q.value()),
        }
    };
    let add = |a: Requests, b: Requests| Requests {
        cpu_milli: a.cpu_milli.saturating_add(b.cpu_milli),
        memory_bytes: a.memory_bytes.saturating_add(b.memory_bytes),
    };
    let max = |a: Requests, b: Requests| Requests {
        cpu_milli: a.cpu_milli.max(b.cpu_milli),
        memory_bytes: a.memory_bytes.max(b.memory_bytes),
    };
    let mut sidecars = Requests::default();
    let mut peak = Requests::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = add(sidecars, of(container));
            peak = max(peak, sidecars);
        } else {
            peak = max(peak, add(sidecars, of(container)));
        }
    }
    let total = spec.containers.iter().map(of).fold(sidecars, add);
    max(total, peak)
}

fn refuse(reason: &str, message: String) -> Result<(), Outcome> {
    Err(Outcome {
        phase: "Failed".to_owned(),
        reason: reason.to_owned(),
        message: format!("Pod was rejected: {message}"),
    })
}

/// Admits the pod beside those that already run here, or says why not.
///
/// `others` are the pods that the node has admitted and that have not ended.
pub fn admit(node: &Node, others: &[&Pod], pod: &Pod) -> Result<(), Outcome> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    if !selected(pod, &labels, &name) {
        return refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                .to_owned(),
        );
    }
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    if let Some(pods) = amount(allocatable, "pods") {
        let used = i128::try_from(others.len()).unwrap_or(i128::MAX);
        if used >= pods.value() {
            return refuse(
                "OutOfpods",
                format!(
                    "Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {}",
                    pods.value()
                ),
            );
        }
    }
    let wanted = requests(pod);
    let mut used = Requests::default();
    for other in others {
        let one = requests(other);
        used.cpu_milli = used.cpu_milli.saturating_add(one.cpu_milli);
        used.memory_bytes = used.memory_bytes.saturating_add(one.memory_bytes);
    }
    let rows = [
        (
            "cpu",
            wanted.cpu_milli,
            used.cpu_milli,
            amount(allocatable, "cpu").map(|q| q.milli()),
        ),
        (
            "memory",
            wanted.memory_bytes,
            used.memory_bytes,
            amount(allocatable, "memory").map(|q| q.value()),
        ),
    ];
    for (resource, wanted, used, capacity) in rows {
        let Some(capacity) = capacity else { continue };
        if wanted > 0 && used.saturating_add(wanted) > capacity {
            return refuse(
                &format!("OutOf{resource}"),
                format!(
                    "Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
                ),
            );
        }
    }
    Ok(())
}

/// Whether the pod's node selector and required node affinity choose a node with these labels.
pub fn selected(pod: &Pod, labels: &BTreeMap<String, String>, node_name: &str) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selector = spec.node_selector.as_ref();
    if selector
        .into_iter()
        .flatten()
        .any(|(key, value)| labels.get(key) != Some(value))
    {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    match required {
        None => true,
        Some(required) => required
            .node_selector_terms
            .iter()
            .any(|term| term_matches(term, labels, node_name)),
    }
}

fn term_matches(
    term: &NodeSelectorTerm,
    labels: &BTreeMap<String, String>,
    node_name: &str,
) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && term.match_fields.as_ref().is_none_or(Vec::is_empty);
    !empty
        && expressions
            .into_iter()
            .all(|one| requirement_matches(one, labels.get(&one.key).map(String::as_str)))
        && fields
            .into_iter()
            .all(|one| one.key == "metadata.name" && requirement_matches(one, Some(node_name)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    let compare = || -> Option<std::cmp::Ordering> {
        let have: i64 = value?.parse().ok()?;
        let want: i64 = values.first()?.parse().ok()?;
        Some(have.cmp(&want))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare() == Some(std::cmp::Ordering::Greater),
        "Lt" => compare() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}
