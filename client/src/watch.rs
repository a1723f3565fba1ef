//! A watch on one server: a stream of changes until that server or the caller ends it.

use serde_json::Value;
use tonic::Streaming;
use trireme_model::kinds::Kind;
use trireme_model::status::Status;

use crate::call::Repeat;
use crate::client::{Client, decode, describe, resource, resources};
use crate::error::{Error, status_of};
use crate::v1;

#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// `None`: every namespace.
    pub namespace: Option<String>,
    pub label_selector: String,
    pub field_selector: String,
    /// Changes after this version. Empty: first every object that exists, as added.
    pub resource_version: String,
    pub bookmarks: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    Added(Value),
    Modified(Value),
    /// The object as it was last; its `resourceVersion` is the deletion's.
    Deleted(Value),
    /// Nothing up to this object's `resourceVersion` is outstanding.
    Bookmark(Value),
}

pub struct Watch {
    operation: String,
    server: String,
    stream: Streaming<v1::WatchEvent>,
}

pub(crate) async fn open(
    client: &Client,
    kind: &'static Kind,
    options: &WatchOptions,
) -> Result<Watch, Error> {
    let namespace = options.namespace.clone().unwrap_or_default();
    let operation = describe("watch", kind, &namespace, "");
    let message = v1::WatchRequest {
        resource: resource(kind, ""),
        namespace,
        label_selector: options.label_selector.clone(),
        field_selector: options.field_selector.clone(),
        resource_version: options.resource_version.clone(),
        bookmarks: options.bookmarks,
    };
    let stream = client
        .servers
        .call(&operation, Repeat::Safe, |channel, _| {
            // No deadline in the request: it would end the stream.
            let request = tonic::Request::new(message.clone());
            async move { resources(channel).watch(request).await }
        })
        .await?;
    Ok(Watch {
        operation,
        server: client.preferred_server().to_string(),
        stream,
    })
}

impl Watch {
    /// The next event; `None` when the server ended the watch in order (a timeout, a shutdown).
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        loop {
            let event = match self.stream.message().await {
                Ok(Some(event)) => event,
                Ok(None) => return None,
                Err(error) => {
                    return Some(Err(match status_of(&error) {
                        Some(status) => Error::Status(status),
                        None => Error::Lost {
                            operation: self.operation.clone(),
                            server: self.server.clone(),
                            cause: format!("{:?}: {}", error.code(), error.message()),
                        },
                    }));
                }
            };
            let kind = event.r#type();
            let object = match decode(event.object, &self.operation) {
                Ok(object) => object,
                Err(error) => return Some(Err(error)),
            };
            return Some(match kind {
                v1::watch_event::Type::Added => Ok(WatchEvent::Added(object)),
                v1::watch_event::Type::Modified => Ok(WatchEvent::Modified(object)),
                v1::watch_event::Type::Deleted => Ok(WatchEvent::Deleted(object)),
                v1::watch_event::Type::Bookmark => Ok(WatchEvent::Bookmark(object)),
                v1::watch_event::Type::Error => Err(Error::Status(
                    Status::from_value(&object)
                        .unwrap_or_else(|| Status::internal("a watch error that is not a Status")),
                )),
                // A kind of event of a newer server; it carries no change.
                v1::watch_event::Type::Unspecified => continue,
            });
        }
    }
}
