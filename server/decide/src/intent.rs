//! What a decision asks for: an action on one object, why, under which precondition, and the event
//! that tells the user.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use trireme_model::kinds::Kind;

/// The result of one decision.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In the order they matter. Intents of a higher [`Intent::wave`] are to be tried only when all
    /// of the lower waves succeeded.
    pub intents: Vec<Intent>,
    /// Look at the same key again after this long even if nothing changes in the view.
    pub requeue_after: Option<SignedDuration>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.intents.is_empty()
    }

    pub(crate) fn push(&mut self, intent: Intent) {
        self.intents.push(intent);
    }

    /// Keeps the earliest of the wishes to be called again.
    pub(crate) fn requeue(&mut self, after: SignedDuration) {
        // A wish of zero would spin; one tick is the least a caller's timer can do anyway.
        let after = after.max(SignedDuration::from_millis(1));
        self.requeue_after = Some(self.requeue_after.map_or(after, |now| now.min(after)));
    }
}

/// One wanted write.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Who decided: the event's reporting component and the field manager.
    pub controller: &'static str,
    /// Why, for the log and for `trireme explain`.
    pub reason: String,
    pub action: Action,
    /// Try this only after every intent of the plan with a lower wave succeeded; intents of equal
    /// wave may run at the same time. Creations of many pods come in waves of 1, 2, 4, …, so a
    /// template that can never be admitted costs one refused request and not hundreds.
    pub wave: u32,
    /// Recorded when the action succeeded (at once for [`Action::Record`]).
    pub event: Option<EventRecord>,
    /// Precondition: none of these may exist (looked up in the API, not in a view, which may not have
    /// been told of them yet). If one does, drop the intent and look again.
    pub absent: Vec<Absent>,
    /// Recorded when the action was refused for another reason than a conflict; the error's text is
    /// appended to the message.
    pub failure_event: Option<EventRecord>,
}

/// An object that must be gone, or have another uid, for an intent to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    /// Empty where any object of the name counts.
    pub uid: String,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Create `object`, named already. "Already exists" means the view was stale: look again.
    Create {
        kind: &'static Kind,
        namespace: String,
        object: Value,
    },
    /// Replace the object; it carries uid and resourceVersion as its precondition.
    Update { kind: &'static Kind, object: Value },
    /// Replace the status; the object carries uid and resourceVersion as its precondition.
    UpdateStatus { kind: &'static Kind, object: Value },
    /// JSON merge patch; `metadata.uid` (and, where the result depends on what was read,
    /// `metadata.resourceVersion`) in the patch is its precondition.
    Patch {
        kind: &'static Kind,
        namespace: String,
        name: String,
        subresource: Subresource,
        patch: Value,
    },
    Delete {
        kind: &'static Kind,
        namespace: String,
        name: String,
        /// Precondition.
        uid: String,
        /// Precondition, where the decision depended on the object's content.
        resource_version: Option<String>,
        /// `None` leaves the object's own grace period in force.
        grace_seconds: Option<u64>,
        propagation: Propagation,
    },
    /// The `binding` subresource of a pod, with the pod's uid as precondition.
    Bind {
        namespace: String,
        name: String,
        uid: String,
        node: String,
    },
    /// The `finalize` subresource of a namespace: `object` is the namespace without the finalizer
    /// in `spec.finalizers`, carrying uid and resourceVersion.
    FinalizeNamespace { name: String, object: Value },
    /// Nothing but the event.
    Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Main,
    Status,
}

impl Subresource {
    /// As the path segment; empty for the object itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Main => "",
            Subresource::Status => "status",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    /// As `propagationPolicy` in DeleteOptions.
    pub fn as_str(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Regarding {
    pub fn of(kind: &'static Kind, metadata: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }

    /// As `involvedObject` of a core/v1 Event.
    pub fn reference(&self) -> Value {
        let mut reference = serde_json::json!({
            "apiVersion": self.kind.api_version(),
            "kind": self.kind.kind,
            "name": self.name,
            "uid": self.uid,
        });
        if !self.namespace.is_empty() {
            reference["namespace"] = Value::from(self.namespace.as_str());
        }
        if !self.resource_version.is_empty() {
            reference["resourceVersion"] = Value::from(self.resource_version.as_str());
        }
        reference
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        }
    }
}

/// An event to record; the executor aggregates repeats into counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    pub regarding: Regarding,
    pub kind: EventKind,
    pub reason: &'static str,
    pub message: String,
}

impl EventRecord {
    pub(crate) fn normal(
        kind: &'static Kind,
        metadata: &ObjectMeta,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            regarding: Regarding::of(kind, metadata),
            kind: EventKind::Normal,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn warning(
        kind: &'static Kind,
        metadata: &ObjectMeta,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind: EventKind::Warning,
            ..Self::normal(kind, metadata, reason, message)
        }
    }
}

impl Intent {
    pub(crate) fn new(controller: &'static str, reason: impl Into<String>, action: Action) -> Self {
        Self {
            controller,
            reason: reason.into(),
            action,
            wave: 0,
            event: None,
            absent: Vec::new(),
            failure_event: None,
        }
    }

    pub(crate) fn with_event(mut self, event: EventRecord) -> Self {
        self.event = Some(event);
        self
    }

    pub(crate) fn with_failure_event(mut self, event: EventRecord) -> Self {
        self.failure_event = Some(event);
        self
    }

    pub(crate) fn provided_absent(mut self, absent: Vec<Absent>) -> Self {
        self.absent = absent;
        self
    }

    pub(crate) fn in_wave(mut self, wave: u32) -> Self {
        self.wave = wave;
        self
    }
}
