//! The life of namespaces: nothing is made in a missing or dying one, and some never die.

use serde_json::json;
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;
use trireme_model::status::Status;
use trireme_state::Revision;

use crate::api::Api;
use crate::failure;

/// Every cluster has these, and parts of it rely on them.
pub(crate) const PERMANENT: [&str; 4] =
    ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Objects may be created in this namespace, as long as it is still as it was at the revision that this
/// answers.
pub(crate) fn open(
    api: &Api,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<Revision, Status> {
    let Some(stored) = api.store.read(&kinds::NAMESPACE.key("", namespace))? else {
        return Err(failure::namespace_not_found(namespace));
    };
    if meta::deletion_timestamp(&stored.value()?).is_none() {
        return Ok(stored.mod_revision);
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut status = Status::forbidden(kind, name, &why);
    if let Some(details) = &mut status.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
    }
    Err(status)
}

pub(crate) fn deletable(kind: &Kind, name: &str) -> Result<(), Status> {
    if *kind == *kinds::NAMESPACE && PERMANENT.contains(&name) {
        return Err(Status::forbidden(
            kind,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
