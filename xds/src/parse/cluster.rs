//! Clusters.

use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{
    Cluster, ClusterKind, DnsFamily, DnsOptions, TcpKeepalive, TransportMatch, UpstreamBind,
    UpstreamConnection,
};

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{flag, ip, number, origin, port, positive, struct_labels, text};
use super::{balancing, endpoint, limits, protocol, tls};
use crate::metadata;
use crate::pb::envoy::config::cluster::v3 as proto;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use crate::{type_url, unpack};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;
/// Envoy allows no faster refresh.
const MIN_DNS_REFRESH: Duration = Duration::from_millis(1);
/// The address that Istio binds connections to the workload itself to, so that interception
/// leaves them alone.
const ANY_ADDRESS: &str = "0.0.0.0";

pub(super) fn cluster(message: &proto::Cluster) -> Outcome<Cluster> {
    read(message).caused_by(message.metadata.as_ref())
}

fn read(message: &proto::Cluster) -> Outcome<Cluster> {
    refuse_what_changes_behaviour(message)?;
    let kind = kind(message)?;
    let mut cluster = Cluster::new(&message.name, kind);
    cluster.alt_stat_name = text(&message.alt_stat_name);
    if kind == ClusterKind::Eds {
        let config = message.eds_cluster_config.as_ref();
        let service = config.map_or("", |config| config.service_name.as_str());
        cluster.eds_service_name = text(service);
        unsupported(message.load_assignment.is_some(), "load_assignment")?;
    }
    let by_name = matches!(kind, ClusterKind::StrictDns | ClusterKind::LogicalDns);
    if let Some(assignment) = &message.load_assignment
        && kind != ClusterKind::Eds
    {
        let mut endpoints = endpoint::endpoints(assignment, by_name).at("load_assignment")?;
        if endpoints.name.is_empty() {
            endpoints.name = cluster.name.clone();
        }
        let count: usize = endpoints
            .localities
            .iter()
            .map(|one| one.endpoints.len())
            .sum();
        if kind == ClusterKind::LogicalDns && count != 1 {
            return Err(refused(
                "load_assignment",
                format!("a LOGICAL_DNS cluster must have a single endpoint, not {count}"),
            ));
        }
        if kind == ClusterKind::OriginalDst {
            return Err(refused(
                "load_assignment",
                "an ORIGINAL_DST cluster must not have endpoints",
            ));
        }
        cluster.endpoints = Some(Arc::new(endpoints));
    } else if by_name {
        return Err(refused(
            "load_assignment",
            "must be given for clusters resolved by DNS",
        ));
    }
    cluster.dns = dns(message)?;
    balancing::balancing(message, &mut cluster)?;
    if let Some(breakers) = &message.circuit_breakers {
        cluster.thresholds = limits::thresholds(breakers).at("circuit_breakers")?;
    }
    cluster.outlier = message
        .outlier_detection
        .as_ref()
        .map(limits::outlier)
        .transpose()
        .at("outlier_detection")?;
    cluster.http = protocol::options(message)?;
    cluster.connection = connection(message)?;
    sockets(message, &mut cluster)?;
    let services = metadata::services(message.metadata.as_ref());
    cluster.services = services
        .into_iter()
        .map(|one| (one.host.into(), one.name.into(), one.namespace.into()))
        .collect();
    cluster.origin = origin(message.metadata.as_ref());
    Ok(cluster)
}

fn refuse_what_changes_behaviour(message: &proto::Cluster) -> Outcome<()> {
    unsupported(
        message.transport_socket_matcher.is_some(),
        "transport_socket_matcher",
    )?;
    unsupported(!message.health_checks.is_empty(), "health_checks")?;
    unsupported(!message.filters.is_empty(), "filters")?;
    unsupported(message.upstream_config.is_some(), "upstream_config")?;
    unsupported(message.queuing_policies.is_some(), "queuing_policies")?;
    unsupported(
        message.connection_pool_per_downstream_connection,
        "connection_pool_per_downstream_connection",
    )?;
    Ok(())
}

fn kind(message: &proto::Cluster) -> Outcome<ClusterKind> {
    use proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    match &message.cluster_discovery_type {
        None => Ok(ClusterKind::Static),
        Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
            Ok(DiscoveryType::Static) => Ok(ClusterKind::Static),
            Ok(DiscoveryType::StrictDns) => Ok(ClusterKind::StrictDns),
            Ok(DiscoveryType::LogicalDns) => Ok(ClusterKind::LogicalDns),
            Ok(DiscoveryType::Eds) => Ok(ClusterKind::Eds),
            Ok(DiscoveryType::OriginalDst) => Ok(ClusterKind::OriginalDst),
            Err(_) => Err(refused("type", format!("{kind} is not known"))),
        },
        Some(ClusterDiscoveryType::ClusterType(kind)) => Err(refused(
            "cluster_type",
            format!("{:?} is not supported by this proxy", kind.name),
        )),
    }
}

#[allow(deprecated)]
fn dns(message: &proto::Cluster) -> Outcome<DnsOptions> {
    use proto::cluster::DnsLookupFamily;
    unsupported(!message.dns_resolvers.is_empty(), "dns_resolvers")?;
    unsupported(
        message.dns_resolution_config.is_some(),
        "dns_resolution_config",
    )?;
    unsupported(message.use_tcp_for_dns_lookups, "use_tcp_for_dns_lookups")?;
    let default = DnsOptions::default();
    let refresh_rate = positive("dns_refresh_rate", message.dns_refresh_rate.as_ref())?
        .unwrap_or(default.refresh_rate);
    if refresh_rate <= MIN_DNS_REFRESH {
        return Err(refused("dns_refresh_rate", "must be greater than 1ms"));
    }
    Ok(DnsOptions {
        refresh_rate,
        respect_ttl: message.respect_dns_ttl,
        family: match DnsLookupFamily::try_from(message.dns_lookup_family) {
            Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
            Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
            Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(DnsLookupFamily::All) => DnsFamily::All,
            Err(_) => {
                return Err(refused(
                    "dns_lookup_family",
                    format!("{} is not known", message.dns_lookup_family),
                ));
            }
        },
        wait_for_warm_on_init: flag(message.wait_for_warm_on_init.as_ref(), true),
    })
}

fn connection(message: &proto::Cluster) -> Outcome<UpstreamConnection> {
    let options = message.upstream_connection_options.as_ref();
    let keepalive = options.and_then(|options| options.tcp_keepalive.as_ref());
    Ok(UpstreamConnection {
        connect_timeout: positive("connect_timeout", message.connect_timeout.as_ref())?
            .unwrap_or(CONNECT_TIMEOUT),
        keepalive: keepalive.map(|keepalive| TcpKeepalive {
            probes: number(keepalive.keepalive_probes.as_ref()),
            time_secs: number(keepalive.keepalive_time.as_ref()),
            interval_secs: number(keepalive.keepalive_interval.as_ref()),
        }),
        bind: match &message.upstream_bind_config {
            Some(bind) => self::bind(bind).at("upstream_bind_config")?,
            None => UpstreamBind::Any,
        },
        buffer_limit_bytes: number(message.per_connection_buffer_limit_bytes.as_ref())
            .unwrap_or(BUFFER_LIMIT_BYTES),
        proxy_protocol: None,
    })
}

fn bind(message: &core::BindConfig) -> Outcome<UpstreamBind> {
    unsupported(flag(message.freebind.as_ref(), false), "freebind")?;
    unsupported(!message.socket_options.is_empty(), "socket_options")?;
    unsupported(
        message.local_address_selector.is_some(),
        "local_address_selector",
    )?;
    let Some(source) = &message.source_address else {
        return Ok(UpstreamBind::Any);
    };
    use core::socket_address::PortSpecifier;
    let fixed = matches!(source.port_specifier, Some(PortSpecifier::PortValue(port)) if port != 0);
    unsupported(fixed, "source_address.port_value")?;
    if source.address == ANY_ADDRESS {
        return Ok(UpstreamBind::Any);
    }
    // A further address for IPv6 endpoints changes nothing for those of the other family.
    ip(&source.address)
        .map(UpstreamBind::Address)
        .at("source_address.address")
}

fn sockets(message: &proto::Cluster, cluster: &mut Cluster) -> Outcome<()> {
    cluster.tls_matches = each(
        "transport_socket_matches",
        &message.transport_socket_matches,
        |one| {
            let labels = one.r#match.as_ref().map(struct_labels).transpose();
            let Some(socket) = &one.transport_socket else {
                return Err(refused("transport_socket", "must be given"));
            };
            Ok(TransportMatch {
                name: one.name.as_str().into(),
                labels: labels.at("match")?.unwrap_or_default(),
                tls: tls::upstream(socket).at("transport_socket")?.map(Arc::new),
            })
        },
    )?;
    let Some(socket) = &message.transport_socket else {
        return Ok(());
    };
    let within = "transport_socket";
    let wrapped = proxy_protocol(socket).at(within)?;
    let (version, inner) = match &wrapped {
        Some((version, inner)) => (Some(*version), inner),
        None => (None, socket),
    };
    cluster.connection.proxy_protocol = version;
    cluster.tls = tls::upstream(inner).at(within)?.map(Arc::new);
    Ok(())
}

/// The version of the PROXY protocol's header, and the socket inside.
fn proxy_protocol(socket: &core::TransportSocket) -> Outcome<Option<(u8, core::TransportSocket)>> {
    use core::proxy_protocol_config::Version;
    use core::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Ok(None);
    };
    if any.type_url != type_url::<ProxyProtocolUpstreamTransport>() {
        return Ok(None);
    }
    let transport: ProxyProtocolUpstreamTransport = unpack(any).at("typed_config")?;
    let version = transport.config.as_ref().map_or(0, |config| config.version);
    let version = match Version::try_from(version) {
        Ok(Version::V1) => 1,
        Ok(Version::V2) => 2,
        Err(_) => {
            return Err(reason(format!(
                "PROXY protocol version {version} is not known"
            )));
        }
    };
    match transport.transport_socket {
        Some(inner) => Ok(Some((version, inner))),
        None => Err(refused("typed_config.transport_socket", "must be given")),
    }
}

/// Of an original destination cluster.
pub(super) fn original_dst(
    config: &proto::cluster::OriginalDstLbConfig,
    cluster: &mut Cluster,
) -> Outcome<()> {
    /// Envoy's header where none is named.
    const HEADER: &str = "x-envoy-original-dst-host";
    unsupported(config.metadata_key.is_some(), "metadata_key")?;
    if config.use_http_header {
        let name = text(&config.http_header_name).unwrap_or_else(|| HEADER.into());
        cluster.original_dst_header = Some(name.to_ascii_lowercase().into());
    }
    let given = number(config.upstream_port_override.as_ref());
    cluster.original_dst_port = given.map(port).transpose().at("upstream_port_override")?;
    Ok(())
}
