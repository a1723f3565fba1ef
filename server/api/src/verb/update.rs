//! Replace one object, or a part of it.

use trireme_model::kinds;
use trireme_model::status::{FieldError, Status};
use trireme_model::{Value, apply, defaults, meta, schema, strategy, validate};

use super::change::{Allocation, Changed, Proposal, change, pause, same};
use super::create::{Track, check_type, check_type_of, create_checked, not_an_object, place};
use super::{Caller, Outcome, check_preconditions};
use crate::admission::{self, service};
use crate::authorize::escalation;
use crate::document::{Document, inward, outward, stored_kind};
use crate::params::WriteOptions;
use crate::route::Target;

/// Tries of an update that finds the object made and deleted by others in turn.
const MAX_CREATE_ATTEMPTS: u32 = 8;

pub(crate) struct UpdateRequest {
    pub target: Target,
    pub object: Value,
    pub duplicates: Vec<String>,
    pub options: WriteOptions,
}

pub(crate) async fn update(caller: &Caller<'_>, request: UpdateRequest) -> Result<Outcome, Status> {
    let UpdateRequest {
        target,
        mut object,
        duplicates,
        options,
    } = request;
    caller.authorize("update", &target, None).await?;
    if !object.is_object() {
        return Err(not_an_object(&object));
    }
    if target.part() == "scale" {
        return update_scale(caller, target, object, duplicates, options).await;
    }
    check_type(target.kind, &object)?;
    let mut warnings =
        schema::check_parsed(target.kind, &mut object, duplicates, options.validation)?;
    inward(target.kind, &mut object);
    let edit = Edit {
        caller,
        target: &target,
        options: &options,
        track: true,
    };
    let creates = target.part().is_empty() && strategy::creates_on_update(stored_kind(target.kind));
    for attempt in 0..MAX_CREATE_ATTEMPTS {
        let result = change(caller, &target, options.dry_run, |current| {
            check_version(&target, &object)?;
            edit.propose(current, object.clone(), &mut warnings)
        })
        .await;
        let missing = matches!(&result, Err(status) if status.code == 404)
            && caller.api.store.read(&target.key())?.is_none();
        if !(creates && missing) {
            return outcome(&target, result?, warnings);
        }
        caller.authorize("create", &target, None).await?;
        edit.check_identity(&mut object)?;
        // A uid says that one certain object was meant; a version does not, as in Kubernetes.
        let nothing = serde_json::json!({ "metadata": { "name": target.name } });
        check_preconditions(target.kind, &nothing, meta::uid(&object), "")?;
        let mut new = object.clone();
        meta::clear_resource_version(&mut new);
        match create_checked(caller, target.clone(), new, &options, Track::Update).await {
            // Someone else made it first: update that.
            Err(status) if status.reason == "AlreadyExists" => pause(attempt).await,
            Err(status) => return Err(status),
            Ok(mut made) => {
                made.warnings.splice(0..0, warnings);
                return Ok(made);
            }
        }
    }
    Err(Status::modified(target.kind, &target.name))
}

/// Refuses an update of a kind that must name the version it replaces, and does not.
fn check_version(target: &Target, object: &Value) -> Result<(), Status> {
    if strategy::needs_version_on_update(target.kind) && meta::resource_version(object).is_empty() {
        let error = FieldError::invalid(
            "metadata.resourceVersion",
            0,
            "must be specified for an update",
        );
        // Kubernetes names the resource where it otherwise names the kind.
        let (group, plural) = (target.kind.group, target.kind.plural);
        return Err(Status::invalid_kind(
            group,
            plural,
            &target.name,
            vec![error],
        ));
    }
    Ok(())
}

async fn update_scale(
    caller: &Caller<'_>,
    target: Target,
    mut scale: Value,
    duplicates: Vec<String>,
    options: WriteOptions,
) -> Result<Outcome, Status> {
    let warnings = check_scale(&mut scale, duplicates, &options)?;
    let edit = Edit {
        caller,
        target: &target,
        options: &options,
        track: true,
    };
    let changed = change(caller, &target, options.dry_run, |current| {
        edit.propose_scale(current, &scale)
    })
    .await?;
    scale_outcome(changed, warnings)
}

pub(crate) fn check_scale(
    scale: &mut Value,
    duplicates: Vec<String>,
    options: &WriteOptions,
) -> Result<Vec<String>, Status> {
    check_type_of("autoscaling/v1", "Scale", scale)?;
    schema::check_type(
        "io.k8s.api.autoscaling.v1.Scale",
        "v1",
        scale,
        duplicates,
        options.validation,
    )
}

/// What a write of an object answers with.
pub(crate) fn outcome(
    target: &Target,
    changed: Changed,
    mut warnings: Vec<String>,
) -> Result<Outcome, Status> {
    // A decision that was made twice warned twice.
    let mut seen = Vec::new();
    warnings.retain(|warning| {
        let new = !seen.contains(warning);
        if new {
            seen.push(warning.clone());
        }
        new
    });
    let (document, deleted) = match changed {
        Changed::Stored(stored) => (Document::of(target.kind, stored)?, false),
        Changed::DryRun(mut value) => {
            outward(target.kind, &mut value);
            (Document::Value(value), false)
        }
        Changed::Deleted(mut value) => {
            outward(target.kind, &mut value);
            (Document::Value(value), true)
        }
    };
    Ok(Outcome {
        document,
        warnings,
        created: false,
        deleted,
    })
}

pub(crate) fn scale_outcome(changed: Changed, warnings: Vec<String>) -> Result<Outcome, Status> {
    let value = match changed {
        Changed::Stored(stored) => stored.value()?,
        Changed::DryRun(value) | Changed::Deleted(value) => value,
    };
    Ok(Outcome {
        warnings,
        ..Outcome::of(Document::Value(strategy::scale_of(&value)))
    })
}

/// Brings a wanted object (in stored form, types checked) through strategy, admission and validation.
pub(crate) struct Edit<'a> {
    pub caller: &'a Caller<'a>,
    pub target: &'a Target,
    pub options: &'a WriteOptions,
    /// False when server-side apply has accounted the fields to their manager already.
    pub track: bool,
}

impl Edit<'_> {
    pub fn propose(
        &self,
        current: &Value,
        mut new: Value,
        warnings: &mut Vec<String>,
    ) -> Result<Proposal, Status> {
        let kind = stored_kind(self.target.kind);
        let now = self.caller.api.now();
        self.check_identity(&mut new)?;
        check_preconditions(self.target.kind, current, meta::uid(&new), "")?;
        let version = meta::resource_version(&new);
        if !version.is_empty() && version != meta::resource_version(current) {
            return Err(Status::modified(self.target.kind, &self.target.name));
        }
        let part = self.target.part();
        match part {
            "" => {
                defaults::apply(kind, &mut new);
                strategy::prepare_update(kind, &mut new, current);
                warnings.extend(admission::update(self.caller, kind, &mut new, current)?);
            }
            "status" => {
                strategy::prepare_status_update(kind, &mut new, current);
            }
            "finalize" => strategy::prepare_finalize(&mut new, current),
            "ephemeralcontainers" => {
                keep_all_but_ephemeral(&mut new, current);
                defaults::apply(kind, &mut new);
            }
            _ => return Err(Status::method_not_allowed_here()),
        }
        if self.track {
            apply::track(
                kind,
                Some(current),
                &mut new,
                &self.options.field_manager,
                part,
                now,
            );
        }
        // Nothing to check where nothing changes: rules may have been tightened since.
        if same(&new, current) {
            return Ok(Proposal::Unchanged);
        }
        let allocation = match part {
            "" => service::allocate(self.caller.api, kind, Some(current), Some(&mut new))?,
            _ => Allocation::default(),
        };
        let errors = match part {
            "" => validate::update(kind, &new, current),
            "status" => validate::status_update(kind, &new, current),
            "ephemeralcontainers" => validate::ephemeral_containers_update(&new, current),
            _ => Vec::new(),
        };
        if !errors.is_empty() {
            return Err(Status::invalid(self.target.kind, &self.target.name, errors));
        }
        if part.is_empty() && !same_rules(&new, current) {
            escalation::check(
                &self.caller.api.authorizer,
                self.caller.identity,
                kind,
                &new,
            )?;
        }
        finish(self.caller, self.target, new, allocation)
    }

    pub fn propose_scale(&self, current: &Value, scale: &Value) -> Result<Proposal, Status> {
        let mut new = current.clone();
        let mut named = scale.clone();
        self.check_identity(&mut named)?;
        check_preconditions(self.target.kind, current, meta::uid(scale), "")?;
        let replicas = scale
            .get("spec")
            .and_then(|spec| spec.get("replicas"))
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if replicas < 0 {
            let error = trireme_model::status::FieldError::invalid(
                "spec.replicas",
                replicas,
                "must be greater than or equal to 0",
            );
            return Err(Status::invalid_kind(
                "autoscaling",
                "Scale",
                &self.target.name,
                vec![error],
            ));
        }
        let version = meta::resource_version(scale);
        if !version.is_empty() && version != meta::resource_version(current) {
            return Err(Status::modified(self.target.kind, &self.target.name));
        }
        strategy::merge_scale(&mut new, scale);
        strategy::prepare_update(self.target.kind, &mut new, current);
        let manager = &self.options.field_manager;
        apply::track(
            self.target.kind,
            Some(current),
            &mut new,
            manager,
            "scale",
            self.caller.api.now(),
        );
        if same(&new, current) {
            return Ok(Proposal::Unchanged);
        }
        let errors = validate::update(self.target.kind, &new, current);
        if !errors.is_empty() {
            return Err(Status::invalid(self.target.kind, &self.target.name, errors));
        }
        finish(self.caller, self.target, new, Allocation::default())
    }

    fn check_identity(&self, new: &mut Value) -> Result<(), Status> {
        let (name, url) = (meta::name(new), &self.target.name);
        if name.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({url} based on URL) was undeterminable: name must be provided"
            )));
        }
        if name != url {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({url})"
            )));
        }
        place(self.target, new)
    }
}

fn same_rules(new: &Value, current: &Value) -> bool {
    ["rules", "roleRef", "subjects", "aggregationRule"]
        .iter()
        .all(|field| new.get(field) == current.get(field))
}

fn keep_all_but_ephemeral(new: &mut Value, current: &Value) {
    let wanted = new
        .get("spec")
        .and_then(|spec| spec.get("ephemeralContainers"))
        .cloned();
    *new = current.clone();
    if let Some(containers) = wanted {
        new["spec"]["ephemeralContainers"] = containers;
    }
}

/// An object whose deletion waited for this write goes now.
pub(crate) fn finish(
    caller: &Caller<'_>,
    target: &Target,
    new: Value,
    allocation: Allocation,
) -> Result<Proposal, Status> {
    if !deletion_complete(target, &new) {
        return Ok(Proposal::Put {
            object: new,
            allocation,
        });
    }
    let allocation = service::allocate(caller.api, stored_kind(target.kind), Some(&new), None)?;
    Ok(Proposal::Delete {
        last: new,
        allocation,
    })
}

/// Marked for deletion, and nothing holds it any longer.
pub(crate) fn deletion_complete(target: &Target, object: &Value) -> bool {
    let held = !meta::finalizers(object).is_empty()
        || *target.kind == *kinds::NAMESPACE && !namespace_finalizers(object).is_empty();
    // A pod's node, not its last finalizer, ends its grace.
    let graceful = meta::deletion_grace_period_seconds(object).is_some_and(|seconds| seconds > 0);
    meta::deletion_timestamp(object).is_some() && !held && !graceful
}

pub(crate) fn namespace_finalizers(object: &Value) -> Vec<Value> {
    object
        .get("spec")
        .and_then(|spec| spec.get("finalizers"))
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}
