//! Events about pods and the node, as the kubelet writes them.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trireme_client::{Client, Event, EventWriter};
use trireme_node_decide::{EventRecord, EventType, field_path};

/// Hands events to the task that writes them.
#[derive(Clone)]
pub(crate) struct EventRecorder {
    recorder: trireme_client::EventRecorder,
}

pub(crate) fn channel(client: Client, node: &str) -> (EventRecorder, EventWriter) {
    let (recorder, writer) = trireme_client::events(client, node);
    (EventRecorder { recorder }, writer)
}

impl EventRecorder {
    pub fn pod(&self, pod: &Pod, record: EventRecord) {
        let mut regarding = json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
        });
        if let Some(container) = &record.container {
            regarding["fieldPath"] = field_path(pod, container).into();
        }
        self.record(regarding, record.event_type, record.reason, record.message);
    }

    pub fn node(&self, name: &str, event_type: EventType, reason: &str, message: String) {
        // Nodes' events name the node in place of a uid, as the kubelet's do.
        let regarding = json!({"kind": "Node", "name": name, "uid": name});
        self.record(regarding, event_type, reason.to_owned(), message);
    }

    fn record(&self, regarding: Value, event_type: EventType, reason: String, message: String) {
        self.recorder.record(Event {
            regarding,
            warning: matches!(event_type, EventType::Warning),
            reason,
            message,
            component: "kubelet",
        });
    }
}
