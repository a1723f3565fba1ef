//! Carries out plans through the API, as any client would.

use futures_util::StreamExt;
use trireme_client::{Client, DeleteOptions, Error, EventRecorder, ListOptions, PatchType};
use trireme_decide::{Absent, Action, Intent, Plan, View};
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;

use crate::event;

/// Writes of one plan under way at once: enough to fill a Raft batch, few enough not to starve users.
const CONCURRENT_WRITES: usize = 64;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Kinds written and the revisions that the view has to reach before the same key is decided
    /// again.
    pub written: Vec<(&'static Kind, u64)>,
    /// Bindings that were not made: pods to be taken out of the assumptions.
    pub unbound: Vec<(String, String)>,
    /// A precondition failed: the view was stale. Decide again when it has moved on.
    pub conflict: bool,
    /// The first refusal that was no conflict.
    pub refusal: Option<String>,
}

/// Wave by wave; a wave begins when the one before has succeeded entirely.
pub async fn execute(client: &Client, recorder: &EventRecorder, plan: Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let mut intents = plan.intents;
    intents.sort_by_key(|intent| intent.wave);
    let mut rest = intents.into_iter().peekable();
    while let Some(wave) = rest.peek().map(|intent| intent.wave) {
        let mut batch = Vec::new();
        while let Some(intent) = rest.next_if(|intent| intent.wave == wave) {
            batch.push(intent);
        }
        let mut results = futures_util::stream::iter(batch)
            .map(|intent| carry_out(client, recorder, intent))
            .buffer_unordered(CONCURRENT_WRITES);
        let mut failed = false;
        while let Some(result) = results.next().await {
            match result {
                Ok(written) => outcome.written.extend(written),
                Err(failure) => {
                    failed = true;
                    outcome.unbound.extend(failure.unbound);
                    if failure.conflict {
                        outcome.conflict = true;
                    } else if outcome.refusal.is_none() {
                        outcome.refusal = Some(failure.message);
                    }
                }
            }
        }
        if failed {
            for intent in rest {
                outcome.unbound.extend(binding_of(&intent.action));
            }
            break;
        }
    }
    outcome
}

struct Failure {
    conflict: bool,
    message: String,
    unbound: Option<(String, String)>,
}

type Written = Option<(&'static Kind, u64)>;

async fn carry_out(
    client: &Client,
    recorder: &EventRecorder,
    intent: Intent,
) -> Result<Written, Failure> {
    let Intent {
        controller,
        reason,
        action,
        event,
        absent,
        failure_event,
        ..
    } = intent;
    let client = client.with_field_manager(controller);
    for object in &absent {
        if let Some(failure) = still_there(&client, object, &action).await {
            return Err(failure);
        }
    }
    match perform(&client, &action).await {
        Ok(written) => {
            tracing::debug!(controller, reason, "done");
            if let Some(event) = event {
                event::record(recorder, controller, event);
            }
            Ok(written)
        }
        Err(error) => {
            let conflict = error.is_conflict() || error.is_already_exists();
            if !conflict {
                tracing::warn!(controller, reason, %error, "refused");
                if let Some(mut event) = failure_event {
                    event.message.push_str(&error.to_string());
                    event::record(recorder, controller, event);
                }
            }
            Err(Failure {
                conflict,
                message: error.to_string(),
                unbound: binding_of(&action),
            })
        }
    }
}

/// An object that had to be gone and is not, or that could not be looked for.
async fn still_there(client: &Client, object: &Absent, action: &Action) -> Option<Failure> {
    let (conflict, message) = match client
        .get(object.kind, &object.namespace, &object.name)
        .await
    {
        Ok(found) if object.uid.is_empty() || meta::uid(&found) == object.uid => {
            (true, "an object that had to be gone exists".to_owned())
        }
        Ok(_) => return None,
        Err(error) if error.is_not_found() => return None,
        Err(error) => (false, error.to_string()),
    };
    Some(Failure {
        conflict,
        message,
        unbound: binding_of(action),
    })
}

async fn perform(client: &Client, action: &Action) -> Result<Written, Error> {
    let revision = |object: &serde_json::Value| meta::resource_version(object).parse().unwrap_or(0);
    match action {
        Action::Create {
            kind,
            namespace,
            object,
        } => {
            let stored = client.create(kind, namespace, object).await?;
            Ok(Some((*kind, revision(&stored))))
        }
        Action::Update { kind, object } => {
            let stored = client.update(kind, object).await?;
            Ok(Some((*kind, revision(&stored))))
        }
        Action::UpdateStatus { kind, object } => {
            let stored = client.update_status(kind, object).await?;
            Ok(Some((*kind, revision(&stored))))
        }
        Action::Patch {
            kind,
            namespace,
            name,
            subresource,
            patch,
        } => {
            let subresource = subresource.as_str();
            let stored = client
                .patch(kind, namespace, name, subresource, PatchType::Merge, patch)
                .await?;
            Ok(Some((*kind, revision(&stored))))
        }
        Action::Delete {
            kind,
            namespace,
            name,
            uid,
            resource_version,
            grace_seconds,
            propagation,
        } => {
            let options = DeleteOptions {
                grace_period_seconds: *grace_seconds,
                propagation_policy: propagation.as_str().to_owned(),
                uid: uid.clone(),
                resource_version: resource_version.clone().unwrap_or_default(),
            };
            match client.delete(kind, namespace, name, &options).await {
                Ok(deletion) if deletion.deleted => Ok(None),
                Ok(deletion) => Ok(Some((*kind, revision(&deletion.object)))),
                // Somebody was faster; gone is what was wanted.
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        }
        Action::Bind {
            namespace,
            name,
            uid,
            node,
        } => {
            // The view counts the pod as bound from the decision on (View::assume), so there is
            // nothing to wait for.
            client.bind(namespace, name, uid, node).await?;
            Ok(None)
        }
        Action::FinalizeNamespace { name, object } => {
            // Decided from a view, which may not have been told of the newest objects yet.
            for kind in View::watched().into_iter().filter(|kind| kind.namespaced) {
                let options = ListOptions {
                    namespace: Some(name.clone()),
                    ..ListOptions::default()
                };
                if !client.list(kind, &options).await?.items.is_empty() {
                    return Err(Error::Request(format!(
                        "namespace {name} still holds {}",
                        kind.group_resource()
                    )));
                }
            }
            let stored = client
                .update_subresource(kinds::NAMESPACE, "finalize", object)
                .await;
            match stored {
                // The last finalizer went and the namespace with it: no revision to wait for.
                Ok(_) => Ok(None),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        }
        Action::Record => Ok(None),
    }
}

fn binding_of(action: &Action) -> Option<(String, String)> {
    match action {
        Action::Bind {
            namespace, name, ..
        } => Some((namespace.clone(), name.clone())),
        _ => None,
    }
}
