//! Which HTTP a cluster's endpoints are spoken to in, and how.

use trireme_proxy_decide::config::{HttpProtocol, HttpProtocolOptions};

use super::http::{http2, preserves_case};
use super::refusal::{At, Outcome, refused, unsupported};
use super::value::{duration, number, positive};
use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::upstreams::http::v3 as proto;
use crate::pb::envoy::extensions::upstreams::tcp::v3::TcpProtocolOptions;
use crate::{type_url, unpack};

/// The key under which Envoy looks for options of HTTP.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn options(message: &Cluster) -> Outcome<HttpProtocolOptions> {
    let mut options = HttpProtocolOptions::default();
    old_fields(message, &mut options)?;
    let mut names: Vec<&String> = message.typed_extension_protocol_options.keys().collect();
    names.sort();
    for name in names {
        let Some(any) = message.typed_extension_protocol_options.get(name) else {
            continue;
        };
        if any.type_url == type_url::<TcpProtocolOptions>() {
            continue;
        }
        if name != KEY {
            return Err(refused(name, "is not supported by this proxy"))
                .at("typed_extension_protocol_options");
        }
        extension(&unpack(any)?, &mut options).at_element(
            "typed_extension_protocol_options",
            0,
            name,
        )?;
    }
    Ok(options)
}

/// What stood in the cluster itself before there was the extension.
#[allow(deprecated)]
fn old_fields(message: &Cluster, options: &mut HttpProtocolOptions) -> Outcome<()> {
    use crate::pb::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
    if let Some(given) = number(message.max_requests_per_connection.as_ref()) {
        options.max_requests_per_connection = Some(given);
    }
    if let Some(common) = &message.common_http_protocol_options {
        self::common(common, options).at("common_http_protocol_options")?;
    }
    if let Some(http1) = &message.http_protocol_options {
        options.preserve_header_case = preserves_case(http1).at("http_protocol_options")?;
    }
    if let Some(given) = &message.http2_protocol_options {
        options.protocol = HttpProtocol::Http2;
        options.http2 = http2("http2_protocol_options", Some(given))?;
    }
    if message.protocol_selection == ClusterProtocolSelection::UseDownstreamProtocol as i32 {
        options.protocol = HttpProtocol::Downstream;
    }
    if let Some(upstream) = &message.upstream_http_protocol_options {
        self::upstream(upstream, options).at("upstream_http_protocol_options")?;
    }
    Ok(())
}

fn extension(
    message: &proto::HttpProtocolOptions,
    options: &mut HttpProtocolOptions,
) -> Outcome<()> {
    use proto::http_protocol_options::UpstreamProtocolOptions;
    use proto::http_protocol_options::explicit_http_config::ProtocolConfig;
    let only_codec = message
        .http_filters
        .iter()
        .all(|filter| filter.name == "envoy.filters.http.upstream_codec");
    unsupported(!only_codec, "http_filters")?;
    unsupported(message.outlier_detection.is_some(), "outlier_detection")?;
    unsupported(
        !message.request_mirror_policies.is_empty(),
        "request_mirror_policies",
    )?;
    unsupported(!message.hash_policy.is_empty(), "hash_policy")?;
    unsupported(message.retry_policy.is_some(), "retry_policy")?;
    unsupported(
        message.header_validation_config.is_some(),
        "header_validation_config",
    )?;
    if let Some(common) = &message.common_http_protocol_options {
        self::common(common, options).at("common_http_protocol_options")?;
    }
    if let Some(upstream) = &message.upstream_http_protocol_options {
        self::upstream(upstream, options).at("upstream_http_protocol_options")?;
    }
    let mut both = |one: Option<&core::Http1ProtocolOptions>,
                    two: Option<&core::Http2ProtocolOptions>|
     -> Outcome<()> {
        if let Some(one) = one {
            options.preserve_header_case = preserves_case(one).at("http_protocol_options")?;
        }
        options.http2 = http2("http2_protocol_options", two)?;
        Ok(())
    };
    match &message.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            match &explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(one)) => {
                    both(Some(one), None).at("explicit_http_config")?;
                    options.protocol = HttpProtocol::Http1;
                }
                Some(ProtocolConfig::Http2ProtocolOptions(two)) => {
                    both(None, Some(two)).at("explicit_http_config")?;
                    options.protocol = HttpProtocol::Http2;
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    return Err(refused(
                        "explicit_http_config.http3_protocol_options",
                        "is not supported by this proxy",
                    ));
                }
                None => return Err(refused("explicit_http_config", "must name a protocol")),
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            both(
                config.http_protocol_options.as_ref(),
                config.http2_protocol_options.as_ref(),
            )
            .at("use_downstream_protocol_config")?;
            options.protocol = HttpProtocol::Downstream;
        }
        Some(UpstreamProtocolOptions::AutoConfig(config)) => {
            unsupported(
                config.http3_protocol_options.is_some(),
                "auto_config.http3_protocol_options",
            )?;
            both(
                config.http_protocol_options.as_ref(),
                config.http2_protocol_options.as_ref(),
            )
            .at("auto_config")?;
            options.protocol = HttpProtocol::Alpn;
        }
        None => return Err(refused("upstream_protocol_options", "must be given")),
    }
    Ok(())
}

fn common(message: &core::HttpProtocolOptions, options: &mut HttpProtocolOptions) -> Outcome<()> {
    unsupported(
        message.headers_with_underscores_action != 0,
        "headers_with_underscores_action",
    )?;
    options.idle_timeout = duration("idle_timeout", message.idle_timeout.as_ref())?;
    options.max_connection_duration = positive(
        "max_connection_duration",
        message.max_connection_duration.as_ref(),
    )?;
    options.max_stream_duration =
        duration("max_stream_duration", message.max_stream_duration.as_ref())?
            .filter(|longest| !longest.is_zero());
    if let Some(given) = number(message.max_requests_per_connection.as_ref()) {
        options.max_requests_per_connection = Some(given);
    }
    options.max_response_headers_count = number(message.max_headers_count.as_ref());
    Ok(())
}

fn upstream(
    message: &core::UpstreamHttpProtocolOptions,
    options: &mut HttpProtocolOptions,
) -> Outcome<()> {
    unsupported(
        !message.override_auto_sni_header.is_empty(),
        "override_auto_sni_header",
    )?;
    options.auto_sni = message.auto_sni;
    options.auto_san_validation = message.auto_san_validation;
    Ok(())
}
