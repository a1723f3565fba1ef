//! `serviceaccounts/token`: a token for a service account, on request.

use jiff::SignedDuration;
use serde_json::{Value, json};
use trireme_model::kinds::POD;
use trireme_model::status::{FieldError, Status};
use trireme_model::{meta, schema};

use crate::route::Target;
use crate::store::Freshness;
use crate::token::Grant;
use crate::verb::Caller;
use crate::verb::create::check_type_of;

/// Kubernetes' bounds and default.
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

pub(crate) async fn request(
    caller: &Caller<'_>,
    target: &Target,
    mut wanted: Value,
) -> Result<Value, Status> {
    caller.authorize("create", target, None).await?;
    check_type_of("authentication.k8s.io/v1", "TokenRequest", &wanted)?;
    schema::check_type(
        "io.k8s.api.authentication.v1.TokenRequest",
        "v1",
        &mut wanted,
        Vec::new(),
        schema::FieldValidation::Ignore,
    )?;
    let api = caller.api;
    api.store.fresh(Freshness::Linearizable).await?;
    let account = api
        .store
        .read_value(&target.key())?
        .ok_or_else(|| Status::not_found(target.kind, &target.name))?;
    let spec = wanted.get("spec").cloned().unwrap_or_default();
    let seconds = spec
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    let invalid = |field: &str, value: i64, why: &str| {
        let error = FieldError::invalid(field, value, why);
        Err(Status::invalid_kind(
            "authentication.k8s.io",
            "TokenRequest",
            &target.name,
            vec![error],
        ))
    };
    if seconds < MIN_SECONDS {
        return invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > MAX_SECONDS {
        return invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    let mut audiences: Vec<String> = spec
        .get("audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(api.token_key.issuer().to_owned());
    }
    let pod = bound_pod(caller, target, &spec)?;
    let now = api.now();
    let expires = now
        .checked_add(SignedDuration::from_secs(seconds))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    let grant = Grant {
        namespace: target.namespace(),
        name: &target.name,
        uid: meta::uid(&account),
        audiences: audiences.clone(),
        expires,
        pod,
    };
    let token = api.token_key.sign(&grant, now).map_err(Status::internal)?;
    let mut answer = json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": target.name,
            "namespace": target.namespace(),
            "creationTimestamp": meta::timestamp(now),
        },
        "spec": { "audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": spec.get("boundObjectRef") },
        "status": { "token": token, "expirationTimestamp": meta::timestamp(expires) },
    });
    if answer["spec"]["boundObjectRef"].is_null()
        && let Some(spec) = answer["spec"].as_object_mut()
    {
        spec.remove("boundObjectRef");
    }
    Ok(answer)
}

/// The pod that the token is to die with.
fn bound_pod(
    caller: &Caller<'_>,
    target: &Target,
    spec: &Value,
) -> Result<Option<(String, String)>, Status> {
    let Some(reference) = spec
        .get("boundObjectRef")
        .filter(|reference| !reference.is_null())
    else {
        return match caller.identity.node() {
            // A node's tokens are for its pods, and end with them.
            Some(node) => {
                let why = format!("node {node:?} requested a token that is not bound to a pod");
                Err(Status::forbidden(target.kind, &target.name, &why))
            }
            None => Ok(None),
        };
    };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or("");
    if text("kind") != "Pod" {
        return Err(Status::bad_request(format!(
            "cannot bind token to object of type {}: only pods are supported",
            text("kind")
        )));
    }
    let name = text("name");
    let pod = caller
        .api
        .store
        .read_value(&POD.key(target.namespace(), name))?
        .ok_or_else(|| Status::not_found(POD, name))?;
    if !text("uid").is_empty() && text("uid") != meta::uid(&pod) {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record",
            text("uid")
        );
        return Err(Status::conflict(POD, name, &why));
    }
    let of = |field: &str| {
        pod.get("spec")
            .and_then(|spec| spec.get(field))
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    if of("serviceAccountName") != target.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            target.name
        )));
    }
    if let Some(node) = caller.identity.node()
        && of("nodeName") != node
    {
        let why =
            format!("node {node:?} requested a token bound to a pod scheduled on a different node");
        return Err(Status::forbidden(target.kind, &target.name, &why));
    }
    Ok(Some((name.to_owned(), meta::uid(&pod).to_owned())))
}
