//! Node selectors and node affinity.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};

fn holds(requirement: &NodeSelectorRequirement, own: Option<&str>) -> bool {
    let values = || requirement.values.iter().flatten();
    let listed = |own: &str| values().any(|value| value == own);
    let compare = |wanted: std::cmp::Ordering| {
        let own = own.and_then(|own| own.parse::<i64>().ok());
        let bound = values().next().and_then(|value| value.parse::<i64>().ok());
        own.zip(bound)
            .is_some_and(|(own, bound)| own.cmp(&bound) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => own.is_some_and(listed),
        "NotIn" => !own.is_some_and(listed),
        "Exists" => own.is_some(),
        "DoesNotExist" => own.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// A term without requirements picks nothing.
pub(super) fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    expressions.iter().all(|requirement| {
        let own = labels.and_then(|labels| labels.get(&requirement.key));
        holds(requirement, own.map(String::as_str))
    }) && fields.iter().all(|requirement| {
        requirement.key == "metadata.name" && holds(requirement, node.metadata.name.as_deref())
    })
}

fn required(spec: &PodSpec) -> Option<&NodeSelector> {
    spec.affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}

/// Whether the pod's nodeSelector and required node affinity allow the node.
pub(super) fn allows(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selector_holds = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
    selector_holds
        && required(spec).is_none_or(|selector| {
            selector
                .node_selector_terms
                .iter()
                .any(|term| term_matches(term, node))
        })
}

/// Sum of the weights of the preferred terms that pick the node.
pub(super) fn preference(spec: &PodSpec, node: &Node) -> i64 {
    spec.affinity
        .iter()
        .filter_map(|affinity| affinity.node_affinity.as_ref())
        .flat_map(|it| {
            it.preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
        })
        .filter(|preferred| term_matches(&preferred.preference, node))
        .map(|preferred| i64::from(preferred.weight))
        .sum()
}
