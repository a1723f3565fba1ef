//! Pod templates: when two are the same, and the short hash that names their ReplicaSet.

use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::digest::{encode_safe, fnv1a};

/// Tells the pods of a Deployment's ReplicaSets apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

fn normalized(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut metadata = template.metadata.take().unwrap_or_default();
    if let Some(labels) = metadata.labels.as_mut() {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
    metadata.annotations = metadata.annotations.filter(|it| !it.is_empty());
    template.metadata = Some(metadata);
    template
}

/// Equal but for the hash label, which only the ReplicaSet's copy carries.
pub(super) fn same(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    normalized(one) == normalized(other)
}

/// The hash of a template, salted with the number of collisions met so far. It is stored in names,
/// so its definition must not change: FNV-1a over the template as JSON with sorted keys.
pub(super) fn hash(template: &PodTemplateSpec, collision_count: i32) -> String {
    let canonical = serde_json::to_value(normalized(template))
        .unwrap_or_default()
        .to_string();
    let salted = format!("{canonical}{collision_count}");
    encode_safe(fnv1a(salted.as_bytes()))
}
