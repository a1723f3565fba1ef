//! What a server tells its API when it starts it.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use trireme_raft::Replica;

/// Everything the API needs from the server that runs it.
pub struct ApiConfig {
    pub replica: Arc<Replica>,
    /// Addresses for Services, such as `10.43.0.0/16`.
    pub service_cidr: String,
    pub node_port_range: RangeInclusive<u16>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// With which this server calls node agents (log, exec, attach, port-forward).
    pub node_tls: Arc<rustls::ClientConfig>,
    /// PKCS#8 private key (P-256) with which every server signs service account tokens.
    pub service_account_key_pem: String,
    /// Where clients inside the cluster reach the servers: the endpoints of Service `kubernetes`.
    pub server_addresses: Vec<SocketAddr>,
    /// Whether every cluster has the mesh's ingress and egress gateway in `istio-system`.
    pub mesh_gateways: bool,
    /// More gRPC services on the same port, such as `trireme.v1.Cluster`.
    pub extra_grpc: Option<tonic::service::Routes>,
    /// gRPC methods that need no identity, such as `/trireme.v1.Cluster/Join`.
    pub open_grpc_methods: Vec<String>,
    pub limits: Limits,
}

/// Bounds on what clients may ask of one server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once. Each costs a task and TLS buffers of about 50 KB: 4,096 stay near 200 MB.
    pub max_connections: usize,
    /// Bytes of one request's head over HTTP/1.1 and HTTP/2. Go's default is 1 MiB; no client of ours
    /// sends more than a bearer token of a few KB.
    pub max_header_bytes: usize,
    /// Bytes of one request body, and of one stored object: etcd's request limit, which manifests are
    /// written against.
    pub max_object_bytes: usize,
    /// A client must finish its TLS handshake and its request heads in this time.
    pub header_timeout: Duration,
    /// A request that is not a watch or stream is answered within this time, as kube-apiserver's default.
    pub request_timeout: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// How long open requests may take to finish once the server is asked to stop.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 4096,
            max_header_bytes: 64 * 1024,
            max_object_bytes: 3 * 512 * 1024,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            max_concurrent_streams: 1000,
            drain_timeout: Duration::from_secs(3),
        }
    }
}
