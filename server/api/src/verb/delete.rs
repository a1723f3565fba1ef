//! Delete one object: at once, after its grace, or once its finalizers are gone.

use jiff::{SignedDuration, Timestamp};
use trireme_model::kinds::{self, Kind};
use trireme_model::status::Status;
use trireme_model::{Value, meta};

use super::change::{Allocation, Proposal, change};
use super::update::{namespace_finalizers, outcome};
use super::{Caller, Outcome, check_preconditions};
use crate::admission::{namespace, service};
use crate::document::stored_kind;
use crate::params;
use crate::route::Target;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// A pod's grace where neither request nor specification says: Kubernetes' default.
const DEFAULT_GRACE_SECONDS: i64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: String,
    pub resource_version: String,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From a DeleteOptions object (or null) and query parameters, which Kubernetes takes only without a body.
    pub fn parse(body: &Value, params: &params::Params) -> Result<DeleteOptions, Status> {
        let mut options = DeleteOptions::default();
        let field = |name: &str| body.get(name).filter(|value| !value.is_null());
        if body.is_object() {
            let kind = meta::kind(body);
            if !kind.is_empty() && kind != "DeleteOptions" {
                return Err(Status::bad_request(format!(
                    "decoded object cannot be converted to DeleteOptions: {kind}"
                )));
            }
            if let Some(grace) = field("gracePeriodSeconds") {
                options.grace_seconds = Some(
                    grace
                        .as_i64()
                        .ok_or_else(|| wrong("gracePeriodSeconds", "a number"))?,
                );
            }
            if let Some(policy) = field("propagationPolicy") {
                let policy = policy
                    .as_str()
                    .ok_or_else(|| wrong("propagationPolicy", "a string"))?;
                options.propagation = Some(propagation(policy)?);
            }
            if let Some(orphan) = field("orphanDependents") {
                let orphan = orphan
                    .as_bool()
                    .ok_or_else(|| wrong("orphanDependents", "a boolean"))?;
                options.set_orphan(orphan)?;
            }
            if let Some(preconditions) = field("preconditions") {
                let text = |name: &str| {
                    preconditions
                        .get(name)
                        .and_then(Value::as_str)
                        .unwrap_or("")
                        .to_owned()
                };
                options.uid = text("uid");
                options.resource_version = text("resourceVersion");
            }
            let dry_run: Vec<String> = field("dryRun")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|value| value.as_str().unwrap_or("?").to_owned())
                .collect();
            options.dry_run = params::dry_run("DeleteOptions", &dry_run)?;
        } else {
            if let Some(grace) = params.number("gracePeriodSeconds")? {
                options.grace_seconds = Some(i64::try_from(grace).unwrap_or(i64::MAX));
            }
            if params.has("propagationPolicy") {
                options.propagation = Some(propagation(params.text("propagationPolicy"))?);
            }
            if let Some(orphan) = params.optional_flag("orphanDependents") {
                options.set_orphan(orphan)?;
            }
        }
        options.dry_run |= params::dry_run("DeleteOptions", params.all("dryRun"))?;
        if options.grace_seconds.is_some_and(|seconds| seconds < 0) {
            return Err(Status::bad_request(
                "gracePeriodSeconds: Invalid value: must be greater than or equal to 0",
            ));
        }
        Ok(options)
    }

    fn set_orphan(&mut self, orphan: bool) -> Result<(), Status> {
        if self.propagation.is_some() {
            return Err(Status::bad_request(
                "propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        self.propagation = Some(if orphan {
            Propagation::Orphan
        } else {
            Propagation::Background
        });
        Ok(())
    }
}

fn wrong(field: &str, expected: &str) -> Status {
    Status::bad_request(format!("DeleteOptions: {field}: must be {expected}"))
}

pub(crate) fn propagation(text: &str) -> Result<Propagation, Status> {
    match text {
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        other => Err(Status::bad_request(format!(
            "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
        ))),
    }
}

pub(crate) async fn delete(
    caller: &Caller<'_>,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    caller.authorize("delete", target, None).await?;
    if target.subresource.is_some() {
        return Err(Status::method_not_allowed_here());
    }
    remove(caller, target, options).await
}

/// As [`delete`], for callers that are authorized otherwise (eviction, collections).
pub(crate) async fn remove(
    caller: &Caller<'_>,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    let changed = change(caller, target, options.dry_run, |current| {
        propose(caller, target, options, current)
    })
    .await?;
    outcome(target, changed, Vec::new())
}

fn propose(
    caller: &Caller<'_>,
    target: &Target,
    options: &DeleteOptions,
    current: &Value,
) -> Result<Proposal, Status> {
    let kind = stored_kind(target.kind);
    check_preconditions(
        target.kind,
        current,
        &options.uid,
        &options.resource_version,
    )?;
    namespace::deletable(kind, &target.name)?;
    let mut new = current.clone();
    set_propagation(&mut new, options.propagation);
    let grace = grace_seconds(kind, current, options);
    let held = !meta::finalizers(&new).is_empty()
        || *kind == *kinds::NAMESPACE && !namespace_finalizers(&new).is_empty();
    if grace == 0 && !held {
        let allocation = service::allocate(caller.api, kind, Some(current), None)?;
        return Ok(Proposal::Delete {
            last: new,
            allocation,
        });
    }
    mark(kind, &mut new, grace, caller.api.now());
    if new == *current {
        return Ok(Proposal::Unchanged);
    }
    Ok(Proposal::Put {
        object: new,
        allocation: Allocation::default(),
    })
}

fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let mut finalizers = meta::finalizers(object);
    finalizers.retain(|one| one != FOREGROUND && one != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
    }
    meta::set_finalizers(object, &finalizers);
}

/// How long the object may still live. Only pods have something to wind down, and only on a node.
fn grace_seconds(kind: &Kind, current: &Value, options: &DeleteOptions) -> i64 {
    if *kind != *kinds::POD {
        return 0;
    }
    let spec = current.get("spec");
    let text = |half: &str, field: &str| {
        current
            .get(half)
            .and_then(|half| half.get(field))
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let ended = matches!(text("status", "phase").as_str(), "Succeeded" | "Failed");
    if text("spec", "nodeName").is_empty() || ended {
        return 0;
    }
    options
        .grace_seconds
        .or_else(|| spec?.get("terminationGracePeriodSeconds")?.as_i64())
        .unwrap_or(DEFAULT_GRACE_SECONDS)
        .max(0)
}

/// Marks for deletion. A second request may only shorten the grace.
fn mark(kind: &Kind, object: &mut Value, grace: i64, now: Timestamp) {
    let began = match (
        meta::deletion_timestamp(object),
        meta::deletion_grace_period_seconds(object),
    ) {
        (Some(at), earlier) => {
            let earlier = earlier.unwrap_or(0);
            if grace >= earlier {
                return;
            }
            let at: Timestamp = at.parse().unwrap_or(now);
            at.checked_sub(SignedDuration::from_secs(earlier))
                .unwrap_or(now)
        }
        (None, _) => {
            let generation = meta::generation(object);
            if generation > 0 {
                meta::set_generation(object, generation + 1);
            }
            now
        }
    };
    let at = began
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    meta::set_deletion(object, at, grace);
    if *kind == *kinds::NAMESPACE {
        object["status"]["phase"] = "Terminating".into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn grace_is_only_shortened() {
        let mut pod = json!({"metadata": {"name": "a", "generation": 1}});
        mark(kinds::POD, &mut pod, 30, at(1000));
        assert_eq!(meta::deletion_timestamp(&pod), Some("1970-01-01T00:17:10Z"));
        assert_eq!(meta::generation(&pod), 2);
        let marked = pod.clone();
        mark(kinds::POD, &mut pod, 60, at(1005));
        assert_eq!(pod, marked);
        mark(kinds::POD, &mut pod, 5, at(1005));
        assert_eq!(meta::deletion_timestamp(&pod), Some("1970-01-01T00:16:45Z"));
        assert_eq!(meta::deletion_grace_period_seconds(&pod), Some(5));
        assert_eq!(meta::generation(&pod), 2);
    }

    #[test]
    fn only_pods_on_a_node_have_grace() {
        let options = DeleteOptions::default();
        let scheduled = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        assert_eq!(grace_seconds(kinds::POD, &scheduled, &options), 7);
        assert_eq!(grace_seconds(kinds::POD, &json!({"spec": {}}), &options), 0);
        assert_eq!(grace_seconds(kinds::SERVICE, &scheduled, &options), 0);
        let now = DeleteOptions {
            grace_seconds: Some(0),
            ..DeleteOptions::default()
        };
        assert_eq!(grace_seconds(kinds::POD, &scheduled, &now), 0);
    }

    #[test]
    fn options_come_in_the_body_or_the_query() {
        let parse = |body: Value, query: &str| {
            DeleteOptions::parse(&body, &params::Params::parse(Some(query)))
                .map_err(|status| status.code)
        };
        let options = parse(
            json!({"gracePeriodSeconds": 3, "propagationPolicy": "Foreground",
            "preconditions": {"uid": "u"}, "dryRun": ["All"]}),
            "",
        )
        .unwrap();
        assert_eq!(
            (options.grace_seconds, options.uid.as_str(), options.dry_run),
            (Some(3), "u", true)
        );
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!(
            parse(Value::Null, "gracePeriodSeconds=4")
                .unwrap()
                .grace_seconds,
            Some(4)
        );
        assert_eq!(
            parse(json!({"propagationPolicy": "Sideways"}), "").err(),
            Some(400)
        );
        assert_eq!(
            parse(json!({"gracePeriodSeconds": "x"}), "").err(),
            Some(400)
        );
        assert_eq!(parse(json!({"kind": "Pod"}), "").err(), Some(400));
    }
}
