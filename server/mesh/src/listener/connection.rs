//! The connection manager of an HTTP chain.

use crate::access_log;
use crate::filters::{self, Context};
use crate::proto::{ads, boolean, core, duration, extensions, hcm, http_filter, no_timeout, route};
use crate::view::View;
use crate::workload::Workload;

use hcm::http_connection_manager as options;

pub const ROUTER_FILTER: &str = "envoy.filters.http.router";

/// Where the manager stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Outbound,
    Inbound,
    Gateway,
}

/// What differs between managers.
pub struct Manager<'a> {
    pub edge: Edge,
    pub stat_prefix: String,
    /// Routes that come apart, by name, or here.
    pub routes: Routes,
    /// Of the listener, for filters that are for one port only.
    pub port: u32,
    pub workload: &'a Workload,
}

pub enum Routes {
    Named(String),
    Here(route::RouteConfiguration),
}

pub fn manager(view: &View, manager: Manager<'_>) -> hcm::HttpConnectionManager {
    let context = match manager.edge {
        Edge::Outbound => Context::SidecarOutbound,
        Edge::Inbound => Context::SidecarInbound,
        Edge::Gateway => Context::Gateway,
    };
    let mut filters = vec![
        http_filter(
            "envoy.filters.http.fault",
            &extensions::filters::http::fault::v3::HttpFault::default(),
        ),
        http_filter(
            "envoy.filters.http.cors",
            &extensions::filters::http::cors::v3::Cors::default(),
        ),
    ];
    if manager.edge == Edge::Inbound {
        // Faults and CORS are matters of clients' routes, of which a sidecar's own side has none.
        filters.clear();
    }
    filters.extend(filters::http_filters(
        view,
        manager.workload,
        context,
        manager.port,
    ));
    filters.push(http_filter(
        ROUTER_FILTER,
        &extensions::filters::http::router::v3::Router::default(),
    ));
    hcm::HttpConnectionManager {
        codec_type: options::CodecType::Auto as i32,
        stat_prefix: manager.stat_prefix,
        http_filters: filters,
        access_log: access_log::access_logs(&view.mesh),
        use_remote_address: boolean(manager.edge == Edge::Gateway),
        generate_request_id: boolean(true),
        stream_idle_timeout: no_timeout(),
        normalize_path: boolean(true),
        upgrade_configs: vec![options::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..options::UpgradeConfig::default()
        }],
        server_name: match manager.edge {
            Edge::Gateway => "istio-envoy".to_owned(),
            _ => String::new(),
        },
        server_header_transformation: match manager.edge {
            Edge::Inbound => options::ServerHeaderTransformation::PassThrough as i32,
            _ => options::ServerHeaderTransformation::Overwrite as i32,
        },
        common_http_protocol_options: (manager.edge == Edge::Gateway).then(|| {
            core::HttpProtocolOptions {
                // A client outside that has gone is noticed some time.
                idle_timeout: duration(std::time::Duration::from_secs(3600)),
                ..core::HttpProtocolOptions::default()
            }
        }),
        // A request in the clear may go on over TLS that a DestinationRule begins: servers of HTTP/2 refuse, or redirect,
        // one that says over TLS that it is not.
        scheme_header_transformation: Some(core::SchemeHeaderTransformation {
            match_upstream: true,
            transformation: None,
        }),
        route_specifier: Some(match manager.routes {
            Routes::Named(name) => options_rds(name),
            Routes::Here(routes) => {
                hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)
            }
        }),
        ..hcm::HttpConnectionManager::default()
    }
}

fn options_rds(name: String) -> options::RouteSpecifier {
    options::RouteSpecifier::Rds(hcm::Rds {
        config_source: Some(ads()),
        route_config_name: name,
    })
}
