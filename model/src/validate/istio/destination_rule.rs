//! DestinationRule: its host, policies and subsets.

use std::collections::BTreeSet;

use super::host::{self, Exporter};
use super::virtual_service::subset_name;
use super::{Report, at, traffic_policy};
use crate::istio::DestinationRuleSpec;

pub fn check(spec: &DestinationRuleSpec, namespace: &str, report: &mut Report) {
    report.check(
        "spec.host",
        spec.host.as_str(),
        host::wildcard_domain(&spec.host),
    );
    traffic_policy::check(spec.traffic_policy.as_ref(), "spec.trafficPolicy", report);
    let mut names = BTreeSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let path = at("spec", "subsets", index);
        let field = format!("{path}.name");
        let name = subset.name.as_str();
        if !names.insert(name) {
            report.invalid(&field, name, format!("duplicate subset names: {name}"));
        }
        report.check(&field, name, subset_name(name));
        host::label_map(&subset.labels, &format!("{path}.labels"), report);
        let policy = subset.traffic_policy.as_ref();
        traffic_policy::check(policy, &format!("{path}.trafficPolicy"), report);
    }
    let exporter = match &spec.workload_selector {
        Some(_) => Exporter::RuleWithSelector,
        None => Exporter::Other,
    };
    host::export_to(namespace, &spec.export_to, exporter, report);
    if let Some(selector) = &spec.workload_selector {
        let path = "spec.workloadSelector.matchLabels";
        host::selector(&selector.match_labels, path, report);
        if selector.match_labels.is_empty() {
            report.warn(
                "spec.workloadSelector",
                "workload selector specified without labels",
            );
        }
    }
}
