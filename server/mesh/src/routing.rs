//! VirtualServices made ready: names in full, delegates in place, the oldest first.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use trireme_decide::ObjectKey;
use trireme_model::istio::{self, HttpMatchRequest, HttpRoute};

use crate::host;
use crate::reference;
use crate::service::Visibility;
use crate::view::View;

/// The word for every sidecar among a VirtualService's gateways.
pub const MESH_GATEWAY: &str = "mesh";

/// A VirtualService as configuration is made from it.
#[derive(Debug, Clone)]
pub struct Routing {
    pub key: ObjectKey,
    pub created: Option<Timestamp>,
    /// In full, lower case.
    pub hosts: Vec<String>,
    /// `mesh` or `namespace/name`.
    pub gateways: Vec<String>,
    pub visibility: Visibility,
    /// Every host in it in full, no delegates left.
    pub spec: istio::VirtualServiceSpec,
    /// How metadata names it.
    pub reference: String,
}

impl Routing {
    /// The hosts of every destination in it.
    pub fn destinations(&self) -> impl Iterator<Item = &istio::Destination> {
        let http = self.spec.http.iter().flat_map(|route| {
            let routes = route.route.iter().map(|it| &it.destination);
            let mirrors = route.mirrors.iter().map(|it| &it.destination);
            routes.chain(&route.mirror).chain(mirrors)
        });
        let tls = self.spec.tls.iter().flat_map(|route| &route.route);
        let tcp = self.spec.tcp.iter().flat_map(|route| &route.route);
        http.chain(tls.chain(tcp).map(|it| &it.destination))
    }

    pub fn for_mesh(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct RoutingIndex {
    /// All with hosts, the oldest first.
    all: Vec<Arc<Routing>>,
    by_gateway: BTreeMap<String, Vec<Arc<Routing>>>,
    /// Some look at their clients' labels, so that two pods of one namespace may get different routes.
    pub looks_at_labels: bool,
}

impl RoutingIndex {
    pub fn build(view: &View) -> RoutingIndex {
        let mut index = RoutingIndex::default();
        let with_hosts = view.virtual_services.values();
        for object in with_hosts.filter(|object| !object.spec.hosts.is_empty()) {
            index.all.push(Arc::new(ready(view, object)));
        }
        index.all.sort_by(|one, other| {
            let rank = |it: &Routing| (it.created, it.key.name.clone(), it.key.namespace.clone());
            rank(one).cmp(&rank(other))
        });
        for routing in &index.all {
            for gateway in &routing.gateways {
                let bound = index.by_gateway.entry(gateway.clone());
                bound.or_default().push(routing.clone());
            }
            index.looks_at_labels |= looks_at_labels(&routing.spec);
        }
        index
    }

    pub fn all(&self) -> &[Arc<Routing>] {
        &self.all
    }

    /// Those bound to a gateway (`mesh`, `namespace/name`), the oldest first.
    pub fn of_gateway(&self, gateway: &str) -> &[Arc<Routing>] {
        self.by_gateway.get(gateway).map_or(&[], Vec::as_slice)
    }
}

fn looks_at_labels(spec: &istio::VirtualServiceSpec) -> bool {
    let http = spec.http.iter().flat_map(|route| &route.r#match);
    let tls = spec.tls.iter().flat_map(|route| &route.r#match);
    let tcp = spec.tcp.iter().flat_map(|route| &route.r#match);
    http.clone().any(|it| !it.source_labels.is_empty())
        || tls.clone().any(|it| !it.source_labels.is_empty())
        || tcp.clone().any(|it| !it.source_labels.is_empty())
}

fn ready(view: &View, object: &istio::VirtualService) -> Routing {
    let namespace = object.namespace();
    let mut spec = object.spec.clone();
    spec.http = spec
        .http
        .into_iter()
        .flat_map(|route| match &route.delegate {
            Some(delegate) => delegated(view, namespace, &route, delegate),
            None => {
                let mut route = route;
                complete_http(&mut route, namespace);
                vec![route]
            }
        })
        .collect();
    for route in &mut spec.tls {
        for matched in &mut route.r#match {
            complete_gateways(&mut matched.gateways, namespace);
        }
        complete_destinations(&mut route.route, namespace);
    }
    for route in &mut spec.tcp {
        for matched in &mut route.r#match {
            complete_gateways(&mut matched.gateways, namespace);
        }
        complete_destinations(&mut route.route, namespace);
    }
    let mut gateways = spec.gateways.clone();
    if gateways.is_empty() {
        gateways.push(MESH_GATEWAY.to_owned());
    }
    complete_gateways(&mut gateways, namespace);
    let export_to = match object.spec.export_to.is_empty() {
        true => &view.mesh.default_virtual_service_export_to,
        false => &object.spec.export_to,
    };
    Routing {
        key: ObjectKey::of(&object.metadata),
        created: object.metadata.creation_timestamp.as_ref().map(|it| it.0),
        hosts: spec
            .hosts
            .iter()
            .map(|name| host::resolve(name, namespace))
            .collect(),
        gateways,
        visibility: Visibility::read(export_to.iter().map(String::as_str), namespace),
        spec,
        reference: reference("VirtualService", &ObjectKey::of(&object.metadata)),
    }
}

/// `name` is a Gateway beside the VirtualService.
fn complete_gateways(gateways: &mut [String], namespace: &str) {
    for gateway in gateways {
        if gateway != MESH_GATEWAY && !gateway.contains('/') {
            *gateway = format!("{namespace}/{gateway}");
        }
    }
}

fn complete_destinations(routes: &mut [istio::RouteDestination], namespace: &str) {
    for route in routes {
        complete(&mut route.destination, namespace);
    }
}

fn complete(destination: &mut istio::Destination, namespace: &str) {
    destination.host = host::resolve(&destination.host, namespace);
}

fn complete_http(route: &mut HttpRoute, namespace: &str) {
    for matched in &mut route.r#match {
        complete_gateways(&mut matched.gateways, namespace);
    }
    for destination in &mut route.route {
        complete(&mut destination.destination, namespace);
    }
    for mirror in &mut route.mirrors {
        complete(&mut mirror.destination, namespace);
    }
    if let Some(mirror) = &mut route.mirror {
        complete(mirror, namespace);
    }
}

/// The routes of a delegate, each narrowed by the matches of the route that delegates. A delegate that is not there,
/// is not shown to this namespace or delegates itself gives none.
fn delegated(
    view: &View,
    namespace: &str,
    root: &HttpRoute,
    delegate: &istio::Delegate,
) -> Vec<HttpRoute> {
    let within = match delegate.namespace.as_str() {
        "" => namespace,
        other => other,
    };
    let key = ObjectKey::new(within, delegate.name.clone());
    let Some(object) = view.virtual_services.get(&key) else {
        return Vec::new();
    };
    let visibility = Visibility::read(object.spec.export_to.iter().map(String::as_str), within);
    if !object.spec.hosts.is_empty() || !visibility.includes(namespace) {
        return Vec::new();
    }
    let mut routes = Vec::new();
    for route in object.spec.http.iter().filter(|it| it.delegate.is_none()) {
        let mut merged = route.clone();
        complete_http(&mut merged, within);
        let mut outer = root.r#match.clone();
        for matched in &mut outer {
            complete_gateways(&mut matched.gateways, namespace);
        }
        merged.r#match = match (outer.is_empty(), merged.r#match.is_empty()) {
            (true, _) => merged.r#match,
            (false, true) => outer,
            (false, false) => {
                let pairs = outer.iter().flat_map(|outer| {
                    let inner = merged.r#match.iter();
                    inner
                        .filter_map(|inner| both(outer, inner))
                        .collect::<Vec<_>>()
                });
                let narrowed: Vec<HttpMatchRequest> = pairs.collect();
                if narrowed.is_empty() {
                    // Nothing can meet both.
                    continue;
                }
                narrowed
            }
        };
        merged.name = match (root.name.is_empty(), merged.name.is_empty()) {
            (false, false) => format!("{}-{}", root.name, merged.name),
            (false, true) => root.name.clone(),
            (true, _) => merged.name,
        };
        inherit(&mut merged, root);
        routes.push(merged);
    }
    routes
}

/// What the delegate leaves out, the route that delegates says.
fn inherit(route: &mut HttpRoute, root: &HttpRoute) {
    route.rewrite = route.rewrite.take().or_else(|| root.rewrite.clone());
    route.timeout = route.timeout.or(root.timeout);
    route.retries = route.retries.take().or_else(|| root.retries.clone());
    route.fault = route.fault.take().or_else(|| root.fault.clone());
    route.cors_policy = route
        .cors_policy
        .take()
        .or_else(|| root.cors_policy.clone());
    route.mirror = route.mirror.take().or_else(|| root.mirror.clone());
    if route.mirror_percentage.is_none() {
        route.mirror_percentage = root.mirror_percentage.clone();
    }
    if route.mirrors.is_empty() {
        route.mirrors = root.mirrors.clone();
    }
    let Some(outer) = &root.headers else { return };
    let inner = route.headers.get_or_insert_default();
    for (inner, outer) in [
        (&mut inner.request, &outer.request),
        (&mut inner.response, &outer.response),
    ] {
        let Some(outer) = outer else { continue };
        let inner = inner.get_or_insert_default();
        for (name, value) in &outer.set {
            inner
                .set
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
        for (name, value) in &outer.add {
            inner
                .add
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
        inner.remove.extend(outer.remove.iter().cloned());
    }
}

/// The match that both of two hold for; `None` where they contradict each other.
fn both(outer: &HttpMatchRequest, inner: &HttpMatchRequest) -> Option<HttpMatchRequest> {
    fn either<T: Clone>(outer: &Option<T>, inner: &Option<T>) -> Option<Option<T>> {
        match (outer, inner) {
            (Some(_), Some(_)) => None,
            (one, other) => Some(other.clone().or_else(|| one.clone())),
        }
    }
    fn union<V: Clone + PartialEq>(
        outer: &BTreeMap<String, V>,
        inner: &BTreeMap<String, V>,
    ) -> Option<BTreeMap<String, V>> {
        let mut all = outer.clone();
        for (name, value) in inner {
            if all
                .insert(name.clone(), value.clone())
                .is_some_and(|it| it != *value)
            {
                return None;
            }
        }
        Some(all)
    }
    let uri = match (&outer.uri, &inner.uri) {
        // A delegate's path below the prefix that delegates to it.
        (Some(istio::StringMatch::Prefix(outer)), Some(uri)) => match uri {
            istio::StringMatch::Prefix(text) | istio::StringMatch::Exact(text)
                if text.starts_with(outer.as_str()) =>
            {
                Some(uri.clone())
            }
            _ => return None,
        },
        (Some(one), Some(other)) if one == other => Some(one.clone()),
        (outer, inner) => either(outer, inner)?,
    };
    if outer.port != 0 && inner.port != 0 && outer.port != inner.port {
        return None;
    }
    if !outer.source_namespace.is_empty()
        && !inner.source_namespace.is_empty()
        && outer.source_namespace != inner.source_namespace
    {
        return None;
    }
    let name = match (outer.name.is_empty(), inner.name.is_empty()) {
        (false, false) => format!("{}-{}", outer.name, inner.name),
        (false, true) => outer.name.clone(),
        (true, _) => inner.name.clone(),
    };
    Some(HttpMatchRequest {
        name,
        uri,
        scheme: either(&outer.scheme, &inner.scheme)?,
        method: either(&outer.method, &inner.method)?,
        authority: either(&outer.authority, &inner.authority)?,
        headers: union(&outer.headers, &inner.headers)?,
        without_headers: union(&outer.without_headers, &inner.without_headers)?,
        query_params: union(&outer.query_params, &inner.query_params)?,
        port: outer.port.max(inner.port),
        source_labels: union(&outer.source_labels, &inner.source_labels)?,
        source_namespace: match inner.source_namespace.is_empty() {
            true => outer.source_namespace.clone(),
            false => inner.source_namespace.clone(),
        },
        gateways: match inner.gateways.is_empty() {
            true => outer.gateways.clone(),
            false => inner.gateways.clone(),
        },
        ignore_uri_case: outer.ignore_uri_case || inner.ignore_uri_case,
        stat_prefix: match inner.stat_prefix.is_empty() {
            true => outer.stat_prefix.clone(),
            false => inner.stat_prefix.clone(),
        },
    })
}
