//! A small stand-in for the API: objects in memory, the wire of `trireme.v1`. It knows nothing of
//! defaults or rights; what it is for is to let a whole agent run in a test.

use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tower::ServiceExt;
use trireme_model::kinds::{self, Kind};
use trireme_model::{meta, patch};
use trireme_proto::v1::resources_server::{Resources, ResourcesServer};
use trireme_proto::v1::*;

type Key = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// Every change: its kind of event, the resource, the object.
    history: Vec<(watch_event::Type, String, Value)>,
    deleted: bool,
}

/// The stand-in; clones share one state.
#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<usize>,
}

fn status(error: trireme_model::status::Status) -> Status {
    let code = match error.code {
        404 => tonic::Code::NotFound,
        409 => tonic::Code::AlreadyExists,
        _ => tonic::Code::InvalidArgument,
    };
    let mut status = Status::new(code, error.message.clone());
    let bytes = error.to_value().to_string();
    let value = tonic::metadata::MetadataValue::from_bytes(bytes.as_bytes());
    status
        .metadata_mut()
        .insert_bin("trireme-status-bin", value);
    status
}

fn kind(resource: &Option<Resource>) -> (&'static Kind, String) {
    let resource = resource.clone().unwrap();
    let kind = kinds::find(&resource.group, &resource.version, &resource.resource).unwrap();
    (kind, resource.subresource)
}

fn selected(object: &Value, namespace: &str, selector: &str) -> bool {
    if !namespace.is_empty() && meta::namespace(object) != namespace {
        return false;
    }
    match selector.split_once('=') {
        Some(("metadata.name", name)) => meta::name(object) == name,
        Some(("spec.nodeName", name)) => object["spec"]["nodeName"] == name,
        _ => true,
    }
}

impl Api {
    pub fn new() -> Api {
        Api {
            state: Arc::default(),
            revision: watch::channel(0).0,
        }
    }

    fn record(
        &self,
        state: &mut State,
        event: watch_event::Type,
        plural: &str,
        object: &mut Value,
    ) {
        let revision = state.history.len() + 1;
        meta::set_resource_version(object, &revision.to_string());
        state
            .history
            .push((event, plural.to_owned(), object.clone()));
        self.revision.send_replace(revision);
    }

    pub fn put(&self, kind: &Kind, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        if meta::uid(&object).is_empty() {
            let uid = format!(
                "{:08x}-0000-4000-8000-{:012x}",
                rand::random::<u32>(),
                rand::random::<u32>()
            );
            meta::set_uid(&mut object, &uid);
        }
        let key = (
            kind.plural.to_owned(),
            meta::namespace(&object).to_owned(),
            meta::name(&object).to_owned(),
        );
        let event = if state.objects.contains_key(&key) {
            watch_event::Type::Modified
        } else {
            watch_event::Type::Added
        };
        self.record(&mut state, event, kind.plural, &mut object);
        state.objects.insert(key, object.clone());
        object
    }

    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = (
            kind.plural.to_owned(),
            namespace.to_owned(),
            name.to_owned(),
        );
        self.state.lock().unwrap().objects.get(&key).cloned()
    }

    pub fn list(&self, kind: &Kind) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let all = state
            .objects
            .iter()
            .filter(|((plural, _, _), _)| plural == kind.plural);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// As `kubectl delete` does.
    pub fn delete(&self, kind: &Kind, namespace: &str, name: &str, grace: u64) {
        let mut state = self.state.lock().unwrap();
        let key = (
            kind.plural.to_owned(),
            namespace.to_owned(),
            name.to_owned(),
        );
        let Some(mut object) = state.objects.get(&key).cloned() else {
            return;
        };
        if grace > 0 {
            let at = jiff::Timestamp::now();
            meta::set_deletion(&mut object, at, i64::try_from(grace).unwrap());
            self.record(
                &mut state,
                watch_event::Type::Modified,
                kind.plural,
                &mut object,
            );
            state.objects.insert(key, object);
        } else {
            state.objects.remove(&key);
            self.record(
                &mut state,
                watch_event::Type::Deleted,
                kind.plural,
                &mut object,
            );
        }
    }

    /// Waits until the object satisfies the condition.
    pub async fn wait(
        &self,
        what: &str,
        kind: &Kind,
        namespace: &str,
        name: &str,
        done: impl Fn(Option<&Value>) -> bool,
    ) -> Value {
        let mut revision = self.revision.subscribe();
        let waited = async {
            loop {
                let object = self.get(kind, namespace, name);
                if done(object.as_ref()) {
                    return object.unwrap_or_default();
                }
                revision.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(30), waited).await {
            Ok(object) => object,
            Err(_) => {
                let now = self.get(kind, namespace, name).unwrap_or_default();
                let events: Vec<String> = self
                    .list(kinds::EVENT)
                    .iter()
                    .map(|e| format!("{} {}", e["reason"], e["message"]))
                    .collect();
                panic!(
                    "{what}: never happened; {name} is {:#}\n{events:#?}",
                    now["status"]
                );
            }
        }
    }

    /// Serves over TLS until dropped.
    pub async fn serve(self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let routes = tonic::service::Routes::new(ResourcesServer::new(self)).prepare();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (routes, acceptor) = (routes.clone(), acceptor.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service =
                    routes.map_request(|request: http::Request<hyper::body::Incoming>| {
                        request.map(|body| {
                            tonic::body::Body::new(
                                body.map_err(|e| Status::internal(e.to_string())),
                            )
                        })
                    });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                    .await;
            });
        }
    }
}

fn reply(object: &Value) -> Response<Object> {
    Response::new(Object {
        json: object.to_string().into_bytes().into(),
    })
}

#[tonic::async_trait]
impl Resources for Api {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let (kind, _) = kind(&request.resource);
        match Api::get(self, kind, &request.namespace, &request.name) {
            Some(object) => Ok(reply(&object)),
            None => Err(status(trireme_model::status::Status::not_found(
                kind,
                &request.name,
            ))),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let request = request.into_inner();
        let (kind, _) = kind(&request.resource);
        let (items, revision) = {
            let state = self.state.lock().unwrap();
            let all = state.objects.iter().filter(|((plural, _, _), object)| {
                plural == kind.plural
                    && selected(object, &request.namespace, &request.field_selector)
            });
            let items = all
                .map(|(_, object)| Object {
                    json: object.to_string().into_bytes().into(),
                })
                .collect();
            (items, state.history.len())
        };
        Ok(Response::new(ListReply {
            resource_version: revision.to_string(),
            r#continue: String::new(),
            items,
        }))
    }

    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let (kind, _) = kind(&request.resource);
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let api = self.clone();
        let mut seen: usize = request.resource_version.parse().unwrap_or(0);
        tokio::spawn(async move {
            let mut revision = api.revision.subscribe();
            loop {
                let fresh: Vec<_> = api.state.lock().unwrap().history[seen..].to_vec();
                seen += fresh.len();
                for (event, plural, object) in fresh {
                    if plural != kind.plural
                        || !selected(&object, &request.namespace, &request.field_selector)
                    {
                        continue;
                    }
                    let event = WatchEvent {
                        r#type: event.into(),
                        object: Some(Object {
                            json: object.to_string().into_bytes().into(),
                        }),
                    };
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = revision.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(receiver),
        )))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let (kind, subresource) = kind(&request.resource);
        let mut object: Value = serde_json::from_slice(&request.object.unwrap().json).unwrap();
        if subresource == "token" {
            object["status"] = json!({"token": format!("token-of-{}", request.name),
                                      "expirationTimestamp": "2099-01-01T00:00:00Z"});
            return Ok(reply(&object));
        }
        Ok(reply(&self.put(kind, object)))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        Err(Status::unimplemented("update"))
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let (kind, _) = kind(&request.resource);
        let Some(object) = Api::get(self, kind, &request.namespace, &request.name) else {
            return Err(status(trireme_model::status::Status::not_found(
                kind,
                &request.name,
            )));
        };
        let change: Value = serde_json::from_slice(&request.patch).unwrap();
        let made = match request.r#type() {
            patch_request::Type::Merge => patch::merge(&object, &change),
            _ => patch::strategic(kind, &object, &change),
        }
        .map_err(status)?;
        if made == object {
            return Ok(reply(&object));
        }
        Ok(reply(&self.put(kind, made)))
    }

    async fn apply(&self, _: Request<ApplyRequest>) -> Result<Response<Object>, Status> {
        Err(Status::unimplemented("apply"))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        let request = request.into_inner();
        let (kind, _) = kind(&request.resource);
        let grace = request.grace_period_seconds.unwrap_or(30);
        Api::delete(self, kind, &request.namespace, &request.name, grace);
        self.state.lock().unwrap().deleted = true;
        Ok(Response::new(DeleteReply {
            object: Some(Object {
                json: "{}".to_owned().into_bytes().into(),
            }),
            deleted: grace == 0,
        }))
    }
}
