//! How a request gets into its proxy: whose address the client connects to, and which listener takes it.

use super::{Explanation, Request};
use crate::host;
use crate::listener::{VIRTUAL_OUTBOUND, name};
use crate::mesh::Mesh;
use crate::proto::{hcm, listener as pb};
use crate::resource::Subscription;
use crate::scope::Scope;
use crate::service::{ANY_ADDRESS, Resolution, Service};
use crate::workload::{Role, Workload};
use crate::{Kind, cluster, gateway};

/// What the listener does with it.
pub enum Entry {
    /// The name of a route configuration.
    Routes(String),
    /// Weight and name of each.
    Clusters(Vec<(u32, String)>),
    Nothing(String),
}

pub fn find(
    mesh: &Mesh,
    scope: &Scope,
    workload: &Workload,
    request: &Request,
    told: &mut Explanation,
) -> Entry {
    let who = format!("{}/{}", workload.namespace, workload.name);
    match workload.role {
        Role::Router => return at_gateway(mesh, workload, request, told),
        Role::Grpc => {
            let service = named(scope, workload, &request.host);
            return match service {
                Some(service) => Entry::Routes(cluster::name(request.port, "", &service.host)),
                None => Entry::Nothing(format!("no service has the name {}", request.host)),
            };
        }
        Role::Sidecar => {}
    }
    if let Some(sidecar) = &scope.sidecar {
        let key = crate::ObjectKey::of(&sidecar.metadata);
        let reference = crate::reference("Sidecar", &key);
        told.add(
            format!("workload {who}"),
            format!("sees {} hosts", scope.services.len()),
            Some(&reference),
        );
    }
    let service = named(scope, workload, &request.host);
    match service {
        Some(service) => told.add(
            format!("host {}", request.host),
            format!("is the service {} at {}", service.host, service.address()),
            cluster::service_reference(service).as_deref(),
        ),
        None => told.add(
            format!("host {}", request.host),
            "is no service that the workload sees",
            None,
        ),
    }
    let address = match service.map(|it| it.address()) {
        Some(address) if !address.contains('/') => address.to_owned(),
        _ => request.host.clone(),
    };
    let listeners = mesh.generate(workload, Kind::Listener, &Subscription::All);
    let wanted = [
        name(&address, request.port),
        name(ANY_ADDRESS, request.port),
        VIRTUAL_OUTBOUND.to_owned(),
    ];
    let found = wanted.iter().find_map(|wanted| {
        let resource = listeners.iter().find(|it| it.name == *wanted)?;
        trireme_xds::unpack::<pb::Listener>(&resource.body).ok()
    });
    let Some(listener) = found else {
        return Entry::Nothing("the proxy has no listener for it".to_owned());
    };
    take(&listener, request, told)
}

/// The service that the client means by a name.
pub fn named<'a>(scope: &'a Scope, workload: &Workload, text: &str) -> Option<&'a Service> {
    let text = text.to_ascii_lowercase();
    let is = |service: &Service| {
        service.host == text
            || service.addresses.contains(&text)
            || host::aliases(&service.host, &workload.namespace).contains(&text)
    };
    let found = scope.service(&text).map(|it| it.as_ref());
    let found = found.or_else(|| {
        scope
            .services
            .values()
            .map(|it| it.as_ref())
            .find(|it| is(it))
    })?;
    match found.resolution {
        Resolution::Alias => {
            let behind = scope.service(&found.external_name);
            Some(behind.map_or(found, |it| it.as_ref()))
        }
        _ => Some(found),
    }
}

fn at_gateway(
    mesh: &Mesh,
    workload: &Workload,
    request: &Request,
    told: &mut Explanation,
) -> Entry {
    let servers = gateway::servers(mesh.view(), workload);
    let on_port = servers
        .into_iter()
        .find(|(_, servers)| servers.iter().any(|it| it.number == request.port));
    let Some(((bind, port), servers)) = on_port else {
        return Entry::Nothing(format!(
            "no Gateway of this workload has the port {}",
            request.port
        ));
    };
    for server in servers.iter().filter(|it| it.number == request.port) {
        let hosts: Vec<&str> = server.hosts.iter().map(|(_, host)| host.as_str()).collect();
        told.add(
            format!("port {}", request.port),
            format!("{} for hosts {}", server.protocol, hosts.join(", ")),
            Some(&server.reference),
        );
    }
    let listeners = mesh.generate(workload, Kind::Listener, &Subscription::All);
    let wanted = name(&bind, port);
    let found = listeners.iter().find(|it| it.name == wanted);
    match found.and_then(|it| trireme_xds::unpack::<pb::Listener>(&it.body).ok()) {
        Some(listener) => take(&listener, request, told),
        None => Entry::Nothing("nothing is routed there, so the port is closed".to_owned()),
    }
}

/// The chain that takes the connection, by the name that the client asks for or by what it speaks.
fn take(listener: &pb::Listener, request: &Request, told: &mut Explanation) -> Entry {
    let https = request.head.https;
    let asks = |chain: &pb::FilterChain| {
        let Some(matched) = &chain.filter_chain_match else {
            return Some(0);
        };
        if matched
            .destination_port
            .as_ref()
            .is_some_and(|it| it.value != request.port)
        {
            return None;
        }
        let plain = matched.transport_protocol == "raw_buffer";
        if plain && https {
            return None;
        }
        if matched.server_names.is_empty() {
            return Some(usize::from(plain));
        }
        let names = matched.server_names.iter();
        let fits = names.filter(|it| https && host::covers(it, &request.host.to_ascii_lowercase()));
        fits.map(|it| it.len() + 1).max()
    };
    let chains = listener.filter_chains.iter();
    let best = chains
        .filter_map(|chain| Some((asks(chain)?, chain)))
        .max_by_key(|(rank, _)| *rank);
    let chain = best
        .map(|(_, chain)| chain)
        .or(listener.default_filter_chain.as_ref());
    let Some(chain) = chain else {
        return Entry::Nothing(format!(
            "listener {} has nothing for it: reset",
            listener.name
        ));
    };
    let object = trireme_xds::metadata::object(chain.metadata.as_ref());
    let object = object.or_else(|| trireme_xds::metadata::object(listener.metadata.as_ref()));
    let any = chain.filters.last().and_then(|it| match &it.config_type {
        Some(pb::filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    let Some(any) = any else {
        return Entry::Nothing(format!("listener {} has no filter", listener.name));
    };
    if let Ok(manager) = trireme_xds::unpack::<hcm::HttpConnectionManager>(any) {
        let routes = match manager.route_specifier {
            Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) => rds.route_config_name,
            _ => String::new(),
        };
        told.add(
            format!("listener {}", listener.name),
            format!("takes it as HTTP, routes {routes}"),
            object,
        );
        return Entry::Routes(routes);
    }
    use crate::proto::extensions::filters::network::tcp_proxy::v3 as tcp;
    let Ok(proxy) = trireme_xds::unpack::<tcp::TcpProxy>(any) else {
        return Entry::Nothing(format!("listener {} does something else", listener.name));
    };
    let clusters = match proxy.cluster_specifier {
        Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name)) => vec![(100, name)],
        Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(many)) => many
            .clusters
            .into_iter()
            .map(|it| (it.weight, it.name))
            .collect(),
        None => Vec::new(),
    };
    told.add(
        format!("listener {}", listener.name),
        "takes it as TCP: nothing of the request is looked at",
        object,
    );
    Entry::Clusters(clusters)
}
