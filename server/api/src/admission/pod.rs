//! What every new pod gets: a proxy where the mesh is on, a service account, tolerations for lost nodes, a priority.

use serde_json::json;
use trireme_model::kinds::{POD, SERVICE_ACCOUNT};
use trireme_model::status::Status;
use trireme_model::{Value, meta};

use crate::verb::Caller;

/// How long a pod stays bound to a node that is not ready or not reachable before it is replaced.
/// Kubernetes waits 300 s; here a lost node's pods are to run elsewhere within 30 s, of which 10 s go into
/// noticing the silence and some more into starting, so that 5 s remain for a node that comes back.
pub(crate) const DEFAULT_TOLERATION_SECONDS: i64 = 5;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The priority classes that every cluster has.
const PRIORITY_CLASSES: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

pub(crate) fn admit(caller: &Caller<'_>, pod: &mut Value) -> Result<Vec<String>, Status> {
    // First, so that the proxy gets what every container gets.
    super::injection::inject(caller, pod)?;
    service_account(caller, pod)?;
    tolerations(pod);
    priority(pod)?;
    Ok(Vec::new())
}

fn text<'a>(pod: &'a Value, field: &str) -> &'a str {
    pod.get("spec")
        .and_then(|spec| spec.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

fn service_account(caller: &Caller<'_>, pod: &mut Value) -> Result<(), Status> {
    let mut name = text(pod, "serviceAccountName").to_owned();
    if name.is_empty() {
        name = text(pod, "serviceAccount").to_owned();
    }
    if name.is_empty() {
        name = "default".to_owned();
    }
    let namespace = meta::namespace(pod).to_owned();
    let account = caller
        .api
        .store
        .read_value(&SERVICE_ACCOUNT.key(&namespace, &name))?;
    if account.is_none() && name != "default" {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        );
        return Err(Status::forbidden(POD, meta::name(pod), &why));
    }
    // The controller makes each namespace's `default` a moment after the namespace: a pod made in between
    // runs as it all the same.
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    spec.insert("serviceAccountName".to_owned(), name.clone().into());
    spec.insert("serviceAccount".to_owned(), name.into());
    let secrets = account
        .as_ref()
        .and_then(|account| account.get("imagePullSecrets"))
        .and_then(Value::as_array);
    let own = spec
        .get("imagePullSecrets")
        .and_then(Value::as_array)
        .is_some_and(|own| !own.is_empty());
    if let Some(secrets) = secrets
        && !own
        && !secrets.is_empty()
    {
        spec.insert("imagePullSecrets".to_owned(), secrets.clone().into());
    }
    super::token_volume::mount(pod, account.as_ref());
    Ok(())
}

fn tolerations(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else {
        return;
    };
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = list.iter().any(|toleration| {
            let field = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or("");
            let key_matches =
                field("key") == key || field("key").is_empty() && field("operator") == "Exists";
            key_matches && matches!(field("effect"), "" | "NoExecute")
        });
        if !tolerated {
            list.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": DEFAULT_TOLERATION_SECONDS,
            }));
        }
    }
}

fn priority(pod: &mut Value) -> Result<(), Status> {
    let class = text(pod, "priorityClassName").to_owned();
    let priority = if class.is_empty() {
        0
    } else {
        PRIORITY_CLASSES
            .iter()
            .find(|(name, _)| *name == class)
            .map(|(_, priority)| *priority)
            .ok_or_else(|| {
                let why = format!("no PriorityClass with name {class} was found");
                Status::forbidden(POD, meta::name(pod), &why)
            })?
    };
    let name = meta::name(pod).to_owned();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    if let Some(given) = spec.get("priority").and_then(Value::as_i64)
        && given != priority
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return Err(Status::forbidden(POD, &name, &why));
    }
    spec.insert("priority".to_owned(), priority.into());
    spec.entry("preemptionPolicy")
        .or_insert_with(|| "PreemptLowerPriority".into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_nodes_are_tolerated_for_a_moment_unless_the_pod_says_otherwise() {
        let mut pod = json!({"spec": {}});
        tolerations(&mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0]["tolerationSeconds"], DEFAULT_TOLERATION_SECONDS);
        let own = json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"}]);
        let mut pod = json!({"spec": {"tolerations": own}});
        tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn priority_comes_from_the_class() {
        let mut pod = json!({"spec": {"priorityClassName": "system-node-critical"}});
        priority(&mut pod).unwrap();
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
        assert_eq!(
            priority(&mut json!({"spec": {"priorityClassName": "x"}}))
                .unwrap_err()
                .code,
            403
        );
        assert_eq!(
            priority(&mut json!({"spec": {"priority": 7}}))
                .unwrap_err()
                .code,
            403
        );
    }
}
