//! Listeners of a sidecar: one for what its application sends, one for what comes to it, and behind the first, bound
//! to no port, one for each address that services have.

mod chain;
mod connection;
mod inbound;
mod offer;
mod outbound;
mod tcp;

use crate::proto::{address, boolean, core, duration, extensions, listener as pb, network_filter};

pub use chain::{Chain, listener_filters};
pub use connection::{Edge, Manager, ROUTER_FILTER, Routes, manager};
pub use inbound::inbound;
pub use outbound::{outbound, route_names};
pub use tcp::{single, weighted};

pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
pub const VIRTUAL_INBOUND: &str = "virtualInbound";
pub const OUTBOUND_PORT: u32 = 15001;
pub const INBOUND_PORT: u32 = 15006;
const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// What the inspector makes of the first bytes of HTTP/1 and of HTTP/2 without TLS.
pub const PLAIN_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];
/// How long a connection whose protocol nobody said may stay silent before it is taken for TCP: a server that speaks
/// first is held up that long, a client that is slower loses its HTTP routes. Half a second is over what a busy
/// machine needs between connecting and sending, and under what people notice.
const DETECTION_TIMEOUT_MS: u64 = 500;

/// `ADDRESS_PORT`
pub fn name(bind: &str, port: u32) -> String {
    format!("{bind}_{port}")
}

/// The time to wait for a first byte where detection is on.
pub(crate) fn detection_timeout(
    mesh: &crate::mesh_config::MeshConfig,
) -> Option<crate::proto::protobuf::Duration> {
    let told = mesh
        .protocol_detection_timeout
        .map(std::time::Duration::from);
    duration(told.unwrap_or(std::time::Duration::from_millis(DETECTION_TIMEOUT_MS)))
}

fn base(name: &str, bind: &str, port: u32, direction: core::TrafficDirection) -> pb::Listener {
    pb::Listener {
        name: name.to_owned(),
        address: Some(address(bind, port)),
        traffic_direction: direction as i32,
        continue_on_listener_filters_timeout: true,
        ..pb::Listener::default()
    }
}

fn listener_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> pb::ListenerFilter {
    pb::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(pb::listener_filter::ConfigType::TypedConfig(
            trireme_xds::pack(config),
        )),
        ..pb::ListenerFilter::default()
    }
}

pub fn tls_inspector() -> pb::ListenerFilter {
    use extensions::filters::listener::tls_inspector::v3::TlsInspector;
    listener_filter(
        "envoy.filters.listener.tls_inspector",
        &TlsInspector::default(),
    )
}

fn http_inspector() -> pb::ListenerFilter {
    use extensions::filters::listener::http_inspector::v3::HttpInspector;
    listener_filter(
        "envoy.filters.listener.http_inspector",
        &HttpInspector::default(),
    )
}

fn original_destination() -> pb::ListenerFilter {
    use extensions::filters::listener::original_dst::v3::OriginalDst;
    listener_filter(
        "envoy.filters.listener.original_dst",
        &OriginalDst::default(),
    )
}

/// The filter that a connection manager is.
pub fn http(manager: &crate::proto::hcm::HttpConnectionManager) -> pb::Filter {
    network_filter(HTTP_MANAGER, manager)
}

/// Not a socket of its own: connections come from the listener that takes everything.
fn unbound(listener: &mut pb::Listener) {
    listener.bind_to_port = boolean(false);
}
