//! A watch as the lines of an HTTP response.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use trireme_model::status::Status;
use trireme_model::table;

use crate::api::Api;
use crate::respond::{Body, BodyError, Shape};
use crate::shape;
use crate::verb::watch::{EventType, Item, Watching, frame};

/// The bookmark behind the last initial event carries it.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Lines {
    api: Arc<Api>,
    watching: Watching,
    shape: Shape,
    include: String,
    /// Tables name their columns only once in a stream.
    columns_sent: bool,
    ended: bool,
}

pub(crate) fn respond(
    api: Arc<Api>,
    watching: Watching,
    shape: Shape,
    include: String,
) -> Result<Response<Body>, Status> {
    let lines = Lines {
        api,
        watching,
        shape,
        include,
        columns_sent: false,
        ended: false,
    };
    let stream = futures_util::stream::unfold(lines, |mut lines| async move {
        let bytes = lines.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(bytes)), lines))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let items = self.watching.next().await?;
        // One event is the usual case: its shared frame goes out without a copy.
        if let [Item::Event { event_type, shared }] = items.as_slice()
            && self.shape == Shape::Whole
        {
            return Some(
                shared
                    .frame(*event_type)
                    .unwrap_or_else(|status| self.error(&status)),
            );
        }
        let mut out = BytesMut::new();
        for item in &items {
            match self.line(item) {
                Ok(line) => out.extend_from_slice(&line),
                Err(status) => {
                    out.extend_from_slice(&self.error(&status));
                    break;
                }
            }
        }
        Some(out.freeze())
    }

    fn line(&mut self, item: &Item) -> Result<Bytes, Status> {
        match item {
            Item::Initial(document) if self.shape == Shape::Whole => {
                Ok(frame(EventType::Added.name(), document))
            }
            Item::Initial(document) => self.shaped(EventType::Added.name(), document.value()?),
            Item::Event { event_type, shared } if self.shape == Shape::Whole => {
                shared.frame(*event_type)
            }
            Item::Event { event_type, shared } => self.shaped(
                event_type.name(),
                shared.document(*event_type)?.into_value()?,
            ),
            Item::Bookmark {
                revision,
                initial_events_end,
            } => {
                let mut metadata = json!({ "resourceVersion": revision.to_string() });
                if *initial_events_end {
                    metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
                }
                Ok(self.bookmark(metadata))
            }
            Item::Error(status) => Ok(self.error(status)),
        }
    }

    fn shaped(&mut self, event_type: &str, object: Value) -> Result<Bytes, Status> {
        let object = match self.shape {
            Shape::Metadata => table::partial_metadata(&object),
            _ => {
                let list_meta =
                    json!({ "resourceVersion": trireme_model::meta::resource_version(&object) });
                let include = shape::include(&self.include);
                let mut table = table::table(
                    self.watching.kind,
                    &[object],
                    include,
                    self.api.now(),
                    list_meta,
                );
                if self.columns_sent {
                    table["columnDefinitions"] = Value::Null;
                }
                self.columns_sent = true;
                table
            }
        };
        Ok(line_of(event_type, &object))
    }

    fn bookmark(&self, metadata: Value) -> Bytes {
        let kind = self.watching.kind;
        let object = match self.shape {
            Shape::Whole => {
                json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
            }
            Shape::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Shape::Table => {
                let row = json!({
                    "cells": [],
                    "object": { "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata },
                });
                json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": { "resourceVersion": metadata["resourceVersion"] },
                    "columnDefinitions": null,
                    "rows": [row],
                })
            }
        };
        line_of("BOOKMARK", &object)
    }

    fn error(&mut self, status: &Status) -> Bytes {
        self.ended = true;
        line_of("ERROR", &status.to_value())
    }
}

fn line_of(event_type: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{event_type}\",\"object\":{object}}}\n").into()
}
