//! Short names for Envoy's messages, and the small ones that are written often.

pub use trireme_xds::pb::envoy::config::accesslog::v3 as accesslog;
pub use trireme_xds::pb::envoy::config::cluster::v3 as cluster;
pub use trireme_xds::pb::envoy::config::common::matcher::v3 as predicate;
pub use trireme_xds::pb::envoy::config::core::v3 as core;
pub use trireme_xds::pb::envoy::config::endpoint::v3 as endpoint;
pub use trireme_xds::pb::envoy::config::listener::v3 as listener;
pub use trireme_xds::pb::envoy::config::route::v3 as route;
pub use trireme_xds::pb::envoy::extensions;
pub use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub use trireme_xds::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use trireme_xds::pb::envoy::extensions::upstreams::http::v3 as upstream;
pub use trireme_xds::pb::envoy::r#type::matcher::v3 as matcher;
pub use trireme_xds::pb::envoy::r#type::v3 as kind;
pub use trireme_xds::pb::google::protobuf;

use trireme_model::istio::{Percent, StringMatch};

pub fn uint(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub fn boolean(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

pub fn duration(length: impl Into<std::time::Duration>) -> Option<protobuf::Duration> {
    let length = length.into();
    Some(protobuf::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    })
}

/// Envoy's word for never.
pub fn no_timeout() -> Option<protobuf::Duration> {
    duration(std::time::Duration::ZERO)
}

pub fn address(address: &str, port: u32) -> core::Address {
    use core::address::Address;
    let inner = match address.strip_prefix("unix://") {
        Some(path) => Address::Pipe(core::Pipe {
            path: path.to_owned(),
            ..core::Pipe::default()
        }),
        None => Address::SocketAddress(core::SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..core::SocketAddress::default()
        }),
    };
    core::Address {
        address: Some(inner),
    }
}

/// Configuration comes over the stream that is there already.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        initial_fetch_timeout: no_timeout(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..core::ConfigSource::default()
    }
}

/// A share to a ten-thousandth of a percent.
pub fn share(percent: &Percent) -> kind::FractionalPercent {
    kind::FractionalPercent {
        numerator: (percent.value.clamp(0.0, 100.0) * 10_000.0).round() as u32,
        denominator: kind::fractional_percent::DenominatorType::Million as i32,
    }
}

pub fn all() -> kind::FractionalPercent {
    kind::FractionalPercent {
        numerator: 100,
        denominator: kind::fractional_percent::DenominatorType::Hundred as i32,
    }
}

pub fn runtime_share(share: kind::FractionalPercent) -> Option<core::RuntimeFractionalPercent> {
    Some(core::RuntimeFractionalPercent {
        default_value: Some(share),
        ..core::RuntimeFractionalPercent::default()
    })
}

/// `None` for a match that any text meets.
pub fn string_match(text: &StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match text {
        StringMatch::Present => return None,
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) if text == "*" => return None,
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
    };
    Some(matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..matcher::StringMatcher::default()
    })
}

pub fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
            text.to_owned(),
        )),
        ..matcher::StringMatcher::default()
    }
}

pub fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.to_owned(),
        ..matcher::RegexMatcher::default()
    }
}

/// A filter of a connection, with its configuration.
pub fn network_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(
            trireme_xds::pack(config),
        )),
    }
}

/// A filter of HTTP requests, with its configuration.
pub fn http_filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(
            trireme_xds::pack(config),
        )),
        ..hcm::HttpFilter::default()
    }
}

pub fn cidr(text: &str) -> Option<core::CidrRange> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse().ok()?),
        None => (text, if text.contains(':') { 128 } else { 32 }),
    };
    address.parse::<std::net::IpAddr>().ok()?;
    Some(core::CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: uint(length),
    })
}
