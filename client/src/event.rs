//! Events: what happened to an object, for people, with repeats counted instead of repeated.
//!
//! As client-go's correlator does: the same words about the same object count up on the first event, and an object
//! may cause a burst of events and then one every five minutes. Events are advice: who records one never
//! waits, and what there is no room for is dropped.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trireme_model::{kinds, meta};

use crate::{Client, PatchType};

/// Events that wait to be written; a process whose API is away must not grow for them.
const QUEUE_MAX: usize = 1024;
/// Events, and objects, remembered: client-go's number.
const REMEMBERED_MAX: usize = 4096;
/// New events an object may cause in a burst, and seconds for each further one: client-go's.
const BURST: u32 = 25;
const REFILL_S: i64 = 300;
/// Of the object's name in the event's, so that both fit into a name's 253.
const NAME_MAX: usize = 230;

/// What is told about one object.
#[derive(Clone, Debug)]
pub struct Event {
    /// The object, as `involvedObject` of a core/v1 Event has it, with its `name`, `uid` and, where it has one,
    /// `namespace`.
    pub regarding: Value,
    pub warning: bool,
    /// One word in camel case, for programs.
    pub reason: String,
    /// A sentence, for people.
    pub message: String,
    /// Who tells it, such as `kubelet`.
    pub component: &'static str,
}

/// Where events are left.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<(Event, Timestamp)>,
}

/// What writes them.
pub struct EventWriter {
    client: Client,
    host: String,
    queue: mpsc::Receiver<(Event, Timestamp)>,
    written: Remembered<Written>,
    budgets: Remembered<Budget>,
}

struct Written {
    namespace: String,
    name: String,
    count: u64,
}

struct Budget {
    left: u32,
    since: Timestamp,
}

/// The newest of what was remembered, up to the limit.
struct Remembered<T> {
    entries: BTreeMap<String, T>,
    order: VecDeque<String>,
}

/// A recorder, and the writer behind it, for events from `host`.
pub fn events(client: Client, host: &str) -> (EventRecorder, EventWriter) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let writer = EventWriter {
        client,
        host: host.to_owned(),
        queue,
        written: Remembered::new(),
        budgets: Remembered::new(),
    };
    (EventRecorder { queue: sender }, writer)
}

impl EventRecorder {
    /// Leaves an event to be written.
    pub fn record(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full((lost, _))) =
            self.queue.try_send((event, Timestamp::now()))
        {
            tracing::debug!(
                reason = lost.reason,
                "an event was dropped: the queue is full"
            );
        }
    }
}

impl EventWriter {
    /// Writes events until the last recorder is gone.
    pub async fn run(mut self) {
        while let Some((event, at)) = self.queue.recv().await {
            self.write(event, at).await;
        }
    }

    async fn write(&mut self, event: Event, at: Timestamp) {
        let identity = identity(&event);
        let time = meta::timestamp(at);
        if self.counted(&identity, &time).await {
            return;
        }
        let object = event.regarding["uid"].as_str().unwrap_or_default();
        if !self.spend(object, at) {
            return;
        }
        let (namespace, object) = self.object(&event, &time);
        match self.client.create(kinds::EVENT, &namespace, &object).await {
            Ok(created) => {
                let name = meta::name(&created).to_owned();
                let written = Written {
                    namespace,
                    name,
                    count: 1,
                };
                self.written.insert(identity, written);
            }
            // A namespace that is going away takes no more events.
            Err(error) => tracing::debug!(%error, reason = event.reason, "writing an event"),
        }
    }

    /// Whether the event was known, so that its count was all there was to write.
    async fn counted(&mut self, identity: &str, time: &str) -> bool {
        let Some(known) = self.written.get_mut(identity) else {
            return false;
        };
        known.count += 1;
        let patch = json!({"count": known.count, "lastTimestamp": time});
        let (namespace, name) = (&known.namespace, &known.name);
        let patched = self
            .client
            .patch(kinds::EVENT, namespace, name, "", PatchType::Merge, &patch)
            .await;
        match patched {
            Ok(_) => true,
            // It has expired: begin again.
            Err(error) if error.is_not_found() => {
                self.written.remove(identity);
                false
            }
            Err(error) => {
                tracing::debug!(%error, "counting an event");
                true
            }
        }
    }

    /// Whether the object may cause another event.
    fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        if self.budgets.get_mut(object).is_none() {
            let full = Budget {
                left: BURST,
                since: now,
            };
            self.budgets.insert(object.to_owned(), full);
        }
        self.budgets
            .get_mut(object)
            .is_some_and(|budget| budget.spend(now))
    }

    fn object(&self, event: &Event, time: &str) -> (String, Value) {
        let text = |field: &str| event.regarding[field].as_str().unwrap_or_default();
        // Those about what is in no namespace are in `default`, as Kubernetes' are.
        let namespace = match text("namespace") {
            "" => "default",
            namespace => namespace,
        };
        // As Kubernetes names events: by object and time, so that they list in their order.
        let nanoseconds = Timestamp::now().as_nanosecond();
        let about: String = text("name").chars().take(NAME_MAX).collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{about}.{nanoseconds:x}"), "namespace": namespace},
            "involvedObject": event.regarding,
            "type": if event.warning { "Warning" } else { "Normal" },
            "reason": event.reason,
            "message": event.message,
            "count": 1,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "source": {"component": event.component, "host": self.host},
            "reportingComponent": event.component,
            "reportingInstance": self.host,
        });
        (namespace.to_owned(), object)
    }
}

/// What makes two events the same: everything but their time and the object's revision.
fn identity(event: &Event) -> String {
    let mut regarding = event.regarding.clone();
    regarding["resourceVersion"] = Value::Null;
    format!(
        "{regarding}|{}|{}|{}|{}",
        event.warning, event.component, event.reason, event.message
    )
}

impl Budget {
    fn spend(&mut self, now: Timestamp) -> bool {
        let earned = now.duration_since(self.since).as_secs() / REFILL_S;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST);
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl<T> Remembered<T> {
    fn new() -> Remembered<T> {
        Remembered {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        self.entries.get_mut(key)
    }

    fn insert(&mut self, key: String, entry: T) {
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            self.order.retain(|kept| kept != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, Budget, Event, REMEMBERED_MAX, Remembered, identity};
    use jiff::{SignedDuration, Timestamp};
    use serde_json::json;

    fn event(revision: &str, message: &str) -> Event {
        Event {
            regarding: json!({"kind": "Pod", "name": "a", "uid": "1", "resourceVersion": revision}),
            warning: false,
            reason: "Pulled".to_owned(),
            message: message.to_owned(),
            component: "kubelet",
        }
    }

    #[test]
    fn the_same_words_at_another_revision_are_the_same_event() {
        assert_eq!(identity(&event("5", "x")), identity(&event("6", "x")));
        assert_ne!(identity(&event("5", "x")), identity(&event("5", "y")));
    }

    #[test]
    fn a_burst_and_then_one_in_five_minutes() {
        let start = Timestamp::UNIX_EPOCH;
        let mut budget = Budget {
            left: BURST,
            since: start,
        };
        for _ in 0..BURST {
            assert!(budget.spend(start));
        }
        assert!(!budget.spend(start + SignedDuration::from_secs(299)));
        assert!(budget.spend(start + SignedDuration::from_secs(300)));
        assert!(!budget.spend(start + SignedDuration::from_secs(301)));
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut remembered = Remembered::new();
        for index in 0..=REMEMBERED_MAX {
            remembered.insert(index.to_string(), index);
        }
        assert!(remembered.get_mut("0").is_none());
        assert_eq!(remembered.get_mut("1"), Some(&mut 1));
        remembered.remove("1");
        assert_eq!(remembered.order.len(), remembered.entries.len());
    }
}
