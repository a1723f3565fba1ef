//! An object on its way out, and the views of what has several: events, and kinds served in several versions.

use trireme_model::kinds::{self, Kind};
use trireme_model::status::Status;
use trireme_model::{Value, event, meta};

use crate::store::Stored;

/// Kept as it lies in the store until someone needs to look inside.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Stored(Stored),
    Value(Value),
}

impl Document {
    /// The stored object as `kind` shows it.
    pub fn of(kind: &'static Kind, stored: Stored) -> Result<Document, Status> {
        if kind.stored() == kind {
            return Ok(Document::Stored(stored));
        }
        let mut value = stored.value()?;
        outward(kind, &mut value);
        Ok(Document::Value(value))
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

/// The kind whose rules a stored object follows: events are kept, defaulted and validated as core/v1, Istio's kinds
/// as v1.
pub(crate) fn stored_kind(kind: &'static Kind) -> &'static Kind {
    kind.stored()
}

/// From the stored form to that of `kind`.
pub(crate) fn outward(kind: &'static Kind, object: &mut Value) {
    if *kind == *kinds::EVENTS_EVENT {
        event::to_events(object);
    } else if kind.stored() != kind {
        meta::map_mut(object).insert("apiVersion".to_owned(), kind.api_version().into());
    }
}

/// From the form of `kind` to the stored one.
pub(crate) fn inward(kind: &'static Kind, object: &mut Value) {
    let stored = kind.stored();
    if *kind == *kinds::EVENTS_EVENT {
        event::to_core(object);
    } else if stored != kind {
        meta::map_mut(object).insert("apiVersion".to_owned(), stored.api_version().into());
    }
}
