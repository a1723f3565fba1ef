//! From an HTTP request to a verb and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use trireme_model::status::Status;
use trireme_model::{Value, kinds, meta};

use crate::api::Api;
use crate::authorize::{Attributes, review};
use crate::identity::Identity;
use crate::params::{Params, WriteOptions};
use crate::respond::{self, Accepted, Body, negotiate};
use crate::route::{self, Route, Target};
use crate::verb::create::CreateRequest;
use crate::verb::delete::DeleteOptions;
use crate::verb::list::{ListRequest, parse_match};
use crate::verb::patch::{ApplyRequest, PatchRequest, PatchType};
use crate::verb::update::UpdateRequest;
use crate::verb::watch::WatchRequest;
use crate::verb::{self, Caller, Outcome, Selection};
use crate::{
    authenticate, body, document_page, failure, shape, stream_proxy, subresource, watch_body,
};

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// What a request is counted as.
struct Label {
    verb: &'static str,
    resource: String,
}

pub(crate) async fn answer(
    api: &Arc<Api>,
    certificate: Option<Identity>,
    request: Request<Bytes>,
) -> Response<Body> {
    let started = tokio::time::Instant::now();
    let mut label = Label {
        verb: "other",
        resource: String::new(),
    };
    // Watches and streams answer their head within it too; what follows has its own end.
    let limit = api.config.limits.request_timeout;
    let result = tokio::time::timeout(limit, dispatch(api, certificate, request, &mut label)).await;
    let response = match result {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => respond::failure(&status),
        Err(_) => respond::failure(&Status::timeout(
            format!(
                "request did not complete within the allotted {} s",
                limit.as_secs()
            ),
            0,
        )),
    };
    api.metrics.record(
        label.verb,
        &label.resource,
        response.status().as_u16(),
        started.elapsed(),
    );
    response
}

async fn dispatch(
    api: &Arc<Api>,
    certificate: Option<Identity>,
    request: Request<Bytes>,
    label: &mut Label,
) -> Result<Response<Body>, Status> {
    let identity =
        authenticate::identify(api, certificate, request.uri().path(), request.headers())?;
    let limit = api.config.limits.max_object_bytes;
    if request.body().len() > limit {
        return Err(failure::too_large(limit));
    }
    let caller = Caller {
        api,
        identity: &identity,
    };
    let path = request.uri().path().to_owned();
    // Without an identity even what there is stays unsaid.
    let route = match route::parse(&path) {
        Err(_) if identity.is_anonymous() => return Err(Status::unauthorized()),
        other => other?,
    };
    let Route::Resource { target, watch } = route else {
        label.verb = "get";
        return page(&caller, route, &path, &request).await;
    };
    if identity.is_anonymous() {
        return Err(Status::unauthorized());
    }
    label.resource = match target.part() {
        "" => target.kind.plural.to_owned(),
        part => format!("{}/{part}", target.kind.plural),
    };
    let exchange = Exchange {
        caller,
        params: Params::parse(request.uri().query()),
        target,
        method: request.method().clone(),
        request,
    };
    exchange.run(watch, label).await
}

/// Paths that are no resources.
async fn page(
    caller: &Caller<'_>,
    route: Route,
    path: &str,
    request: &Request<Bytes>,
) -> Result<Response<Body>, Status> {
    let verb = match *request.method() {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "options",
    };
    let open = matches!(route, Route::Health { .. } | Route::Version);
    if !open {
        let attributes = Attributes {
            verb,
            path: Some(path),
            ..Attributes::default()
        };
        caller.api.authorizer.check(caller.identity, &attributes)?;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed_here());
    }
    document_page::answer(caller.api, route, request).await
}

/// One request for a resource.
struct Exchange<'a> {
    caller: Caller<'a>,
    params: Params,
    target: Target,
    method: Method,
    request: Request<Bytes>,
}

impl Exchange<'_> {
    fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    async fn run(self, watch: bool, label: &mut Label) -> Result<Response<Body>, Status> {
        if stream_proxy::is_stream(&self.target) {
            label.verb = "connect";
            let Exchange {
                caller,
                params,
                target,
                request,
                ..
            } = self;
            return stream_proxy::connect(&caller, &target, &params, request).await;
        }
        let collection = self.target.name.is_empty();
        match self.method {
            Method::GET | Method::HEAD if watch || self.params.flag("watch") => {
                label.verb = "watch";
                self.watch().await
            }
            Method::GET | Method::HEAD if collection => {
                label.verb = "list";
                self.list().await
            }
            Method::GET | Method::HEAD => {
                label.verb = "get";
                self.get().await
            }
            Method::POST => {
                label.verb = "create";
                self.create().await
            }
            Method::PUT if !collection => {
                label.verb = "update";
                self.update().await
            }
            Method::PATCH if !collection => {
                label.verb = "patch";
                self.patch().await
            }
            Method::DELETE if collection => {
                label.verb = "deletecollection";
                self.delete_collection().await
            }
            Method::DELETE => {
                label.verb = "delete";
                self.delete().await
            }
            _ => Err(Status::method_not_allowed_here()),
        }
    }

    fn require_verb(&self, verb: &str) -> Result<(), Status> {
        let verbs = self
            .target
            .subresource
            .map_or(self.target.kind.verbs, |part| part.verbs);
        if verbs.contains(&verb) {
            Ok(())
        } else {
            Err(Status::method_not_allowed_here())
        }
    }

    fn write_options(&self, kind: &str) -> Result<WriteOptions, Status> {
        let agent = self
            .headers()
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        WriteOptions::parse(&self.params, kind, agent)
    }

    async fn get(self) -> Result<Response<Body>, Status> {
        self.require_verb("get")?;
        let accepted = negotiate(self.headers())?;
        let document = verb::get::get(
            &self.caller,
            &self.target,
            self.params.text("resourceVersion"),
        )
        .await?;
        self.object(accepted, StatusCode::OK, Outcome::of(document))
    }

    /// An object in the form that the client accepts.
    fn object(
        &self,
        accepted: Accepted,
        code: StatusCode,
        outcome: Outcome,
    ) -> Result<Response<Body>, Status> {
        let json = shape::object(
            accepted.shape,
            self.target.kind,
            &outcome.document,
            self.params.text("includeObject"),
            self.caller.api.now(),
        )?;
        let mut response = respond::document(accepted.encoding, code, json);
        respond::warn(&mut response, &outcome.warnings);
        Ok(response)
    }

    fn selection(&self) -> Result<Selection, Status> {
        let (labels, fields) = (
            self.params.text("labelSelector"),
            self.params.text("fieldSelector"),
        );
        let mut selection = Selection::parse(self.target.kind, labels, fields)?;
        if !self.target.name.is_empty() {
            // The older way to watch one object is a path.
            let own = format!("metadata.name={}", self.target.name);
            selection = Selection::parse(self.target.kind, labels, &own)?;
        }
        Ok(selection)
    }

    async fn list(self) -> Result<Response<Body>, Status> {
        self.require_verb("list")?;
        let accepted = negotiate(self.headers())?;
        if self.params.has("sendInitialEvents") {
            let error = trireme_model::status::FieldError::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            );
            return Err(Status::invalid_kind(
                "meta.k8s.io",
                "ListOptions",
                "",
                vec![error],
            ));
        }
        let limit = self.params.number("limit")?.unwrap_or(0);
        let request = ListRequest {
            target: self.target.clone(),
            selection: self.selection()?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            continue_token: self.params.text("continue").to_owned(),
            resource_version: self.params.text("resourceVersion").to_owned(),
            version_match: parse_match(self.params.text("resourceVersionMatch"))?,
        };
        let listing = verb::list::list(&self.caller, &request).await?;
        let include = self.params.text("includeObject");
        let json = shape::list(accepted.shape, listing, include, self.caller.api.now())?;
        Ok(respond::document(accepted.encoding, StatusCode::OK, json))
    }

    async fn watch(self) -> Result<Response<Body>, Status> {
        self.require_verb("watch")?;
        let accepted = negotiate(self.headers())?;
        let selection = self.selection()?;
        let target = Target {
            name: String::new(),
            ..self.target.clone()
        };
        let request = WatchRequest {
            target,
            selection,
            resource_version: self.params.text("resourceVersion").to_owned(),
            version_match: parse_match(self.params.text("resourceVersionMatch"))?,
            send_initial_events: self.params.optional_flag("sendInitialEvents"),
            bookmarks: self.params.flag("allowWatchBookmarks"),
            timeout: self
                .params
                .number("timeoutSeconds")?
                .map(Duration::from_secs),
        };
        let watching = verb::watch::watch(&self.caller, request).await?;
        let include = self.params.text("includeObject").to_owned();
        watch_body::respond(self.caller.api.clone(), watching, accepted.shape, include)
    }

    async fn create(self) -> Result<Response<Body>, Status> {
        self.require_verb("create")?;
        let accepted = negotiate(self.headers())?;
        let decoded = body::decode(self.headers(), self.request.body())?;
        let options = self.write_options("CreateOptions")?;
        if self.target.kind.is_virtual() {
            let answer = review::answer(&self.caller, self.target.kind, decoded.object).await?;
            return Ok(respond::value(
                accepted.encoding,
                StatusCode::CREATED,
                &answer,
            ));
        }
        let target = self.target.clone();
        if let Some(part) = target.subresource {
            let object = decoded.object;
            let answer = match part.name {
                "binding" => {
                    subresource::binding::bind(&self.caller, &target, object, options.dry_run)
                        .await?
                }
                "eviction" => {
                    subresource::eviction::evict(&self.caller, &target, object, options.dry_run)
                        .await?
                }
                "token" => subresource::token::request(&self.caller, &target, object).await?,
                _ => return Err(Status::method_not_allowed_here()),
            };
            return Ok(respond::value(
                accepted.encoding,
                StatusCode::CREATED,
                &answer,
            ));
        }
        if !target.name.is_empty() {
            return Err(Status::method_not_allowed_here());
        }
        let request = CreateRequest {
            target,
            object: decoded.object,
            duplicates: decoded.duplicates,
            options,
        };
        let outcome = verb::create::create(&self.caller, request).await?;
        self.object(accepted, StatusCode::CREATED, outcome)
    }

    async fn update(self) -> Result<Response<Body>, Status> {
        self.require_verb("update")?;
        let accepted = negotiate(self.headers())?;
        let decoded = body::decode(self.headers(), self.request.body())?;
        let request = UpdateRequest {
            target: self.target.clone(),
            object: decoded.object,
            duplicates: decoded.duplicates,
            options: self.write_options("UpdateOptions")?,
        };
        let outcome = verb::update::update(&self.caller, request).await?;
        let code = if outcome.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        self.object(accepted, code, outcome)
    }

    async fn patch(self) -> Result<Response<Body>, Status> {
        self.require_verb("patch")?;
        let accepted = negotiate(self.headers())?;
        let options = self.write_options("PatchOptions")?;
        let target = self.target.clone();
        let media_type = body::media_type(self.headers());
        let patch_type = match media_type.as_str() {
            "application/json-patch+json" => PatchType::Json,
            "application/merge-patch+json" => PatchType::Merge,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            "application/apply-patch+yaml" => {
                if self.params.text("fieldManager").is_empty() {
                    let error = trireme_model::status::FieldError::required(
                        "fieldManager",
                        "is required for apply patch",
                    );
                    return Err(Status::invalid_kind(
                        "meta.k8s.io",
                        "PatchOptions",
                        "",
                        vec![error],
                    ));
                }
                // JSON is YAML.
                let decoded = body::decode_yaml(self.request.body())?;
                let request = ApplyRequest {
                    target,
                    object: decoded.object,
                    duplicates: decoded.duplicates,
                    options,
                };
                let outcome = verb::patch::server_side(&self.caller, request).await?;
                let code = if outcome.created {
                    StatusCode::CREATED
                } else {
                    StatusCode::OK
                };
                return self.object(accepted, code, outcome);
            }
            _ => return Err(Status::unsupported_media_type(PATCH_TYPES)),
        };
        if self.params.has("force") {
            let error = trireme_model::status::FieldError::forbidden(
                "force",
                "may not be specified for non-apply patch",
            );
            return Err(Status::invalid_kind(
                "meta.k8s.io",
                "PatchOptions",
                "",
                vec![error],
            ));
        }
        let decoded = body::decode_json(self.request.body())?;
        let request = PatchRequest {
            target,
            patch_type,
            patch: decoded.object,
            duplicates: decoded.duplicates,
            options,
        };
        let outcome = verb::patch::patch(&self.caller, request).await?;
        self.object(accepted, StatusCode::OK, outcome)
    }

    fn delete_options(&self) -> Result<DeleteOptions, Status> {
        let body = self.request.body();
        let value = if body.is_empty() {
            Value::Null
        } else {
            body::decode(self.headers(), body)?.object
        };
        DeleteOptions::parse(&value, &self.params)
    }

    async fn delete(self) -> Result<Response<Body>, Status> {
        self.require_verb("delete")?;
        let accepted = negotiate(self.headers())?;
        let options = self.delete_options()?;
        let outcome = verb::delete::delete(&self.caller, &self.target, &options).await?;
        // What goes gracefully is shown as it is now; what is gone is confirmed.
        if outcome.deleted
            && *self.target.kind != *kinds::POD
            && *self.target.kind != *kinds::SERVICE
        {
            let object = outcome.document.into_value()?;
            let status = trireme_model::status::success(
                self.target.kind,
                &self.target.name,
                meta::uid(&object),
            );
            return Ok(respond::value(accepted.encoding, StatusCode::OK, &status));
        }
        self.object(accepted, StatusCode::OK, outcome)
    }

    async fn delete_collection(self) -> Result<Response<Body>, Status> {
        self.require_verb("deletecollection")?;
        let accepted = negotiate(self.headers())?;
        let options = self.delete_options()?;
        let selection = self.selection()?;
        let listing = verb::delete_collection::delete_collection(
            &self.caller,
            &self.target,
            selection,
            &options,
        )
        .await?;
        let include = self.params.text("includeObject");
        let json = shape::list(accepted.shape, listing, include, self.caller.api.now())?;
        Ok(respond::document(accepted.encoding, StatusCode::OK, json))
    }
}
