//! A Deployment's status: counts over its ReplicaSets and the conditions Available, Progressing
//! and ReplicaFailure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::bounds::Bounds;
use super::rollout::{Member, Rollout};
use crate::control::{nonzero, second};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Kubernetes' way of saying that there is no deadline.
const NO_DEADLINE: i32 = i32::MAX;

/// What became of the newest ReplicaSet in this decision.
#[derive(Clone, Debug)]
pub(super) enum Newest {
    Created(String),
    Found(String),
    None,
}

pub(super) struct Outcome {
    pub status: DeploymentStatus,
    /// When the progress deadline passes.
    pub requeue_after: Option<SignedDuration>,
}

fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != NO_DEADLINE).then(|| SignedDuration::from_secs(i64::from(seconds)))
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Puts a condition in place. One with the same status and reason stays as it is; the time of the
/// last transition moves only with the status.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let now = Time(second(now));
    let mut transition = now.clone();
    if let Some(known) = find(conditions, type_) {
        if known.status == status && known.reason.as_deref() == Some(reason) {
            return;
        }
        if known.status == status {
            transition = known.last_transition_time.clone().unwrap_or(transition);
        }
    }
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(now),
        last_transition_time: Some(transition),
    });
}

fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn sum(rollout: &Rollout, count: impl Fn(&ReplicaSet) -> Option<i32>) -> i32 {
    rollout
        .members()
        .map(|member| count(&member.original).unwrap_or(0))
        .sum()
}

/// The status as it should be, from the ReplicaSets as the view has them. `collisions` counts names
/// that were taken by a ReplicaSet of another template.
pub(super) fn status(
    deployment: &Deployment,
    rollout: &Rollout,
    newest: &Newest,
    collisions: Option<i32>,
    now: Timestamp,
) -> Outcome {
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let deadline = deadline(deployment);

    let status_of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available = sum(rollout, |set| status_of(set).available_replicas);
    let total: i32 = rollout
        .members()
        .map(|member| super::rollout::size_of(&member.original))
        .sum();
    let counts = DeploymentStatus {
        replicas: nonzero(sum(rollout, |set| Some(actual(set)))),
        updated_replicas: nonzero(rollout.newest.as_ref().map_or(0, |it| actual(&it.original))),
        ready_replicas: nonzero(sum(rollout, |set| status_of(set).ready_replicas)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((total - available).max(0)),
        terminating_replicas: Some(sum(rollout, |set| status_of(set).terminating_replicas)),
        observed_generation: deployment.metadata.generation,
        collision_count: collisions,
        conditions: None,
    };

    if available >= rollout.bounds.min_available() {
        let message = "Deployment has minimum availability.".to_owned();
        let reason = "MinimumReplicasAvailable";
        set(&mut conditions, AVAILABLE, "True", reason, message, now);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        let reason = "MinimumReplicasUnavailable";
        set(&mut conditions, AVAILABLE, "False", reason, message, now);
    }

    if deadline.is_some() {
        pausing(&mut conditions, paused, now);
        announce(&mut conditions, newest, now);
    }
    let mut requeue_after = None;
    match deadline {
        None => conditions.retain(|condition| condition.type_ != PROGRESSING),
        Some(deadline) if !paused => {
            let subject = Subject::of(deployment, rollout);
            requeue_after = progress(
                &mut conditions,
                &subject,
                &rollout.bounds,
                &old,
                &counts,
                deadline,
                now,
            );
        }
        Some(_) => {}
    }
    failure(&mut conditions, rollout);

    let mut status = counts;
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    Outcome {
        status,
        requeue_after,
    }
}

/// A pause stops the deadline's clock; its end starts it anew.
fn pausing(conditions: &mut Vec<DeploymentCondition>, paused: bool, now: Timestamp) {
    let reason = find(conditions, PROGRESSING).and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let was_paused = reason.as_deref() == Some(PAUSED);
    if paused && !was_paused {
        let message = "Deployment is paused".to_owned();
        set(conditions, PROGRESSING, "Unknown", PAUSED, message, now);
    } else if !paused && was_paused {
        let message = "Deployment is resumed".to_owned();
        let reason = "DeploymentResumed";
        set(conditions, PROGRESSING, "Unknown", reason, message, now);
    }
}

fn announce(conditions: &mut Vec<DeploymentCondition>, newest: &Newest, now: Timestamp) {
    match newest {
        Newest::Created(name) => {
            let message = format!("Created new replica set \"{name}\"");
            let reason = "NewReplicaSetCreated";
            set(conditions, PROGRESSING, "True", reason, message, now);
        }
        Newest::Found(name) if find(conditions, PROGRESSING).is_none() => {
            let message = format!("Found new replica set \"{name}\"");
            let reason = "FoundNewReplicaSet";
            set(conditions, PROGRESSING, "True", reason, message, now);
        }
        Newest::Found(_) | Newest::None => {}
    }
}

/// How messages name what progresses.
struct Subject {
    text: String,
    generation: i64,
}

impl Subject {
    fn of(deployment: &Deployment, rollout: &Rollout) -> Self {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let text = match &rollout.newest {
            Some(Member { set, .. }) => format!("ReplicaSet \"{}\"", name(&set.metadata.name)),
            None => format!("Deployment \"{}\"", name(&deployment.metadata.name)),
        };
        Self {
            text,
            generation: deployment.metadata.generation.unwrap_or(0),
        }
    }
}

fn progress(
    conditions: &mut Vec<DeploymentCondition>,
    subject: &Subject,
    bounds: &Bounds,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    deadline: SignedDuration,
    now: Timestamp,
) -> Option<SignedDuration> {
    let count = |value: Option<i32>| value.unwrap_or(0);
    let known = find(conditions, PROGRESSING).cloned();
    let known_reason = known.as_ref().and_then(|it| it.reason.as_deref());
    let (replicas, updated) = (count(new.replicas), count(new.updated_replicas));
    if replicas == updated && known_reason == Some(COMPLETE) {
        // Done; that pods fail later is no failure of the rollout.
        return None;
    }
    let complete = updated == bounds.replicas
        && replicas == bounds.replicas
        && count(new.available_replicas) == bounds.replicas
        && new.observed_generation.unwrap_or(0) >= subject.generation;
    if complete {
        let message = format!("{} has successfully progressed.", subject.text);
        set(conditions, PROGRESSING, "True", COMPLETE, message, now);
        return None;
    }
    let old_outdated = count(old.replicas) - count(old.updated_replicas);
    let progressed = updated > count(old.updated_replicas)
        || replicas - updated < old_outdated
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas);
    if progressed {
        let transition = known
            .as_ref()
            .filter(|known| known.status == "True")
            .and_then(|known| known.last_transition_time.clone())
            .unwrap_or(Time(second(now)));
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        conditions.push(DeploymentCondition {
            type_: PROGRESSING.to_owned(),
            status: "True".to_owned(),
            reason: Some("ReplicaSetUpdated".to_owned()),
            message: Some(format!("{} is progressing.", subject.text)),
            last_update_time: Some(Time(second(now))),
            last_transition_time: Some(transition),
        });
        return Some(deadline + SignedDuration::from_secs(1));
    }
    let known = known.as_ref()?;
    if known_reason == Some(TIMED_OUT) || known_reason == Some(COMPLETE) {
        return None;
    }
    let from = known.last_update_time.as_ref().map_or(now, |at| at.0);
    let passes = from + deadline;
    if passes < now {
        let message = format!("{} has timed out progressing.", subject.text);
        set(conditions, PROGRESSING, "False", TIMED_OUT, message, now);
        return None;
    }
    // One second more, so that the deadline has passed for certain when we look again.
    Some(passes.duration_since(now) + SignedDuration::from_secs(1))
}

/// A ReplicaSet whose pods are refused makes the Deployment say so.
fn failure(conditions: &mut Vec<DeploymentCondition>, rollout: &Rollout) {
    let refused = rollout.members().find_map(|member| {
        let conditions = member.original.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|it| it.type_ == REPLICA_FAILURE)
    });
    match refused {
        Some(refused) => set(
            conditions,
            REPLICA_FAILURE,
            &refused.status,
            refused.reason.as_deref().unwrap_or_default(),
            refused.message.clone().unwrap_or_default(),
            refused
                .last_transition_time
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |at| at.0),
        ),
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
}

/// Whether a rollout has nothing left to do.
pub(super) fn is_complete(deployment: &Deployment, rollout: &Rollout) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = rollout.bounds.replicas;
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}
