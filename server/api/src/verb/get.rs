//! One object.

use trireme_model::status::Status;
use trireme_model::strategy;

use super::{Caller, parse_version};
use crate::document::Document;
use crate::route::Target;
use crate::store::Freshness;

pub(crate) async fn get(
    caller: &Caller<'_>,
    target: &Target,
    resource_version: &str,
) -> Result<Document, Status> {
    caller.authorize("get", target, None).await?;
    let freshness = match parse_version(resource_version)? {
        None => Freshness::Linearizable,
        Some(0) => Freshness::Any,
        Some(revision) => Freshness::NotOlderThan(revision),
    };
    let store = &caller.api.store;
    store.fresh(freshness).await?;
    let stored = store
        .read(&target.key())?
        .ok_or_else(|| Status::not_found(target.kind, &target.name))?;
    match target.part() {
        "" | "status" | "ephemeralcontainers" => Document::of(target.kind, stored),
        "scale" => Ok(Document::Value(strategy::scale_of(&stored.value()?))),
        _ => Err(Status::method_not_allowed_here()),
    }
}
