//! Rate limits, which Istio's users write as EnvoyFilters: HTTP filters, the clusters they ask, and what routes and
//! virtual hosts say to them. Nothing else of an EnvoyFilter has an effect.

mod rate_limit;

use trireme_model::istio::{ApplyTo, ConfigPatch, EnvoyFilter, Operation, PatchContext};

use crate::proto::{hcm, route};
use crate::resource::Resource;
use crate::view::{View, selects};
use crate::workload::{Role, Workload};
use crate::{ObjectKey, reference};

/// Where a filter would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    SidecarInbound,
    SidecarOutbound,
    Gateway,
}

impl Context {
    fn is(self, asked: PatchContext) -> bool {
        match asked {
            PatchContext::Any => true,
            PatchContext::SidecarInbound => self == Context::SidecarInbound,
            PatchContext::SidecarOutbound => self == Context::SidecarOutbound,
            PatchContext::Gateway => self == Context::Gateway,
            PatchContext::Waypoint => false,
        }
    }
}

/// The EnvoyFilters for a workload: of the root namespace and its own, by priority, then the oldest first.
fn selecting<'a>(view: &'a View, workload: &Workload) -> Vec<&'a EnvoyFilter> {
    let mut filters: Vec<&EnvoyFilter> = view
        .envoy_filters
        .values()
        .map(|it| it.as_ref())
        .filter(|it| {
            let here = [
                view.mesh.root_namespace.as_str(),
                workload.namespace.as_str(),
            ];
            let selector = it.spec.workload_selector.as_ref();
            here.contains(&it.namespace())
                && selector.is_none_or(|it| selects(&it.labels, &workload.labels))
        })
        .collect();
    filters.sort_by_key(|it| {
        let root = it.namespace() == view.mesh.root_namespace;
        let created = it.metadata.creation_timestamp.as_ref().map(|it| it.0);
        (it.spec.priority, !root, created, it.name().to_owned())
    });
    filters
}

fn patches<'a>(
    view: &'a View,
    workload: &Workload,
    apply_to: ApplyTo,
) -> Vec<(&'a EnvoyFilter, &'a ConfigPatch)> {
    let filters = selecting(view, workload).into_iter();
    let all = filters.flat_map(|it| it.spec.config_patches.iter().map(move |patch| (it, patch)));
    all.filter(|(_, patch)| patch.apply_to == apply_to)
        .collect()
}

/// Filters of a connection manager on this port, in the order in which they run.
pub fn http_filters(
    view: &View,
    workload: &Workload,
    context: Context,
    port: u32,
) -> Vec<hcm::HttpFilter> {
    let mut found = Vec::new();
    for (_, patch) in patches(view, workload, ApplyTo::HttpFilter) {
        let matched = patch.r#match.clone().unwrap_or_default();
        let on_port = matched.listener.as_ref().is_none_or(|it| {
            let chain = it.filter_chain.as_ref().map_or(0, |it| it.destination_port);
            [it.port_number, chain]
                .iter()
                .all(|it| *it == 0 || *it == port)
        });
        if !context.is(matched.context) || !on_port {
            continue;
        }
        let Some(patch) = &patch.patch else { continue };
        let Some(filter) = rate_limit::http_filter(&patch.value) else {
            continue;
        };
        match patch.operation {
            Operation::InsertFirst => found.insert(0, filter),
            _ => found.push(filter),
        }
    }
    found
}

/// What virtual hosts and routes say to the filters.
pub fn routes(
    view: &View,
    workload: &Workload,
    context: Context,
    configuration: &mut route::RouteConfiguration,
) {
    for (_, patch) in patches(view, workload, ApplyTo::VirtualHost) {
        let Some(value) = value(patch, context, configuration) else {
            continue;
        };
        for host in &mut configuration.virtual_hosts {
            if !host_is_meant(patch, host) {
                continue;
            }
            host.rate_limits.extend(rate_limit::rate_limits(value));
            for (name, config) in rate_limit::overrides(value) {
                host.typed_per_filter_config.insert(name, config);
            }
        }
    }
    for (_, patch) in patches(view, workload, ApplyTo::HttpRoute) {
        let Some(value) = value(patch, context, configuration) else {
            continue;
        };
        let wanted = patch
            .r#match
            .as_ref()
            .and_then(|it| it.route_configuration.as_ref())
            .and_then(|it| it.vhost.as_ref())
            .and_then(|it| it.route.as_ref())
            .map(|it| it.name.clone())
            .unwrap_or_default();
        for host in &mut configuration.virtual_hosts {
            if !host_is_meant(patch, host) {
                continue;
            }
            let routes = host.routes.iter_mut();
            for route in routes.filter(|it| wanted.is_empty() || it.name == wanted) {
                if let Some(route::route::Action::Route(action)) = &mut route.action
                    && let Some(inner) = rate_limit::field(value, "route")
                    && let Some(inner) = inner.as_object()
                {
                    action.rate_limits.extend(rate_limit::rate_limits(inner));
                }
                for (name, config) in rate_limit::overrides(value) {
                    route.typed_per_filter_config.insert(name, config);
                }
            }
        }
    }
}

type Fields = serde_json::Map<String, serde_json::Value>;

/// The patch's value where it is for these routes.
fn value<'a>(
    patch: &'a ConfigPatch,
    context: Context,
    configuration: &route::RouteConfiguration,
) -> Option<&'a Fields> {
    let matched = patch.r#match.clone().unwrap_or_default();
    if !context.is(matched.context) {
        return None;
    }
    if let Some(wanted) = &matched.route_configuration {
        let port = wanted.port_number.to_string();
        let name = configuration.name.as_str();
        let of_port = wanted.port_number == 0
            || name == port
            || name.ends_with(&format!(":{port}"))
            || name.starts_with(&format!("http.{port}"))
            || name.starts_with(&format!("https.{port}."))
            || name == format!("inbound|{port}||");
        if !of_port || (!wanted.name.is_empty() && wanted.name != name) {
            return None;
        }
    }
    Some(&patch.patch.as_ref()?.value)
}

fn host_is_meant(patch: &ConfigPatch, host: &route::VirtualHost) -> bool {
    let wanted = patch
        .r#match
        .as_ref()
        .and_then(|it| it.route_configuration.as_ref())
        .and_then(|it| it.vhost.as_ref());
    wanted.is_none_or(|wanted| {
        (wanted.name.is_empty() || wanted.name == host.name)
            && (wanted.domain_name.is_empty() || host.domains.contains(&wanted.domain_name))
    })
}

/// Hosts of the mesh's own services that rate limit filters ask.
pub fn asked_hosts(view: &View, workload: &Workload) -> Vec<String> {
    let filters = patches(view, workload, ApplyTo::HttpFilter).into_iter();
    let names =
        filters.filter_map(|(_, patch)| rate_limit::asked_cluster(&patch.patch.as_ref()?.value));
    names
        .filter_map(|name| crate::cluster::parse_name(&name).map(|(_, _, host)| host.to_owned()))
        .collect()
}

/// Clusters of rate limit services.
pub fn clusters(view: &View, workload: &Workload) -> Vec<Resource> {
    let contexts = match workload.role {
        Role::Router => &[Context::Gateway][..],
        Role::Sidecar => &[Context::SidecarInbound, Context::SidecarOutbound][..],
        Role::Grpc => &[][..],
    };
    let mut found: Vec<Resource> = Vec::new();
    for (object, patch) in patches(view, workload, ApplyTo::Cluster) {
        let asked = patch
            .r#match
            .as_ref()
            .map(|it| it.context)
            .unwrap_or_default();
        let Some(value) = &patch.patch else { continue };
        if value.operation != Operation::Add || !contexts.iter().any(|it| it.is(asked)) {
            continue;
        }
        if let Some(mut cluster) = rate_limit::cluster(&value.value)
            && found.iter().all(|known| known.name != cluster.name)
        {
            let reference = reference("EnvoyFilter", &ObjectKey::of(&object.metadata));
            trireme_xds::metadata::set_object(&mut cluster.metadata, &reference);
            found.push(Resource::new(cluster.name.clone(), &cluster));
        }
    }
    found
}
