//! The API of one server: its configuration, caches and entry points.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use trireme_model::Value;

use crate::authorize::Authorizer;
use crate::config::ApiConfig;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::respond::Body;
use crate::store::Store;
use crate::token::TokenKey;
use crate::verb::watch::FrameCache;

/// Why an API could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the service account key is not a PKCS#8 P-256 private key in PEM: {0}")]
    ServiceAccountKey(String),
    #[error("service CIDR {cidr:?}: {reason}")]
    ServiceCidr { cidr: String, reason: String },
}

/// Kubernetes' REST API and its gRPC form over one replica. Shared by every connection.
pub struct Api {
    pub(crate) config: ApiConfig,
    pub(crate) store: Store,
    pub(crate) authorizer: Authorizer,
    pub(crate) metrics: Metrics,
    pub(crate) frames: FrameCache,
    pub(crate) service_network: crate::admission::service::Network,
    pub(crate) token_key: TokenKey,
    /// Set when the server stops: open watches end.
    pub(crate) closing: CancellationToken,
}

impl Api {
    /// Builds the API and starts the task that keeps the RBAC rules current; needs a tokio runtime.
    pub fn new(config: ApiConfig) -> Result<Arc<Api>, ConfigError> {
        let service_network = crate::admission::service::Network::parse(&config.service_cidr)?;
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let token_key = TokenKey::from_pem(&config.service_account_key_pem, issuer)?;
        let store = Store::new(config.replica.clone(), config.limits.max_object_bytes);
        Ok(Arc::new(Api {
            authorizer: Authorizer::start(store.clone()),
            store,
            metrics: Metrics::default(),
            frames: FrameCache::default(),
            service_network,
            token_key,
            closing: CancellationToken::new(),
            config,
        }))
    }

    /// Answers one request without a socket. `identity` is `None` for an anonymous caller; a bearer
    /// token in the request is honoured then.
    pub async fn handle(
        self: &Arc<Self>,
        identity: Option<Identity>,
        request: http::Request<Bytes>,
    ) -> http::Response<Body> {
        crate::handle::answer(self, identity, request).await
    }

    /// Creates what every cluster has from its first moment: namespaces, roles, bindings and the
    /// `kubernetes` Service. What exists stays as it is. The leader calls it.
    pub async fn ensure_bootstrap(self: &Arc<Self>) -> Result<(), trireme_model::status::Status> {
        crate::bootstrap::ensure(self).await
    }

    /// Sets the endpoints of the `kubernetes` Service to these servers' API addresses.
    pub async fn publish_servers(
        self: &Arc<Self>,
        addresses: &[std::net::SocketAddr],
    ) -> Result<(), trireme_model::status::Status> {
        crate::bootstrap::publish_servers(self, addresses).await
    }

    /// A leader is known, and this replica has applied what was committed when it was asked.
    pub async fn ready(&self) -> Result<(), String> {
        self.store.ready().await
    }

    /// The time that objects are stamped with.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        // Kubernetes' times have whole seconds.
        let now = jiff::Timestamp::now();
        jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

/// The objects that [`Api::ensure_bootstrap`] creates.
pub fn bootstrap_objects() -> Vec<Value> {
    crate::bootstrap::objects()
}
