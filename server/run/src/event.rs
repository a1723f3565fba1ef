//! Events: what decisions tell the user.

use trireme_client::{Event, EventRecorder};
use trireme_decide::{EventKind, EventRecord};

/// Leaves a decision's event to be written.
pub fn record(recorder: &EventRecorder, component: &'static str, record: EventRecord) {
    recorder.record(Event {
        regarding: record.regarding.reference(),
        warning: record.kind == EventKind::Warning,
        reason: record.reason.to_owned(),
        message: record.message,
        component,
    });
}
