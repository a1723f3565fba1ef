//! An object on its way out, and the two views of events.

use trireme_model::kinds::{self, Kind};
use trireme_model::status::Status;
use trireme_model::{Value, event};

use crate::store::Stored;

/// Kept as it lies in the store until someone needs to look inside.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Stored(Stored),
    Value(Value),
}

impl Document {
    /// The stored object as `kind` shows it.
    pub fn of(kind: &Kind, stored: Stored) -> Result<Document, Status> {
        if *kind == *kinds::EVENTS_EVENT {
            let mut value = stored.value()?;
            event::to_events(&mut value);
            return Ok(Document::Value(value));
        }
        Ok(Document::Stored(stored))
    }

    pub fn value(&self) -> Result<Value, Status> {
        match self {
            Document::Stored(stored) => stored.value(),
            Document::Value(value) => Ok(value.clone()),
        }
    }

    pub fn into_value(self) -> Result<Value, Status> {
        match self {
            Document::Stored(stored) => stored.value(),
            Document::Value(value) => Ok(value),
        }
    }

    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Document::Stored(stored) => stored.write_json(out),
            Document::Value(value) => out.extend_from_slice(value.to_string().as_bytes()),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out
    }
}

/// The kind whose rules a stored object follows: events are kept, defaulted and validated as core/v1.
pub(crate) fn stored_kind(kind: &'static Kind) -> &'static Kind {
    if *kind == *kinds::EVENTS_EVENT {
        kinds::EVENT
    } else {
        kind
    }
}

/// From the stored form to that of `kind`.
pub(crate) fn outward(kind: &Kind, object: &mut Value) {
    if *kind == *kinds::EVENTS_EVENT {
        event::to_events(object);
    }
}

/// From the form of `kind` to the stored one.
pub(crate) fn inward(kind: &Kind, object: &mut Value) {
    if *kind == *kinds::EVENTS_EVENT {
        event::to_core(object);
    }
}
