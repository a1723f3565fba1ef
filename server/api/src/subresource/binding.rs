//! `pods/binding`: gives a pod its node, once.

use serde_json::{Value, json};
use trireme_model::status::{FieldError, Status};
use trireme_model::{meta, schema};

use crate::route::Target;
use crate::verb::change::{Allocation, Proposal, change};
use crate::verb::create::{check_type_of, place};
use crate::verb::{Caller, check_preconditions};

pub(crate) async fn bind(
    caller: &Caller<'_>,
    target: &Target,
    mut binding: Value,
    dry_run: bool,
) -> Result<Value, Status> {
    caller.authorize("create", target, None).await?;
    check_type_of("v1", "Binding", &binding)?;
    schema::check_type(
        "io.k8s.api.core.v1.Binding",
        "v1",
        &mut binding,
        Vec::new(),
        schema::FieldValidation::Ignore,
    )?;
    place(target, &mut binding)?;
    let name = meta::name(&binding);
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let to = |field: &str| {
        binding
            .get("target")
            .and_then(|to| to.get(field))
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let node = to("name");
    let mut errors = Vec::new();
    if !matches!(to("kind").as_str(), "" | "Node") {
        errors.push(FieldError::not_supported(
            "target.kind",
            to("kind"),
            &["Node"],
        ));
    }
    if node.is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid_kind("", "Binding", &target.name, errors));
    }
    change(caller, target, dry_run, |pod| {
        check_preconditions(
            target.kind,
            pod,
            meta::uid(&binding),
            meta::resource_version(&binding),
        )?;
        assign(target, pod, &node, caller.api.now())
    })
    .await?;
    Ok(super::success())
}

fn assign(
    target: &Target,
    pod: &Value,
    node: &str,
    now: jiff::Timestamp,
) -> Result<Proposal, Status> {
    let refused = |why: String| Err(Status::conflict(target.kind, &target.name, &why));
    if meta::deletion_timestamp(pod).is_some() {
        return refused(format!(
            "pod {} is being deleted, cannot be assigned to a host",
            target.name
        ));
    }
    let bound = pod
        .get("spec")
        .and_then(|spec| spec.get("nodeName"))
        .and_then(Value::as_str)
        .unwrap_or("");
    if !bound.is_empty() {
        return refused(format!(
            "pod {} is already assigned to node {bound:?}",
            target.name
        ));
    }
    let gates = pod
        .get("spec")
        .and_then(|spec| spec.get("schedulingGates"))
        .and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return refused(format!(
            "pod {} has non-empty .spec.schedulingGates",
            target.name
        ));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    scheduled(&mut new, now);
    Ok(Proposal::Put {
        object: new,
        allocation: Allocation::default(),
    })
}

/// Sets the condition that tells when the pod got its node.
fn scheduled(pod: &mut Value, now: jiff::Timestamp) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::timestamp(now),
    });
    let status = &mut pod["status"];
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(conditions) => {
            conditions.retain(|one| one.get("type") != condition.get("type"));
            conditions.push(condition);
        }
        None => status["conditions"] = json!([condition]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trireme_model::kinds::POD;

    #[test]
    fn a_pod_is_bound_once() {
        let target = Target::object(POD, "a", "x");
        let pod = json!({"metadata": {"name": "x"}, "spec": {}, "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
        let now = jiff::Timestamp::UNIX_EPOCH;
        let Ok(Proposal::Put { object, .. }) = assign(&target, &pod, "n1", now) else {
            panic!("not bound")
        };
        assert_eq!(object["spec"]["nodeName"], "n1");
        let conditions = object["status"]["conditions"].as_array().unwrap();
        assert_eq!(
            (conditions.len(), &conditions[0]["status"]),
            (1, &json!("True"))
        );
        assert_eq!(
            assign(&target, &object, "n2", now)
                .err()
                .map(|status| status.code),
            Some(409)
        );
        let gated = json!({"spec": {"schedulingGates": [{"name": "g"}]}});
        assert_eq!(
            assign(&target, &gated, "n1", now)
                .err()
                .map(|status| status.code),
            Some(409)
        );
    }
}
