//! Listeners, their filters and chains.

use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{
    Filter, FilterChain, FilterChainMatch, HashPolicy, HashSource, HeaderChanges, Listener,
    ListenerFilters, PortRanges, SourceType, TcpProxy, TrafficDirection, WeightedCluster,
};

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{
    cidr, duration, flag, labels, number, origin, port, positive, socket_address, texts,
};
use super::{access_log, http, tls};
use crate::metadata::ENVOY_LB;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::config::listener::v3 as proto;
use crate::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use crate::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use crate::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
use crate::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use crate::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use crate::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::pb::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use crate::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use crate::pb::envoy::r#type::v3::{HashPolicy as TcpHashPolicy, hash_policy};
use crate::pb::google::protobuf::Any;
use crate::{type_url, unpack};

/// Envoy's default for what is buffered of a connection.
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;
const LISTENER_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The listener of a program that is a member without a proxy stands for no socket.
const NO_ADDRESS: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

pub(super) fn listener(message: &proto::Listener) -> Outcome<Listener> {
    unsupported(message.fcds_config.is_some(), "fcds_config")?;
    unsupported(
        message.filter_chain_matcher.is_some(),
        "filter_chain_matcher",
    )?;
    unsupported(message.udp_listener_config.is_some(), "udp_listener_config")?;
    unsupported(message.listener_specifier.is_some(), "internal_listener")?;
    unsupported(!message.socket_options.is_empty(), "socket_options")?;
    unsupported(flag(message.freebind.as_ref(), false), "freebind")?;
    unsupported(message.enable_mptcp, "enable_mptcp")?;
    let of_program = message.api_listener.is_some();
    let address = match &message.address {
        Some(address) => socket_address(address).at("address")?,
        None if of_program => NO_ADDRESS,
        None => return Err(refused("address", "must be given")),
    };
    let additional = each(
        "additional_addresses",
        &message.additional_addresses,
        |one| {
            unsupported(one.socket_options.is_some(), "socket_options")?;
            match &one.address {
                Some(address) => socket_address(address).at("address"),
                None => Err(refused("address", "must be given")),
            }
        },
    )?;
    let mut filter_chains = Vec::with_capacity(message.filter_chains.len());
    for (index, chain) in message.filter_chains.iter().enumerate() {
        filter_chains.push(
            filter_chain(chain)
                .at_element("filter_chains", index, &chain.name)
                .caused_by(chain.metadata.as_ref())
                .caused_by(message.metadata.as_ref())?,
        );
    }
    let mut default_filter_chain = None;
    if let Some(chain) = &message.default_filter_chain {
        let read = filter_chain(chain).at("default_filter_chain");
        default_filter_chain = Some(
            read.caused_by(chain.metadata.as_ref())
                .caused_by(message.metadata.as_ref())?,
        );
    }
    if let Some(api) = message
        .api_listener
        .as_ref()
        .and_then(|api| api.api_listener.as_ref())
    {
        default_filter_chain = Some(FilterChain {
            name: "api_listener".into(),
            matches: FilterChainMatch::default(),
            tls: None,
            handshake_timeout: None,
            filter: filter(api).at("api_listener.api_listener")?,
            origin: None,
        });
    }
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        return Err(refused("filter_chains", "must not be empty"));
    }
    check_distinct(&filter_chains)?;
    #[allow(deprecated)]
    let bind_to_port_before = message
        .deprecated_v1
        .as_ref()
        .is_none_or(|old| flag(old.bind_to_port.as_ref(), true));
    Ok(Listener {
        name: message.name.as_str().into(),
        address,
        additional_addresses: additional,
        bind_to_port: flag(message.bind_to_port.as_ref(), bind_to_port_before) && !of_program,
        use_original_dst: flag(message.use_original_dst.as_ref(), false),
        transparent: flag(message.transparent.as_ref(), false),
        direction: match core::TrafficDirection::try_from(message.traffic_direction) {
            Ok(core::TrafficDirection::Inbound) => TrafficDirection::Inbound,
            Ok(core::TrafficDirection::Outbound) => TrafficDirection::Outbound,
            _ => TrafficDirection::Unspecified,
        },
        listener_filters: listener_filters(message)?,
        filter_chains,
        default_filter_chain,
        buffer_limit_bytes: number(message.per_connection_buffer_limit_bytes.as_ref())
            .unwrap_or(BUFFER_LIMIT_BYTES),
        connection_limit: None,
        access_logs: access_log::of_listener("access_log", &message.access_log)?,
        origin: origin(message.metadata.as_ref()),
    })
}

/// Two chains that take the same connections: Envoy refuses the listener, and so do we.
fn check_distinct(chains: &[FilterChain]) -> Outcome<()> {
    for (index, chain) in chains.iter().enumerate() {
        if let Some(same) = chains[..index]
            .iter()
            .find(|one| one.matches == chain.matches)
        {
            return Err(refused(
                "filter_chains",
                format!(
                    "{:?} has the same matching rules as {:?}",
                    &*chain.name, &*same.name
                ),
            ));
        }
    }
    Ok(())
}

fn listener_filters(message: &proto::Listener) -> Outcome<ListenerFilters> {
    let mut filters = ListenerFilters {
        timeout: Some(
            duration(
                "listener_filters_timeout",
                message.listener_filters_timeout.as_ref(),
            )?
            .unwrap_or(LISTENER_FILTERS_TIMEOUT),
        ),
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        ..ListenerFilters::default()
    };
    for (index, one) in message.listener_filters.iter().enumerate() {
        listener_filter(&mut filters, one).at_element("listener_filters", index, &one.name)?;
    }
    Ok(filters)
}

fn listener_filter(filters: &mut ListenerFilters, message: &proto::ListenerFilter) -> Outcome<()> {
    use proto::listener_filter::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &message.config_type else {
        return Err(refused("typed_config", "must be given"));
    };
    let disabled = message.filter_disabled.as_ref().map(ports).transpose();
    let disabled = disabled.at("filter_disabled")?;
    let url = any.type_url.as_str();
    if url == type_url::<TlsInspector>() {
        let inspector: TlsInspector = unpack(any).at("typed_config")?;
        unsupported(
            inspector.close_connection_on_client_hello_parsing_errors,
            "typed_config.close_connection_on_client_hello_parsing_errors",
        )?;
        filters.tls_inspector = true;
        filters.tls_inspector_disabled = disabled.unwrap_or_default();
        return Ok(());
    }
    if url == type_url::<HttpInspector>() {
        filters.http_inspector = true;
        filters.http_inspector_disabled = disabled.unwrap_or_default();
        return Ok(());
    }
    unsupported(disabled.is_some(), "filter_disabled")?;
    if url == type_url::<OriginalDst>() {
        filters.original_dst = true;
    } else if url == type_url::<ProxyProtocol>() {
        filters.proxy_protocol = true;
    } else if url == type_url::<OriginalSrc>() {
        // Where the proxy's upstream connections take the client's address, the cluster says so.
        return Err(refused(
            "typed_config",
            "original_src is not supported by this proxy",
        ));
    } else {
        return Err(refused(
            "typed_config",
            format!("listener filters of type {url} are not supported by this proxy"),
        ));
    }
    Ok(())
}

/// A predicate that is a choice of port ranges.
fn ports(predicate: &proto::ListenerFilterChainMatchPredicate) -> Outcome<PortRanges> {
    let mut ranges = PortRanges::default();
    add_ports(&mut ranges, predicate)?;
    Ok(ranges)
}

fn add_ports(
    ranges: &mut PortRanges,
    predicate: &proto::ListenerFilterChainMatchPredicate,
) -> Outcome<()> {
    use proto::listener_filter_chain_match_predicate::Rule;
    match &predicate.rule {
        Some(Rule::DestinationPortRange(range)) => {
            let bound = |value: i32| {
                // The end is one past the last port; 65,536 stands for all that follow.
                u16::try_from(value.min(i32::from(u16::MAX)))
                    .map_err(|_| refused("destination_port_range", format!("{value} is no port")))
            };
            if !ranges.add(bound(range.start)?, bound(range.end)?) {
                return Err(refused(
                    "destination_port_range",
                    "there are more ranges than this proxy keeps",
                ));
            }
            Ok(())
        }
        Some(Rule::OrMatch(set)) => {
            for rule in &set.rules {
                add_ports(ranges, rule)?;
            }
            Ok(())
        }
        Some(Rule::AnyMatch(true)) => {
            ranges.add(0, u16::MAX);
            Ok(())
        }
        Some(Rule::AnyMatch(false)) | None => Ok(()),
        Some(Rule::AndMatch(_)) => Err(refused("and_match", "is not supported by this proxy")),
        Some(Rule::NotMatch(_)) => Err(refused("not_match", "is not supported by this proxy")),
    }
}

fn filter_chain(message: &proto::FilterChain) -> Outcome<FilterChain> {
    #[allow(deprecated)]
    unsupported(
        flag(message.use_proxy_proto.as_ref(), false),
        "use_proxy_proto",
    )?;
    let matches = message.filter_chain_match.as_ref().map(chain_match);
    let tls = message
        .transport_socket
        .as_ref()
        .map(tls::downstream)
        .transpose();
    Ok(FilterChain {
        name: message.name.as_str().into(),
        matches: matches
            .transpose()
            .at("filter_chain_match")?
            .unwrap_or_default(),
        tls: tls.at("transport_socket")?.flatten().map(Arc::new),
        handshake_timeout: positive(
            "transport_socket_connect_timeout",
            message.transport_socket_connect_timeout.as_ref(),
        )?,
        filter: filters(&message.filters)?,
        origin: origin(message.metadata.as_ref()),
    })
}

fn chain_match(message: &proto::FilterChainMatch) -> Outcome<FilterChainMatch> {
    use proto::filter_chain_match::ConnectionSourceType;
    unsupported(!message.address_suffix.is_empty(), "address_suffix")?;
    unsupported(message.suffix_len.is_some(), "suffix_len")?;
    for name in &message.server_names {
        let star = name.strip_prefix("*.").unwrap_or(name);
        if star.contains('*') && name != "*" {
            return Err(refused(
                "server_names",
                format!("{name:?}: a wildcard may stand only first, as in *.example.com"),
            ));
        }
    }
    let destination_port = number(message.destination_port.as_ref());
    Ok(FilterChainMatch {
        destination_port: destination_port
            .map(port)
            .transpose()
            .at("destination_port")?,
        prefix_ranges: each("prefix_ranges", &message.prefix_ranges, cidr)?,
        server_names: message
            .server_names
            .iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
        transport_protocol: message.transport_protocol.as_str().into(),
        application_protocols: texts(&message.application_protocols),
        direct_source_prefix_ranges: each(
            "direct_source_prefix_ranges",
            &message.direct_source_prefix_ranges,
            cidr,
        )?,
        source_type: match ConnectionSourceType::try_from(message.source_type) {
            Ok(ConnectionSourceType::Any) => SourceType::Any,
            Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
            Ok(ConnectionSourceType::External) => SourceType::External,
            Err(_) => {
                return Err(refused(
                    "source_type",
                    format!("{} is not known", message.source_type),
                ));
            }
        },
        source_prefix_ranges: each("source_prefix_ranges", &message.source_prefix_ranges, cidr)?,
        source_ports: each("source_ports", &message.source_ports, |one| port(*one))?,
    })
}

/// The chain's last filter decides; what stands before it is ours or changes nothing.
fn filters(messages: &[proto::Filter]) -> Outcome<Filter> {
    use proto::filter::ConfigType;
    let mut last = Filter::Close;
    for (index, message) in messages.iter().enumerate() {
        let Some(ConfigType::TypedConfig(any)) = &message.config_type else {
            return Err(refused("typed_config", "must be given")).at_element(
                "filters",
                index,
                &message.name,
            );
        };
        if is_passed_over(&message.name, any) {
            continue;
        }
        if last != Filter::Close {
            return Err(reason("stands after a filter that ends the chain")).at_element(
                "filters",
                index,
                &message.name,
            );
        }
        last = filter(any).at_element("filters", index, &message.name)?;
    }
    Ok(last)
}

/// Istio's filters that exchange what our proxies learn otherwise, and statistics, which every
/// proxy of ours keeps.
fn is_passed_over(name: &str, any: &Any) -> bool {
    matches!(name, "istio.metadata_exchange" | "istio.stats")
        || any.type_url.ends_with("stats.PluginConfig")
        || any.type_url.ends_with("MetadataExchange")
}

fn filter(any: &Any) -> Outcome<Filter> {
    let url = any.type_url.as_str();
    if url == type_url::<HttpConnectionManager>() {
        let manager = http::manager(&unpack(any).at("typed_config")?).at("typed_config")?;
        return Ok(Filter::Http(Arc::new(manager)));
    }
    if url == type_url::<tcp::TcpProxy>() {
        let proxy = tcp_proxy(&unpack(any).at("typed_config")?).at("typed_config")?;
        return Ok(Filter::Tcp(Arc::new(proxy)));
    }
    if url == type_url::<SniCluster>() {
        return Err(refused(
            "typed_config",
            "sni_cluster is not supported by this proxy",
        ));
    }
    Err(refused(
        "typed_config",
        format!("network filters of type {url} are not supported by this proxy"),
    ))
}

fn tcp_proxy(message: &tcp::TcpProxy) -> Outcome<TcpProxy> {
    use tcp::tcp_proxy::ClusterSpecifier;
    unsupported(message.on_demand.is_some(), "on_demand")?;
    unsupported(message.tunneling_config.is_some(), "tunneling_config")?;
    unsupported(
        message.downstream_idle_timeout.is_some(),
        "downstream_idle_timeout",
    )?;
    unsupported(
        message.upstream_idle_timeout.is_some(),
        "upstream_idle_timeout",
    )?;
    unsupported(
        !message.proxy_protocol_tlvs.is_empty(),
        "proxy_protocol_tlvs",
    )?;
    unsupported(message.upstream_connect_mode != 0, "upstream_connect_mode")?;
    unsupported(message.backoff_options.is_some(), "backoff_options")?;
    unsupported(
        message
            .max_downstream_connection_duration_jitter_percentage
            .is_some(),
        "max_downstream_connection_duration_jitter_percentage",
    )?;
    let (mut cluster, mut weighted) = (Arc::from(""), Vec::new());
    match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => cluster = name.as_str().into(),
        Some(ClusterSpecifier::WeightedClusters(clusters)) if !clusters.clusters.is_empty() => {
            let sum: u64 = clusters
                .clusters
                .iter()
                .map(|one| u64::from(one.weight))
                .sum();
            if sum > u64::from(u32::MAX) {
                return Err(refused(
                    "weighted_clusters.clusters",
                    format!(
                        "the sum of the weights, {sum}, must be at most {}",
                        u32::MAX
                    ),
                ));
            }
            weighted = each(
                "weighted_clusters.clusters",
                &clusters.clusters,
                weighted_cluster,
            )?;
        }
        _ => return Err(refused("cluster", "must be given")),
    }
    let max_connect_attempts = number(message.max_connect_attempts.as_ref()).unwrap_or(1);
    if max_connect_attempts == 0 {
        return Err(refused("max_connect_attempts", "must be greater than 0"));
    }
    Ok(TcpProxy {
        stat_prefix: message.stat_prefix.as_str().into(),
        cluster,
        weighted,
        metadata_match: labels(message.metadata_match.as_ref(), ENVOY_LB).at("metadata_match")?,
        idle_timeout: duration("idle_timeout", message.idle_timeout.as_ref())?
            .unwrap_or(TCP_IDLE_TIMEOUT),
        max_connection_duration: positive(
            "max_downstream_connection_duration",
            message.max_downstream_connection_duration.as_ref(),
        )?,
        max_connect_attempts,
        hash_policy: each("hash_policy", &message.hash_policy, tcp_hash)?,
        access_logs: access_log::access_logs("access_log", &message.access_log)?,
    })
}

fn tcp_hash(message: &TcpHashPolicy) -> Outcome<HashPolicy> {
    use hash_policy::PolicySpecifier;
    let source = match &message.policy_specifier {
        Some(PolicySpecifier::SourceIp(_)) => HashSource::SourceIp,
        Some(PolicySpecifier::FilterState(state)) => {
            HashSource::FilterState(state.key.as_str().into())
        }
        None => return Err(reason("must say what to hash")),
    };
    Ok(HashPolicy {
        source,
        terminal: false,
    })
}

fn weighted_cluster(
    message: &tcp::tcp_proxy::weighted_cluster::ClusterWeight,
) -> Outcome<WeightedCluster> {
    if message.name.is_empty() {
        return Err(refused("name", "must not be empty"));
    }
    if message.weight == 0 {
        return Err(refused("weight", "must be greater than 0"));
    }
    Ok(WeightedCluster {
        name: message.name.as_str().into(),
        cluster_header: None,
        weight: message.weight,
        metadata_match: labels(message.metadata_match.as_ref(), ENVOY_LB).at("metadata_match")?,
        headers: HeaderChanges::default(),
        filters: Default::default(),
        host_rewrite_literal: None,
    })
}
