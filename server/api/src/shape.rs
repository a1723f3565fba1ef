//! Objects and lists as whole documents, tables or metadata only.

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_model::kinds::Kind;
use trireme_model::status::Status;
use trireme_model::table::{self, IncludeObject};

use crate::document::Document;
use crate::respond::Shape;
use crate::verb::list::Listing;

/// Kubernetes ignores an `includeObject` that it does not know.
pub(crate) fn include(text: &str) -> IncludeObject {
    IncludeObject::parse(text).unwrap_or_default()
}

pub(crate) fn object(
    shape: Shape,
    kind: &Kind,
    document: &Document,
    include_object: &str,
    now: Timestamp,
) -> Result<Vec<u8>, Status> {
    match shape {
        Shape::Whole => Ok(document.to_json()),
        Shape::Table => {
            let value = document.value()?;
            let list_meta =
                json!({ "resourceVersion": trireme_model::meta::resource_version(&value) });
            let table = table::table(kind, &[value], include(include_object), now, list_meta);
            Ok(table.to_string().into_bytes())
        }
        Shape::Metadata => Ok(table::partial_metadata(&document.value()?)
            .to_string()
            .into_bytes()),
    }
}

pub(crate) fn list(
    shape: Shape,
    listing: Listing,
    include_object: &str,
    now: Timestamp,
) -> Result<Vec<u8>, Status> {
    let metadata = listing.metadata();
    match shape {
        Shape::Whole => Ok(listing.to_json()),
        Shape::Table => {
            let kind = listing.kind;
            let table = table::table(
                kind,
                &listing.values()?,
                include(include_object),
                now,
                metadata,
            );
            Ok(table.to_string().into_bytes())
        }
        Shape::Metadata => {
            let items: Vec<Value> = listing
                .values()?
                .iter()
                .map(table::partial_metadata)
                .collect();
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            });
            Ok(list.to_string().into_bytes())
        }
    }
}
