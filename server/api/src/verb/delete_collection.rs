//! Delete every selected object of a collection.

use trireme_model::meta;
use trireme_model::status::Status;

use super::delete::{DeleteOptions, remove};
use super::list::{ListRequest, Listing, collect};
use super::{Caller, Selection};
use crate::document::Document;
use crate::route::Target;

pub(crate) async fn delete_collection(
    caller: &Caller<'_>,
    target: &Target,
    selection: Selection,
    options: &DeleteOptions,
) -> Result<Listing, Status> {
    caller
        .authorize("deletecollection", target, Some(&selection.fields))
        .await?;
    if !target.kind.has_verb("deletecollection") {
        return Err(Status::method_not_allowed_here());
    }
    let request = ListRequest {
        target: target.clone(),
        selection,
        ..ListRequest::of(target.clone())
    };
    let mut listing = collect(caller, &request).await?;
    let mut deleted = Vec::with_capacity(listing.items.len());
    for item in std::mem::take(&mut listing.items) {
        let object = item.into_value()?;
        let one = Target {
            name: meta::name(&object).to_owned(),
            ..Target::object(target.kind, meta::namespace(&object), "")
        };
        // The object that was selected, not a later one of its name.
        let options = DeleteOptions {
            uid: meta::uid(&object).to_owned(),
            ..options.clone()
        };
        match remove(caller, &one, &options).await {
            Ok(outcome) => deleted.push(Document::Value(outcome.document.into_value()?)),
            // Another got there first.
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => return Err(status),
        }
    }
    listing.items = deleted;
    Ok(listing)
}
