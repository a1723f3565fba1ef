//! Why replicas that `up` waits for do not become available: the words of their pods.

use serde_json::Value;
use trireme_client::{Client, ListOptions};
use trireme_model::kinds;

/// Of the first pod labelled `app=NAME` that is not ready: `pod NAME: why`. Nothing when there is no such
/// pod, or it gives no reason.
pub async fn of(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let options = ListOptions {
        namespace: Some(namespace.to_owned()),
        label_selector: format!("app={name}"),
        ..ListOptions::default()
    };
    let pods = client.list(kinds::POD, &options).await.ok()?;
    let (pod, said) = pods
        .items
        .iter()
        .find_map(|pod| Some((pod["metadata"]["name"].as_str()?, said_by(pod)?)))?;
    let options = ListOptions {
        namespace: Some(namespace.to_owned()),
        field_selector: format!("involvedObject.name={pod},type=Warning"),
        ..ListOptions::default()
    };
    let events = client.list(kinds::EVENT, &options).await.ok();
    let warning = events.and_then(|events| last_warning(&events.items));
    // A status that only says `ContainerCreating` has its cause in an event.
    Some(match warning {
        Some(warning) if !is_said(&said, &warning) => format!("pod {pod}: {said}; {warning}"),
        _ => format!("pod {pod}: {said}"),
    })
}

/// Whether the warning has nothing new, whatever reason it goes by.
fn is_said(said: &str, warning: &str) -> bool {
    let message = warning.split_once(": ").map_or(warning, |(_, rest)| rest);
    said.contains(message)
}

fn last_warning(events: &[Value]) -> Option<String> {
    let seen = |event: &Value| event["lastTimestamp"].as_str().map(str::to_owned);
    words(events.iter().max_by_key(|event| seen(event))?)
}

fn said_by(pod: &Value) -> Option<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let status = &pod["status"];
    let ready = list(&status["conditions"])
        .iter()
        .any(|one| one["type"] == "Ready" && one["status"] == "True");
    if ready {
        return None;
    }
    let containers = list(&status["initContainerStatuses"])
        .into_iter()
        .chain(list(&status["containerStatuses"]));
    let waiting = containers.filter_map(|one| words(&one["state"]["waiting"]));
    let conditions = list(&status["conditions"]).into_iter();
    let unmet = conditions.filter(|one| one["status"] == "False");
    // A container's reason is nearer to the cause than what follows from it.
    waiting
        .chain(words(status))
        .chain(unmet.filter_map(|one| words(&one)))
        .next()
}

/// `reason: message`, or the one that there is.
fn words(value: &Value) -> Option<String> {
    match (value["reason"].as_str(), value["message"].as_str()) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (Some(one), None) | (None, Some(one)) => Some(one.to_owned()),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{is_said, last_warning, said_by};

    #[test]
    fn a_pod_that_is_not_ready_says_why() {
        let unscheduled = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
        }]}});
        assert_eq!(
            said_by(&unscheduled).as_deref(),
            Some(
                "Unschedulable: 0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }."
            )
        );
        let waiting = json!({"status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
            "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}}],
        }});
        assert_eq!(
            said_by(&waiting).as_deref(),
            Some("ErrImagePull: no such host")
        );
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(said_by(&ready), None);
    }

    #[test]
    fn of_several_warnings_the_last_is_told() {
        let event = |at: &str, message: &str| json!({"lastTimestamp": at, "reason": "Failed", "message": message});
        let events = [
            event("2026-01-01T00:00:09Z", "the cause"),
            event("2026-01-01T00:00:01Z", "before it"),
        ];
        assert_eq!(last_warning(&events).as_deref(), Some("Failed: the cause"));
        assert_eq!(last_warning(&[]), None);
        assert!(is_said("Unschedulable: the cause", "Failed: the cause"));
        assert!(!is_said("ContainerCreating", "Failed: the cause"));
    }
}
