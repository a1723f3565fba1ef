//! What the cluster as a whole has to say about an object on its way in: defaults that need other objects,
//! rules of namespaces, and addresses.

pub(crate) mod injection;
pub(crate) mod namespace;
mod pod;
mod reference;
pub(crate) mod service;
mod token_volume;

use trireme_model::kinds::{self, Kind};
use trireme_model::status::Status;
use trireme_model::{Value, validate};

use crate::verb::Caller;

/// Completes a new object, or refuses it. Answers warnings.
pub(crate) fn create(
    caller: &Caller<'_>,
    kind: &Kind,
    object: &mut Value,
) -> Result<Vec<String>, Status> {
    if *kind == *kinds::POD {
        return pod::admit(caller, object);
    }
    Ok(warnings(caller, kind, object))
}

/// Completes a changed object, or refuses it. Answers warnings.
pub(crate) fn update(
    caller: &Caller<'_>,
    kind: &Kind,
    new: &mut Value,
    old: &Value,
) -> Result<Vec<String>, Status> {
    if *kind == *kinds::NODE
        && let Some(node) = caller.identity.node()
    {
        // A node that could untaint itself would draw pods, and their secrets, to it.
        let taints = |object: &Value| {
            object
                .get("spec")
                .and_then(|spec| spec.get("taints"))
                .cloned()
        };
        if taints(new) != taints(old) {
            let why = format!("node {node:?} is not allowed to modify taints");
            return Err(Status::forbidden(kind, node, &why));
        }
    }
    Ok(warnings(caller, kind, new))
}

/// What is odd about an object by itself, and about what it refers to.
fn warnings(caller: &Caller<'_>, kind: &Kind, object: &Value) -> Vec<String> {
    let mut warnings = validate::warnings(kind, object);
    if kind.is_istio() {
        warnings.extend(reference::warnings(caller.api, kind, object));
    }
    warnings
}
