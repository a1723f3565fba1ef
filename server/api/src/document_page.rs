//! Paths beside resources: health, version, discovery, OpenAPI, metrics.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use trireme_model::status::Status;
use trireme_model::{discovery, kinds, openapi};

use crate::api::Api;
use crate::respond::{self, Body, Encoding, media_ranges};
use crate::route::Route;

/// The level of Kubernetes' API that this server speaks.
const MAJOR: &str = "1";
const MINOR: &str = "36";
const GIT_VERSION: &str = concat!("v1.36.0+trireme-", env!("CARGO_PKG_VERSION"));

/// How kubectl asks for it; Go cannot parse the `@` in an answer's Content-Type, so that names the other form.
const OPENAPI_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

pub(crate) async fn answer(
    api: &Arc<Api>,
    route: Route,
    request: &Request<Bytes>,
) -> Result<Response<Body>, Status> {
    let json = |value: Value| Ok(respond::value(Encoding::Json, StatusCode::OK, &value));
    match route {
        Route::Health { ready: false } => Ok(respond::text(StatusCode::OK, "ok")),
        Route::Health { ready: true } => Ok(match api.ready().await {
            Ok(()) => respond::text(StatusCode::OK, "ok"),
            Err(why) => respond::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("not ready: {why}\n"),
            ),
        }),
        Route::Version => json(version()),
        Route::Metrics => {
            let text = api.metrics.render(api.store.replica());
            Ok(respond::bytes(
                StatusCode::OK,
                "text/plain; version=0.0.4",
                text,
            ))
        }
        Route::Index => json(json!({ "paths": paths() })),
        Route::CoreVersions => Ok(discover(request, discovery::aggregated_core, || {
            let address = api
                .config
                .server_addresses
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            discovery::api_versions(&address)
        })),
        Route::Groups => Ok(discover(
            request,
            discovery::aggregated_apis,
            discovery::api_group_list,
        )),
        Route::Group(group) => {
            json(discovery::api_group(&group).ok_or_else(Status::path_not_found)?)
        }
        Route::Resources { group, version } => {
            json(discovery::resources(&group, &version).ok_or_else(Status::path_not_found)?)
        }
        Route::OpenApiV2 => Ok(openapi_v2(request)),
        Route::OpenApiV3Index => json(openapi::v3_index()),
        Route::OpenApiV3(path) => {
            let document = openapi::v3_bytes(&path).ok_or_else(Status::path_not_found)?;
            let hash = openapi::v3_hash(&path).unwrap_or_default();
            let mut response = cached(
                request,
                "application/json",
                hash,
                Bytes::from_static(document),
            );
            // The index names each document with its hash, so that a copy is good for ever.
            if request
                .uri()
                .query()
                .is_some_and(|query| query.contains("hash="))
            {
                response.headers_mut().insert(
                    header::CACHE_CONTROL,
                    HeaderValue::from_static("public, immutable"),
                );
            }
            Ok(response)
        }
        Route::Resource { .. } => Err(Status::internal("a resource is no page")),
    }
}

fn version() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

fn paths() -> Vec<String> {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(str::to_owned).to_vec();
    for (group, version) in kinds::groups() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    paths
}

/// The aggregated form where the client prefers it and we speak its version, the older one otherwise.
fn discover(
    request: &Request<Bytes>,
    aggregated: impl FnOnce() -> Value,
    legacy: impl FnOnce() -> Value,
) -> Response<Body> {
    let wanted = media_ranges(request.headers())
        .into_iter()
        .find_map(|range| {
            let json = matches!(
                range.media_type,
                "application/json" | "application/*" | "*/*"
            );
            match range.parameter("as") {
                "" if json => Some(false),
                "APIGroupDiscoveryList"
                    if json && range.parameter("g") == "apidiscovery.k8s.io" =>
                {
                    (range.parameter("v") == "v2").then_some(true)
                }
                _ => None,
            }
        });
    let (content_type, value) = if wanted == Some(true) {
        (
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            aggregated(),
        )
    } else {
        ("application/json", legacy())
    };
    respond::bytes(StatusCode::OK, content_type, value.to_string())
}

fn openapi_v2(request: &Request<Bytes>) -> Response<Body> {
    let protobuf = media_ranges(request.headers())
        .into_iter()
        .find_map(|range| match range.media_type {
            OPENAPI_PROTOBUF_ASKED | OPENAPI_PROTOBUF => Some(true),
            "application/json" | "application/*" | "*/*" => Some(false),
            _ => None,
        });
    if protobuf == Some(true) {
        let document = Bytes::from_static(openapi::v2_protobuf_bytes());
        return cached(request, OPENAPI_PROTOBUF, openapi::v2_hash(), document);
    }
    cached(
        request,
        "application/json",
        openapi::v2_hash(),
        Bytes::from_static(openapi::v2_bytes()),
    )
}

/// A document that changes only with the program: clients keep it by its tag.
fn cached(
    request: &Request<Bytes>,
    content_type: &'static str,
    hash: &str,
    body: Bytes,
) -> Response<Body> {
    let tag = format!("{hash:?}");
    let same = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|one| one.trim() == tag));
    let mut response = if same {
        let mut response = Response::new(respond::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(StatusCode::OK, content_type, body)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
