//! Sidecar: what the proxies of a namespace or workload listen for and may reach.

use super::{ConnectionPoolSettings, Destination, Object, ServerTlsSettings, WorkloadSelector};

pub type Sidecar = Object<SidecarSpec>;

message! {
    pub struct SidecarSpec {
        /// Absent means every workload of the namespace.
        pub workload_selector: Option<WorkloadSelector>,
        pub ingress: Vec<IngressListener>,
        pub egress: Vec<EgressListener>,
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    pub struct IngressListener {
        pub port: Option<SidecarPort>,
        pub bind: String,
        pub capture_mode: CaptureMode,
        /// `127.0.0.1:PORT`, `0.0.0.0:PORT` or `unix:///path`.
        pub default_endpoint: String,
        pub tls: Option<ServerTlsSettings>,
        pub connection_pool: Option<ConnectionPoolSettings>,
    }

    pub struct EgressListener {
        pub port: Option<SidecarPort>,
        pub bind: String,
        pub capture_mode: CaptureMode,
        /// `namespace/name`; the namespace may be `*`, `.` or `~` (none), the name may start with `*.` or be `*`.
        pub hosts: Vec<String>,
    }

    pub struct SidecarPort {
        pub number: u32,
        pub protocol: String,
        pub name: String,
        pub target_port: u32,
    }

    pub struct OutboundTrafficPolicy {
        /// Given without a mode it is `REGISTRY_ONLY`, as proto3's zero.
        pub mode: OutboundTrafficMode,
        pub egress_proxy: Option<Destination>,
    }
}

choice! {
    pub enum OutboundTrafficMode {
        RegistryOnly = "REGISTRY_ONLY",
        AllowAny = "ALLOW_ANY",
    }

    pub enum CaptureMode {
        Default = "DEFAULT",
        Iptables = "IPTABLES",
        None = "NONE",
    }
}
