//! What Envoy's messages become, and in which words they are refused.

use std::time::Duration;

use proptest::prelude::*;
use trireme_proxy_decide::config::{
    self, ClusterKind, ClusterSpecifier, EndpointHealth, FaultAbort, FaultDelay, Filter, Fraction,
    HttpFilter, HttpProtocol, LbPolicy, LocalityLb, PathMatch, RetryOn, RouteAction, RouteSource,
};
use trireme_xds::metadata::{self, ENVOY_LB};
use trireme_xds::pb::envoy::config::cluster::v3 as cluster;
use trireme_xds::pb::envoy::config::cluster::v3::cluster as of_cluster;
use trireme_xds::pb::envoy::config::core::v3 as core;
use trireme_xds::pb::envoy::config::endpoint::v3 as endpoint;
use trireme_xds::pb::envoy::config::listener::v3 as listener;
use trireme_xds::pb::envoy::config::route::v3 as route;
use trireme_xds::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
use trireme_xds::pb::envoy::extensions::filters::http::fault::v3 as fault;
use trireme_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use trireme_xds::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use trireme_xds::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use trireme_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use trireme_xds::pb::envoy::extensions::upstreams::http::v3 as upstream;
use trireme_xds::pb::envoy::r#type::matcher::v3 as matcher;
use trireme_xds::pb::envoy::r#type::v3 as types;
use trireme_xds::pb::google::protobuf::{self as google, Any, UInt32Value};
use trireme_xds::{Kind, pack, parse};

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<google::Duration> {
    Some(google::Duration { seconds, nanos: 0 })
}

fn address(host: &str, port: u32) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..core::SocketAddress::default()
        })),
    })
}

fn caused_by(object: &str) -> Option<core::Metadata> {
    let mut caused = None;
    metadata::set_object(&mut caused, object);
    caused
}

const OBJECT: &str = "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews";

// Clusters

fn eds_cluster() -> cluster::Cluster {
    cluster::Cluster {
        name: "outbound|80||reviews".into(),
        cluster_discovery_type: Some(of_cluster::ClusterDiscoveryType::Type(
            of_cluster::DiscoveryType::Eds as i32,
        )),
        eds_cluster_config: Some(of_cluster::EdsClusterConfig {
            service_name: "outbound|80||reviews.shop".into(),
            ..of_cluster::EdsClusterConfig::default()
        }),
        ..cluster::Cluster::default()
    }
}

#[test]
fn what_a_cluster_does_not_say_is_envoys_default() {
    let mut expected = config::Cluster::new("outbound|80||reviews", ClusterKind::Eds);
    expected.eds_service_name = Some("outbound|80||reviews.shop".into());
    assert_eq!(parse::cluster(&eds_cluster()), Ok(expected));
}

#[test]
fn a_cluster_is_read_whole() {
    let mut message = eds_cluster();
    message.connect_timeout = seconds(10);
    message.lb_policy = of_cluster::LbPolicy::LeastRequest as i32;
    message.circuit_breakers = Some(cluster::CircuitBreakers {
        thresholds: vec![cluster::circuit_breakers::Thresholds {
            max_connections: number(1),
            max_pending_requests: number(2),
            max_requests: number(3),
            max_retries: number(4),
            ..cluster::circuit_breakers::Thresholds::default()
        }],
        per_host_thresholds: vec![cluster::circuit_breakers::Thresholds {
            max_connections: number(5),
            ..cluster::circuit_breakers::Thresholds::default()
        }],
    });
    message.outlier_detection = Some(cluster::OutlierDetection {
        consecutive_5xx: number(7),
        interval: seconds(1),
        base_ejection_time: seconds(400),
        max_ejection_percent: number(100),
        ..cluster::OutlierDetection::default()
    });
    message.common_lb_config = Some(of_cluster::CommonLbConfig {
        healthy_panic_threshold: Some(types::Percent { value: 0.0 }),
        locality_config_specifier: Some(
            of_cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                of_cluster::common_lb_config::LocalityWeightedLbConfig {},
            ),
        ),
        ..of_cluster::CommonLbConfig::default()
    });
    let options = upstream::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: seconds(9),
            max_requests_per_connection: number(6),
            ..core::HttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(
            upstream::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(
                upstream::http_protocol_options::ExplicitHttpConfig {
                    protocol_config: Some(
                        upstream::http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                            core::Http2ProtocolOptions::default(),
                        ),
                    ),
                },
            ),
        ),
        ..upstream::HttpProtocolOptions::default()
    };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    message.typed_extension_protocol_options = [(key.to_owned(), pack(&options))].into();
    message.metadata = caused_by("/apis/x");
    let read = parse::cluster(&message).expect("valid");
    assert_eq!(read.connection.connect_timeout, Duration::from_secs(10));
    assert!(matches!(read.lb, LbPolicy::LeastRequest(policy) if policy.choice_count == 2));
    let limits = read.thresholds.default;
    assert_eq!(
        (
            limits.max_connections,
            limits.max_pending_requests,
            limits.max_requests,
            limits.max_retries
        ),
        (1, 2, 3, 4)
    );
    assert_eq!(read.thresholds.high.max_connections, 1024);
    assert_eq!(read.thresholds.max_connections_per_host, Some(5));
    let outlier = read.outlier.expect("given");
    assert_eq!(
        (outlier.consecutive_5xx, outlier.max_ejection_percent),
        (7, 100)
    );
    assert_eq!(outlier.enforcing_success_rate, 100);
    // The longest ejection follows a base that is longer than its default.
    assert_eq!(outlier.max_ejection_time, Duration::from_secs(400));
    assert_eq!(read.common_lb.panic_threshold.percent, 0.0);
    assert_eq!(read.common_lb.locality, LocalityLb::Weighted);
    assert_eq!(read.http.protocol, HttpProtocol::Http2);
    assert_eq!(read.http.idle_timeout, Some(Duration::from_secs(9)));
    assert_eq!(read.http.max_requests_per_connection, Some(6));
    assert_eq!(
        read.origin.map(|origin| origin.path().to_owned()),
        Some("/apis/x".into())
    );
}

#[test]
fn clusters_are_refused_by_field_and_object() {
    let refused = |change: &dyn Fn(&mut cluster::Cluster)| {
        let mut message = eds_cluster();
        message.metadata = caused_by("/apis/rule");
        change(&mut message);
        parse::cluster(&message).expect_err("refused").to_string()
    };
    assert_eq!(
        refused(&|message| message.lb_policy = of_cluster::LbPolicy::ClusterProvided as i32),
        "CDS \"outbound|80||reviews\": lb_policy: CLUSTER_PROVIDED belongs to ORIGINAL_DST clusters, \
         and they to it (caused by /apis/rule)"
    );
    assert_eq!(
        refused(&|message| {
            message.outlier_detection = Some(cluster::OutlierDetection {
                max_ejection_percent: number(101),
                ..cluster::OutlierDetection::default()
            });
        }),
        "CDS \"outbound|80||reviews\": outlier_detection.max_ejection_percent: 101 must be at most 100 \
         (caused by /apis/rule)"
    );
    assert!(refused(&|message| message.connect_timeout = seconds(0)).contains("connect_timeout"));
    assert!(refused(&|message| message.connect_timeout = seconds(-1)).contains("zero or more"));
    assert!(
        refused(&|message| {
            message.health_checks = vec![core::HealthCheck::default()];
        })
        .contains("health_checks: is not supported")
    );
    let ring = |minimum, maximum| {
        move |message: &mut cluster::Cluster| {
            message.lb_policy = of_cluster::LbPolicy::RingHash as i32;
            message.lb_config = Some(of_cluster::LbConfig::RingHashLbConfig(
                of_cluster::RingHashLbConfig {
                    minimum_ring_size: Some(google::UInt64Value { value: minimum }),
                    maximum_ring_size: Some(google::UInt64Value { value: maximum }),
                    ..of_cluster::RingHashLbConfig::default()
                },
            ));
        }
    };
    assert!(refused(&ring(2000, 1000)).contains("ring_hash_lb_config.minimum_ring_size"));
    let maglev = |message: &mut cluster::Cluster| {
        message.lb_policy = of_cluster::LbPolicy::Maglev as i32;
        message.lb_config = Some(of_cluster::LbConfig::MaglevLbConfig(
            of_cluster::MaglevLbConfig {
                table_size: Some(google::UInt64Value { value: 65_536 }),
            },
        ));
    };
    assert!(refused(&maglev).contains("65536 must be a prime"));
}

// Endpoints

fn lb_endpoint(host: &str, version: &str) -> endpoint::LbEndpoint {
    let mut labels = None;
    metadata::set_labels(&mut labels, [("version", version)]);
    endpoint::LbEndpoint {
        metadata: labels,
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: address(host, 8080),
                ..endpoint::Endpoint::default()
            },
        )),
        ..endpoint::LbEndpoint::default()
    }
}

fn locality(priority: u32, endpoints: Vec<endpoint::LbEndpoint>) -> endpoint::LocalityLbEndpoints {
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: "eu".into(),
            zone: format!("z{priority}"),
            ..core::Locality::default()
        }),
        priority,
        load_balancing_weight: number(3),
        lb_endpoints: endpoints,
        ..endpoint::LocalityLbEndpoints::default()
    }
}

#[test]
fn endpoints_of_one_workload_share_their_labels() {
    let mut draining = lb_endpoint("10.0.0.3", "v2");
    draining.health_status = core::HealthStatus::Draining as i32;
    draining.load_balancing_weight = number(5);
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: "reviews".into(),
        endpoints: vec![
            locality(
                0,
                vec![lb_endpoint("10.0.0.1", "v1"), lb_endpoint("10.0.0.2", "v1")],
            ),
            locality(1, vec![draining]),
        ],
        ..endpoint::ClusterLoadAssignment::default()
    };
    let read = parse::endpoints(&message).expect("valid");
    assert_eq!(read.overprovisioning_factor, 140);
    let near = &read.localities[0];
    assert_eq!((near.priority, near.weight), (0, Some(3)));
    assert_eq!(&*near.locality.zone, "z0");
    let [one, two] = &near.endpoints[..] else {
        panic!("two endpoints");
    };
    assert!(std::sync::Arc::ptr_eq(&one.labels, &two.labels));
    assert_eq!(one.labels.get("version"), Some("v1"));
    let far = &read.localities[1].endpoints[0];
    assert_eq!((far.health, far.weight), (EndpointHealth::Draining, 5));
    assert_eq!(far.address.to_string(), "10.0.0.3:8080");
}

#[test]
fn endpoints_are_refused_where_failover_would_stall_or_names_stand_for_addresses() {
    let refused = |endpoints| {
        let message = endpoint::ClusterLoadAssignment {
            cluster_name: "reviews".into(),
            endpoints,
            ..endpoint::ClusterLoadAssignment::default()
        };
        parse::endpoints(&message).expect_err("refused").to_string()
    };
    assert_eq!(
        refused(vec![locality(0, vec![]), locality(2, vec![])]),
        "EDS \"reviews\": endpoints: priorities must have no gap: there is none of priority 1"
    );
    assert_eq!(
        refused(vec![locality(0, vec![lb_endpoint("example.com", "v1")])]),
        "EDS \"reviews\": endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \
         \"example.com\" is no IP address"
    );
}

// Routes

fn weight(name: &str, weight: u32) -> route::weighted_cluster::ClusterWeight {
    route::weighted_cluster::ClusterWeight {
        name: name.into(),
        weight: number(weight),
        ..route::weighted_cluster::ClusterWeight::default()
    }
}

fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.into())),
        ..matcher::StringMatcher::default()
    }
}

fn prefix(prefix: &str) -> Option<route::RouteMatch> {
    Some(route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix(prefix.into())),
        ..route::RouteMatch::default()
    })
}

fn configuration(routes: Vec<route::Route>) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: "80".into(),
        virtual_hosts: vec![route::VirtualHost {
            name: "reviews:80".into(),
            domains: vec!["reviews".into(), "*.shop.svc".into()],
            routes,
            metadata: caused_by("/apis/host"),
            ..route::VirtualHost::default()
        }],
        ..route::RouteConfiguration::default()
    }
}

fn split(change: impl FnOnce(&mut route::RouteAction)) -> route::Route {
    let mut action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::WeightedClusters(
            route::WeightedCluster {
                clusters: vec![weight("v1", 98), weight("v2", 2)],
                ..route::WeightedCluster::default()
            },
        )),
        ..route::RouteAction::default()
    };
    change(&mut action);
    route::Route {
        name: "split".into(),
        r#match: prefix("/"),
        metadata: caused_by(OBJECT),
        action: Some(route::route::Action::Route(action)),
        ..route::Route::default()
    }
}

#[test]
fn routes_are_read_with_their_policies() {
    let mut message = split(|action| {
        action.timeout = seconds(3);
        action.retry_policy = Some(route::RetryPolicy {
            retry_on: "connect-failure,refused-stream,unavailable".into(),
            num_retries: number(2),
            retry_host_predicate: vec![route::retry_policy::RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".into(),
                config_type: None,
            }],
            host_selection_retry_max_attempts: 5,
            ..route::RetryPolicy::default()
        });
        action.metadata_match = Some(core::Metadata {
            filter_metadata: [(
                ENVOY_LB.to_owned(),
                metadata::Fields::text([("version", "v1"), ("app", "x")]).into_struct(),
            )]
            .into(),
            ..core::Metadata::default()
        });
    });
    if let Some(matched) = &mut message.r#match {
        matched.headers = vec![route::HeaderMatcher {
            name: "X-User".into(),
            header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
                exact("jason"),
            )),
            ..route::HeaderMatcher::default()
        }];
    }
    let fault = fault::HttpFault {
        delay: Some(common_fault::FaultDelay {
            percentage: Some(types::FractionalPercent {
                numerator: 500_000,
                denominator: types::fractional_percent::DenominatorType::Million as i32,
            }),
            fault_delay_secifier: Some(common_fault::fault_delay::FaultDelaySecifier::FixedDelay(
                google::Duration {
                    seconds: 7,
                    nanos: 0,
                },
            )),
        }),
        abort: Some(fault::FaultAbort {
            error_type: Some(fault::fault_abort::ErrorType::HttpStatus(400)),
            ..fault::FaultAbort::default()
        }),
        ..fault::HttpFault::default()
    };
    message.typed_per_filter_config =
        [("envoy.filters.http.fault".to_owned(), pack(&fault))].into();
    let read = parse::routes(&configuration(vec![message])).expect("valid");
    let host = &read.virtual_hosts[0];
    assert_eq!(host.domains.len(), 2);
    let route = &host.routes[0];
    assert_eq!(
        route.origin.as_ref().map(|origin| origin.path()),
        Some(OBJECT)
    );
    assert_eq!(route.matches.path, PathMatch::Prefix("/".into()));
    assert_eq!(&*route.matches.headers[0].name, "x-user");
    let RouteAction::Forward(forward) = &route.action else {
        panic!("it forwards");
    };
    let ClusterSpecifier::Weighted(weighted) = &forward.cluster else {
        panic!("it splits");
    };
    let weights: Vec<(&str, u32)> = weighted
        .clusters
        .iter()
        .map(|one| (&*one.name, one.weight))
        .collect();
    assert_eq!(weights, [("v1", 98), ("v2", 2)]);
    assert_eq!(forward.timeout, Some(Duration::from_secs(3)));
    assert_eq!(
        forward.metadata_match,
        [("app".into(), "x".into()), ("version".into(), "v1".into())]
    );
    let retry = forward.retry_policy.as_ref().expect("given");
    assert_eq!(
        retry.retry_on,
        RetryOn::parse_any("connect-failure,refused-stream,unavailable")
    );
    assert_ne!(retry.retry_on, RetryOn::default());
    assert_eq!(
        (retry.num_retries, retry.host_selection_max_attempts),
        (2, 5)
    );
    assert!(retry.avoid_previous_hosts);
    assert_eq!(
        (retry.base_interval, retry.max_interval),
        (Duration::from_millis(25), Duration::from_millis(250))
    );
    let fault = route.filters.fault.as_ref().expect("given");
    assert_eq!(
        fault.delay,
        Some(FaultDelay::Fixed {
            delay: Duration::from_secs(7),
            share: Fraction {
                numerator: 500_000,
                denominator: 1_000_000
            },
        })
    );
    // Envoy: a share that is not given is none.
    assert_eq!(
        fault.abort,
        Some(FaultAbort::Http {
            status: 400,
            share: Fraction::NONE
        })
    );
}

#[test]
fn routes_are_refused_with_their_object() {
    let refused = |one: route::Route| {
        parse::routes(&configuration(vec![one]))
            .expect_err("refused")
            .to_string()
    };
    assert_eq!(
        refused(split(|action| {
            action.hedge_policy = Some(route::HedgePolicy {
                hedge_on_per_try_timeout: true,
                ..route::HedgePolicy::default()
            });
        })),
        format!(
            "RDS \"80\": virtual_hosts[reviews:80].routes[split].route.hedge_policy: \
             is not supported by this proxy (caused by {OBJECT})"
        )
    );
    let mut bad = split(|_| {});
    bad.r#match = Some(route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::SafeRegex(
            matcher::RegexMatcher {
                regex: "a(".into(),
                ..matcher::RegexMatcher::default()
            },
        )),
        ..route::RouteMatch::default()
    });
    let text = refused(bad);
    assert!(
        text.contains("routes[split].match.safe_regex.regex: invalid regular expression \"a(\""),
        "{text}"
    );
    assert!(text.ends_with(&format!("(caused by {OBJECT})")), "{text}");
    let text = refused(split(|action| {
        action.retry_policy = Some(route::RetryPolicy {
            retry_host_predicate: vec![route::retry_policy::RetryHostPredicate {
                name: "mine".into(),
                config_type: None,
            }],
            ..route::RetryPolicy::default()
        });
    }));
    assert!(
        text.contains("retry_policy.retry_host_predicate: \"mine\" is not supported"),
        "{text}"
    );
    let text = refused(split(|action| action.timeout = seconds(-1)));
    assert!(
        text.contains("route.timeout: must be a duration of zero or more"),
        "{text}"
    );
    let text = refused(split(|action| {
        action.cluster_specifier = Some(route::route_action::ClusterSpecifier::WeightedClusters(
            route::WeightedCluster {
                clusters: vec![weight("v1", 0)],
                ..route::WeightedCluster::default()
            },
        ));
    }));
    assert!(
        text.contains("weighted_clusters.clusters: the sum of the weights, 0, must be"),
        "{text}"
    );
    let mut twice = configuration(vec![split(|_| {})]);
    let mut other = twice.virtual_hosts[0].clone();
    other.name = "other".into();
    twice.virtual_hosts.push(other);
    let text = parse::routes(&twice).expect_err("refused").to_string();
    assert!(text.contains("domain reviews"), "{text}");
    // Where the route says nothing, its virtual host does.
    let mut anonymous = split(|action| action.timeout = seconds(-1));
    anonymous.metadata = None;
    assert!(refused(anonymous).ends_with("(caused by /apis/host)"));
}

// Listeners

fn manager(routes: hcm::http_connection_manager::RouteSpecifier) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: "out".into(),
        http_filters: vec![
            hcm::HttpFilter {
                name: "istio.stats".into(),
                config_type: Some(hcm::http_filter::ConfigType::TypedConfig(Any {
                    type_url: "type.googleapis.com/stats.PluginConfig".into(),
                    value: vec![],
                })),
                ..hcm::HttpFilter::default()
            },
            hcm::HttpFilter {
                name: "envoy.filters.http.router".into(),
                config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack(
                    &Router::default(),
                ))),
                ..hcm::HttpFilter::default()
            },
        ],
        route_specifier: Some(routes),
        ..hcm::HttpConnectionManager::default()
    }
}

fn chain(filter: Any, port: u32) -> listener::FilterChain {
    listener::FilterChain {
        name: format!("chain-{port}"),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: number(port),
            application_protocols: vec!["http/1.1".into()],
            ..listener::FilterChainMatch::default()
        }),
        filters: vec![listener::Filter {
            name: "filter".into(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(filter)),
        }],
        ..listener::FilterChain::default()
    }
}

fn rds(name: &str) -> hcm::http_connection_manager::RouteSpecifier {
    hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
        route_config_name: name.into(),
        ..hcm::Rds::default()
    })
}

fn listener_filter(config: Any, disabled: Option<i32>) -> listener::ListenerFilter {
    use listener::listener_filter_chain_match_predicate::Rule;
    let range = |port| listener::ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(types::Int32Range {
            start: port,
            end: port + 1,
        })),
    };
    listener::ListenerFilter {
        name: "inspector".into(),
        filter_disabled: disabled.map(range),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
    }
}

#[test]
fn a_listener_is_read_whole() {
    let tcp = tcp::TcpProxy {
        stat_prefix: "tcp".into(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(
            "inbound|9000||".into(),
        )),
        ..tcp::TcpProxy::default()
    };
    let message = listener::Listener {
        name: "virtualInbound".into(),
        address: address("0.0.0.0", 15006),
        listener_filters: vec![
            listener_filter(pack(&TlsInspector::default()), Some(3306)),
            listener_filter(pack(&HttpInspector::default()), None),
        ],
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        filter_chains: vec![
            chain(pack(&manager(rds("80"))), 8080),
            chain(pack(&tcp), 9000),
        ],
        bind_to_port: Some(google::BoolValue { value: false }),
        traffic_direction: core::TrafficDirection::Inbound as i32,
        ..listener::Listener::default()
    };
    let read = parse::listener(&message).expect("valid");
    assert!(!read.bind_to_port);
    assert_eq!(read.address.to_string(), "0.0.0.0:15006");
    let filters = read.listener_filters;
    assert!(filters.tls_inspector && filters.http_inspector && filters.continue_on_timeout);
    assert_eq!(filters.timeout, Some(Duration::ZERO));
    assert!(filters.tls_inspector_disabled.contains(3306));
    assert!(!filters.tls_inspector_disabled.contains(3307));
    assert!(!filters.http_inspector_disabled.contains(3306));
    assert_eq!(read.filter_chains[0].matches.destination_port, Some(8080));
    let Filter::Http(manager) = &read.filter_chains[0].filter else {
        panic!("HTTP");
    };
    assert_eq!(manager.routes, RouteSource::Rds("80".into()));
    assert!(matches!(
        &manager.filters[..],
        [HttpFilter::Other(_), HttpFilter::Router(_)]
    ));
    assert_eq!(manager.max_request_headers_bytes, 60 * 1024);
    let Filter::Tcp(proxy) = &read.filter_chains[1].filter else {
        panic!("TCP");
    };
    assert_eq!(&*proxy.cluster, "inbound|9000||");
    assert_eq!(proxy.idle_timeout, Duration::from_secs(3600));
}

#[test]
fn listeners_are_refused_down_to_an_inline_route() {
    let inline =
        hcm::http_connection_manager::RouteSpecifier::RouteConfig(configuration(vec![split(
            |action| action.timeout = seconds(-1),
        )]));
    let with = |chains| listener::Listener {
        name: "l".into(),
        address: address("0.0.0.0", 80),
        filter_chains: chains,
        ..listener::Listener::default()
    };
    let refused =
        |message: listener::Listener| parse::listener(&message).expect_err("refused").to_string();
    assert_eq!(
        refused(with(vec![chain(pack(&manager(inline)), 80)])),
        format!(
            "LDS \"l\": filter_chains[chain-80].filters[filter].typed_config.route_config.\
             virtual_hosts[reviews:80].routes[split].route.timeout: \
             must be a duration of zero or more (caused by {OBJECT})"
        )
    );
    let mut no_router = manager(rds("80"));
    no_router.http_filters.pop();
    assert!(refused(with(vec![chain(pack(&no_router), 80)])).contains("must end with the router"));
    let same = || chain(pack(&manager(rds("80"))), 80);
    assert!(refused(with(vec![same(), same()])).contains("has the same matching rules as"));
    let unknown = Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"
            .into(),
        value: vec![],
    };
    assert!(refused(with(vec![chain(unknown, 80)])).contains("network filters of type"));
    assert!(refused(with(vec![])).contains("filter_chains: must not be empty"));
}

#[test]
fn resources_say_what_they_are() {
    let read = parse::resource(&pack(&eds_cluster())).expect("valid");
    assert_eq!(&**read.name(), "outbound|80||reviews");
    let unknown = parse::resource(&Any {
        type_url: "type.googleapis.com/x".into(),
        value: vec![],
    });
    assert_eq!(
        unknown.expect_err("refused").to_string(),
        "resources of type \"type.googleapis.com/x\" are not known"
    );
    let nameless = parse::cluster(&cluster::Cluster::default());
    assert_eq!(
        nameless.expect_err("refused").to_string(),
        "CDS \"\": name: must not be empty"
    );
    assert!(
        parse::IGNORED
            .iter()
            .all(|(field, why)| !field.is_empty() && !why.is_empty())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes over the wire is read or refused.
    #[test]
    fn nothing_on_the_wire_breaks_the_reader(kind in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let any = Any { type_url: Kind::ALL[kind].type_url().into(), value: bytes };
        let _ = parse::resource(&any);
    }

    /// Valid messages with some bytes changed, which get further than noise.
    #[test]
    fn nor_do_messages_with_mistakes(at in any::<prop::sample::Index>(), byte in any::<u8>(), which in 0..3_usize) {
        let mut any = match which {
            0 => pack(&eds_cluster()),
            1 => pack(&configuration(vec![split(|action| action.timeout = seconds(1))])),
            _ => pack(&listener::Listener {
                name: "l".into(),
                address: address("0.0.0.0", 80),
                filter_chains: vec![chain(pack(&manager(rds("80"))), 80)],
                ..listener::Listener::default()
            }),
        };
        let index = at.index(any.value.len());
        any.value[index] = byte;
        let _ = parse::resource(&any);
    }
}
