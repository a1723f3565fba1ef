//! One event as many watchers see it: parsed and written once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use trireme_model::Value;
use trireme_model::kinds::Kind;
use trireme_model::status::Status;
use trireme_state::{Event, Revision};

use crate::document::{Document, outward};
use crate::store::Stored;

/// Events kept for watchers that have yet to come to them: about a second of the busiest cluster. A
/// watcher further behind parses for itself.
const MAX_EVENTS: usize = 2048;
/// Bytes of the objects in them. What is made of them, parsed and written, takes some four times as much.
const MAX_BYTES: usize = 2 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn name(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// An event of one kind's view, with what has been made of it so far.
pub(crate) struct SharedEvent {
    kind: &'static Kind,
    event: Arc<Event>,
    current: OnceLock<Value>,
    previous: OnceLock<Value>,
    frames: [OnceLock<Bytes>; 3],
}

impl SharedEvent {
    fn new(kind: &'static Kind, event: Arc<Event>) -> SharedEvent {
        SharedEvent {
            kind,
            event,
            current: OnceLock::new(),
            previous: OnceLock::new(),
            frames: Default::default(),
        }
    }

    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The object after the event.
    pub fn current(&self) -> Result<Option<&Value>, Status> {
        parsed(&self.current, self.kind, Some(Stored::new(&self.event.kv)))
    }

    /// The object before the event, with the event's version.
    pub fn previous(&self) -> Result<Option<&Value>, Status> {
        parsed(&self.previous, self.kind, self.last())
    }

    fn last(&self) -> Option<Stored> {
        let previous = self.event.previous.as_ref()?;
        Some(Stored {
            raw: previous.value.clone(),
            mod_revision: self.event.kv.mod_revision,
        })
    }

    /// The object that an event of this type carries.
    pub fn document(&self, event_type: EventType) -> Result<Document, Status> {
        let stored = match event_type {
            EventType::Deleted => self.last().ok_or_else(|| {
                Status::expired(
                    "too old resource version: the object before this event has been compacted",
                )
            })?,
            EventType::Added | EventType::Modified => Stored::new(&self.event.kv),
        };
        Document::of(self.kind, stored)
    }

    /// `{"type":…,"object":…}` and a newline, as REST watchers of whole objects get it.
    pub fn frame(&self, event_type: EventType) -> Result<Bytes, Status> {
        let slot = &self.frames[event_type as usize];
        if let Some(frame) = slot.get() {
            return Ok(frame.clone());
        }
        let frame = frame(event_type.name(), &self.document(event_type)?);
        Ok(slot.get_or_init(|| frame).clone())
    }
}

/// Writes one line of a watch.
pub(crate) fn frame(event_type: &str, document: &Document) -> Bytes {
    let mut out = format!("{{\"type\":\"{event_type}\",\"object\":").into_bytes();
    document.write_json(&mut out);
    out.extend_from_slice(b"}\n");
    out.into()
}

fn parsed<'a>(
    slot: &'a OnceLock<Value>,
    kind: &'static Kind,
    stored: Option<Stored>,
) -> Result<Option<&'a Value>, Status> {
    if slot.get().is_none() {
        let Some(stored) = stored else {
            return Ok(None);
        };
        let mut value = stored.value()?;
        outward(kind, &mut value);
        return Ok(Some(slot.get_or_init(|| value)));
    }
    Ok(slot.get())
}

/// Revision and key; the package tells the views of one storage apart.
type EventKey = (Revision, Bytes, &'static str);

#[derive(Default)]
struct Kept {
    /// Oldest revision first.
    events: BTreeMap<EventKey, Arc<SharedEvent>>,
    bytes: usize,
}

#[derive(Default)]
pub(crate) struct FrameCache {
    kept: Mutex<Kept>,
}

fn size(event: &Event) -> usize {
    event.kv.value.len()
        + event
            .previous
            .as_ref()
            .map_or(0, |previous| previous.value.len())
}

impl FrameCache {
    pub fn share(&self, kind: &'static Kind, event: &Arc<Event>) -> Arc<SharedEvent> {
        let key = (event.kv.mod_revision, event.kv.key.clone(), kind.package);
        let fresh = || Arc::new(SharedEvent::new(kind, event.clone()));
        let Ok(mut kept) = self.kept.lock() else {
            return fresh();
        };
        if let Some(shared) = kept.events.get(&key) {
            return shared.clone();
        }
        let oldest = kept
            .events
            .first_key_value()
            .map_or(0, |((revision, ..), _)| *revision);
        if kept.full() && event.kv.mod_revision < oldest {
            // A watcher that catches up must not push out what the others are about to read.
            return fresh();
        }
        let shared = fresh();
        kept.bytes += size(event);
        kept.events.insert(key, shared.clone());
        while kept.over() {
            match kept.events.pop_first() {
                Some((_, dropped)) => kept.bytes -= size(&dropped.event),
                None => break,
            }
        }
        shared
    }
}

impl Kept {
    fn full(&self) -> bool {
        self.events.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES
    }

    fn over(&self) -> bool {
        self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trireme_model::kinds;
    use trireme_state::{EventKind, KeyValue};

    fn event(
        revision: Revision,
        value: &'static str,
        previous: Option<&'static str>,
    ) -> Arc<Event> {
        let kv = |value: &'static str, mod_revision| KeyValue {
            key: "/registry/pods/a/b".into(),
            value: value.into(),
            create_revision: 1,
            mod_revision,
            version: 1,
        };
        Arc::new(Event {
            kind: if value.is_empty() {
                EventKind::Delete
            } else {
                EventKind::Put
            },
            kv: kv(value, revision),
            previous: previous.map(|previous| kv(previous, revision - 1)),
        })
    }

    #[test]
    fn a_deletion_carries_the_last_object_at_the_deletions_version() {
        let cache = FrameCache::default();
        let event = event(9, "", Some(r#"{"metadata":{"name":"b"},"kind":"Pod"}"#));
        let shared = cache.share(kinds::POD, &event);
        let line = shared.frame(EventType::Deleted).unwrap();
        assert_eq!(
            line,
            "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\",\"name\":\"b\"},\"kind\":\"Pod\"}}\n"
        );
    }

    #[test]
    fn one_event_is_shared_and_old_ones_leave() {
        let cache = FrameCache::default();
        let first = event(1, r#"{"metadata":{"name":"b"}}"#, None);
        assert!(Arc::ptr_eq(
            &cache.share(kinds::POD, &first),
            &cache.share(kinds::POD, &first)
        ));
        for revision in 2..=(MAX_EVENTS as u64 + 10) {
            cache.share(
                kinds::POD,
                &event(revision, r#"{"metadata":{"name":"b"}}"#, None),
            );
        }
        assert_eq!(cache.kept.lock().unwrap().events.len(), MAX_EVENTS);
        let bytes: usize = cache
            .kept
            .lock()
            .unwrap()
            .events
            .values()
            .map(|shared| size(shared.event()))
            .sum();
        assert_eq!(cache.kept.lock().unwrap().bytes, bytes);
        // Late watchers still get their event, uncached.
        assert!(!Arc::ptr_eq(
            &cache.share(kinds::POD, &first),
            &cache.share(kinds::POD, &first)
        ));
    }
}
