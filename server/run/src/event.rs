//! Events: what decisions tell the user, with repeats counted instead of repeated.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trireme_client::{Client, PatchType};
use trireme_decide::EventRecord;
use trireme_model::{kinds, meta};

/// Events that wait to be written; more are dropped, as they tell and never decide.
const QUEUE_MAX: usize = 1024;
/// Recent events remembered, so that a repeat is counted on the first. client-go remembers 4,096.
const REMEMBERED_MAX: usize = 4096;

/// Where decisions leave their events.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(&'static str, EventRecord)>,
}

type Identity = (String, &'static str, &'static str, String);

struct Remembered {
    namespace: String,
    name: String,
    count: u64,
}

struct Writer {
    client: Client,
    host: String,
    remembered: BTreeMap<Identity, Remembered>,
    order: VecDeque<Identity>,
}

impl Recorder {
    /// The recorder, and the task to run beside it until `ended`.
    pub fn start(
        client: Client,
        host: String,
        ended: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, mut records) = mpsc::channel(QUEUE_MAX);
        let mut writer = Writer {
            client,
            host,
            remembered: BTreeMap::new(),
            order: VecDeque::new(),
        };
        let task = async move {
            loop {
                let next = tokio::select! {
                    next = records.recv() => next,
                    () = ended.cancelled() => None,
                };
                let Some((component, record)) = next else {
                    return;
                };
                writer.write(component, record).await;
            }
        };
        (Self { queue }, task)
    }

    pub fn record(&self, component: &'static str, record: EventRecord) {
        if self.queue.try_send((component, record)).is_err() {
            tracing::debug!(component, "an event was dropped: the queue is full");
        }
    }
}

impl Writer {
    async fn write(&mut self, component: &'static str, record: EventRecord) {
        let identity = (
            record.regarding.uid.clone(),
            component,
            record.reason,
            record.message.clone(),
        );
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Some(known) = self.remembered.get_mut(&identity) {
            known.count += 1;
            let patch = json!({"count": known.count, "lastTimestamp": now});
            let written = self
                .client
                .patch(
                    kinds::EVENT,
                    &known.namespace,
                    &known.name,
                    "",
                    PatchType::Merge,
                    &patch,
                )
                .await;
            match written {
                Ok(_) => return,
                // It has expired: begin again.
                Err(error) if error.is_not_found() => drop(self.remembered.remove(&identity)),
                Err(error) => {
                    tracing::debug!(%error, "counting an event");
                    return;
                }
            }
        }
        let object = self.object(component, &record, &now);
        let namespace = meta::namespace(&object).to_owned();
        match self.client.create(kinds::EVENT, &namespace, &object).await {
            Ok(created) => {
                let name = meta::name(&created).to_owned();
                self.remember(identity, namespace, name);
            }
            // A namespace that is going away takes no more events.
            Err(error) => tracing::debug!(%error, reason = record.reason, "writing an event"),
        }
    }

    fn remember(&mut self, identity: Identity, namespace: String, name: String) {
        let remembered = Remembered {
            namespace,
            name,
            count: 1,
        };
        self.remembered.insert(identity.clone(), remembered);
        self.order.push_back(identity);
        while self.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
    }

    fn object(&self, component: &str, record: &EventRecord, now: &str) -> Value {
        let regarding = &record.regarding;
        let namespace = if regarding.namespace.is_empty() {
            "default"
        } else {
            &regarding.namespace
        };
        // As Kubernetes names events: by object and time, so that they list in their order.
        let nanoseconds = Timestamp::now().as_nanosecond();
        let name = format!("{}.{nanoseconds:x}", regarding.name);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": regarding.reference(),
            "type": record.kind.as_str(),
            "reason": record.reason,
            "message": record.message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": component, "host": self.host},
            "reportingComponent": component,
            "reportingInstance": self.host,
        })
    }
}
