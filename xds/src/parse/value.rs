//! Plain values: durations, numbers, shares, addresses, bytes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, StatusCode};
use trireme_proxy_decide::config::{Cidr, Fraction, Origin, SecretSource};

use super::refusal::{At, Outcome, reason, refused};
use crate::metadata;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::r#type::v3 as proto;
use crate::pb::google::protobuf as google;

/// The longest duration of protobuf (about 10,000 years), which also fits our own.
const MAX_SECONDS: i64 = 315_576_000_000;

pub(super) fn duration(field: &str, value: Option<&google::Duration>) -> Outcome<Option<Duration>> {
    let Some(value) = value else {
        return Ok(None);
    };
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    let seconds = u64::try_from(value.seconds)
        .ok()
        .filter(|_| value.seconds <= MAX_SECONDS);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(refused(field, "must be a duration of zero or more")),
    }
}

pub(super) fn duration_or(
    field: &str,
    value: Option<&google::Duration>,
    default: Duration,
) -> Outcome<Duration> {
    Ok(duration(field, value)?.unwrap_or(default))
}

/// A duration that must be longer than nothing.
pub(super) fn positive(field: &str, value: Option<&google::Duration>) -> Outcome<Option<Duration>> {
    match duration(field, value)? {
        Some(Duration::ZERO) => Err(refused(field, "must be greater than 0s")),
        other => Ok(other),
    }
}

pub(super) fn number(value: Option<&google::UInt32Value>) -> Option<u32> {
    value.map(|value| value.value)
}

pub(super) fn flag(value: Option<&google::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// A number of percent, from 0 to 100.
pub(super) fn percent(field: &str, value: Option<&proto::Percent>) -> Outcome<Option<f64>> {
    match value.map(|value| value.value) {
        Some(percent) if !(0.0..=100.0).contains(&percent) => {
            Err(refused(field, format!("{percent} must be from 0 to 100")))
        }
        other => Ok(other),
    }
}

/// A whole number of percent, from 0 to 100.
pub(super) fn whole_percent(
    field: &str,
    value: Option<&google::UInt32Value>,
    default: u32,
) -> Outcome<u32> {
    match number(value) {
        Some(percent) if percent > 100 => {
            Err(refused(field, format!("{percent} must be at most 100")))
        }
        Some(percent) => Ok(percent),
        None => Ok(default),
    }
}

pub(super) fn fraction(value: &proto::FractionalPercent) -> Outcome<Fraction> {
    use proto::fractional_percent::DenominatorType;
    let denominator = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            return Err(refused(
                "denominator",
                format!("{} is not known", value.denominator),
            ));
        }
    };
    Ok(Fraction {
        numerator: value.numerator,
        denominator,
    })
}

/// The default of a share that Envoy could override at run time. We have no such overrides.
pub(super) fn runtime_fraction(value: &core::RuntimeFractionalPercent) -> Outcome<Fraction> {
    match &value.default_value {
        Some(share) => fraction(share).at("default_value"),
        None => Err(refused("default_value", "must be given")),
    }
}

pub(super) fn optional_runtime_fraction(
    field: &str,
    value: Option<&core::RuntimeFractionalPercent>,
) -> Outcome<Option<Fraction>> {
    value.map(runtime_fraction).transpose().at(field)
}

pub(super) fn text(value: &str) -> Option<Arc<str>> {
    (!value.is_empty()).then(|| value.into())
}

pub(super) fn texts(values: &[String]) -> Vec<Arc<str>> {
    values.iter().map(|value| value.as_str().into()).collect()
}

pub(super) fn header_name(name: &str) -> Outcome<HeaderName> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| reason(format!("{name:?} is no header name")))
}

pub(super) fn optional_header_name(field: &str, name: &str) -> Outcome<Option<HeaderName>> {
    if name.is_empty() {
        return Ok(None);
    }
    header_name(name).map(Some).at(field)
}

pub(super) fn header_names(field: &str, names: &[String]) -> Outcome<Vec<HeaderName>> {
    super::refusal::each(field, names, |name| header_name(name))
}

pub(super) fn status(code: u32) -> Outcome<StatusCode> {
    u16::try_from(code)
        .ok()
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| reason(format!("{code} is no HTTP status from 200 to 599")))
}

pub(super) fn port(port: u32) -> Outcome<u16> {
    u16::try_from(port).map_err(|_| reason(format!("port {port} must be at most 65535")))
}

pub(super) fn ip(address: &str) -> Outcome<IpAddr> {
    address
        .parse()
        .map_err(|_| reason(format!("{address:?} is no IP address")))
}

/// The address and port of a socket address, whose host may be a name.
pub(super) fn host_and_port(address: &core::Address) -> Outcome<(&str, u16)> {
    use core::address::Address;
    use core::socket_address::PortSpecifier;
    let socket = match &address.address {
        Some(Address::SocketAddress(socket)) => socket,
        Some(Address::Pipe(_)) => return Err(refused("pipe", "is not supported by this proxy")),
        Some(Address::EnvoyInternalAddress(_)) => {
            return Err(refused(
                "envoy_internal_address",
                "is not supported by this proxy",
            ));
        }
        None => return Err(reason("must be a socket address")),
    };
    if socket.protocol != core::socket_address::Protocol::Tcp as i32 {
        return Err(refused(
            "socket_address.protocol",
            "only TCP is supported by this proxy",
        ));
    }
    if !socket.resolver_name.is_empty() || !socket.network_namespace_filepath.is_empty() {
        return Err(refused(
            "socket_address",
            "resolver_name and network_namespace_filepath are not supported by this proxy",
        ));
    }
    let number = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(value)) => port(*value).at("socket_address.port_value")?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(refused(
                "socket_address.named_port",
                "is not supported by this proxy",
            ));
        }
        None => 0,
    };
    Ok((&socket.address, number))
}

pub(super) fn socket_address(address: &core::Address) -> Outcome<SocketAddr> {
    let (host, port) = host_and_port(address)?;
    Ok(SocketAddr::new(
        ip(host).at("socket_address.address")?,
        port,
    ))
}

pub(super) fn cidr(range: &core::CidrRange) -> Outcome<Cidr> {
    let address = ip(&range.address_prefix).at("address_prefix")?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = number(range.prefix_len.as_ref()).unwrap_or(0);
    match u8::try_from(bits) {
        Ok(bits) if bits <= most => Ok(Cidr { address, bits }),
        _ => Err(refused(
            "prefix_len",
            format!("{bits} must be at most {most}"),
        )),
    }
}

pub(super) fn data_source(source: &core::DataSource) -> Outcome<SecretSource> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(SecretSource::Inline(bytes.as_slice().into())),
        Some(Specifier::InlineString(text)) => Ok(SecretSource::Inline(text.as_bytes().into())),
        Some(Specifier::Filename(path)) => Ok(SecretSource::File(path.as_str().into())),
        Some(Specifier::EnvironmentVariable(_)) => Err(refused(
            "environment_variable",
            "is not supported by this proxy",
        )),
        None => Err(reason("must be given")),
    }
}

/// Bytes that are in the configuration itself.
pub(super) fn inline(source: &core::DataSource) -> Outcome<Arc<[u8]>> {
    match data_source(source)? {
        SecretSource::Inline(bytes) => Ok(bytes),
        _ => Err(refused("filename", "is not supported here by this proxy")),
    }
}

pub(super) fn origin(metadata: Option<&core::Metadata>) -> Option<Origin> {
    metadata::object(metadata).map(Origin::new)
}

/// Labels below a metadata filter, sorted by key; what is no text is refused.
pub(super) fn labels(
    metadata: Option<&core::Metadata>,
    filter: &str,
) -> Outcome<Vec<(Arc<str>, Arc<str>)>> {
    match metadata::filter(metadata, filter) {
        Some(fields) => struct_labels(fields).at(filter),
        None => Ok(Vec::new()),
    }
}

pub(super) fn struct_labels(fields: &google::Struct) -> Outcome<Vec<(Arc<str>, Arc<str>)>> {
    let mut labels = Vec::with_capacity(fields.fields.len());
    for name in fields.fields.keys() {
        let value = match metadata::text(fields, name) {
            Some(text) => Arc::from(text),
            None => match fields
                .fields
                .get(name)
                .and_then(|value| value.kind.as_ref())
            {
                Some(google::value::Kind::BoolValue(value)) => Arc::from(value.to_string()),
                Some(google::value::Kind::NumberValue(value)) => Arc::from(value.to_string()),
                _ => return Err(refused(name, "must be text, a number or a boolean")),
            },
        };
        labels.push((Arc::from(name.as_str()), value));
    }
    labels.sort();
    Ok(labels)
}
