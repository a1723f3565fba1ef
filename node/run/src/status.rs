//! Reporting a pod's status: the newest one, only when it differs, and until the API has it.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::sync::watch;
use trireme_client::{Client, PatchType};
use trireme_model::{kinds, meta};

/// Pauses between tries to write a status.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Fields that are the node's alone: removed where the node has nothing to say.
const OWNED: &[&str] = &[
    "reason",
    "message",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// A version counter and the status to report.
type Wanted = (u64, PodStatus);

/// One pod's reporter.
pub(crate) struct StatusWriter {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<u64>,
    base: watch::Sender<(u64, Value)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn revision(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

impl StatusWriter {
    /// Starts with the status that the API has.
    pub fn start(client: Client, pod: &Pod) -> Self {
        let (wanted, wanted_receiver) = watch::channel((0, PodStatus::default()));
        let (written_sender, written) = watch::channel(0);
        let (base, base_receiver) = watch::channel(base_of(pod));
        let writer = Task {
            client,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            known: base_of(pod),
            base: base_receiver,
        };
        let task = tokio::spawn(writer.run(wanted_receiver, written_sender));
        StatusWriter {
            wanted,
            written,
            base,
            task,
        }
    }

    /// What the API has now.
    pub fn observe(&self, pod: &Pod) {
        self.base.send_replace(base_of(pod));
    }

    /// Wants this status reported.
    pub fn report(&self, status: &PodStatus) {
        self.wanted.send_if_modified(|(version, current)| {
            if current == status {
                return false;
            }
            *version += 1;
            current.clone_from(status);
            true
        });
    }

    /// Completes when the API has the newest status, or no such pod.
    pub fn flushed(&self) -> impl Future<Output = ()> + Send + 'static {
        let wanted = self.wanted.borrow().0;
        let mut written = self.written.clone();
        async move {
            // An error means that the pod's worker has ended: nobody waits any more.
            let _ = written.wait_for(|version| *version >= wanted).await;
        }
    }
}

fn base_of(pod: &Pod) -> (u64, Value) {
    let status = pod
        .status
        .as_ref()
        .and_then(|status| serde_json::to_value(status).ok())
        .unwrap_or_else(|| json!({}));
    (
        revision(pod.metadata.resource_version.as_deref().unwrap_or_default()),
        status,
    )
}

struct Task {
    client: Client,
    namespace: String,
    name: String,
    uid: String,
    /// The newest status known to be in the API, and its revision.
    known: (u64, Value),
    base: watch::Receiver<(u64, Value)>,
}

impl Task {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, written: watch::Sender<u64>) {
        let mut pause = RETRY_FIRST;
        loop {
            let (version, status) = wanted.borrow_and_update().clone();
            let base = self.base.borrow_and_update().clone();
            if base.0 > self.known.0 {
                self.known = base;
            }
            if version > 0 {
                if self.write(&status).await {
                    written.send_replace(version);
                    pause = RETRY_FIRST;
                } else {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    continue;
                }
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = self.base.changed() => if changed.is_err() { return },
            }
        }
    }

    /// True when the API has the status, or has no place for it.
    async fn write(&mut self, status: &PodStatus) -> bool {
        let Ok(status) = serde_json::to_value(status) else {
            return true;
        };
        let Some(changes) = difference(&self.known.1, &status) else {
            return true;
        };
        let patch = json!({"metadata": {"uid": self.uid}, "status": changes});
        let patched = self
            .client
            .patch(
                kinds::POD,
                &self.namespace,
                &self.name,
                "status",
                PatchType::StrategicMerge,
                &patch,
            )
            .await;
        match patched {
            Ok(object) => {
                let status = object.get("status").cloned().unwrap_or_default();
                self.known = (revision(meta::resource_version(&object)), status);
                true
            }
            // Gone, or another pod of that name by now.
            Err(error) if error.is_not_found() || error.is_conflict() => true,
            Err(error) if error.is_transient() || error.status().is_none() => {
                tracing::debug!(pod = self.name, %error, "a pod's status was not written, trying again");
                false
            }
            Err(error) => {
                tracing::warn!(
                    namespace = self.namespace, pod = self.name, %error,
                    "a pod's status was refused"
                );
                true
            }
        }
    }
}

/// The patch that leads from one status to the other; none if there is nothing to do.
pub(crate) fn difference(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    let mut patch = Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        match key.as_str() {
            "conditions" => {
                if let Some(changed) = changed_conditions(old.get(key), value) {
                    patch.insert(key.clone(), changed);
                }
            }
            // Merged by address otherwise: the old one would stay.
            "podIPs" | "hostIPs" => {
                let mut list = value.as_array().cloned().unwrap_or_default();
                if old.contains_key(key) {
                    list.push(json!({"$patch": "replace"}));
                }
                patch.insert(key.clone(), list.into());
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in OWNED {
        if old.contains_key(*key) && !new.contains_key(*key) {
            patch.insert((*key).to_owned(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Option<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list(old);
    let mut changed = Vec::new();
    for condition in list(Some(new)) {
        let before = old.iter().find(|c| c["type"] == condition["type"]);
        if before == Some(&condition) {
            continue;
        }
        let mut condition = condition;
        // What the condition no longer says has to be taken away explicitly.
        for key in ["reason", "message"] {
            if condition.get(key).is_none() && before.is_some_and(|b| b.get(key).is_some()) {
                condition[key] = Value::Null;
            }
        }
        changed.push(condition);
    }
    (!changed.is_empty()).then(|| changed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let old = json!({
            "phase": "Pending", "reason": "X", "qosClass": "BestEffort",
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "PodScheduled", "status": "True"},
                {"type": "example.com/gate", "status": "True"}
            ]
        });
        assert_eq!(difference(&old, &old), None);
        let new = json!({
            "phase": "Running", "qosClass": "BestEffort", "podIPs": [{"ip": "10.42.0.5"}],
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "PodScheduled", "status": "True"}
            ]
        });
        assert_eq!(
            difference(&old, &new),
            Some(json!({
                "phase": "Running", "reason": null, "podIPs": [{"ip": "10.42.0.5"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}]
            }))
        );
    }
}
