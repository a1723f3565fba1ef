//! What each command operator stands for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::{put, strftime};
use crate::flags::Flags;
use crate::head::RequestHead;

/// What is known of a stream when a format is written. A field that is not known yet is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamFacts<'a> {
    /// The request.
    pub request: Option<&'a RequestHead>,
    /// Response headers.
    pub response: Option<&'a HeaderMap>,
    /// Response trailers.
    pub trailers: Option<&'a HeaderMap>,
    /// The response's status; zero where there was none.
    pub response_code: Option<u16>,
    /// Why the response has that status.
    pub response_code_details: Option<&'a str>,
    /// Why the connection ended.
    pub connection_termination_details: Option<&'a str>,
    /// Response flags.
    pub flags: Flags,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: Option<&'a str>,
    /// When the request began, nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// From the request's first byte to the response's last.
    pub duration: Option<Duration>,
    /// From the request's first byte to its last.
    pub request_duration: Option<Duration>,
    /// From the request's first byte to the response's first.
    pub response_duration: Option<Duration>,
    /// From the response's first byte from upstream to its last to the client.
    pub response_tx_duration: Option<Duration>,
    /// Body bytes of the request.
    pub bytes_received: u64,
    /// Body bytes of the response.
    pub bytes_sent: u64,
    /// The chosen host's address.
    pub upstream_host: Option<SocketAddr>,
    /// The cluster's name.
    pub upstream_cluster: Option<&'a str>,
    /// The local end of the upstream connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// Why the upstream's transport failed.
    pub upstream_transport_failure_reason: Option<&'a str>,
    /// Upstream attempts.
    pub upstream_attempts: u32,
    /// The client's address (by `x-forwarded-for` where trusted).
    pub downstream_remote_address: Option<SocketAddr>,
    /// The directly connected peer's address.
    pub downstream_direct_remote_address: Option<SocketAddr>,
    /// The local end of the client's connection.
    pub downstream_local_address: Option<SocketAddr>,
    /// SNI.
    pub requested_server_name: Option<&'a str>,
    /// The route's name.
    pub route_name: Option<&'a str>,
    /// The filter chain's name.
    pub filter_chain_name: Option<&'a str>,
    /// This machine's name.
    pub hostname: Option<&'a str>,
    /// A number of the connection.
    pub connection_id: Option<u64>,
    /// A unique identifier of the stream.
    pub stream_id: Option<&'a str>,
    /// A local reply's body.
    pub local_reply_body: Option<&'a str>,
}

/// A command operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// `REQ(X?Y)`.
    Request(Arc<str>, Option<Arc<str>>),
    /// `REQ_WITHOUT_QUERY(X?Y)`.
    RequestWithoutQuery(Arc<str>, Option<Arc<str>>),
    /// `RESP(X?Y)`.
    Response(Arc<str>, Option<Arc<str>>),
    /// `TRAILER(X?Y)`.
    Trailer(Arc<str>, Option<Arc<str>>),
    /// `START_TIME(format)`; empty is Envoy's default.
    StartTime(Arc<str>),
    /// `DURATION`, ms.
    Duration,
    /// `REQUEST_DURATION`, ms.
    RequestDuration,
    /// `RESPONSE_DURATION`, ms.
    ResponseDuration,
    /// `RESPONSE_TX_DURATION`, ms.
    ResponseTxDuration,
    /// `BYTES_RECEIVED`.
    BytesReceived,
    /// `BYTES_SENT`.
    BytesSent,
    /// `PROTOCOL`.
    Protocol,
    /// `RESPONSE_CODE`.
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`.
    ResponseCodeDetails,
    /// `CONNECTION_TERMINATION_DETAILS`.
    ConnectionTerminationDetails,
    /// `RESPONSE_FLAGS`.
    ResponseFlags,
    /// `RESPONSE_FLAGS_LONG`.
    ResponseFlagsLong,
    /// `UPSTREAM_HOST`, `UPSTREAM_REMOTE_ADDRESS`.
    UpstreamHost,
    /// `UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`.
    UpstreamHostIp,
    /// `UPSTREAM_CLUSTER`.
    UpstreamCluster,
    /// `UPSTREAM_LOCAL_ADDRESS`.
    UpstreamLocalAddress,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    UpstreamTransportFailureReason,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`.
    UpstreamAttempts,
    /// `DOWNSTREAM_REMOTE_ADDRESS`.
    DownstreamRemoteAddress,
    /// `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`.
    DownstreamRemoteIp,
    /// `DOWNSTREAM_REMOTE_PORT`.
    DownstreamRemotePort,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`.
    DownstreamDirectRemoteAddress,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT`.
    DownstreamDirectRemoteIp,
    /// `DOWNSTREAM_LOCAL_ADDRESS`.
    DownstreamLocalAddress,
    /// `DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT`.
    DownstreamLocalIp,
    /// `DOWNSTREAM_LOCAL_PORT`.
    DownstreamLocalPort,
    /// `REQUESTED_SERVER_NAME`.
    RequestedServerName,
    /// `ROUTE_NAME`.
    RouteName,
    /// `FILTER_CHAIN_NAME`.
    FilterChainName,
    /// `HOSTNAME`.
    Hostname,
    /// `CONNECTION_ID`.
    ConnectionId,
    /// `STREAM_ID`.
    StreamId,
    /// `GRPC_STATUS`, `GRPC_STATUS_NUMBER` (true).
    GrpcStatus(bool),
    /// `LOCAL_REPLY_BODY`.
    LocalReplyBody,
    /// One that Envoy knows and that is never present here (metadata, filter state, peer
    /// certificates), by its text.
    Absent(Arc<str>),
}

/// Names of gRPC statuses as Envoy writes them in access logs.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl Operator {
    /// Whether a JSON log writes a number.
    #[must_use]
    pub fn is_number(&self) -> bool {
        matches!(
            self,
            Operator::Duration
                | Operator::RequestDuration
                | Operator::ResponseDuration
                | Operator::ResponseTxDuration
                | Operator::BytesReceived
                | Operator::BytesSent
                | Operator::ResponseCode
                | Operator::UpstreamAttempts
                | Operator::DownstreamRemotePort
                | Operator::DownstreamLocalPort
                | Operator::ConnectionId
                | Operator::GrpcStatus(true)
        )
    }

    /// Writes the value; false, and nothing written, where it is absent.
    pub fn write(&self, facts: &StreamFacts<'_>, out: &mut String) -> bool {
        match self {
            Operator::Request(name, other) => {
                let Some(request) = facts.request else {
                    return false;
                };
                text(
                    request
                        .first(name)
                        .or_else(|| other.as_ref().and_then(|other| request.first(other))),
                    out,
                )
            }
            Operator::RequestWithoutQuery(name, other) => {
                let Some(request) = facts.request else {
                    return false;
                };
                let value = request
                    .first(name)
                    .or_else(|| other.as_ref().and_then(|other| request.first(other)));
                text(value.and_then(|value| value.split('?').next()), out)
            }
            Operator::Response(name, other) => {
                if &**name == ":status" {
                    return number(facts.response_code, out);
                }
                text(header(facts.response, name, other.as_deref()), out)
            }
            Operator::Trailer(name, other) => {
                text(header(facts.trailers, name, other.as_deref()), out)
            }
            Operator::StartTime(format) => {
                strftime(format, facts.start_unix_nanos, out);
                true
            }
            Operator::Duration => millis(facts.duration, out),
            Operator::RequestDuration => millis(facts.request_duration, out),
            Operator::ResponseDuration => millis(facts.response_duration, out),
            Operator::ResponseTxDuration => millis(facts.response_tx_duration, out),
            Operator::BytesReceived => number(Some(facts.bytes_received), out),
            Operator::BytesSent => number(Some(facts.bytes_sent), out),
            Operator::Protocol => text(facts.protocol, out),
            Operator::ResponseCode => number(Some(facts.response_code.unwrap_or(0)), out),
            Operator::ResponseCodeDetails => text(facts.response_code_details, out),
            Operator::ConnectionTerminationDetails => {
                text(facts.connection_termination_details, out)
            }
            Operator::ResponseFlags => flags(facts.flags, false, out),
            Operator::ResponseFlagsLong => flags(facts.flags, true, out),
            Operator::UpstreamHost => number(facts.upstream_host, out),
            Operator::UpstreamHostIp => number(facts.upstream_host.map(|host| host.ip()), out),
            Operator::UpstreamCluster => text(facts.upstream_cluster, out),
            Operator::UpstreamLocalAddress => number(facts.upstream_local_address, out),
            Operator::UpstreamTransportFailureReason => {
                text(facts.upstream_transport_failure_reason, out)
            }
            Operator::UpstreamAttempts => number(Some(facts.upstream_attempts), out),
            Operator::DownstreamRemoteAddress => number(facts.downstream_remote_address, out),
            Operator::DownstreamRemoteIp => {
                number(facts.downstream_remote_address.map(|peer| peer.ip()), out)
            }
            Operator::DownstreamRemotePort => {
                number(facts.downstream_remote_address.map(|peer| peer.port()), out)
            }
            Operator::DownstreamDirectRemoteAddress => {
                number(facts.downstream_direct_remote_address, out)
            }
            Operator::DownstreamDirectRemoteIp => number(
                facts.downstream_direct_remote_address.map(|peer| peer.ip()),
                out,
            ),
            Operator::DownstreamLocalAddress => number(facts.downstream_local_address, out),
            Operator::DownstreamLocalIp => {
                number(facts.downstream_local_address.map(|local| local.ip()), out)
            }
            Operator::DownstreamLocalPort => number(
                facts.downstream_local_address.map(|local| local.port()),
                out,
            ),
            Operator::RequestedServerName => text(facts.requested_server_name, out),
            Operator::RouteName => text(facts.route_name, out),
            Operator::FilterChainName => text(facts.filter_chain_name, out),
            Operator::Hostname => text(facts.hostname, out),
            Operator::ConnectionId => number(facts.connection_id, out),
            Operator::StreamId => text(facts.stream_id, out),
            Operator::GrpcStatus(as_number) => grpc_status(facts, *as_number, out),
            Operator::LocalReplyBody => text(facts.local_reply_body, out),
            Operator::Absent(_) => false,
        }
    }
}

fn text(value: Option<&str>, out: &mut String) -> bool {
    match value {
        Some(value) if !value.is_empty() => {
            out.push_str(value);
            true
        }
        _ => false,
    }
}

fn number(value: Option<impl std::fmt::Display>, out: &mut String) -> bool {
    match value {
        Some(value) => {
            put(out, value);
            true
        }
        None => false,
    }
}

fn millis(value: Option<Duration>, out: &mut String) -> bool {
    number(value.map(|value| value.as_millis()), out)
}

fn flags(flags: Flags, long: bool, out: &mut String) -> bool {
    // Where there is none it says so: `-` is a value here, not an absence.
    if long {
        put(out, flags.long());
    } else {
        put(out, flags);
    }
    true
}

fn header<'a>(map: Option<&'a HeaderMap>, name: &str, other: Option<&str>) -> Option<&'a str> {
    let map = map?;
    let find = |name: &str| map.get(name).and_then(|value| value.to_str().ok());
    find(name).or_else(|| other.and_then(find))
}

fn grpc_status(facts: &StreamFacts<'_>, as_number: bool, out: &mut String) -> bool {
    let status = header(facts.trailers, "grpc-status", None)
        .or_else(|| header(facts.response, "grpc-status", None));
    let Some(status) = status.and_then(|status| status.parse::<usize>().ok()) else {
        return false;
    };
    match GRPC_STATUSES.get(status) {
        Some(name) if !as_number => out.push_str(name),
        _ => put(out, status),
    }
    true
}
