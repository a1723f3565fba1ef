//! The operations on objects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tonic::transport::Channel;
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;

use crate::call::{CALL_DEADLINE, Repeat, Servers};
use crate::connect::{Dialer, tcp_dialer};
use crate::error::Error;
use crate::v1;
use crate::v1::resources_client::ResourcesClient;
use crate::watch::{self, Watch, WatchOptions};

/// Largest message taken from a server: a page of the largest objects.
const MESSAGE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Objects asked for at once when listing, as Kubernetes' own clients do.
const LIST_PAGE: u32 = 500;

/// How often a list starts anew because its pages expired; beyond that the caller is told.
const LIST_RESTARTS_MAX: u32 = 3;

/// How to reach a cluster.
#[derive(Clone)]
pub struct ClientConfig {
    /// `host:port` of every server's API.
    pub servers: Vec<String>,
    pub tls: Arc<rustls::ClientConfig>,
    /// Recorded in `managedFields` as the author of writes.
    pub field_manager: String,
    /// A call (watches excepted) ends by then.
    pub deadline: Duration,
    pub dialer: Dialer,
}

impl ClientConfig {
    pub fn new(
        servers: Vec<String>,
        tls: rustls::ClientConfig,
        field_manager: impl Into<String>,
    ) -> ClientConfig {
        ClientConfig {
            servers,
            tls: Arc::new(tls),
            field_manager: field_manager.into(),
            deadline: CALL_DEADLINE,
            dialer: tcp_dialer(),
        }
    }
}

/// A client of all servers of a cluster; cheap to clone, clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) servers: Arc<Servers>,
    field_manager: Arc<str>,
}

#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `None`: every namespace.
    pub namespace: Option<String>,
    pub label_selector: String,
    pub field_selector: String,
    /// Empty: linearizable. `"0"`: whatever the asked server has applied.
    pub resource_version: String,
}

#[derive(Clone, Debug, Default)]
pub struct ObjectList {
    pub resource_version: String,
    pub items: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    StrategicMerge,
}

#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Empty: the client's own.
    pub field_manager: String,
    /// Take over fields that others own.
    pub force: bool,
}

#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<u64>,
    /// `Background`, `Foreground`, `Orphan` or empty.
    pub propagation_policy: String,
    /// Preconditions; empty means none.
    pub uid: String,
    pub resource_version: String,
}

/// What a deletion came to.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// The object as it was, or as it is while its deletion waits for grace or finalizers.
    pub object: Value,
    /// Whether it is gone.
    pub deleted: bool,
}

pub(crate) fn resource(kind: &Kind, subresource: &str) -> Option<v1::Resource> {
    Some(v1::Resource {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.plural.to_string(),
        subresource: subresource.to_string(),
    })
}

fn encode(object: &Value) -> Option<v1::Object> {
    Some(v1::Object {
        json: Bytes::from(object.to_string()),
    })
}

pub(crate) fn decode(object: Option<v1::Object>, operation: &str) -> Result<Value, Error> {
    let json = object.map(|object| object.json).unwrap_or_default();
    serde_json::from_slice(&json).map_err(|error| Error::Protocol {
        operation: operation.to_string(),
        server: "the server".to_string(),
        code: tonic::Code::Internal,
        message: format!("an object that is not JSON: {error}"),
    })
}

/// How errors name the operation: `update deployments.apps default/web`.
pub(crate) fn describe(verb: &str, kind: &Kind, namespace: &str, name: &str) -> String {
    let separator = if namespace.is_empty() { "" } else { "/" };
    format!(
        "{verb} {} {namespace}{separator}{name}",
        kind.group_resource()
    )
}

pub(crate) fn resources(channel: Channel) -> ResourcesClient<Channel> {
    ResourcesClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES)
}

pub(crate) fn timed<T>(message: T, allowed: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(allowed);
    request
}

impl Client {
    /// Makes a client; connections are made when they are first needed.
    pub fn new(config: ClientConfig) -> Result<Client, Error> {
        let servers = Servers::new(config.servers, config.tls, config.dialer, config.deadline)?;
        Ok(Client {
            servers: Arc::new(servers),
            field_manager: config.field_manager.into(),
        })
    }

    /// Every server's `host:port`.
    pub fn servers(&self) -> &[String] {
        self.servers.addresses()
    }

    /// The server that the next call asks first.
    pub fn preferred_server(&self) -> &str {
        self.servers.preferred()
    }

    /// The same connections under another field manager.
    pub fn with_field_manager(&self, field_manager: &str) -> Client {
        Client {
            servers: self.servers.clone(),
            field_manager: field_manager.into(),
        }
    }

    /// Reads an object, linearizably.
    pub async fn get(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Error> {
        self.get_at(kind, namespace, name, "").await
    }

    /// Reads an object at `resource_version` or newer; `"0"`: whatever the asked server has.
    pub async fn get_at(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        resource_version: &str,
    ) -> Result<Value, Error> {
        let operation = describe("get", kind, namespace, name);
        let message = v1::GetRequest {
            resource: resource(kind, ""),
            namespace: namespace.to_string(),
            name: name.to_string(),
            resource_version: resource_version.to_string(),
        };
        let object = self
            .servers
            .call(&operation, Repeat::Safe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).get(request).await }
            })
            .await?;
        decode(Some(object), &operation)
    }

    /// Lists everything that matches, page by page.
    pub async fn list(
        &self,
        kind: &'static Kind,
        options: &ListOptions,
    ) -> Result<ObjectList, Error> {
        let mut restarts = 0;
        loop {
            let mut list = ObjectList::default();
            let mut page = String::new();
            let listed = loop {
                let reply = match self.list_page(kind, options, &page).await {
                    Ok(reply) => reply,
                    Err(error) => break Err(error),
                };
                list.resource_version = reply.resource_version;
                for object in reply.items {
                    list.items.push(decode(Some(object), "list")?);
                }
                page = reply.r#continue;
                if page.is_empty() {
                    break Ok(());
                }
            };
            match listed {
                Ok(()) => return Ok(list),
                // Too slow: the revision was compacted between two pages.
                Err(error)
                    if error.is_gone() && !page.is_empty() && restarts < LIST_RESTARTS_MAX =>
                {
                    restarts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn list_page(
        &self,
        kind: &'static Kind,
        options: &ListOptions,
        page: &str,
    ) -> Result<v1::ListReply, Error> {
        let namespace = options.namespace.clone().unwrap_or_default();
        let operation = describe("list", kind, &namespace, "");
        let message = v1::ListRequest {
            resource: resource(kind, ""),
            namespace,
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            limit: LIST_PAGE,
            r#continue: page.to_string(),
            // A continued list stays at the revision that its token names.
            resource_version: if page.is_empty() {
                options.resource_version.clone()
            } else {
                String::new()
            },
        };
        self.servers
            .call(&operation, Repeat::Safe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).list(request).await }
            })
            .await
    }

    /// Creates an object; answers it as stored.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: &Value,
    ) -> Result<Value, Error> {
        self.create_in(kind, namespace, "", "", object).await
    }

    /// Creates a subresource of an object: `binding`, `eviction`, `token`.
    pub async fn create_subresource(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Error> {
        self.create_in(kind, namespace, name, subresource, object)
            .await
    }

    async fn create_in(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Error> {
        let shown = if name.is_empty() {
            meta::name(object)
        } else {
            name
        };
        let operation = describe("create", kind, namespace, shown);
        let message = v1::CreateRequest {
            resource: resource(kind, subresource),
            namespace: namespace.to_string(),
            name: name.to_string(),
            object: encode(object),
            dry_run: false,
            field_manager: self.field_manager.to_string(),
        };
        let object = self
            .servers
            .call(&operation, Repeat::Unsafe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).create(request).await }
            })
            .await?;
        decode(Some(object), &operation)
    }

    /// Replaces an object; its `metadata.resourceVersion` and `uid` are preconditions.
    pub async fn update(&self, kind: &'static Kind, object: &Value) -> Result<Value, Error> {
        self.update_in(kind, "", object).await
    }

    /// Replaces an object's status.
    pub async fn update_status(&self, kind: &'static Kind, object: &Value) -> Result<Value, Error> {
        self.update_in(kind, "status", object).await
    }

    /// Replaces a subresource, such as `finalize` of a namespace.
    pub async fn update_subresource(
        &self,
        kind: &'static Kind,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Error> {
        self.update_in(kind, subresource, object).await
    }

    async fn update_in(
        &self,
        kind: &'static Kind,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Error> {
        let (namespace, name) = (meta::namespace(object), meta::name(object));
        let operation = describe("update", kind, namespace, name);
        let message = v1::UpdateRequest {
            resource: resource(kind, subresource),
            namespace: namespace.to_string(),
            name: name.to_string(),
            object: encode(object),
            dry_run: false,
            field_manager: self.field_manager.to_string(),
        };
        let object = self
            .servers
            .call(&operation, Repeat::Unsafe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).update(request).await }
            })
            .await?;
        decode(Some(object), &operation)
    }

    /// Patches an object, or its subresource where that is not empty.
    pub async fn patch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch_type: PatchType,
        patch: &Value,
    ) -> Result<Value, Error> {
        let operation = describe("patch", kind, namespace, name);
        let patch_type = match patch_type {
            PatchType::Json => v1::patch_request::Type::Json,
            PatchType::Merge => v1::patch_request::Type::Merge,
            PatchType::StrategicMerge => v1::patch_request::Type::StrategicMerge,
        };
        let message = v1::PatchRequest {
            resource: resource(kind, subresource),
            namespace: namespace.to_string(),
            name: name.to_string(),
            r#type: patch_type.into(),
            patch: Bytes::from(patch.to_string()),
            dry_run: false,
            field_manager: self.field_manager.to_string(),
        };
        let object = self
            .servers
            .call(&operation, Repeat::Unsafe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).patch(request).await }
            })
            .await?;
        decode(Some(object), &operation)
    }

    /// Server-side apply. Repeating it changes nothing, so a lost answer is asked for again.
    pub async fn apply(
        &self,
        kind: &'static Kind,
        object: &Value,
        options: &ApplyOptions,
    ) -> Result<Value, Error> {
        let (namespace, name) = (meta::namespace(object), meta::name(object));
        let operation = describe("apply", kind, namespace, name);
        let field_manager = if options.field_manager.is_empty() {
            self.field_manager.to_string()
        } else {
            options.field_manager.clone()
        };
        // With a resourceVersion inside, a repetition would conflict with its own first try.
        let repeat = if meta::resource_version(object).is_empty() {
            Repeat::Safe
        } else {
            Repeat::Unsafe
        };
        let message = v1::ApplyRequest {
            resource: resource(kind, ""),
            namespace: namespace.to_string(),
            name: name.to_string(),
            object: encode(object),
            field_manager,
            force: options.force,
            dry_run: false,
        };
        let object = self
            .servers
            .call(&operation, repeat, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).apply(request).await }
            })
            .await?;
        decode(Some(object), &operation)
    }

    /// Deletes an object.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deletion, Error> {
        let operation = describe("delete", kind, namespace, name);
        let message = v1::DeleteRequest {
            resource: resource(kind, ""),
            namespace: namespace.to_string(),
            name: name.to_string(),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation_policy.clone(),
            uid: options.uid.clone(),
            resource_version: options.resource_version.clone(),
        };
        let reply = self
            .servers
            .call(&operation, Repeat::Unsafe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { resources(channel).delete(request).await }
            })
            .await?;
        Ok(Deletion {
            object: decode(reply.object, &operation)?,
            deleted: reply.deleted,
        })
    }

    /// Binds a pod to a node, if it is still the pod with this uid (empty: any).
    pub async fn bind(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        node: &str,
    ) -> Result<(), Error> {
        let mut metadata = json!({"name": name, "namespace": namespace});
        if !uid.is_empty() {
            metadata["uid"] = uid.into();
        }
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": metadata,
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.create_in(kinds::POD, namespace, name, "binding", &binding)
            .await
            .map(|_| ())
    }

    /// Watches a kind. The stream ends with an error when its server goes; see
    /// [`Informer`](crate::Informer) for one that does not.
    pub async fn watch(&self, kind: &'static Kind, options: &WatchOptions) -> Result<Watch, Error> {
        watch::open(self, kind, options).await
    }
}
