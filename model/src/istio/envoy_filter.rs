//! EnvoyFilter, narrowly: what Istio's rate limiting task adds with it.
//!
//! Validation admits only patches that add the HTTP filters `envoy.filters.http.local_ratelimit` and
//! `envoy.filters.http.ratelimit`, and these filters' settings and descriptors of routes and virtual hosts; see
//! `validate::istio`.

use serde_json::{Map, Value};

use super::{Object, WorkloadSelector};

pub type EnvoyFilter = Object<EnvoyFilterSpec>;

message! {
    pub struct EnvoyFilterSpec {
        /// Absent means every workload of the namespace, of the mesh in the root namespace.
        pub workload_selector: Option<WorkloadSelector>,
        pub config_patches: Vec<ConfigPatch>,
        pub priority: i32,
    }

    pub struct ConfigPatch {
        pub apply_to: ApplyTo,
        pub r#match: Option<ObjectMatch>,
        pub patch: Option<Patch>,
    }

    pub struct ObjectMatch {
        pub context: PatchContext,
        pub listener: Option<ListenerMatch>,
        pub route_configuration: Option<RouteConfigurationMatch>,
        pub cluster: Option<ClusterMatch>,
    }

    pub struct ClusterMatch {
        pub port_number: u32,
        pub service: String,
        pub subset: String,
        pub name: String,
    }

    pub struct RouteConfigurationMatch {
        pub port_number: u32,
        pub port_name: String,
        pub gateway: String,
        pub vhost: Option<VirtualHostMatch>,
        pub name: String,
    }

    pub struct VirtualHostMatch {
        pub name: String,
        pub domain_name: String,
        pub route: Option<RouteMatch>,
    }

    pub struct RouteMatch {
        pub name: String,
        pub action: RouteAction,
    }

    pub struct ListenerMatch {
        pub port_number: u32,
        pub port_name: String,
        pub filter_chain: Option<FilterChainMatch>,
        pub listener_filter: String,
        pub name: String,
    }

    pub struct FilterChainMatch {
        pub name: String,
        pub sni: String,
        pub transport_protocol: String,
        pub application_protocols: String,
        pub filter: Option<FilterMatch>,
        pub destination_port: u32,
    }

    pub struct FilterMatch {
        pub name: String,
        pub sub_filter: Option<SubFilterMatch>,
    }

    pub struct SubFilterMatch {
        pub name: String,
    }

    pub struct Patch {
        pub operation: Operation,
        /// Envoy's configuration in protobuf's JSON, field names in either case.
        pub value: Map<String, Value>,
    }
}

choice! {
    pub enum ApplyTo {
        Invalid = "INVALID",
        Listener = "LISTENER",
        FilterChain = "FILTER_CHAIN",
        NetworkFilter = "NETWORK_FILTER",
        HttpFilter = "HTTP_FILTER",
        RouteConfiguration = "ROUTE_CONFIGURATION",
        VirtualHost = "VIRTUAL_HOST",
        HttpRoute = "HTTP_ROUTE",
        Cluster = "CLUSTER",
        ExtensionConfig = "EXTENSION_CONFIG",
        Bootstrap = "BOOTSTRAP",
        ListenerFilter = "LISTENER_FILTER",
    }

    pub enum PatchContext {
        Any = "ANY",
        SidecarInbound = "SIDECAR_INBOUND",
        SidecarOutbound = "SIDECAR_OUTBOUND",
        Gateway = "GATEWAY",
        Waypoint = "WAYPOINT",
    }

    pub enum RouteAction {
        Any = "ANY",
        Route = "ROUTE",
        Redirect = "REDIRECT",
        DirectResponse = "DIRECT_RESPONSE",
    }

    pub enum Operation {
        Invalid = "INVALID",
        Merge = "MERGE",
        Add = "ADD",
        Remove = "REMOVE",
        InsertBefore = "INSERT_BEFORE",
        InsertAfter = "INSERT_AFTER",
        InsertFirst = "INSERT_FIRST",
        Replace = "REPLACE",
        MergeAndReplaceList = "MERGE_AND_REPLACE_LIST",
    }
}
