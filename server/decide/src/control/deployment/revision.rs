//! The numbered history of a Deployment: one ReplicaSet a revision, kept in annotations.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::bounds::Bounds;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that say something about itself and not about its template.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// Longest history kept in an annotation, as in Kubernetes; the oldest numbers go first.
const MAX_HISTORY_CHARACTERS: usize = 2000;

pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

pub(super) fn number(metadata: &ObjectMeta, name: &str) -> Option<i64> {
    annotation(metadata, name)?.parse().ok()
}

/// The number the newest template gets when it is not the newest revision yet.
pub(super) fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter()
        .filter_map(|set| number(&set.metadata, REVISION))
        .max()
        .unwrap_or(0)
        + 1
}

fn annotations(set: &mut ReplicaSet) -> &mut BTreeMap<String, String> {
    set.metadata.annotations.get_or_insert_default()
}

/// Notes the size of the Deployment that a ReplicaSet was last scaled for: what proportional
/// scaling reads, and how a resize is told from a rollout.
pub(super) fn note_size(set: &mut ReplicaSet, bounds: &Bounds) {
    let annotations = annotations(set);
    annotations.insert(DESIRED_REPLICAS.to_owned(), bounds.replicas.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), bounds.max_total().to_string());
}

/// Gives the ReplicaSet of the newest template its number and the Deployment's annotations.
pub(super) fn annotate_newest(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) {
    let annotations = annotations(set);
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = old.as_ref().and_then(|old| old.parse::<i64>().ok());
    if old_number.unwrap_or(0) >= revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    let Some(old) = old else {
        return;
    };
    let mut history: Vec<String> = annotations
        .get(REVISION_HISTORY)
        .filter(|history| !history.is_empty())
        .map(|history| history.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    history.push(old);
    while history.iter().map(|it| it.len() + 1).sum::<usize>() > MAX_HISTORY_CHARACTERS {
        history.remove(0);
    }
    annotations.insert(REVISION_HISTORY.to_owned(), history.join(","));
}
