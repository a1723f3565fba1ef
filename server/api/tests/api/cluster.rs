//! One API over one replica in a temporary directory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use trireme_api::{Api, ApiConfig, Body, Identity, Limits, MASTERS};
use trireme_raft::{Member, Replica, ReplicaConfig};

/// Longest that anything in these tests may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub api: Arc<Api>,
    pub replica: Arc<Replica>,
    _directory: tempfile::TempDir,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.code),
            "{} {}",
            self.code,
            self.body
        );
        self.body
    }

    #[track_caller]
    pub fn refused(self, code: u16, reason: &str, message: &str) {
        let shown = (self.code, self.body["reason"].as_str().unwrap_or(""));
        assert_eq!(shown, (code, reason), "{}", self.body);
        assert_eq!(self.body["kind"], "Status");
        assert_eq!(self.body["code"], code);
        let text = self.body["message"].as_str().unwrap_or("");
        assert!(
            text.contains(message),
            "{text:?} does not contain {message:?}"
        );
    }
}

pub fn key_pem() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

pub fn client_tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Arc::new(config)
}

pub async fn replica(directory: &std::path::Path) -> Arc<Replica> {
    let replica = Replica::open(ReplicaConfig::single(1, directory))
        .await
        .unwrap();
    let member = Member {
        name: "s1".into(),
        peer_address: "127.0.0.1:1".into(),
        api_address: "127.0.0.1:2".into(),
    };
    replica
        .initialize(BTreeMap::from([(1, member)]))
        .await
        .unwrap();
    replica.wait_for_leader(PATIENCE).await.unwrap();
    replica
}

impl Cluster {
    pub async fn start() -> Cluster {
        Cluster::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut ApiConfig)) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let replica = replica(directory.path()).await;
        let mut config = ApiConfig {
            replica: replica.clone(),
            service_cidr: "10.43.0.0/16".into(),
            node_port_range: 30000..=32767,
            cluster_domain: "cluster.local".into(),
            node_tls: client_tls(),
            service_account_key_pem: key_pem(),
            server_addresses: vec!["192.0.2.1:6443".parse().unwrap()],
            mesh_gateways: false,
            extra_grpc: None,
            open_grpc_methods: Vec::new(),
            limits: Limits::default(),
        };
        adjust(&mut config);
        let api = Api::new(config).unwrap();
        tokio::time::timeout(PATIENCE, api.ensure_bootstrap())
            .await
            .unwrap()
            .unwrap();
        Cluster {
            api,
            replica,
            _directory: directory,
        }
    }

    pub async fn raw(
        &self,
        identity: Option<Identity>,
        request: Request<Bytes>,
    ) -> http::Response<Body> {
        tokio::time::timeout(PATIENCE, self.api.handle(identity, request))
            .await
            .unwrap()
    }

    /// A request as it is, with headers as pairs.
    pub async fn send(
        &self,
        identity: Option<Identity>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.raw(identity, request.body(body.into()).unwrap()).await;
        let code = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer {
            code,
            headers,
            body,
        }
    }

    pub async fn as_user(&self, user: &Identity, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(Some(user.clone()), method, path, &[], body).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.as_user(&admin(), method, path, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub async fn patch(&self, path: &str, patch_type: &str, body: Value) -> Answer {
        let content_type = format!("application/{patch_type}");
        self.send(
            Some(admin()),
            "PATCH",
            path,
            &[("content-type", &content_type)],
            body.to_string(),
        )
        .await
    }

    pub async fn apply(&self, path: &str, manager: &str, force: bool, body: Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}&force={force}");
        self.patch(&path, "apply-patch+yaml", body).await
    }

    /// The lines of an open watch.
    pub async fn watch(&self, path: &str) -> Lines {
        let request = Request::builder().uri(path).body(Bytes::new()).unwrap();
        let response = self.raw(Some(admin()), request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event's type and object; `None` at the end.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                return Some((
                    event["type"].as_str().unwrap().to_owned(),
                    event["object"].clone(),
                ));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("no event in time")?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// The next event as `TYPE name`.
    pub async fn shown(&mut self) -> String {
        match self.next().await {
            Some((event_type, object)) => format!(
                "{event_type} {}",
                object["metadata"]["name"].as_str().unwrap_or("")
            ),
            None => "end".to_owned(),
        }
    }
}

pub fn admin() -> Identity {
    Identity::new("admin", [MASTERS])
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "key": value } })
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "app", "image": "hello:1" }] },
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "app", "image": "hello:1" }] },
            },
        },
    })
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
