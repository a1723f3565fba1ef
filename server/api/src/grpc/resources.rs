//! `trireme.v1.Resources`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::json;
use tonic::{Request, Response, Status as GrpcStatus};
use trireme_model::Value;
use trireme_model::schema::FieldValidation;
use trireme_model::status::Status;
use trireme_proto::v1;
use trireme_proto::v1::patch_request::Type as PatchKind;
use trireme_proto::v1::resources_server::Resources;
use trireme_proto::v1::watch_event::Type as EventKind;

use super::status;
use crate::api::Api;
use crate::authorize::review;
use crate::body;
use crate::document::Document;
use crate::identity::Identity;
use crate::params::{WriteOptions, manager_of};
use crate::route::Target;
use crate::subresource;
use crate::verb::create::CreateRequest;
use crate::verb::delete::{DeleteOptions, propagation};
use crate::verb::list::{ListRequest, VersionMatch};
use crate::verb::patch::{ApplyRequest, PatchRequest, PatchType};
use crate::verb::update::UpdateRequest;
use crate::verb::watch::{EventType, Item, WatchRequest, Watching};
use crate::verb::{self, Caller, Outcome, Selection};

pub(super) struct Service {
    api: Arc<Api>,
}

/// Counts and times one call, and carries who makes it.
struct Call {
    api: Arc<Api>,
    identity: Identity,
    agent: String,
    verb: &'static str,
    resource: String,
    started: tokio::time::Instant,
}

impl Call {
    fn caller(&self) -> Caller<'_> {
        Caller {
            api: &self.api,
            identity: &self.identity,
        }
    }

    fn target(
        &mut self,
        resource: &Option<v1::Resource>,
        namespace: &str,
        name: &str,
    ) -> Result<Target, Status> {
        let resource = resource
            .as_ref()
            .ok_or_else(|| Status::bad_request("resource: Required value"))?;
        let v1::Resource {
            group,
            version,
            resource,
            subresource,
        } = resource;
        let target = Target::build(group, version, resource, namespace, name, subresource)?;
        self.resource = match target.part() {
            "" => target.kind.plural.to_owned(),
            part => format!("{}/{part}", target.kind.plural),
        };
        Ok(target)
    }

    /// A target that names one object.
    fn object(
        &mut self,
        resource: &Option<v1::Resource>,
        namespace: &str,
        name: &str,
    ) -> Result<Target, Status> {
        let target = self.target(resource, namespace, name)?;
        if target.name.is_empty() {
            return Err(Status::bad_request("name: Required value"));
        }
        if target.kind.namespaced && target.namespace.is_none() {
            return Err(Status::bad_request("namespace: Required value"));
        }
        Ok(target)
    }

    fn options(&self, dry_run: bool, field_manager: String, force: bool) -> WriteOptions {
        let field_manager = if field_manager.is_empty() {
            manager_of(&self.agent)
        } else {
            field_manager
        };
        WriteOptions {
            dry_run,
            field_manager,
            validation: FieldValidation::Strict,
            force,
        }
    }

    fn done<T>(self, result: Result<T, Status>) -> Result<Response<T>, GrpcStatus> {
        let code = result.as_ref().map_or_else(|status| status.code, |_| 200);
        self.api
            .metrics
            .record(self.verb, &self.resource, code, self.started.elapsed());
        result.map(Response::new).map_err(|error| status(&error))
    }
}

fn object_of(object: Option<v1::Object>) -> Result<body::Decoded, Status> {
    let object = object.ok_or_else(|| Status::bad_request("object: Required value"))?;
    body::decode_json(&object.json)
}

fn message(document: &Document) -> v1::Object {
    v1::Object {
        json: Bytes::from(document.to_json()),
    }
}

fn value_message(value: &Value) -> v1::Object {
    v1::Object {
        json: Bytes::from(value.to_string()),
    }
}

fn written(outcome: Outcome) -> v1::Object {
    message(&outcome.document)
}

impl Service {
    pub fn new(api: Arc<Api>) -> Service {
        Service { api }
    }

    fn call<T>(&self, verb: &'static str, request: Request<T>) -> (Call, T) {
        let identity = request
            .extensions()
            .get::<Identity>()
            .cloned()
            .unwrap_or_else(Identity::anonymous);
        let agent = request
            .metadata()
            .get("user-agent")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned();
        let call = Call {
            api: self.api.clone(),
            identity,
            agent,
            verb,
            resource: String::new(),
            started: tokio::time::Instant::now(),
        };
        (call, request.into_inner())
    }

    /// The same limit of time as over REST.
    async fn limited<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let limit = self.api.config.limits.request_timeout;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Status::timeout(
                format!(
                    "request did not complete within the allotted {} s",
                    limit.as_secs()
                ),
                0,
            ))
        })
    }
}

async fn create(call: &mut Call, request: v1::CreateRequest) -> Result<v1::Object, Status> {
    let target = call.target(&request.resource, &request.namespace, &request.name)?;
    let decoded = object_of(request.object)?;
    let caller = call.caller();
    if target.kind.is_virtual() {
        return Ok(value_message(
            &review::answer(&caller, target.kind, decoded.object).await?,
        ));
    }
    let answer = match target.part() {
        "" => {
            let target = Target {
                name: String::new(),
                ..target
            };
            let options = call.options(request.dry_run, request.field_manager, false);
            let request = CreateRequest {
                target,
                object: decoded.object,
                duplicates: decoded.duplicates,
                options,
            };
            return verb::create::create(&caller, request).await.map(written);
        }
        _ if target.name.is_empty() => return Err(Status::bad_request("name: Required value")),
        "binding" => {
            subresource::binding::bind(&caller, &target, decoded.object, request.dry_run).await?
        }
        "eviction" => {
            subresource::eviction::evict(&caller, &target, decoded.object, request.dry_run).await?
        }
        "token" => subresource::token::request(&caller, &target, decoded.object).await?,
        _ => return Err(Status::method_not_allowed_here()),
    };
    Ok(value_message(&answer))
}

async fn list(call: &mut Call, request: v1::ListRequest) -> Result<v1::ListReply, Status> {
    let target = call.target(&request.resource, &request.namespace, "")?;
    let selection = Selection::parse(
        target.kind,
        &request.label_selector,
        &request.field_selector,
    )?;
    let listing = verb::list::list(
        &call.caller(),
        &ListRequest {
            target,
            selection,
            limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
            continue_token: request.r#continue,
            resource_version: request.resource_version,
            version_match: VersionMatch::Unset,
        },
    )
    .await?;
    Ok(v1::ListReply {
        resource_version: listing.revision.to_string(),
        r#continue: listing.continue_token,
        items: listing.items.iter().map(message).collect(),
    })
}

async fn update(call: &mut Call, request: v1::UpdateRequest) -> Result<v1::Object, Status> {
    let target = call.object(&request.resource, &request.namespace, &request.name)?;
    let decoded = object_of(request.object)?;
    let options = call.options(request.dry_run, request.field_manager, false);
    let request = UpdateRequest {
        target,
        object: decoded.object,
        duplicates: decoded.duplicates,
        options,
    };
    verb::update::update(&call.caller(), request)
        .await
        .map(written)
}

async fn patch(call: &mut Call, request: v1::PatchRequest) -> Result<v1::Object, Status> {
    let target = call.object(&request.resource, &request.namespace, &request.name)?;
    let patch_type = match PatchKind::try_from(request.r#type) {
        Ok(PatchKind::Json) => PatchType::Json,
        Ok(PatchKind::Merge) => PatchType::Merge,
        Ok(PatchKind::StrategicMerge) => PatchType::Strategic,
        Ok(PatchKind::Unspecified) | Err(_) => {
            return Err(Status::bad_request("type: Required value"));
        }
    };
    let decoded = body::decode_json(&request.patch)?;
    let options = call.options(request.dry_run, request.field_manager, false);
    let request = PatchRequest {
        target,
        patch_type,
        patch: decoded.object,
        duplicates: decoded.duplicates,
        options,
    };
    verb::patch::patch(&call.caller(), request)
        .await
        .map(written)
}

async fn apply(call: &mut Call, request: v1::ApplyRequest) -> Result<v1::Object, Status> {
    let target = call.object(&request.resource, &request.namespace, &request.name)?;
    if request.field_manager.is_empty() {
        return Err(Status::bad_request(
            "field_manager: Required value: is required for apply",
        ));
    }
    let decoded = object_of(request.object)?;
    let options = call.options(request.dry_run, request.field_manager, request.force);
    let request = ApplyRequest {
        target,
        object: decoded.object,
        duplicates: decoded.duplicates,
        options,
    };
    verb::patch::server_side(&call.caller(), request)
        .await
        .map(written)
}

async fn delete(call: &mut Call, request: v1::DeleteRequest) -> Result<v1::DeleteReply, Status> {
    let target = call.object(&request.resource, &request.namespace, &request.name)?;
    let propagation = match request.propagation_policy.as_str() {
        "" => None,
        policy => Some(propagation(policy)?),
    };
    let options = DeleteOptions {
        grace_seconds: request
            .grace_period_seconds
            .map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        propagation,
        uid: request.uid,
        resource_version: request.resource_version,
        dry_run: false,
    };
    let outcome = verb::delete::delete(&call.caller(), &target, &options).await?;
    Ok(v1::DeleteReply {
        deleted: outcome.deleted,
        object: Some(written(outcome)),
    })
}

async fn watch(call: &mut Call, request: v1::WatchRequest) -> Result<Watching, Status> {
    let target = call.target(&request.resource, &request.namespace, "")?;
    let selection = Selection::parse(
        target.kind,
        &request.label_selector,
        &request.field_selector,
    )?;
    // Without a version the watch begins with what there is, and says where that ends.
    let initial = request.resource_version.is_empty();
    let request = WatchRequest {
        target,
        selection,
        resource_version: request.resource_version,
        version_match: if initial {
            VersionMatch::NotOlderThan
        } else {
            VersionMatch::Unset
        },
        send_initial_events: initial.then_some(true),
        bookmarks: request.bookmarks,
        timeout: None,
    };
    verb::watch::watch(&call.caller(), request).await
}

fn event(kind: &trireme_model::kinds::Kind, item: &Item) -> Result<v1::WatchEvent, Status> {
    let (event_type, object) = match item {
        Item::Initial(document) => (EventKind::Added, message(document)),
        Item::Event { event_type, shared } => {
            let kind = match event_type {
                EventType::Added => EventKind::Added,
                EventType::Modified => EventKind::Modified,
                EventType::Deleted => EventKind::Deleted,
            };
            (kind, message(&shared.document(*event_type)?))
        }
        Item::Bookmark {
            revision,
            initial_events_end,
        } => {
            let mut metadata = json!({ "resourceVersion": revision.to_string() });
            if *initial_events_end {
                metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
            }
            let object = json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata });
            (EventKind::Bookmark, value_message(&object))
        }
        Item::Error(status) => (EventKind::Error, value_message(&status.to_value())),
    };
    Ok(v1::WatchEvent {
        r#type: event_type.into(),
        object: Some(object),
    })
}

#[tonic::async_trait]
impl Resources for Service {
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Object>, GrpcStatus> {
        let (mut call, request) = self.call("get", request);
        let result = self
            .limited(async {
                let target = call.object(&request.resource, &request.namespace, &request.name)?;
                let document =
                    verb::get::get(&call.caller(), &target, &request.resource_version).await?;
                Ok(message(&document))
            })
            .await;
        call.done(result)
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListReply>, GrpcStatus> {
        let (mut call, request) = self.call("list", request);
        let result = self.limited(list(&mut call, request)).await;
        call.done(result)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, GrpcStatus>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, GrpcStatus> {
        let (mut call, request) = self.call("watch", request);
        let result = self.limited(watch(&mut call, request)).await;
        let result = result.map(|watching| -> Self::WatchStream {
            let batches = futures_util::stream::unfold(watching, |mut watching| async move {
                let items = watching.next().await?;
                let kind = watching.kind;
                let events: Vec<Result<v1::WatchEvent, GrpcStatus>> = items
                    .iter()
                    .map(|item| event(kind, item).map_err(|error| status(&error)))
                    .collect();
                Some((futures_util::stream::iter(events), watching))
            });
            Box::pin(batches.flatten())
        });
        call.done(result)
    }

    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::Object>, GrpcStatus> {
        let (mut call, request) = self.call("create", request);
        let result = self.limited(create(&mut call, request)).await;
        call.done(result)
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::Object>, GrpcStatus> {
        let (mut call, request) = self.call("update", request);
        let result = self.limited(update(&mut call, request)).await;
        call.done(result)
    }

    async fn patch(
        &self,
        request: Request<v1::PatchRequest>,
    ) -> Result<Response<v1::Object>, GrpcStatus> {
        let (mut call, request) = self.call("patch", request);
        let result = self.limited(patch(&mut call, request)).await;
        call.done(result)
    }

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::Object>, GrpcStatus> {
        let (mut call, request) = self.call("apply", request);
        let result = self.limited(apply(&mut call, request)).await;
        call.done(result)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteReply>, GrpcStatus> {
        let (mut call, request) = self.call("delete", request);
        let result = self.limited(delete(&mut call, request)).await;
        call.done(result)
    }
}
