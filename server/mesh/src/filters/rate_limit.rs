//! Rate limits in protobuf's JSON, as EnvoyFilters hold them, to Envoy's messages.

use serde_json::Value;
use trireme_model::istio::Duration;
use trireme_xds::pb::google::protobuf::Any;

use super::Fields;
use crate::proto::{
    address, boolean, cluster, core, duration, endpoint, exact, extensions, hcm, kind, matcher,
    regex, route, uint, upstream,
};

use extensions::common::ratelimit::v3 as shared;
use extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute};

const LOCAL_FILTER: &str = "envoy.filters.http.local_ratelimit";
const GLOBAL_FILTER: &str = "envoy.filters.http.ratelimit";

/// A field in either spelling: `fill_interval` or `fillInterval`.
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    if let Some(value) = fields.get(name) {
        return Some(value);
    }
    let mut camel = String::with_capacity(name.len());
    let mut raise = false;
    for letter in name.chars() {
        match (letter, raise) {
            ('_', _) => raise = true,
            (letter, true) => {
                camel.push(letter.to_ascii_uppercase());
                raise = false;
            }
            (letter, false) => camel.push(letter),
        }
    }
    fields.get(&camel)
}

fn inner<'a>(fields: &'a Fields, name: &str) -> Option<&'a Fields> {
    field(fields, name)?.as_object()
}

fn list<'a>(fields: &'a Fields, name: &str) -> impl Iterator<Item = &'a Fields> {
    let values = field(fields, name).and_then(Value::as_array);
    values.into_iter().flatten().filter_map(Value::as_object)
}

fn text(fields: &Fields, name: &str) -> String {
    let value = field(fields, name).and_then(Value::as_str);
    value.unwrap_or("").to_owned()
}

fn number(fields: &Fields, name: &str) -> Option<u32> {
    let value = field(fields, name)?;
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.and_then(|it| u32::try_from(it).ok())
}

fn truth(fields: &Fields, name: &str) -> Option<bool> {
    field(fields, name)?.as_bool()
}

fn length(fields: &Fields, name: &str) -> Option<Duration> {
    field(fields, name)?.as_str()?.parse().ok()
}

/// A message in its envelope, or in the envelope of one whose type is told apart (`TypedStruct`).
fn typed(config: &Fields) -> Option<(String, Fields)> {
    let url = config.get("@type").and_then(Value::as_str)?;
    if url.ends_with("TypedStruct") {
        let url = field(config, "type_url")?.as_str()?.to_owned();
        return Some((url, inner(config, "value").cloned().unwrap_or_default()));
    }
    Some((url.to_owned(), config.clone()))
}

/// `None` for a filter that is no rate limit.
pub fn http_filter(value: &Fields) -> Option<hcm::HttpFilter> {
    let config = inner(value, "typed_config")?;
    let (url, config) = typed(config)?;
    match url.rsplit('.').next()? {
        "LocalRateLimit" => Some(crate::proto::http_filter(LOCAL_FILTER, &local(&config))),
        "RateLimit" => Some(crate::proto::http_filter(GLOBAL_FILTER, &global(&config))),
        _ => None,
    }
}

/// The cluster that a filter asks for each request.
pub fn asked_cluster(value: &Fields) -> Option<String> {
    let (_, config) = typed(inner(value, "typed_config")?)?;
    let service = inner(&config, "rate_limit_service")?;
    let grpc = inner(inner(service, "grpc_service")?, "envoy_grpc")?;
    Some(text(grpc, "cluster_name"))
}

/// What a virtual host or route says to the filters, by the filters' names.
pub fn overrides(value: &Fields) -> Vec<(String, Any)> {
    let Some(configs) = inner(value, "typed_per_filter_config") else {
        return Vec::new();
    };
    let configs = configs.values().filter_map(Value::as_object);
    configs
        .filter_map(|config| {
            let (url, config) = typed(config)?;
            match url.rsplit('.').next()? {
                "LocalRateLimit" => {
                    Some((LOCAL_FILTER.to_owned(), trireme_xds::pack(&local(&config))))
                }
                "RateLimitPerRoute" => {
                    let per_route = RateLimitPerRoute {
                        domain: text(&config, "domain"),
                        rate_limits: rate_limits(&config),
                        ..RateLimitPerRoute::default()
                    };
                    Some((GLOBAL_FILTER.to_owned(), trireme_xds::pack(&per_route)))
                }
                _ => None,
            }
        })
        .collect()
}

fn local(config: &Fields) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: text(config, "stat_prefix"),
        status: inner(config, "status").map(status),
        token_bucket: inner(config, "token_bucket").map(token_bucket),
        filter_enabled: inner(config, "filter_enabled").map(runtime_share),
        filter_enforced: inner(config, "filter_enforced").map(runtime_share),
        request_headers_to_add_when_not_enforced: list(
            config,
            "request_headers_to_add_when_not_enforced",
        )
        .filter_map(header)
        .collect(),
        response_headers_to_add: list(config, "response_headers_to_add")
            .filter_map(header)
            .collect(),
        descriptors: list(config, "descriptors").map(descriptor).collect(),
        stage: number(config, "stage").unwrap_or(0),
        local_rate_limit_per_downstream_connection: truth(
            config,
            "local_rate_limit_per_downstream_connection",
        ) == Some(true),
        enable_x_ratelimit_headers: rfc_version(config),
        rate_limited_as_resource_exhausted: truth(config, "rate_limited_as_resource_exhausted")
            == Some(true),
        always_consume_default_token_bucket: truth(config, "always_consume_default_token_bucket")
            .and_then(boolean),
        rate_limits: rate_limits(config),
        ..LocalRateLimit::default()
    }
}

fn global(config: &Fields) -> RateLimit {
    let service = inner(config, "rate_limit_service").map(|service| {
        let grpc = inner(service, "grpc_service");
        let envoy = grpc.and_then(|it| inner(it, "envoy_grpc"));
        trireme_xds::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig {
            grpc_service: Some(core::GrpcService {
                timeout: grpc.and_then(|it| length(it, "timeout")).and_then(duration),
                target_specifier: envoy.map(|envoy| {
                    core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
                        cluster_name: text(envoy, "cluster_name"),
                        authority: text(envoy, "authority"),
                        ..core::grpc_service::EnvoyGrpc::default()
                    })
                }),
                ..core::GrpcService::default()
            }),
            transport_api_version: core::ApiVersion::V3 as i32,
        }
    });
    RateLimit {
        domain: text(config, "domain"),
        stage: number(config, "stage").unwrap_or(0),
        request_type: text(config, "request_type"),
        timeout: length(config, "timeout").and_then(duration),
        failure_mode_deny: truth(config, "failure_mode_deny") == Some(true),
        rate_limited_as_resource_exhausted: truth(config, "rate_limited_as_resource_exhausted")
            == Some(true),
        rate_limit_service: service,
        enable_x_ratelimit_headers: rfc_version(config),
        disable_x_envoy_ratelimited_header: truth(config, "disable_x_envoy_ratelimited_header")
            == Some(true),
        rate_limited_status: inner(config, "rate_limited_status").map(status),
        response_headers_to_add: list(config, "response_headers_to_add")
            .filter_map(header)
            .collect(),
        status_on_error: inner(config, "status_on_error").map(status),
        stat_prefix: text(config, "stat_prefix"),
        rate_limits: rate_limits(config),
        ..RateLimit::default()
    }
}

fn rfc_version(config: &Fields) -> i32 {
    match field(config, "enable_x_ratelimit_headers") {
        Some(Value::String(name)) if name == "DRAFT_VERSION_03" => 1,
        Some(Value::Number(number)) if number.as_u64() == Some(1) => 1,
        _ => 0,
    }
}

fn status(fields: &Fields) -> kind::HttpStatus {
    // Envoy names codes (`TooManyRequests`) or gives them; YAML of Istio's users gives them.
    let named = match field(fields, "code").and_then(Value::as_str) {
        Some("TooManyRequests") => Some(429),
        Some("ServiceUnavailable") => Some(503),
        Some("Forbidden") => Some(403),
        _ => None,
    };
    let code = named.or_else(|| number(fields, "code")).unwrap_or(429);
    kind::HttpStatus {
        code: i32::try_from(code).unwrap_or(429),
    }
}

fn token_bucket(fields: &Fields) -> kind::TokenBucket {
    kind::TokenBucket {
        max_tokens: number(fields, "max_tokens").unwrap_or(0),
        tokens_per_fill: number(fields, "tokens_per_fill").and_then(uint),
        fill_interval: length(fields, "fill_interval").and_then(duration),
    }
}

fn runtime_share(fields: &Fields) -> core::RuntimeFractionalPercent {
    use kind::fractional_percent::DenominatorType;
    core::RuntimeFractionalPercent {
        runtime_key: text(fields, "runtime_key"),
        default_value: inner(fields, "default_value").map(|value| kind::FractionalPercent {
            numerator: number(value, "numerator").unwrap_or(0),
            denominator: match text(value, "denominator").as_str() {
                "TEN_THOUSAND" => DenominatorType::TenThousand,
                "MILLION" => DenominatorType::Million,
                _ => DenominatorType::Hundred,
            } as i32,
        }),
    }
}

fn header(fields: &Fields) -> Option<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let header = inner(fields, "header")?;
    let action = match text(fields, "append_action").as_str() {
        "OVERWRITE_IF_EXISTS_OR_ADD" => HeaderAppendAction::OverwriteIfExistsOrAdd,
        "ADD_IF_ABSENT" => HeaderAppendAction::AddIfAbsent,
        "OVERWRITE_IF_EXISTS" => HeaderAppendAction::OverwriteIfExists,
        // The older word for it.
        _ if truth(fields, "append") == Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        _ => HeaderAppendAction::AppendIfExistsOrAdd,
    };
    Some(core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: text(header, "key"),
            value: text(header, "value"),
            ..core::HeaderValue::default()
        }),
        append_action: action as i32,
        ..core::HeaderValueOption::default()
    })
}

fn descriptor(fields: &Fields) -> shared::LocalRateLimitDescriptor {
    let entry = |fields: &Fields| shared::rate_limit_descriptor::Entry {
        key: text(fields, "key"),
        value: text(fields, "value"),
    };
    shared::LocalRateLimitDescriptor {
        entries: list(fields, "entries").map(entry).collect(),
        token_bucket: inner(fields, "token_bucket").map(token_bucket),
        ..shared::LocalRateLimitDescriptor::default()
    }
}

/// `rate_limits`: what of a request makes its descriptors.
pub fn rate_limits(value: &Fields) -> Vec<route::RateLimit> {
    let one = |fields: &Fields| route::RateLimit {
        stage: number(fields, "stage").and_then(uint),
        disable_key: text(fields, "disable_key"),
        actions: list(fields, "actions").filter_map(action).collect(),
        ..route::RateLimit::default()
    };
    let limits = list(value, "rate_limits").map(one);
    limits.filter(|it| !it.actions.is_empty()).collect()
}

fn action(fields: &Fields) -> Option<route::rate_limit::Action> {
    use route::rate_limit::action::{
        ActionSpecifier, DestinationCluster, GenericKey, HeaderValueMatch, RemoteAddress,
        RequestHeaders, SourceCluster,
    };
    let specifier = if let Some(headers) = inner(fields, "request_headers") {
        ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: text(headers, "header_name"),
            descriptor_key: text(headers, "descriptor_key"),
            skip_if_absent: truth(headers, "skip_if_absent") == Some(true),
        })
    } else if let Some(generic) = inner(fields, "generic_key") {
        ActionSpecifier::GenericKey(GenericKey {
            descriptor_value: text(generic, "descriptor_value"),
            descriptor_key: text(generic, "descriptor_key"),
            default_value: text(generic, "default_value"),
        })
    } else if let Some(matched) = inner(fields, "header_value_match") {
        ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_value: text(matched, "descriptor_value"),
            descriptor_key: text(matched, "descriptor_key"),
            default_value: text(matched, "default_value"),
            expect_match: truth(matched, "expect_match").and_then(boolean),
            headers: list(matched, "headers").map(header_matcher).collect(),
        })
    } else if inner(fields, "remote_address").is_some() {
        ActionSpecifier::RemoteAddress(RemoteAddress {})
    } else if inner(fields, "source_cluster").is_some() {
        ActionSpecifier::SourceCluster(SourceCluster {})
    } else if inner(fields, "destination_cluster").is_some() {
        ActionSpecifier::DestinationCluster(DestinationCluster {})
    } else {
        return None;
    };
    Some(route::rate_limit::Action {
        action_specifier: Some(specifier),
    })
}

fn header_matcher(fields: &Fields) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let string = |value: matcher::StringMatcher| Some(Specifier::StringMatch(value));
    let pattern = |pattern| matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..matcher::StringMatcher::default()
    };
    let prefix = |text: String| pattern(matcher::string_matcher::MatchPattern::Prefix(text));
    let safe = |text: &str| {
        pattern(matcher::string_matcher::MatchPattern::SafeRegex(regex(
            text,
        )))
    };
    let specifier = if let Some(nested) = inner(fields, "string_match") {
        match (
            nested.get("exact"),
            nested.get("prefix"),
            inner(nested, "safe_regex"),
        ) {
            (Some(text), _, _) => string(exact(text.as_str().unwrap_or(""))),
            (_, Some(text), _) => string(prefix(text.as_str().unwrap_or("").to_owned())),
            (_, _, Some(nested)) => string(safe(&text(nested, "regex"))),
            _ => None,
        }
    } else if let Some(value) = field(fields, "exact_match").and_then(Value::as_str) {
        string(exact(value))
    } else if let Some(value) = field(fields, "prefix_match").and_then(Value::as_str) {
        string(prefix(value.to_owned()))
    } else if let Some(nested) = inner(fields, "safe_regex_match") {
        string(safe(&text(nested, "regex")))
    } else {
        truth(fields, "present_match").map(Specifier::PresentMatch)
    };
    route::HeaderMatcher {
        name: text(fields, "name"),
        invert_match: truth(fields, "invert_match") == Some(true),
        header_match_specifier: specifier,
        ..route::HeaderMatcher::default()
    }
}

/// The cluster of a rate limit service, which speaks gRPC.
pub fn cluster(value: &Fields) -> Option<cluster::Cluster> {
    use upstream::http_protocol_options as options;
    let name = text(value, "name");
    let load = inner(value, "load_assignment")?;
    let endpoints = list(load, "endpoints").flat_map(|it| list(it, "lb_endpoints"));
    let endpoints: Vec<endpoint::LbEndpoint> = endpoints
        .filter_map(|it| {
            let socket = inner(it, "endpoint").and_then(|it| inner(it, "address"))?;
            let socket = inner(socket, "socket_address")?;
            let at = address(&text(socket, "address"), number(socket, "port_value")?);
            Some(endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                    endpoint::Endpoint {
                        address: Some(at),
                        ..endpoint::Endpoint::default()
                    },
                )),
                ..endpoint::LbEndpoint::default()
            })
        })
        .collect();
    if name.is_empty() || endpoints.is_empty() {
        return None;
    }
    let http2 = upstream::HttpProtocolOptions {
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(
            options::ExplicitHttpConfig {
                protocol_config: Some(
                    options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                        core::Http2ProtocolOptions::default(),
                    ),
                ),
            },
        )),
        ..upstream::HttpProtocolOptions::default()
    };
    let discovery = match text(value, "type").as_str() {
        "STATIC" => cluster::cluster::DiscoveryType::Static,
        _ => cluster::cluster::DiscoveryType::StrictDns,
    };
    let mut made = cluster::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            discovery as i32,
        )),
        connect_timeout: length(value, "connect_timeout").and_then(duration),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name,
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: endpoints,
                ..endpoint::LocalityLbEndpoints::default()
            }],
            ..endpoint::ClusterLoadAssignment::default()
        }),
        ..cluster::Cluster::default()
    };
    made.typed_extension_protocol_options.insert(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        trireme_xds::pack(&http2),
    );
    Some(made)
}
