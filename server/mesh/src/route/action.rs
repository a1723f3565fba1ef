//! What becomes of a request that a route matches.

use std::collections::BTreeSet;

use trireme_model::istio::{
    ConsistentHash, Destination, HeaderOperations, Headers, HttpMatchRequest, HttpRoute,
    HttpRouteDestination,
};

use super::{matching, policy};
use crate::cluster;
use crate::proto::{
    all, boolean, core, duration, matcher, no_timeout, regex, route as pb, runtime_share, share,
    uint,
};
use crate::routing::Routing;
use crate::scope::Scope;
use crate::service::{Port, Service};
use crate::view::View;
use crate::workload::{Role, Workload};

use pb::route_action::{ClusterSpecifier, HostRewriteSpecifier};

/// For whom routes are made.
pub struct Context<'a> {
    pub view: &'a View,
    pub scope: &'a Scope,
    pub workload: &'a Workload,
    /// `mesh`, or the gateways that the routes are for.
    pub gateways: &'a BTreeSet<String>,
    /// Of the listener as clients see it.
    pub port: u32,
    /// The listener takes TLS off.
    pub tls: bool,
}

/// The routes of a VirtualService in their order; nothing comes after one that matches everything.
pub fn routes(routing: &Routing, context: &Context<'_>) -> Vec<pb::Route> {
    let mut routes = Vec::new();
    'all: for http in &routing.spec.http {
        if http.r#match.is_empty() {
            routes.extend(route(routing, http, None, context));
            break;
        }
        for matched in &http.r#match {
            let Some(route) = route(routing, http, Some(matched), context) else {
                continue;
            };
            let last = route.r#match.as_ref().is_some_and(matching::is_catch_all);
            routes.push(route);
            if last {
                break 'all;
            }
        }
    }
    routes
}

/// `None` where the match is for other clients, gateways or ports.
fn route(
    routing: &Routing,
    http: &HttpRoute,
    matched: Option<&HttpMatchRequest>,
    context: &Context<'_>,
) -> Option<pb::Route> {
    if let Some(matched) = matched {
        let workload = context.workload;
        let here = matched.port == 0 || matched.port == context.port;
        let meant = matching::source_matches(
            matched,
            &workload.labels,
            &workload.namespace,
            context.gateways,
        );
        if !here || !meant {
            return None;
        }
    }
    let mut route = pb::Route {
        name: match matched.map(|it| it.name.as_str()).unwrap_or("") {
            "" => http.name.clone(),
            name => format!("{}.{name}", http.name),
        },
        r#match: Some(matched.map_or_else(matching::anything, matching::route_match)),
        stat_prefix: matched.map(|it| it.stat_prefix.clone()).unwrap_or_default(),
        ..pb::Route::default()
    };
    trireme_xds::metadata::set_object(&mut route.metadata, &routing.reference);
    let mut authority = None;
    if let Some(headers) = &http.headers {
        let changes = HeaderChanges::of(headers);
        authority.clone_from(&changes.authority);
        changes.onto_route(&mut route);
    }
    route.action = if let Some(redirect) = &http.redirect {
        policy::redirect(redirect, context.port, context.tls).map(pb::route::Action::Redirect)
    } else if let Some(response) = &http.direct_response {
        Some(pb::route::Action::DirectResponse(policy::direct_response(
            response,
        )))
    } else {
        let action = destinations(http, authority, &mut route, context);
        Some(pb::route::Action::Route(action))
    };
    route.action.as_ref()?;
    route.decorator = Some(pb::Decorator {
        operation: operation(&route, &routing.key.name, context.port),
        ..pb::Decorator::default()
    });
    if let Some(fault) = http.fault.as_ref().and_then(policy::fault) {
        let config = trireme_xds::pack(&fault);
        route
            .typed_per_filter_config
            .insert(policy::FAULT_FILTER.to_owned(), config);
    }
    if let Some(cors) = &http.cors_policy {
        let config = trireme_xds::pack(&policy::cors(cors));
        route
            .typed_per_filter_config
            .insert(policy::CORS_FILTER.to_owned(), config);
    }
    Some(route)
}

fn destinations(
    http: &HttpRoute,
    authority: Option<String>,
    route: &mut pb::Route,
    context: &Context<'_>,
) -> pb::RouteAction {
    let mut action = pb::RouteAction::default();
    let timeout = http.timeout.filter(|it| !it.is_zero());
    action.timeout = timeout.map_or_else(no_timeout, duration);
    match context.workload.role {
        Role::Grpc => {
            action.max_stream_duration = Some(pb::route_action::MaxStreamDuration {
                max_stream_duration: action.timeout,
                ..pb::route_action::MaxStreamDuration::default()
            });
        }
        _ => bound_grpc_timeout(&mut action),
    }
    let mut authority = authority;
    if let Some(rewrite) = &http.rewrite {
        if let Some(text) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
                pattern: Some(regex(&text.r#match)),
                substitution: text.rewrite.clone(),
            });
        } else {
            action.prefix_rewrite.clone_from(&rewrite.uri);
        }
        if !rewrite.authority.is_empty() {
            authority = Some(rewrite.authority.clone());
        }
    }
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    action.request_mirror_policies = mirrors(http, context);
    let hashed = match http.route.as_slice() {
        [single] => {
            let cluster = destination_cluster(&single.destination, context);
            action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster));
            if let Some(headers) = &single.headers {
                let changes = HeaderChanges::of(headers);
                if let Some(host) = &changes.authority
                    && action.host_rewrite_specifier.is_none()
                {
                    action.host_rewrite_specifier =
                        Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
                }
                changes.onto_route(route);
            }
            let hash = hash_of(&single.destination, context);
            action.hash_policy = hash.as_ref().and_then(policy::hash).into_iter().collect();
            hash.is_some()
        }
        several => {
            weighted(&mut action, several, context);
            false
        }
    };
    let retries = http
        .retries
        .as_ref()
        .or(context.view.mesh.default_http_retry_policy.as_ref());
    action.retry_policy = policy::retry(retries, hashed);
    action
}

fn weighted(action: &mut pb::RouteAction, several: &[HttpRouteDestination], context: &Context<'_>) {
    use pb::weighted_cluster::{ClusterWeight, cluster_weight};
    let mut clusters = Vec::new();
    for one in several {
        let Ok(weight @ 1..) = u32::try_from(one.weight) else {
            continue;
        };
        let mut cluster = ClusterWeight {
            name: destination_cluster(&one.destination, context),
            weight: uint(weight),
            ..ClusterWeight::default()
        };
        if let Some(headers) = &one.headers {
            let changes = HeaderChanges::of(headers);
            cluster.request_headers_to_add = changes.request_add;
            cluster.request_headers_to_remove = changes.request_remove;
            cluster.response_headers_to_add = changes.response_add;
            cluster.response_headers_to_remove = changes.response_remove;
            cluster.host_rewrite_specifier = changes
                .authority
                .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral);
        }
        let hash = hash_of(&one.destination, context);
        action
            .hash_policy
            .extend(hash.as_ref().and_then(policy::hash));
        clusters.push(cluster);
    }
    if clusters.is_empty() {
        // Envoy refuses a choice of nothing, and with it all routes of the port.
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster::BLACK_HOLE.to_owned()));
        return;
    }
    action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
        clusters,
        ..pb::WeightedCluster::default()
    }));
}

fn mirrors(http: &HttpRoute, context: &Context<'_>) -> Vec<pb::route_action::RequestMirrorPolicy> {
    let old = http.mirror.as_ref().map(|to| (to, &http.mirror_percentage));
    let new = http
        .mirrors
        .iter()
        .map(|it| (&it.destination, &it.percentage));
    let mut policies = Vec::new();
    for (to, percentage) in old.into_iter().chain(new) {
        let share = match percentage {
            Some(percentage) if percentage.value <= 0.0 => continue,
            Some(percentage) => share(percentage),
            None => all(),
        };
        policies.push(pb::route_action::RequestMirrorPolicy {
            cluster: destination_cluster(to, context),
            runtime_fraction: runtime_share(share),
            trace_sampled: boolean(false),
            ..pb::route_action::RequestMirrorPolicy::default()
        });
    }
    policies
}

/// The cluster of a destination: its port, else the only one that its service has, else the listener's.
pub fn destination_cluster(destination: &Destination, context: &Context<'_>) -> String {
    let service = service_of(destination, context);
    let port = destination_port(destination, service, context.port);
    let host = match service {
        Some(service) if !service.external_name.is_empty() => &service.external_name,
        _ => &destination.host,
    };
    cluster::name(port, &destination.subset, host)
}

fn service_of<'a>(destination: &Destination, context: &'a Context<'_>) -> Option<&'a Service> {
    context
        .scope
        .service(&destination.host)
        .map(|it| it.as_ref())
}

fn destination_port(destination: &Destination, service: Option<&Service>, otherwise: u32) -> u32 {
    match (&destination.port, service.map(|it| it.ports.as_slice())) {
        (Some(port), _) => port.number,
        (None, Some([single])) => single.number,
        (None, _) => otherwise,
    }
}

fn hash_of(destination: &Destination, context: &Context<'_>) -> Option<ConsistentHash> {
    let rule = context.scope.rule(&destination.host)?;
    let port = destination_port(destination, service_of(destination, context), context.port);
    let subset = rule.subset(&destination.subset);
    rule.policy(port, subset).load_balancer?.consistent_hash
}

/// The same bound for the deadline that a gRPC client sends; Envoy's newer field does not take part in retries.
#[allow(deprecated)]
pub fn bound_grpc_timeout(action: &mut pb::RouteAction) {
    action.max_grpc_timeout = action.timeout;
}

pub fn to_cluster(cluster: String) -> pb::RouteAction {
    pb::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..pb::RouteAction::default()
    }
}

/// The route of a service that no VirtualService speaks of.
pub fn default_route(context: &Context<'_>, service: &Service, port: &Port) -> pb::Route {
    let mut action = to_cluster(cluster::name(port.number, "", &service.host));
    action.timeout = no_timeout();
    match context.workload.role {
        Role::Grpc => {}
        _ => bound_grpc_timeout(&mut action),
    }
    let policy = context
        .scope
        .rule(&service.host)
        .map(|rule| rule.policy(port.number, None))
        .unwrap_or_default();
    let hash = policy.load_balancer.and_then(|it| it.consistent_hash);
    action.hash_policy = hash.as_ref().and_then(policy::hash).into_iter().collect();
    action.retry_policy = policy::retry(
        context.view.mesh.default_http_retry_policy.as_ref(),
        hash.is_some(),
    );
    let mut metadata = None;
    if let Some(reference) = cluster::service_reference(service) {
        trireme_xds::metadata::set_object(&mut metadata, &reference);
    }
    pb::Route {
        name: "default".to_owned(),
        r#match: Some(matching::anything()),
        decorator: Some(pb::Decorator {
            operation: format!("{}:{}/*", service.host, port.number),
            ..pb::Decorator::default()
        }),
        metadata,
        action: Some(pb::route::Action::Route(action)),
        ..pb::Route::default()
    }
}

/// The route from a sidecar to its application: no time limit, and a second try only where the application has
/// closed the connection before it saw the request.
pub fn inbound_route(cluster: String, operation: String, grpc: bool) -> pb::Route {
    let mut action = to_cluster(cluster);
    action.timeout = no_timeout();
    action.max_stream_duration = Some(pb::route_action::MaxStreamDuration {
        max_stream_duration: no_timeout(),
        grpc_timeout_header_max: no_timeout(),
        ..pb::route_action::MaxStreamDuration::default()
    });
    if !grpc {
        action.retry_policy = Some(policy::inbound_retry());
    }
    pb::Route {
        name: "default".to_owned(),
        r#match: Some(matching::anything()),
        decorator: Some(pb::Decorator {
            operation,
            ..pb::Decorator::default()
        }),
        action: Some(pb::route::Action::Route(action)),
        ..pb::Route::default()
    }
}

/// What traces call it.
fn operation(route: &pb::Route, routing: &str, port: u32) -> String {
    use pb::route_match::PathSpecifier;
    let path = match route
        .r#match
        .as_ref()
        .and_then(|it| it.path_specifier.as_ref())
    {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".to_owned(),
    };
    if let Some(pb::route::Action::Route(action)) = &route.action
        && let Some(ClusterSpecifier::Cluster(name)) = &action.cluster_specifier
        && let Some((port, _, host)) = cluster::parse_name(name)
    {
        return format!("{host}:{port}{path}");
    }
    format!("{routing}:{port}{path}")
}

/// Changes of headers in Envoy's form.
#[derive(Default)]
struct HeaderChanges {
    request_add: Vec<core::HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<core::HeaderValueOption>,
    response_remove: Vec<String>,
    authority: Option<String>,
}

/// Pseudo-headers and the host are not changed as headers are.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

impl HeaderChanges {
    fn of(headers: &Headers) -> HeaderChanges {
        let mut changes = HeaderChanges::default();
        if let Some(request) = &headers.request {
            (changes.request_add, changes.request_remove) = operations(request);
            let authority = |(name, _): &(&String, &String)| {
                *name == ":authority" || name.eq_ignore_ascii_case("host")
            };
            let set = request.set.iter().find(authority);
            let set = set.or_else(|| request.add.iter().find(authority));
            changes.authority = set.map(|(_, value)| value.clone());
        }
        if let Some(response) = &headers.response {
            (changes.response_add, changes.response_remove) = operations(response);
        }
        changes
    }

    fn onto_route(self, route: &mut pb::Route) {
        route.request_headers_to_add.extend(self.request_add);
        route.request_headers_to_remove.extend(self.request_remove);
        route.response_headers_to_add.extend(self.response_add);
        route
            .response_headers_to_remove
            .extend(self.response_remove);
    }
}

fn operations(operations: &HeaderOperations) -> (Vec<core::HeaderValueOption>, Vec<String>) {
    use core::header_value_option::HeaderAppendAction;
    let one = |name: &String, value: &String, action: HeaderAppendAction| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.clone(),
            value: value.clone(),
            ..core::HeaderValue::default()
        }),
        append_action: action as i32,
        ..core::HeaderValueOption::default()
    };
    let set = operations.set.iter().filter(|(name, _)| !is_internal(name));
    let add = operations.add.iter().filter(|(name, _)| !is_internal(name));
    let set = set.map(|(name, value)| one(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = add.map(|(name, value)| one(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    let remove = operations.remove.iter().filter(|name| !is_internal(name));
    (set.chain(add).collect(), remove.cloned().collect())
}
