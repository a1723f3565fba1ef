//! Change one object by a patch, or by server-side apply.

use trireme_model::status::Status;
use trireme_model::{Value, apply, meta, patch, schema, strategy};

use super::change::{change, pause};
use super::create::{Track, check_type, create_checked, not_an_object, place};
use super::update::{Edit, check_scale, outcome, scale_outcome};
use super::{Caller, Outcome};
use crate::document::{inward, outward, stored_kind};
use crate::params::WriteOptions;
use crate::route::Target;
use crate::store::Freshness;

/// Tries of an apply that finds the object made and deleted by others in turn.
const MAX_APPLY_ATTEMPTS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
}

pub(crate) struct PatchRequest {
    pub target: Target,
    pub patch_type: PatchType,
    pub patch: Value,
    pub duplicates: Vec<String>,
    pub options: WriteOptions,
}

pub(crate) async fn patch(caller: &Caller<'_>, request: PatchRequest) -> Result<Outcome, Status> {
    let PatchRequest {
        target,
        patch_type,
        patch,
        duplicates,
        options,
    } = request;
    caller.authorize("patch", &target, None).await?;
    let edit = Edit {
        caller,
        target: &target,
        options: &options,
        track: true,
    };
    let kind = target.kind;
    let mut warnings = Vec::new();
    if target.part() == "scale" {
        let changed = change(caller, &target, options.dry_run, |current| {
            let mut scale = patched(kind, patch_type, &strategy::scale_of(current), &patch)?;
            warnings = check_scale(&mut scale, duplicates.clone(), &options)?;
            edit.propose_scale(current, &scale)
        })
        .await?;
        return scale_outcome(changed, warnings);
    }
    let changed = change(caller, &target, options.dry_run, |current| {
        let mut shown = current.clone();
        outward(kind, &mut shown);
        let mut new = patched(kind, patch_type, &shown, &patch)?;
        check_type(kind, &new)?;
        warnings = schema::check_parsed(kind, &mut new, duplicates.clone(), options.validation)?;
        inward(kind, &mut new);
        edit.propose(current, new, &mut warnings)
    })
    .await?;
    outcome(&target, changed, warnings)
}

fn patched(
    kind: &'static trireme_model::kinds::Kind,
    patch_type: PatchType,
    object: &Value,
    by: &Value,
) -> Result<Value, Status> {
    match patch_type {
        PatchType::Json => patch::json(object, by),
        PatchType::Merge => patch::merge(object, by),
        PatchType::Strategic => patch::strategic(kind, object, by),
    }
}

pub(crate) struct ApplyRequest {
    pub target: Target,
    pub object: Value,
    pub duplicates: Vec<String>,
    pub options: WriteOptions,
}

/// Server-side apply: creates the object where it is missing.
pub(crate) async fn server_side(
    caller: &Caller<'_>,
    request: ApplyRequest,
) -> Result<Outcome, Status> {
    let ApplyRequest {
        target,
        mut object,
        duplicates,
        options,
    } = request;
    caller.authorize("patch", &target, None).await?;
    if !object.is_object() {
        return Err(not_an_object(&object));
    }
    if target.part() == "scale" {
        let patch_type = PatchType::Merge;
        return Box::pin(patch(
            caller,
            PatchRequest {
                target,
                patch_type,
                patch: object,
                duplicates,
                options,
            },
        ))
        .await;
    }
    check_type(target.kind, &object)?;
    let mut warnings =
        schema::check_parsed(target.kind, &mut object, duplicates, options.validation)?;
    inward(target.kind, &mut object);
    let kind = stored_kind(target.kind);
    if meta::name(&object).is_empty() {
        meta::set_name(&mut object, &target.name);
    } else if meta::name(&object) != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta::name(&object),
            target.name
        )));
    }
    place(&target, &mut object)?;
    let edit = Edit {
        caller,
        target: &target,
        options: &options,
        track: false,
    };
    for attempt in 0..MAX_APPLY_ATTEMPTS {
        let result = change(caller, &target, options.dry_run, |current| {
            let now = caller.api.now();
            let (manager, force) = (&options.field_manager, options.force);
            let new = apply::apply_subresource(
                kind,
                Some(current),
                &object,
                manager,
                target.part(),
                force,
                now,
            )?;
            edit.propose(current, new, &mut warnings)
        })
        .await;
        match result {
            Err(status)
                if status.code == 404
                    && target.part().is_empty()
                    && is_missing(caller, &target)? => {}
            other => return outcome(&target, other?, warnings),
        }
        caller.authorize("create", &target, None).await?;
        let now = caller.api.now();
        let new = apply::apply(
            kind,
            None,
            &object,
            &options.field_manager,
            options.force,
            now,
        )?;
        let made = create_checked(caller, target.clone(), new, &options, Track::Applied).await;
        match made {
            // Someone else made it first: apply to that.
            Err(status) if status.reason == "AlreadyExists" => pause(attempt).await,
            Err(status) => return Err(status),
            Ok(mut made) => {
                made.warnings.splice(0..0, warnings);
                return Ok(made);
            }
        }
    }
    caller.api.store.fresh(Freshness::Linearizable).await?;
    Err(Status::modified(target.kind, &target.name))
}

fn is_missing(caller: &Caller<'_>, target: &Target) -> Result<bool, Status> {
    Ok(caller.api.store.read(&target.key())?.is_none())
}
