//! The HTTP connection manager and its filters.

use std::sync::Arc;
use std::time::Duration;

use trireme_proxy_decide::config::{
    Codec, CorsPolicy, EscapedSlashes, ForwardClientCert, Http1Options, Http2Options,
    HttpConnectionManager, HttpFilter, LocalReplyMapper, RouteSource, RouterFilter, Scheme,
    ServerHeader, StripPort, Upgrade,
};
use trireme_proxy_decide::format::Format;

use super::refusal::{At, Outcome, each, refused, unsupported};
use super::value::{cidr, duration, duration_or, flag, inline, number, positive, text, texts};
use super::{access_log, filter, header, rate_limit, route};
use crate::pb::envoy::config::accesslog::v3 as log;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::filters::http::cors::v3::Cors;
use crate::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use crate::pb::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use crate::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
use crate::pb::envoy::extensions::filters::http::router::v3::Router;
use crate::pb::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use crate::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use crate::{type_url, unpack};

/// Envoy's largest size of request headers.
const MAX_REQUEST_HEADERS_KB: u32 = 8192;
/// A setting of HTTP/2 windows may not be smaller than the protocol's default.
const MIN_WINDOW_BYTES: u32 = 65_535;
const MAX_WINDOW_BYTES: u32 = 0x7fff_ffff;

pub(super) fn manager(message: &proto::HttpConnectionManager) -> Outcome<HttpConnectionManager> {
    use proto::http_connection_manager as of;
    refuse_what_changes_behaviour(message)?;
    let routes = match &message.route_specifier {
        Some(of::RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => {
            RouteSource::Rds(rds.route_config_name.as_str().into())
        }
        Some(of::RouteSpecifier::Rds(_)) => {
            return Err(refused("rds.route_config_name", "must not be empty"));
        }
        Some(of::RouteSpecifier::RouteConfig(routes)) => RouteSource::Inline(Arc::new(
            route::configuration(routes)
                .at("route_config")
                .caused_by(routes.metadata.as_ref())?,
        )),
        Some(of::RouteSpecifier::ScopedRoutes(_)) => {
            return Err(refused("scoped_routes", "is not supported by this proxy"));
        }
        None => return Err(refused("rds", "must be given, or route_config")),
    };
    let mut manager = HttpConnectionManager::new(&message.stat_prefix, routes);
    manager.codec = match of::CodecType::try_from(message.codec_type) {
        Ok(of::CodecType::Auto) => Codec::Auto,
        Ok(of::CodecType::Http1) => Codec::Http1,
        Ok(of::CodecType::Http2) => Codec::Http2,
        Ok(of::CodecType::Http3) | Err(_) => {
            return Err(refused(
                "codec_type",
                "HTTP/3 is not supported by this proxy",
            ));
        }
    };
    manager.filters = filters(&message.http_filters)?;
    headers(message, &mut manager)?;
    limits(message, &mut manager)?;
    manager.http1 = http1(
        "http_protocol_options",
        message.http_protocol_options.as_ref(),
    )?;
    manager.http2 = http2(
        "http2_protocol_options",
        message.http2_protocol_options.as_ref(),
    )?;
    manager.upgrades = each("upgrade_configs", &message.upgrade_configs, |upgrade| {
        unsupported(!upgrade.filters.is_empty(), "filters")?;
        Ok(Upgrade {
            kind: upgrade.upgrade_type.as_str().into(),
            enabled: flag(upgrade.enabled.as_ref(), true),
        })
    })?;
    manager.access_logs = access_log::access_logs("access_log", &message.access_log)?;
    manager.local_replies = match &message.local_reply_config {
        Some(replies) => local_replies(replies).at("local_reply_config")?,
        None => Vec::new(),
    };
    Ok(manager)
}

fn refuse_what_changes_behaviour(message: &proto::HttpConnectionManager) -> Outcome<()> {
    unsupported(
        !message.original_ip_detection_extensions.is_empty(),
        "original_ip_detection_extensions",
    )?;
    unsupported(
        !message.early_header_mutation_extensions.is_empty(),
        "early_header_mutation_extensions",
    )?;
    unsupported(
        message.forward_client_cert_matcher.is_some(),
        "forward_client_cert_matcher",
    )?;
    unsupported(
        message.path_normalization_options.is_some(),
        "path_normalization_options",
    )?;
    unsupported(message.proxy_status_config.is_some(), "proxy_status_config")?;
    unsupported(
        message.typed_header_validation_config.is_some(),
        "typed_header_validation_config",
    )?;
    unsupported(message.append_x_forwarded_port, "append_x_forwarded_port")?;
    unsupported(message.append_local_overload, "append_local_overload")?;
    unsupported(
        message.forward_proto_config.is_some(),
        "forward_proto_config",
    )?;
    unsupported(
        message
            .request_id_extension
            .as_ref()
            .is_some_and(is_not_uuid),
        "request_id_extension",
    )?;
    unsupported(
        message.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        "represent_ipv4_remote_address_as_ipv4_mapped_ipv6",
    )?;
    unsupported(
        flag(message.add_user_agent.as_ref(), false),
        "add_user_agent",
    )?;
    Ok(())
}

fn is_not_uuid(extension: &proto::RequestIdExtension) -> bool {
    let uuid = "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";
    extension
        .typed_config
        .as_ref()
        .is_some_and(|any| any.type_url != uuid)
}

fn scheme(message: &core::SchemeHeaderTransformation) -> Outcome<Scheme> {
    use core::scheme_header_transformation::Transformation;
    Ok(match &message.transformation {
        Some(Transformation::SchemeToOverwrite(scheme)) => match scheme.as_str() {
            "http" => Scheme::Overwritten { https: false },
            "https" => Scheme::Overwritten { https: true },
            other => {
                return Err(refused(
                    "scheme_to_overwrite",
                    format!("{other:?} is neither http nor https"),
                ));
            }
        },
        None if message.match_upstream => Scheme::MatchUpstream,
        None => Scheme::Kept,
    })
}

fn headers(
    message: &proto::HttpConnectionManager,
    manager: &mut HttpConnectionManager,
) -> Outcome<()> {
    use proto::http_connection_manager as of;
    if !message.server_name.is_empty() {
        manager.server_name = message.server_name.as_str().into();
    }
    let transformation = message.server_header_transformation;
    manager.server_header = match of::ServerHeaderTransformation::try_from(transformation) {
        Ok(of::ServerHeaderTransformation::Overwrite) => ServerHeader::Overwrite,
        Ok(of::ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Ok(of::ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
        Err(_) => {
            return Err(refused(
                "server_header_transformation",
                format!("{transformation} is not known"),
            ));
        }
    };
    manager.via = text(&message.via);
    manager.use_remote_address = flag(message.use_remote_address.as_ref(), false);
    manager.xff_num_trusted_hops = message.xff_num_trusted_hops;
    manager.skip_xff_append = message.skip_xff_append;
    if let Some(internal) = &message.internal_address_config {
        let within = "internal_address_config";
        unsupported(internal.unix_sockets, "unix_sockets").at(within)?;
        manager.internal_addresses = each("cidr_ranges", &internal.cidr_ranges, cidr).at(within)?;
    }
    let details = message.forward_client_cert_details;
    manager.forward_client_cert = match of::ForwardClientCertDetails::try_from(details) {
        Ok(of::ForwardClientCertDetails::Sanitize) => ForwardClientCert::Sanitize,
        Ok(of::ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(of::ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
        Ok(of::ForwardClientCertDetails::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Ok(of::ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Err(_) => {
            return Err(refused(
                "forward_client_cert_details",
                format!("{details} is not known"),
            ));
        }
    };
    if let Some(transformation) = &message.scheme_header_transformation {
        manager.scheme = scheme(transformation).at("scheme_header_transformation")?;
    }
    manager.normalize_path = flag(message.normalize_path.as_ref(), false);
    manager.merge_slashes = message.merge_slashes;
    let action = message.path_with_escaped_slashes_action;
    manager.escaped_slashes = match of::PathWithEscapedSlashesAction::try_from(action) {
        Ok(
            of::PathWithEscapedSlashesAction::ImplementationSpecificDefault
            | of::PathWithEscapedSlashesAction::KeepUnchanged,
        ) => EscapedSlashes::Keep,
        Ok(of::PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
        Ok(of::PathWithEscapedSlashesAction::UnescapeAndRedirect) => {
            EscapedSlashes::UnescapeAndRedirect
        }
        Ok(of::PathWithEscapedSlashesAction::UnescapeAndForward) => {
            EscapedSlashes::UnescapeAndForward
        }
        Err(_) => {
            return Err(refused(
                "path_with_escaped_slashes_action",
                format!("{action} is not known"),
            ));
        }
    };
    let any = matches!(
        message.strip_port_mode,
        Some(of::StripPortMode::StripAnyHostPort(true))
    );
    manager.strip_port = match (any, message.strip_matching_host_port) {
        (true, true) => {
            return Err(refused(
                "strip_any_host_port",
                "only one of strip_any_host_port and strip_matching_host_port may be set",
            ));
        }
        (true, false) => StripPort::Any,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::Keep,
    };
    manager.strip_trailing_host_dot = message.strip_trailing_host_dot;
    manager.generate_request_id = flag(message.generate_request_id.as_ref(), true);
    manager.preserve_external_request_id = message.preserve_external_request_id;
    manager.always_set_request_id_in_response = message.always_set_request_id_in_response;
    Ok(())
}

fn limits(
    message: &proto::HttpConnectionManager,
    manager: &mut HttpConnectionManager,
) -> Outcome<()> {
    manager.stream_idle_timeout = duration_or(
        "stream_idle_timeout",
        message.stream_idle_timeout.as_ref(),
        manager.stream_idle_timeout,
    )?;
    manager.request_timeout = duration_or(
        "request_timeout",
        message.request_timeout.as_ref(),
        Duration::ZERO,
    )?;
    manager.request_headers_timeout = duration_or(
        "request_headers_timeout",
        message.request_headers_timeout.as_ref(),
        Duration::ZERO,
    )?;
    manager.drain_timeout = duration_or(
        "drain_timeout",
        message.drain_timeout.as_ref(),
        manager.drain_timeout,
    )?;
    if let Some(kb) = number(message.max_request_headers_kb.as_ref()) {
        if kb == 0 || kb > MAX_REQUEST_HEADERS_KB {
            return Err(refused(
                "max_request_headers_kb",
                format!("{kb} must be from 1 to {MAX_REQUEST_HEADERS_KB}"),
            ));
        }
        manager.max_request_headers_bytes = kb * 1024;
    }
    let Some(common) = &message.common_http_protocol_options else {
        return Ok(());
    };
    let within = "common_http_protocol_options";
    unsupported(
        common.headers_with_underscores_action != 0,
        "headers_with_underscores_action",
    )
    .at(within)?;
    manager.idle_timeout = duration_or(
        "idle_timeout",
        common.idle_timeout.as_ref(),
        manager.idle_timeout,
    )
    .at(within)?;
    let longest = common.max_connection_duration.as_ref();
    manager.max_connection_duration = positive("max_connection_duration", longest).at(within)?;
    let longest = common.max_stream_duration.as_ref();
    manager.max_stream_duration = duration("max_stream_duration", longest)
        .at(within)?
        .filter(|longest| !longest.is_zero());
    manager.max_requests_per_connection = number(common.max_requests_per_connection.as_ref());
    if let Some(count) = number(common.max_headers_count.as_ref()) {
        if count == 0 {
            return Err(refused("max_headers_count", "must be greater than 0")).at(within);
        }
        manager.max_headers_count = count;
    }
    Ok(())
}

pub(super) fn http1(
    field: &str,
    message: Option<&core::Http1ProtocolOptions>,
) -> Outcome<Http1Options> {
    let Some(message) = message else {
        return Ok(Http1Options::default());
    };
    unsupported(message.send_fully_qualified_url, "send_fully_qualified_url").at(field)?;
    unsupported(
        !message.ignore_http_11_upgrade.is_empty(),
        "ignore_http_11_upgrade",
    )
    .at(field)?;
    unsupported(message.allow_chunked_length, "allow_chunked_length").at(field)?;
    unsupported(
        !message.default_host_for_http_10.is_empty(),
        "default_host_for_http_10",
    )
    .at(field)?;
    Ok(Http1Options {
        accept_http_10: message.accept_http_10,
        preserve_header_case: preserves_case(message).at(field)?,
        refuse_absolute_url: !flag(message.allow_absolute_url.as_ref(), true),
        enable_trailers: message.enable_trailers,
    })
}

pub(super) fn preserves_case(message: &core::Http1ProtocolOptions) -> Outcome<bool> {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    let format = message.header_key_format.as_ref();
    match format.and_then(|format| format.header_format.as_ref()) {
        None => Ok(false),
        Some(HeaderFormat::StatefulFormatter(formatter)) => {
            let url = type_url::<PreserveCaseFormatterConfig>();
            let known = formatter
                .typed_config
                .as_ref()
                .is_some_and(|any| any.type_url == url);
            unsupported(!known, "header_key_format.stateful_formatter")?;
            Ok(true)
        }
        Some(HeaderFormat::ProperCaseWords(_)) => Err(refused(
            "header_key_format.proper_case_words",
            "is not supported by this proxy",
        )),
    }
}

pub(super) fn http2(
    field: &str,
    message: Option<&core::Http2ProtocolOptions>,
) -> Outcome<Http2Options> {
    let Some(message) = message else {
        return Ok(Http2Options::default());
    };
    unsupported(
        !message.custom_settings_parameters.is_empty(),
        "custom_settings_parameters",
    )
    .at(field)?;
    unsupported(message.allow_metadata, "allow_metadata").at(field)?;
    let window = |name: &str, given: Option<u32>| match given {
        Some(bytes) if !(MIN_WINDOW_BYTES..=MAX_WINDOW_BYTES).contains(&bytes) => Err(refused(
            name,
            format!("{bytes} must be from {MIN_WINDOW_BYTES} to {MAX_WINDOW_BYTES}"),
        )),
        other => Ok(other),
    };
    let keepalive = message.connection_keepalive.as_ref();
    Ok(Http2Options {
        max_concurrent_streams: number(message.max_concurrent_streams.as_ref()),
        initial_stream_window: window(
            "initial_stream_window_size",
            number(message.initial_stream_window_size.as_ref()),
        )
        .at(field)?,
        initial_connection_window: window(
            "initial_connection_window_size",
            number(message.initial_connection_window_size.as_ref()),
        )
        .at(field)?,
        allow_connect: message.allow_connect,
        keepalive_interval: positive(
            "connection_keepalive.interval",
            keepalive.and_then(|keepalive| keepalive.interval.as_ref()),
        )
        .at(field)?,
        keepalive_timeout: positive(
            "connection_keepalive.timeout",
            keepalive.and_then(|keepalive| keepalive.timeout.as_ref()),
        )
        .at(field)?,
    })
}

fn filters(messages: &[proto::HttpFilter]) -> Outcome<Vec<HttpFilter>> {
    let mut filters = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let read = http_filter(message);
        match read.at_element("http_filters", index, &message.name) {
            Ok(filter) => filters.push(filter),
            Err(_) if message.is_optional => {}
            Err(refusal) => return Err(refusal),
        }
    }
    match filters.last() {
        Some(HttpFilter::Router(_)) => Ok(filters),
        _ => Err(refused("http_filters", "must end with the router")),
    }
}

/// Filters of Istio's sidecars that change nothing here: statistics are kept by every proxy of
/// ours, peers are known by other means, and ALPN follows from the cluster.
const PASSED_OVER: &[&str] = &[
    "istio.stats",
    "istio.metadata_exchange",
    "istio.alpn",
    "istio_authn",
    "envoy.filters.http.grpc_stats",
];

fn http_filter(message: &proto::HttpFilter) -> Outcome<HttpFilter> {
    use proto::http_filter::ConfigType;
    unsupported(message.disabled, "disabled")?;
    let name: Arc<str> = message.name.as_str().into();
    if PASSED_OVER.contains(&message.name.as_str()) {
        return Ok(HttpFilter::Other(name));
    }
    let any = match &message.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(refused(
                "config_discovery",
                "is not supported by this proxy",
            ));
        }
        None => return Err(refused("typed_config", "must be given")),
    };
    let url = any.type_url.as_str();
    let within = "typed_config";
    if url == type_url::<Router>() {
        let router: Router = unpack(any).at(within)?;
        unsupported(!router.upstream_log.is_empty(), "upstream_log").at(within)?;
        unsupported(
            !router.strict_check_headers.is_empty(),
            "strict_check_headers",
        )
        .at(within)?;
        let only_codec = router
            .upstream_http_filters
            .iter()
            .all(|filter| filter.name == "envoy.filters.http.upstream_codec");
        unsupported(!only_codec, "upstream_http_filters").at(within)?;
        return Ok(HttpFilter::Router(RouterFilter {
            suppress_envoy_headers: router.suppress_envoy_headers,
            respect_expected_rq_timeout: router.respect_expected_rq_timeout,
        }));
    }
    if url == type_url::<HttpFault>() {
        let policy = filter::fault(&unpack(any).at(within)?).at(within)?;
        return Ok(HttpFilter::Fault {
            name,
            policy: Arc::new(policy),
        });
    }
    if url == type_url::<Cors>() {
        return Ok(HttpFilter::Cors {
            name,
            policy: None::<Arc<CorsPolicy>>,
        });
    }
    if url == type_url::<LocalRateLimit>() {
        let limit = rate_limit::local(&unpack(any).at(within)?).at(within)?;
        return Ok(HttpFilter::LocalRateLimit {
            name,
            limit: Arc::new(limit),
        });
    }
    if url == type_url::<RateLimit>() {
        let filter = rate_limit::global(&unpack(any).at(within)?).at(within)?;
        return Ok(HttpFilter::RateLimit {
            name,
            filter: Arc::new(filter),
        });
    }
    if url == type_url::<GrpcStats>() {
        return Ok(HttpFilter::Other(name));
    }
    Err(refused(
        within,
        format!("HTTP filters of type {url} are not supported by this proxy"),
    ))
}

fn local_replies(message: &proto::LocalReplyConfig) -> Outcome<Vec<LocalReplyMapper>> {
    let default = message
        .body_format
        .as_ref()
        .map(access_log::text)
        .transpose();
    let default = default.at("body_format")?;
    let mut mappers = each("mappers", &message.mappers, |mapper| {
        local_reply(mapper, default.as_ref())
    })?;
    if let Some(format) = &message.body_format {
        mappers.push(LocalReplyMapper {
            statuses: Vec::new(),
            flags: Vec::new(),
            status: None,
            body: default,
            content_type: text(&format.content_type),
            headers_to_add: Vec::new(),
        });
    }
    Ok(mappers)
}

fn local_reply(
    message: &proto::ResponseMapper,
    default: Option<&Format>,
) -> Outcome<LocalReplyMapper> {
    let (mut statuses, mut flags) = (Vec::new(), Vec::new());
    if let Some(filter) = &message.filter {
        reply_filter(filter, &mut statuses, &mut flags).at("filter")?;
    }
    let mut body = default.cloned();
    let mut content_type = None;
    if let Some(format) = &message.body_format_override {
        body = Some(access_log::text(format).at("body_format_override")?);
        content_type = text(&format.content_type);
    } else if let Some(source) = &message.body {
        let bytes = inline(source).at("body")?;
        let fixed = std::str::from_utf8(&bytes).map_err(|_| refused("body", "must be UTF-8"))?;
        body = Some(Format::text(fixed));
    }
    let status = number(message.status_code.as_ref());
    let status = status
        .map(super::value::status)
        .transpose()
        .at("status_code")?;
    Ok(LocalReplyMapper {
        statuses,
        flags,
        status: status.map(|status| status.as_u16()),
        body,
        content_type,
        headers_to_add: header::additions("headers_to_add", &message.headers_to_add)?,
    })
}

fn reply_filter(
    message: &log::AccessLogFilter,
    statuses: &mut Vec<u16>,
    flags: &mut Vec<Arc<str>>,
) -> Outcome<()> {
    use log::access_log_filter::FilterSpecifier;
    match &message.filter_specifier {
        Some(FilterSpecifier::StatusCodeFilter(filter)) => {
            let Some(comparison) = &filter.comparison else {
                return Err(refused("status_code_filter.comparison", "must be given"));
            };
            unsupported(
                comparison.op != log::comparison_filter::Op::Eq as i32,
                "status_code_filter.comparison.op",
            )?;
            let code = comparison
                .value
                .as_ref()
                .map_or(0, |value| value.default_value);
            let code = u16::try_from(code);
            statuses.push(code.map_err(|_| refused("status_code_filter", "is no HTTP status"))?);
            Ok(())
        }
        Some(FilterSpecifier::ResponseFlagFilter(filter)) => {
            flags.extend(texts(&filter.flags));
            Ok(())
        }
        Some(FilterSpecifier::OrFilter(filter)) => {
            for one in &filter.filters {
                reply_filter(one, statuses, flags)?;
            }
            // The mapper asks for both where both are given.
            unsupported(!statuses.is_empty() && !flags.is_empty(), "or_filter")
        }
        _ => Err(refused(
            "filter",
            "only status_code_filter, response_flag_filter and or_filter are supported by this proxy",
        )),
    }
}
