//! What is to be written about findings: the status of each object that has some, or had some. At a fixpoint nothing.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use trireme_decide::{Action, EventKind, EventRecord, Intent, Plan, Regarding, Subresource};
use trireme_model::istio::{self, Condition};
use trireme_model::kinds::{self, Kind};

use super::{Concern, Finding, by_object};
use crate::ObjectKey;
use crate::mesh::Mesh;

/// A status to be written, and what to tell about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub kind: &'static Kind,
    pub key: ObjectKey,
    /// Of the object that was looked at: a write to another is a mistake.
    pub uid: String,
    pub resource_version: String,
    /// The whole `status`, what others wrote into it kept.
    pub status: Value,
    /// Reason and text of a Warning event for each finding that is new.
    pub warnings: Vec<(&'static str, String)>,
}

/// Kinds that have findings.
const KINDS: [&str; 6] = [
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "ServiceEntry",
    "Sidecar",
    "EnvoyFilter",
];

/// The statuses that differ from what is to be said. `now` dates conditions that turn.
pub fn due(mesh: &Mesh, now: Timestamp) -> Vec<Due> {
    let mut found = by_object(mesh);
    let mut due = Vec::new();
    let view = mesh.view();
    let mut look = |kind: &'static str,
                    key: &ObjectKey,
                    metadata: &ObjectMeta,
                    status: Option<&istio::Status>| {
        let findings = found.remove(&(kind, key.clone())).unwrap_or_default();
        due.extend(of_object(kind, key, metadata, status, &findings, now));
    };
    macro_rules! each {
        ($kind:literal, $objects:expr) => {
            for (key, object) in &$objects {
                look($kind, key, &object.metadata, object.status.as_ref());
            }
        };
    }
    each!("VirtualService", view.virtual_services);
    each!("DestinationRule", view.destination_rules);
    each!("Gateway", view.gateways);
    each!("ServiceEntry", view.service_entries);
    each!("Sidecar", view.sidecars);
    each!("EnvoyFilter", view.envoy_filters);
    due
}

/// Who writes: the field manager of statuses and the reporting component of events.
pub const CONTROLLER: &str = "mesh-conditions";

/// The same as intents, for whoever carries out the controllers' plans: a patch of each status with uid and version as
/// its precondition, and a Warning event for each new finding. Empty at a fixpoint.
pub fn plan(mesh: &Mesh, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for due in due(mesh, now) {
        let regarding = Regarding {
            kind: due.kind,
            namespace: due.key.namespace.clone(),
            name: due.key.name.clone(),
            uid: due.uid.clone(),
            resource_version: due.resource_version.clone(),
        };
        let mut status = due.status;
        if status.get("validationMessages").is_none() {
            // A merge patch leaves what it does not name.
            status["validationMessages"] = Value::Null;
        }
        let patch = json!({
            "metadata": {"uid": due.uid, "resourceVersion": due.resource_version},
            "status": status,
        });
        let intent = |action, event| Intent {
            controller: CONTROLLER,
            reason: format!("say what is wrong with {} {}", due.kind.kind, due.key),
            action,
            wave: 0,
            event,
            absent: Vec::new(),
            failure_event: None,
        };
        let mut events = due
            .warnings
            .into_iter()
            .map(|(reason, message)| EventRecord {
                regarding: regarding.clone(),
                kind: EventKind::Warning,
                reason,
                message,
            });
        let action = Action::Patch {
            kind: due.kind,
            namespace: due.key.namespace.clone(),
            name: due.key.name.clone(),
            subresource: Subresource::Status,
            patch,
        };
        plan.intents.push(intent(action, events.next()));
        plan.intents.extend(events.map(|event| Intent {
            wave: 1,
            ..intent(Action::Record, Some(event))
        }));
    }
    plan
}

/// The newest version of a kind, under which statuses are written.
fn row(kind: &'static str) -> Option<&'static Kind> {
    debug_assert!(KINDS.contains(&kind));
    let of_kind = || {
        let all = kinds::all().iter();
        all.filter(move |row| row.group == istio::GROUP && row.kind == kind)
    };
    of_kind()
        .find(|row| row.version == "v1")
        .or_else(|| of_kind().next())
}

fn of_object(
    kind: &'static str,
    key: &ObjectKey,
    metadata: &ObjectMeta,
    status: Option<&istio::Status>,
    findings: &[Finding],
    now: Timestamp,
) -> Option<Due> {
    let before = status.cloned().unwrap_or_default();
    let mut after = before.clone();
    let mut warnings = Vec::new();
    for concern in Concern::ALL {
        let (name, bad) = concern.condition();
        let mine: Vec<&Finding> = findings.iter().filter(|it| it.concern == concern).collect();
        let known = before.conditions.iter().position(|it| it.r#type == name);
        let wanted = match (mine.first(), known) {
            (None, None) => continue,
            (Some(first), _) => {
                let messages: Vec<String> = mine.iter().map(|it| worded(it)).collect();
                (bad, first.reason, messages.join("; "))
            }
            (None, Some(_)) => {
                let good = if bad == "True" { "False" } else { "True" };
                (good, "AllGood", String::new())
            }
        };
        let told = known.map(|place| before.conditions[place].message.clone());
        let told = told.unwrap_or_default();
        for finding in &mine {
            if !told.contains(&worded(finding)) {
                warnings.push((finding.reason, worded(finding)));
            }
        }
        let (state, reason, message) = wanted;
        match known {
            Some(place) => {
                let condition = &mut after.conditions[place];
                if condition.status != state {
                    condition.last_transition_time = Some(now.to_string());
                }
                condition.status = state.to_owned();
                condition.reason = reason.to_owned();
                condition.message = message;
            }
            None => after.conditions.push(Condition {
                r#type: name.to_owned(),
                status: state.to_owned(),
                reason: reason.to_owned(),
                message,
                last_transition_time: Some(now.to_string()),
                ..Condition::default()
            }),
        }
    }
    // Codes in the form that Istio's tools read.
    let coded: BTreeSet<&Finding> = findings.iter().filter(|it| !it.code.is_empty()).collect();
    let mut messages: Vec<Value> = coded
        .into_iter()
        .map(|it| json!({"type": {"name": it.reason, "code": it.code}, "level": "WARNING"}))
        .collect();
    // They have no words of their own: what is told apart by those alone is the same.
    messages.dedup();
    after.validation_messages = messages;
    if after == before {
        return None;
    }
    Some(Due {
        kind: row(kind)?,
        key: key.clone(),
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        status: serde_json::to_value(&after).ok()?,
        warnings,
    })
}

fn worded(finding: &Finding) -> String {
    match finding.code {
        "" => finding.message.clone(),
        code => format!("[{code}] {}", finding.message),
    }
}
