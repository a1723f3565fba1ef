//! What a hop does to every request and response, whatever its route: Envoy's
//! `ConnectionManagerUtility`.

use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, SERVER, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};
use rand_core::RngCore;

use super::connection::{Connection, Protocol};
use crate::config::{ForwardClientCert, Scheme, ServerHeader, StripPort};
use crate::head::RequestHead;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub(super) const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers that only internal clients may send.
const INTERNAL_ONLY: [&str; 14] = [
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];

/// Headers of an edge's clients that are not believed either.
const EDGE_ONLY: [&str; 3] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
];

/// How names of headers that ask for something begin after `x-envoy-`; others only tell.
const ASKING: [&str; 11] = [
    "re", "max", "up", "exp", "force", "ip", "orig", "hedge", "int", "dec", "down",
];

/// Which headers of interest a map has, found in one pass: a lookup of each costs a hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Headers that end at a hop.
    hop: bool,
    forwarded_for: bool,
    forwarded_proto: bool,
    client_cert: bool,
    request_id: bool,
    te: bool,
    /// Any `x-envoy-…` that asks for something.
    pub envoy: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Seen {
        let mut seen = Seen::default();
        for name in headers.keys() {
            if *name == CONNECTION || *name == UPGRADE || *name == TRANSFER_ENCODING {
                seen.hop = true;
            } else if *name == TE {
                seen.te = true;
            } else {
                let name = name.as_str();
                if let Some(rest) = name.strip_prefix("x-") {
                    match rest {
                        "forwarded-for" => seen.forwarded_for = true,
                        "forwarded-proto" => seen.forwarded_proto = true,
                        "forwarded-client-cert" => seen.client_cert = true,
                        "request-id" => seen.request_id = true,
                        _ => {
                            seen.envoy |= rest
                                .strip_prefix("envoy-")
                                .is_some_and(|rest| ASKING.iter().any(|ask| rest.starts_with(ask)));
                        }
                    }
                } else if name == "keep-alive" || name == "proxy-connection" {
                    seen.hop = true;
                }
            }
        }
        seen
    }
}

/// What a request's beginning tells.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// The client's address.
    pub remote: SocketAddr,
    /// Whether it counts as internal.
    pub internal: bool,
    /// The protocol it wants to change to.
    pub upgrade: Option<Box<str>>,
    /// Whether it has any `x-envoy-…` header that asks for something.
    pub envoy: bool,
}

/// Cleans a request's head as it comes in, adds what a proxy adds, and tells whose it is.
pub(super) fn arrive(
    connection: &Connection,
    head: &mut RequestHead,
    internal_only: &[HeaderName],
    rng: &mut dyn RngCore,
) -> Arrival {
    let hcm = &*connection.hcm;
    let headers = &mut head.headers;
    let seen = Seen::of(headers);
    let mut upgrade = None;
    if seen.hop {
        upgrade = upgrade_of(headers);
        if upgrade.is_none() {
            headers.remove(CONNECTION);
            headers.remove(UPGRADE);
        }
        for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &TRANSFER_ENCODING] {
            headers.remove(name);
        }
    }
    if seen.te {
        keep_trailers_only(headers);
    }
    if seen.envoy {
        headers.remove(&INTERNAL);
    }
    let scheme = HeaderValue::from_static(if connection.tls { "https" } else { "http" });
    let hops = hcm.xff_num_trusted_hops as usize;
    let (address, single) = if hcm.use_remote_address {
        let single = !seen.forwarded_for;
        let trusted = match hops.checked_sub(1) {
            Some(skip) => last_forwarded(headers, skip).map(|(address, _)| address),
            None => None,
        };
        if !hcm.skip_xff_append {
            append_forwarded_for(headers, connection);
        }
        if hops == 0 || !seen.forwarded_proto {
            headers.insert(FORWARDED_PROTO, scheme.clone());
        }
        (Some(trusted.unwrap_or(connection.remote.ip())), single)
    } else if seen.forwarded_for {
        match last_forwarded(headers, hops) {
            Some((address, single)) => (Some(address), single),
            None => (None, false),
        }
    } else {
        (None, false)
    };
    if !seen.forwarded_proto && !hcm.use_remote_address {
        headers.insert(FORWARDED_PROTO, scheme);
    }
    // HTTP/1 says no scheme of its own: a trusted proxy's word counts, then the connection.
    if connection.protocol != Protocol::Http2
        && let Some(scheme) = headers.get(&FORWARDED_PROTO)
    {
        head.https = match scheme.as_bytes() {
            b"https" => true,
            b"http" => false,
            _ => connection.tls,
        };
    }
    if let Scheme::Overwritten { https } = hcm.scheme {
        head.https = https;
        let scheme = if https { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    let internal = single
        && address.is_some_and(|address| {
            hcm.internal_addresses
                .iter()
                .any(|cidr| cidr.contains(address))
        });
    let edge = !internal && hcm.use_remote_address;
    if internal {
        headers.insert(INTERNAL, HeaderValue::from_static("true"));
    } else {
        if seen.envoy {
            for name in INTERNAL_ONLY {
                headers.remove(name);
            }
            if edge {
                for name in EDGE_ONLY {
                    headers.remove(name);
                }
            }
        }
        for name in internal_only {
            headers.remove(name);
        }
    }
    if edge
        && let Some(address) = address
        && let Ok(value) = HeaderValue::from_str(&address.to_string())
    {
        headers.insert(EXTERNAL_ADDRESS, value);
    }
    append_via(headers, hcm.via.as_deref());
    if hcm.generate_request_id && ((edge && !hcm.preserve_external_request_id) || !seen.request_id)
    {
        headers.insert(REQUEST_ID, request_id(rng));
    }
    if seen.client_cert {
        client_certificate(connection, headers);
    }
    strip_authority(connection, head);
    let remote = match address {
        Some(address) if address != connection.remote.ip() => SocketAddr::new(address, 0),
        _ => connection.remote,
    };
    Arrival {
        remote,
        internal,
        upgrade,
        envoy: seen.envoy,
    }
}

/// Cleans a response's headers and adds what a proxy adds.
pub(super) fn leave(connection: &Connection, request: &RequestHead, headers: &mut HeaderMap) {
    let hcm = &*connection.hcm;
    if Seen::of(headers).hop {
        if upgrade_of(&request.headers).is_none() || upgrade_of(headers).is_none() {
            headers.remove(CONNECTION);
        }
        for name in [&TRANSFER_ENCODING, &KEEP_ALIVE, &PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
    let server = match hcm.server_header {
        ServerHeader::Overwrite => true,
        ServerHeader::AppendIfAbsent => !headers.contains_key(SERVER),
        ServerHeader::PassThrough => false,
    };
    if server {
        // Nearly always Envoy's default, which needs no copy.
        let name = match &*hcm.server_name {
            "envoy" => Some(HeaderValue::from_static("envoy")),
            "istio-envoy" => Some(HeaderValue::from_static("istio-envoy")),
            name => HeaderValue::from_str(name).ok(),
        };
        if let Some(name) = name {
            headers.insert(SERVER, name);
        }
    }
    if hcm.always_set_request_id_in_response
        && let Some(id) = request.headers.get(&REQUEST_ID)
    {
        headers.insert(REQUEST_ID, id.clone());
    }
    append_via(headers, hcm.via.as_deref());
}

/// What the headers want to upgrade to: `connection` names `upgrade`, and that names it.
fn upgrade_of(headers: &HeaderMap) -> Option<Box<str>> {
    let wanted = headers.get(UPGRADE)?.to_str().ok()?;
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    named.then(|| wanted.into())
}

/// `te` may only say `trailers` past one hop.
fn keep_trailers_only(headers: &mut HeaderMap) {
    let Some(value) = headers.get(TE) else { return };
    let trailers = value.to_str().is_ok_and(|value| {
        value
            .split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("trailers"))
    });
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// The address in `x-forwarded-for` after skipping this many from the end, and whether it is the
/// only one.
fn last_forwarded(headers: &HeaderMap, skip: usize) -> Option<(IpAddr, bool)> {
    let name = FORWARDED_FOR;
    let all = crate::head::joined(headers, &name)?;
    let parts: Vec<&str> = all.split(',').map(str::trim).collect();
    let text = parts.get(parts.len().checked_sub(skip + 1)?)?;
    Some((text.parse().ok()?, parts.len() == 1 && skip == 0))
}

fn append_forwarded_for(headers: &mut HeaderMap, connection: &Connection) {
    let remote = connection.remote.ip();
    // A client on this machine is known by this machine's address.
    let own = if remote.is_loopback() {
        connection.own_address()
    } else {
        remote
    };
    let name = FORWARDED_FOR;
    let text = match crate::head::joined(headers, &name) {
        Some(before) if !before.is_empty() => format!("{before},{own}"),
        _ => own.to_string(),
    };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(FORWARDED_FOR, value);
    }
}

fn append_via(headers: &mut HeaderMap, via: Option<&str>) {
    let Some(via) = via.filter(|via| !via.is_empty()) else {
        return;
    };
    let text = match headers.get(VIA).and_then(|value| value.to_str().ok()) {
        Some(before) if !before.is_empty() => format!("{before}, {via}"),
        _ => via.to_owned(),
    };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(VIA, value);
    }
}

fn client_certificate(connection: &Connection, headers: &mut HeaderMap) {
    let keeps = match connection.hcm.forward_client_cert {
        ForwardClientCert::AlwaysForwardOnly => true,
        ForwardClientCert::ForwardOnly | ForwardClientCert::AppendForward => {
            connection.peer_certificate
        }
        // What takes its place is the driver's, who has the certificate.
        ForwardClientCert::Sanitize | ForwardClientCert::SanitizeSet => false,
    };
    if !keeps {
        headers.remove(&CLIENT_CERT);
    }
}

fn strip_authority(connection: &Connection, head: &mut RequestHead) {
    let hcm = &*connection.hcm;
    let before = head.authority();
    let mut authority = before;
    let bare = crate::route::without_port(authority);
    let port = authority.get(bare.len() + 1..).unwrap_or("");
    let strips = match hcm.strip_port {
        StripPort::Keep => false,
        StripPort::Any => !port.is_empty(),
        StripPort::Matching => port
            .parse()
            .is_ok_and(|port: u16| port == connection.local.port()),
    };
    if strips {
        authority = bare;
    }
    if hcm.strip_trailing_host_dot {
        authority = authority.strip_suffix('.').unwrap_or(authority);
    }
    if authority.len() != before.len()
        && let Ok(value) = HeaderValue::from_str(authority)
    {
        head.authority = value;
    }
}

/// A random UUID, version 4 (RFC 9562).
fn request_id(rng: &mut dyn RngCore) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut random = [0u8; 16];
    rng.fill_bytes(&mut random);
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in random.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 0x0f)];
        at += 2;
    }
    // Hexadecimal digits and hyphens are a header value.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}
