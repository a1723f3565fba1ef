//! Events about pods and the node, with repeats counted instead of repeated.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use trireme_client::{Client, PatchType};
use trireme_model::{kinds, meta};
use trireme_node_decide::{EventRecord, EventType, field_path};

/// Events waiting to be written; beyond it they are dropped: they are advice, and a node whose API
/// is away must not grow for them.
const QUEUE_MAX: usize = 1024;
/// Remembered events for counting repeats; the oldest half is forgotten beyond it.
const KNOWN_MAX: usize = 4096;
/// New events an object may cause in a burst, and seconds for each further one: client-go's.
const BURST: u32 = 25;
const REFILL_S: i64 = 300;

struct Pending {
    involved: Value,
    namespace: String,
    record: EventRecord,
    at: Timestamp,
}

/// Hands events to the task that writes them.
#[derive(Clone)]
pub(crate) struct EventRecorder {
    queue: mpsc::Sender<Pending>,
}

/// The task that writes them; ends with the last recorder.
pub(crate) struct EventWriter {
    client: Client,
    node: String,
    queue: mpsc::Receiver<Pending>,
    known: BTreeMap<String, Known>,
    budgets: BTreeMap<String, (u32, Timestamp)>,
}

struct Known {
    name: String,
    count: i64,
    at: Timestamp,
}

pub(crate) fn channel(client: Client, node: &str) -> (EventRecorder, EventWriter) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let writer = EventWriter {
        client,
        node: node.to_owned(),
        queue,
        known: BTreeMap::new(),
        budgets: BTreeMap::new(),
    };
    (EventRecorder { queue: sender }, writer)
}

impl EventRecorder {
    pub fn pod(&self, pod: &Pod, record: EventRecord) {
        let mut involved = json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
        });
        if let Some(container) = &record.container {
            involved["fieldPath"] = field_path(pod, container).into();
        }
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        self.send(involved, namespace, record);
    }

    pub fn node(&self, name: &str, event_type: EventType, reason: &str, message: String) {
        // Nodes' events name the node in place of a uid, as the kubelet's do.
        let involved = json!({"kind": "Node", "name": name, "uid": name});
        let record = EventRecord {
            event_type,
            reason: reason.to_owned(),
            message,
            container: None,
        };
        self.send(involved, "default".to_owned(), record);
    }

    fn send(&self, involved: Value, namespace: String, record: EventRecord) {
        let pending = Pending {
            involved,
            namespace,
            record,
            at: Timestamp::now(),
        };
        if let Err(mpsc::error::TrySendError::Full(lost)) = self.queue.try_send(pending) {
            tracing::debug!(
                reason = lost.record.reason,
                "event queue full, event dropped"
            );
        }
    }
}

impl EventWriter {
    pub async fn run(mut self) {
        while let Some(pending) = self.queue.recv().await {
            self.write(pending).await;
        }
    }

    async fn write(&mut self, pending: Pending) {
        let kind = match pending.record.event_type {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        // The object's revision moves on while the event stays the same.
        let mut object = pending.involved.clone();
        object["resourceVersion"] = Value::Null;
        let key = format!(
            "{object}|{}|{kind}|{}|{}",
            pending.namespace, pending.record.reason, pending.record.message
        );
        let at = meta::timestamp(pending.at);
        if let Some(known) = self.known.get_mut(&key) {
            known.count += 1;
            known.at = pending.at;
            let patch = json!({"count": known.count, "lastTimestamp": at});
            let name = known.name.clone();
            let patched = self
                .client
                .patch(
                    kinds::EVENT,
                    &pending.namespace,
                    &name,
                    "",
                    PatchType::Merge,
                    &patch,
                )
                .await;
            match patched {
                Ok(_) => return,
                // Expired meanwhile: written anew below.
                Err(error) if error.is_not_found() => {
                    self.known.remove(&key);
                }
                Err(error) => {
                    tracing::debug!(%error, "an event's count was not written");
                    return;
                }
            }
        }
        let object = pending.involved["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if !self.spend(&object, pending.at) {
            return;
        }
        let involved_name = pending.involved["name"].as_str().unwrap_or("node");
        // By time, so that events list in their order, as Kubernetes names them.
        let suffix = jiff::Timestamp::now().as_nanosecond();
        let name = format!(
            "{}.{suffix:x}",
            &involved_name[..involved_name.len().min(230)]
        );
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": pending.namespace},
            "involvedObject": pending.involved,
            "reason": pending.record.reason,
            "message": pending.record.message,
            "source": {"component": "kubelet", "host": self.node},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "type": kind,
            "reportingComponent": "kubelet",
            "reportingInstance": self.node,
        });
        match self
            .client
            .create(kinds::EVENT, &pending.namespace, &event)
            .await
        {
            Ok(_) => {
                if self.known.len() >= KNOWN_MAX {
                    self.forget_half();
                }
                let known = Known {
                    name,
                    count: 1,
                    at: pending.at,
                };
                self.known.insert(key, known);
            }
            Err(error) => tracing::debug!(%error, "an event was not written"),
        }
    }

    /// Whether the object may cause another event.
    fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        if self.budgets.len() >= KNOWN_MAX {
            self.budgets.clear();
        }
        let (left, since) = self
            .budgets
            .entry(object.to_owned())
            .or_insert((BURST, now));
        let earned = now.duration_since(*since).as_secs() / REFILL_S;
        if earned > 0 {
            *left = left
                .saturating_add(u32::try_from(earned).unwrap_or(BURST))
                .min(BURST);
            *since = now;
        }
        if *left == 0 {
            return false;
        }
        *left -= 1;
        true
    }

    fn forget_half(&mut self) {
        let mut times: Vec<Timestamp> = self.known.values().map(|k| k.at).collect();
        times.sort();
        let middle = times[times.len() / 2];
        self.known.retain(|_, known| known.at > middle);
    }
}
