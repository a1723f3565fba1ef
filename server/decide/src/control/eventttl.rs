//! Events live one hour after they were last seen.

use jiff::SignedDuration;
use trireme_model::kinds::{self, Kind};

use super::Controller;
use crate::intent::{Action, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "event-ttl-controller";

/// As kube-apiserver's `--event-ttl`.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// Most deletions of one reconciliation; the next goes on when the view has seen these.
const MAX_DELETIONS: usize = 500;
const ALL: &str = "events";

pub(crate) struct EventLifetimes;

impl Controller for EventLifetimes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        _before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        // The first event starts the clock, which then runs by itself.
        let first = kind == kinds::EVENT && after.is_some() && view.events.len() == 1;
        let expired = kind == kinds::EVENT
            && view
                .index
                .events_by_age
                .first()
                .is_some_and(|(seen, _)| *seen + LIFETIME <= view.now());
        if first || expired {
            vec![ObjectKey::cluster(ALL)]
        } else {
            Vec::new()
        }
    }

    fn reconcile(&self, view: &View, _key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        for (seen, key) in &view.index.events_by_age {
            let expires = *seen + LIFETIME;
            if expires > view.now() {
                plan.requeue(expires.duration_since(view.now()));
                break;
            }
            if plan.intents.len() >= MAX_DELETIONS {
                break;
            }
            let Some(event) = view.events.get(key) else {
                continue;
            };
            plan.push(Intent::new(
                NAME,
                "it was last seen an hour ago",
                Action::Delete {
                    kind: kinds::EVENT,
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    uid: event.metadata.uid.clone().unwrap_or_default(),
                    resource_version: event.metadata.resource_version.clone(),
                    grace_seconds: None,
                    propagation: Propagation::Background,
                },
            ));
        }
        plan
    }
}
