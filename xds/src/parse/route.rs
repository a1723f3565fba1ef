//! Route configurations.

use std::sync::Arc;

use trireme_proxy_decide::config::{
    ClusterSpecifier, MaxStreamDuration, PathMatch, Priority, Regex, Route, RouteAction,
    RouteConfiguration, RouteForward, RouteMatch, RouteParts, TlsRequirement, Upgrade, VirtualHost,
    WeightedCluster, WeightedClusters,
};

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{
    duration, flag, header_names, labels, number, optional_header_name, optional_runtime_fraction,
    origin, text, texts,
};
use super::{filter, header, matcher, policy, rate_limit};
use crate::metadata::ENVOY_LB;
use crate::pb::envoy::config::core::v3::RoutingPriority;
use crate::pb::envoy::config::route::v3 as proto;
use crate::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use crate::pb::google::protobuf as google;
use crate::unpack;

pub(super) fn configuration(message: &proto::RouteConfiguration) -> Outcome<RouteConfiguration> {
    unsupported(message.vhds.is_some(), "vhds")?;
    unsupported(
        !message.cluster_specifier_plugins.is_empty(),
        "cluster_specifier_plugins",
    )?;
    unsupported(!message.vhost_header.is_empty(), "vhost_header")?;
    unsupported(!message.route_specifiers.is_empty(), "route_specifiers")?;
    unsupported(
        message.ignore_path_parameters_in_path_matching,
        "ignore_path_parameters_in_path_matching",
    )?;
    let limit = message.max_direct_response_body_size_bytes.as_ref();
    let limits = Limits {
        direct_body_bytes: limit.and_then(|limit| usize::try_from(limit.value).ok()),
    };
    let mut virtual_hosts = Vec::with_capacity(message.virtual_hosts.len());
    for (index, host) in message.virtual_hosts.iter().enumerate() {
        virtual_hosts.push(
            virtual_host(host, &limits)
                .at_element("virtual_hosts", index, &host.name)
                .caused_by(host.metadata.as_ref())?,
        );
    }
    let parts = RouteParts {
        name: message.name.as_str().into(),
        virtual_hosts,
        headers: header::changes(
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
        most_specific_header_mutations_wins: message.most_specific_header_mutations_wins,
        ignore_port_in_host_matching: message.ignore_port_in_host_matching,
        internal_only_headers: header_names(
            "internal_only_headers",
            &message.internal_only_headers,
        )?,
        filters: filter::overrides(&message.typed_per_filter_config)?,
        mirrors: each(
            "request_mirror_policies",
            &message.request_mirror_policies,
            policy::mirror,
        )?,
    };
    Ok(RouteConfiguration::new(parts)?)
}

/// What the whole configuration allows its parts.
struct Limits {
    direct_body_bytes: Option<usize>,
}

fn buffer_limit(
    old: Option<&google::UInt32Value>,
    new: Option<&google::UInt64Value>,
) -> Option<u64> {
    new.map(|limit| limit.value).or(number(old).map(u64::from))
}

fn virtual_host(message: &proto::VirtualHost, limits: &Limits) -> Outcome<VirtualHost> {
    use proto::virtual_host::TlsRequirementType;
    unsupported(message.matcher.is_some(), "matcher")?;
    unsupported(
        message.retry_policy_typed_config.is_some(),
        "retry_policy_typed_config",
    )?;
    unsupported(
        message.include_is_timeout_retry_header,
        "include_is_timeout_retry_header",
    )?;
    unsupported(!message.route_specifiers.is_empty(), "route_specifiers")?;
    policy::no_hedging(message.hedge_policy.as_ref())?;
    if message.domains.is_empty() {
        return Err(refused("domains", "must not be empty"));
    }
    for domain in &message.domains {
        check_domain(domain).at("domains")?;
    }
    let require_tls = match TlsRequirementType::try_from(message.require_tls) {
        Ok(TlsRequirementType::None) => TlsRequirement::None,
        Ok(TlsRequirementType::ExternalOnly) => TlsRequirement::ExternalOnly,
        Ok(TlsRequirementType::All) => TlsRequirement::All,
        Err(_) => {
            return Err(refused(
                "require_tls",
                format!("{} is not known", message.require_tls),
            ));
        }
    };
    let mut routes = Vec::with_capacity(message.routes.len());
    for (index, one) in message.routes.iter().enumerate() {
        routes.push(Arc::new(
            route(one, limits)
                .at_element("routes", index, &one.name)
                .caused_by(one.metadata.as_ref())?,
        ));
    }
    #[allow(deprecated)]
    let old_limit = message.per_request_buffer_limit_bytes.as_ref();
    #[allow(deprecated)]
    let cors = message.cors.as_ref();
    Ok(VirtualHost {
        name: message.name.as_str().into(),
        domains: texts(&message.domains),
        routes,
        require_tls,
        headers: header::changes(
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
        filters: filter::overrides(&message.typed_per_filter_config)?,
        cors: cors
            .map(filter::old_cors)
            .transpose()
            .at("cors")?
            .map(Arc::new),
        rate_limits: each("rate_limits", &message.rate_limits, rate_limit::rate_limit)?,
        include_request_attempt_count: message.include_request_attempt_count,
        include_attempt_count_in_response: message.include_attempt_count_in_response,
        retry_policy: message
            .retry_policy
            .as_ref()
            .map(policy::retry)
            .transpose()
            .at("retry_policy")?
            .map(Arc::new),
        mirrors: each(
            "request_mirror_policies",
            &message.request_mirror_policies,
            policy::mirror,
        )?,
        request_body_buffer_limit: buffer_limit(
            old_limit,
            message.request_body_buffer_limit.as_ref(),
        ),
        origin: origin(message.metadata.as_ref()),
    })
}

/// A star stands alone, or first (`*.example.com`), or last (`www.example.*`).
fn check_domain(domain: &str) -> Outcome<()> {
    let stars = domain.matches('*').count();
    let placed = domain.starts_with('*') || domain.ends_with('*');
    if domain.is_empty() || stars > 1 || stars == 1 && !placed {
        return Err(reason(format!(
            "{domain:?} must be a name, *, *.suffix or prefix.*"
        )));
    }
    Ok(())
}

fn route(message: &proto::Route, limits: &Limits) -> Outcome<Route> {
    use proto::route::Action;
    unsupported(!message.route_specifiers.is_empty(), "route_specifiers")?;
    let Some(matched) = &message.r#match else {
        return Err(refused("match", "must be given"));
    };
    let action = match &message.action {
        Some(Action::Route(action)) => RouteAction::Forward(Box::new(forward(action).at("route")?)),
        Some(Action::Redirect(action)) => {
            RouteAction::Redirect(Box::new(policy::redirect(action).at("redirect")?))
        }
        Some(Action::DirectResponse(action)) => RouteAction::Direct(
            policy::direct(action, limits.direct_body_bytes).at("direct_response")?,
        ),
        Some(Action::NonForwardingAction(_)) => RouteAction::NonForwarding,
        Some(Action::FilterAction(_)) => {
            return Err(refused("filter_action", "is not supported by this proxy"));
        }
        None => return Err(reason("must have an action")),
    };
    #[allow(deprecated)]
    let old_limit = message.per_request_buffer_limit_bytes.as_ref();
    Ok(Route {
        name: message.name.as_str().into(),
        matches: route_match(matched).at("match")?,
        action,
        headers: header::changes(
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
        filters: filter::overrides(&message.typed_per_filter_config)?,
        request_body_buffer_limit: buffer_limit(
            old_limit,
            message.request_body_buffer_limit.as_ref(),
        ),
        origin: origin(message.metadata.as_ref()),
    })
}

fn route_match(message: &proto::RouteMatch) -> Outcome<RouteMatch> {
    use proto::route_match::PathSpecifier;
    unsupported(message.tls_context.is_some(), "tls_context")?;
    unsupported(!message.dynamic_metadata.is_empty(), "dynamic_metadata")?;
    unsupported(!message.filter_state.is_empty(), "filter_state")?;
    unsupported(!message.cookies.is_empty(), "cookies")?;
    let path = match &message.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.as_str().into()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.as_str().into()),
        Some(PathSpecifier::SafeRegex(expression)) => {
            PathMatch::Regex(matcher::regex(expression).at("safe_regex")?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return Err(refused(
                    "path_separated_prefix",
                    format!(
                        "{prefix:?} must begin with '/', and must not end with one nor hold '?' or '#'"
                    ),
                ));
            }
            PathMatch::SeparatedPrefix(prefix.as_str().into())
        }
        Some(PathSpecifier::PathMatchPolicy(policy)) => {
            template(policy.typed_config.as_ref()).at("path_match_policy")?
        }
        None => return Err(reason("must have a path, prefix or expression")),
    };
    Ok(RouteMatch {
        path,
        case_sensitive: flag(message.case_sensitive.as_ref(), true),
        runtime_fraction: optional_runtime_fraction(
            "runtime_fraction",
            message.runtime_fraction.as_ref(),
        )?,
        headers: each("headers", &message.headers, matcher::header)?,
        query: each(
            "query_parameters",
            &message.query_parameters,
            matcher::query,
        )?,
        grpc: message.grpc.is_some(),
    })
}

fn template(any: Option<&google::Any>) -> Outcome<PathMatch> {
    let Some(any) = any else {
        return Err(refused("typed_config", "must be given"));
    };
    let config: UriTemplateMatchConfig = unpack(any).at("typed_config")?;
    let expression = template_expression(&config.path_template).at("typed_config.path_template")?;
    Ok(PathMatch::Template(Regex::new(&expression)?))
}

/// What Envoy allows in one segment of a path: RFC 3986's pchar without the percent sign, which
/// its matcher adds.
const SEGMENT_LETTERS: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@]";

/// Envoy's URI template: `*` is one segment, `**` any number at the end, `{name=pattern}` a
/// pattern with a name.
fn template_expression(template: &str) -> Outcome<String> {
    let Some(path) = template.strip_prefix('/') else {
        return Err(reason(format!("{template:?} must begin with '/'")));
    };
    let mut expression = String::new();
    let mut rest = path;
    loop {
        expression.push('/');
        let end = segment_end(rest);
        let segment = &rest[..end];
        let (pattern, named) = match segment.strip_prefix('{') {
            Some(inner) => {
                let inner = inner
                    .strip_suffix('}')
                    .ok_or_else(|| reason(format!("{template:?}: a brace is not closed")))?;
                (
                    inner.split_once('=').map_or("*", |(_, pattern)| pattern),
                    true,
                )
            }
            None => (segment, false),
        };
        for (index, part) in pattern.split('/').enumerate() {
            if index > 0 {
                expression.push('/');
            }
            match part {
                "*" => expression.push_str(&format!("{SEGMENT_LETTERS}+")),
                "**" => expression.push_str(&format!("(?:{SEGMENT_LETTERS}|/)*")),
                text if !text.contains(['*', '{', '}', '=']) => {
                    expression.push_str(&escaped(text));
                }
                _ => {
                    return Err(reason(format!(
                        "{template:?}: {part:?} must be *, ** or plain text"
                    )));
                }
            }
        }
        if !named && segment.is_empty() && end == rest.len() {
            break;
        }
        match rest.get(end + 1..) {
            Some(after) if end < rest.len() => rest = after,
            _ => break,
        }
    }
    Ok(expression)
}

/// Where the segment that `text` begins with ends: at a slash outside braces.
fn segment_end(text: &str) -> usize {
    let mut depth = 0;
    for (index, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            '/' if depth <= 0 => return index,
            _ => {}
        }
    }
    text.len()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_punctuation() && !matches!(letter, '<' | '>' | '_') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

fn priority(value: i32) -> Outcome<Priority> {
    match RoutingPriority::try_from(value) {
        Ok(RoutingPriority::Default) => Ok(Priority::Default),
        Ok(RoutingPriority::High) => Ok(Priority::High),
        Err(_) => Err(refused("priority", format!("{value} is not known"))),
    }
}

fn forward(message: &proto::RouteAction) -> Outcome<RouteForward> {
    use proto::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier as Proto};
    unsupported(
        message.retry_policy_typed_config.is_some(),
        "retry_policy_typed_config",
    )?;
    unsupported(message.flush_timeout.is_some(), "flush_timeout")?;
    unsupported(message.early_data_policy.is_some(), "early_data_policy")?;
    unsupported(
        message.internal_redirect_policy.is_some(),
        "internal_redirect_policy",
    )?;
    #[allow(deprecated)]
    unsupported(
        message.internal_redirect_action != 0,
        "internal_redirect_action",
    )?;
    policy::no_hedging(message.hedge_policy.as_ref())?;
    let cluster = match &message.cluster_specifier {
        Some(Proto::Cluster(name)) if name.is_empty() => {
            return Err(refused("cluster", "must not be empty"));
        }
        Some(Proto::Cluster(name)) => ClusterSpecifier::Cluster(name.as_str().into()),
        Some(Proto::ClusterHeader(header)) => {
            let header = optional_header_name("cluster_header", header)?;
            ClusterSpecifier::Header(
                header.ok_or_else(|| refused("cluster_header", "must not be empty"))?,
            )
        }
        Some(Proto::WeightedClusters(clusters)) => {
            ClusterSpecifier::Weighted(weighted(clusters).at("weighted_clusters")?)
        }
        Some(Proto::ClusterSpecifierPlugin(_)) => {
            return Err(refused(
                "cluster_specifier_plugin",
                "is not supported by this proxy",
            ));
        }
        Some(Proto::InlineClusterSpecifierPlugin(_)) => {
            return Err(refused(
                "inline_cluster_specifier_plugin",
                "is not supported by this proxy",
            ));
        }
        None => return Err(reason("must have a cluster")),
    };
    let mut forward = RouteForward::new(cluster);
    forward.cluster_not_found_status =
        match ClusterNotFoundResponseCode::try_from(message.cluster_not_found_response_code) {
            Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => 503,
            Ok(ClusterNotFoundResponseCode::NotFound) => 404,
            Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
            Err(_) => {
                return Err(refused(
                    "cluster_not_found_response_code",
                    format!("{} is not known", message.cluster_not_found_response_code),
                ));
            }
        };
    forward.metadata_match =
        labels(message.metadata_match.as_ref(), ENVOY_LB).at("metadata_match")?;
    forward.path_rewrite = policy::path_rewrite(message)?;
    forward.host_rewrite = policy::host_rewrite(message.host_rewrite_specifier.as_ref())?;
    forward.append_x_forwarded_host = message.append_x_forwarded_host;
    forward.timeout = duration("timeout", message.timeout.as_ref())?;
    forward.idle_timeout = duration("idle_timeout", message.idle_timeout.as_ref())?;
    forward.max_stream_duration = message
        .max_stream_duration
        .as_ref()
        .map(policy::max_stream_duration)
        .transpose()
        .at("max_stream_duration")?
        .filter(|limits| *limits != MaxStreamDuration::default());
    #[allow(deprecated)]
    {
        forward.max_grpc_timeout = duration("max_grpc_timeout", message.max_grpc_timeout.as_ref())?;
        forward.grpc_timeout_offset =
            duration("grpc_timeout_offset", message.grpc_timeout_offset.as_ref())?;
        forward.cors = message
            .cors
            .as_ref()
            .map(filter::old_cors)
            .transpose()
            .at("cors")?
            .map(Arc::new);
        forward.include_vh_rate_limits = flag(message.include_vh_rate_limits.as_ref(), false);
    }
    forward.retry_policy = message
        .retry_policy
        .as_ref()
        .map(policy::retry)
        .transpose()
        .at("retry_policy")?
        .map(Arc::new);
    forward.mirrors = each(
        "request_mirror_policies",
        &message.request_mirror_policies,
        policy::mirror,
    )?;
    forward.priority = priority(message.priority)?;
    forward.hash_policy = each("hash_policy", &message.hash_policy, policy::hash)?;
    forward.rate_limits = each("rate_limits", &message.rate_limits, rate_limit::rate_limit)?;
    forward.upgrades = each("upgrade_configs", &message.upgrade_configs, |upgrade| {
        unsupported(upgrade.connect_config.is_some(), "connect_config")?;
        Ok(Upgrade {
            kind: upgrade.upgrade_type.as_str().into(),
            enabled: flag(upgrade.enabled.as_ref(), true),
        })
    })?;
    Ok(forward)
}

fn weighted(message: &proto::WeightedCluster) -> Outcome<WeightedClusters> {
    use proto::weighted_cluster::RandomValueSpecifier;
    if message.clusters.is_empty() {
        return Err(refused("clusters", "must not be empty"));
    }
    let random_value_header = match &message.random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(name)) => optional_header_name("header_name", name)?,
        Some(RandomValueSpecifier::UseHashPolicy(hashed)) => {
            unsupported(hashed.value, "use_hash_policy")?;
            None
        }
        None => None,
    };
    let clusters = each("clusters", &message.clusters, weighted_cluster)?;
    let sum: u64 = clusters.iter().map(|one| u64::from(one.weight)).sum();
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(refused(
            "clusters",
            format!(
                "the sum of the weights, {sum}, must be from 1 to {}",
                u32::MAX
            ),
        ));
    }
    Ok(WeightedClusters {
        clusters,
        random_value_header,
    })
}

fn weighted_cluster(message: &proto::weighted_cluster::ClusterWeight) -> Outcome<WeightedCluster> {
    use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let cluster_header = optional_header_name("cluster_header", &message.cluster_header)?;
    if message.name.is_empty() == cluster_header.is_none() {
        return Err(reason("must have either a name or a cluster_header"));
    }
    let host = message.host_rewrite_specifier.as_ref();
    Ok(WeightedCluster {
        name: message.name.as_str().into(),
        cluster_header,
        weight: number(message.weight.as_ref()).unwrap_or(0),
        metadata_match: labels(message.metadata_match.as_ref(), ENVOY_LB).at("metadata_match")?,
        headers: header::changes(
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
        filters: filter::overrides(&message.typed_per_filter_config)?,
        host_rewrite_literal: host.and_then(|host| match host {
            HostRewriteSpecifier::HostRewriteLiteral(host) => text(host),
        }),
    })
}
