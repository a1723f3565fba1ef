//! What can be done with objects. Both transports build these requests.

pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_collection;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::Arc;

use trireme_model::kinds::Kind;
use trireme_model::selector::{FieldSelector, LabelSelector};
use trireme_model::status::Status;
use trireme_model::{Value, meta};

use crate::api::Api;
use crate::authorize::Attributes;
use crate::document::Document;
use crate::identity::Identity;
use crate::route::Target;
use crate::store::Freshness;

/// On whose behalf a verb runs.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub api: &'a Arc<Api>,
    pub identity: &'a Identity,
}

impl Caller<'_> {
    /// Asks the authorizer; `selector` matters for node agents' lists.
    pub async fn authorize(
        &self,
        verb: &str,
        target: &Target,
        selector: Option<&FieldSelector>,
    ) -> Result<(), Status> {
        let attributes = Attributes {
            verb,
            group: target.kind.group,
            resource: target.kind.plural,
            subresource: target.part(),
            // A namespace is governed by rules inside itself too.
            namespace: match target.namespace.as_deref() {
                None if *target.kind == *trireme_model::kinds::NAMESPACE
                    && !target.name.is_empty() =>
                {
                    Some(&target.name)
                }
                namespace => namespace,
            },
            name: &target.name,
            path: None,
            field_selector: selector,
        };
        let decided = self.api.authorizer.check(self.identity, &attributes);
        if decided.is_ok() || self.identity.node().is_none() {
            return decided;
        }
        // What a node may see follows from its pods, which it may have met on another server first.
        self.api.store.fresh(Freshness::Linearizable).await?;
        self.api.authorizer.check(self.identity, &attributes)
    }
}

/// What a write answers with.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub document: Document,
    pub warnings: Vec<String>,
    /// The object was made by this request, or is gone by it.
    pub created: bool,
    pub deleted: bool,
}

impl Outcome {
    pub fn of(document: Document) -> Outcome {
        Outcome {
            document,
            warnings: Vec::new(),
            created: false,
            deleted: false,
        }
    }
}

/// Which objects of a collection are meant.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Selection {
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Selection, Status> {
        Ok(Selection {
            labels: LabelSelector::parse(labels).map_err(|error| {
                Status::bad_request(format!("unable to parse requirement: {error}"))
            })?,
            fields: FieldSelector::parse(kind, fields)?,
        })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(kind, object)
    }
}

/// Reads a `resourceVersion` parameter; empty and `0` have meanings of their own.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// What a `Status` says about the object's own version and uid when they are preconditions.
pub(crate) fn check_preconditions(
    kind: &Kind,
    current: &Value,
    uid: &str,
    resource_version: &str,
) -> Result<(), Status> {
    let name = meta::name(current);
    for (what, wanted, have) in [
        ("UID", uid, meta::uid(current)),
        (
            "ResourceVersion",
            resource_version,
            meta::resource_version(current),
        ),
    ] {
        if !wanted.is_empty() && wanted != have {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}"
            );
            return Err(Status::conflict(kind, name, &why));
        }
    }
    Ok(())
}
