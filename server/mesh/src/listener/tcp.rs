//! Connections passed on as they are.

use trireme_model::istio::RouteDestination;

use super::TCP_PROXY;
use crate::access_log;
use crate::cluster;
use crate::proto::{duration, extensions, kind, listener as pb, network_filter};
use crate::route::Context;
use crate::view::View;

use extensions::filters::network::tcp_proxy::v3 as tcp;

/// To one cluster.
pub fn single(view: &View, cluster: &str) -> pb::Filter {
    network_filter(
        TCP_PROXY,
        &tcp::TcpProxy {
            stat_prefix: cluster.to_owned(),
            access_log: access_log::access_logs(&view.mesh),
            cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(
                cluster.to_owned(),
            )),
            ..tcp::TcpProxy::default()
        },
    )
}

/// To one cluster of a service, with what its rule says of idle connections and of hashing.
pub fn to_service(context: &Context<'_>, port: u32, subset: &str, host: &str) -> pb::Filter {
    let name = cluster::name(port, subset, host);
    let mut proxy = tcp::TcpProxy {
        stat_prefix: name.clone(),
        access_log: access_log::access_logs(&context.view.mesh),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name)),
        ..tcp::TcpProxy::default()
    };
    if let Some(rule) = context.scope.rule(host) {
        let policy = rule.policy(port, rule.subset(subset));
        let settings = policy.connection_pool.and_then(|pool| pool.tcp);
        proxy.idle_timeout = settings
            .as_ref()
            .and_then(|it| it.idle_timeout)
            .and_then(duration);
        let longest = settings.and_then(|it| it.max_connection_duration);
        proxy.max_downstream_connection_duration = longest.and_then(duration);
        let hash = policy.load_balancer.and_then(|it| it.consistent_hash);
        if hash.is_some_and(|it| it.use_source_ip == Some(true)) {
            use kind::hash_policy::{PolicySpecifier, SourceIp};
            proxy.hash_policy = vec![kind::HashPolicy {
                policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
            }];
        }
    }
    network_filter(TCP_PROXY, &proxy)
}

/// To the destinations of a route by their weights.
pub fn weighted(
    context: &Context<'_>,
    routes: &[RouteDestination],
    stat_prefix: &str,
) -> pb::Filter {
    if let [only] = routes {
        let name = crate::route::destination_cluster(&only.destination, context);
        if let Some((port, subset, host)) = cluster::parse_name(&name) {
            return to_service(context, port, subset, host);
        }
    }
    use tcp::tcp_proxy::weighted_cluster::ClusterWeight;
    let clusters: Vec<ClusterWeight> = routes
        .iter()
        .filter_map(|route| {
            let weight = u32::try_from(route.weight)
                .ok()
                .filter(|weight| *weight > 0)?;
            Some(ClusterWeight {
                name: crate::route::destination_cluster(&route.destination, context),
                weight,
                ..ClusterWeight::default()
            })
        })
        .collect();
    if clusters.is_empty() {
        return single(context.view, cluster::BLACK_HOLE);
    }
    let specifier =
        tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp::tcp_proxy::WeightedCluster {
            clusters,
        });
    network_filter(
        TCP_PROXY,
        &tcp::TcpProxy {
            stat_prefix: stat_prefix.to_owned(),
            access_log: access_log::access_logs(&context.view.mesh),
            cluster_specifier: Some(specifier),
            ..tcp::TcpProxy::default()
        },
    )
}
