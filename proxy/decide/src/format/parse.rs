//! From text to pieces.

use std::sync::Arc;

use super::Piece;
use super::operator::Operator;

/// Splits `text` into pieces.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(Arc::from(std::mem::take(&mut literal))));
        }
        let (piece, after) = operator(rest)?;
        pieces.push(piece);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(Arc::from(literal)));
    }
    Ok(pieces)
}

/// One operator after its opening percent sign, and what follows its closing one.
fn operator(text: &str) -> Result<(Piece, &str), String> {
    let name_end = text
        .find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .ok_or_else(|| format!("no closing % after {text:?}"))?;
    let (name, mut rest) = text.split_at(name_end);
    if name.is_empty() {
        return Err(format!("an operator's name is missing before {rest:?}"));
    }
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let end = inner
            .find(')')
            .ok_or_else(|| format!("no ) after {name}("))?;
        argument = Some(&inner[..end]);
        rest = &inner[end + 1..];
    }
    let mut max_length = None;
    if let Some(inner) = rest.strip_prefix(':') {
        let end = inner
            .find('%')
            .ok_or_else(|| format!("no closing % after {name}"))?;
        max_length = Some(
            inner[..end]
                .parse::<usize>()
                .map_err(|_| format!("length {:?} of {name} is no number", &inner[..end]))?,
        );
        rest = &inner[end..];
    }
    let rest = rest
        .strip_prefix('%')
        .ok_or_else(|| format!("no closing % after {name}"))?;
    let operator = named(name, argument)?;
    Ok((
        Piece::Operator {
            operator,
            max_length,
        },
        rest,
    ))
}

fn named(name: &str, argument: Option<&str>) -> Result<Operator, String> {
    let headers = || -> Result<(Arc<str>, Option<Arc<str>>), String> {
        let argument = argument
            .filter(|argument| !argument.is_empty())
            .ok_or_else(|| format!("{name} needs a header's name in parentheses"))?;
        let lower = argument.to_ascii_lowercase();
        Ok(match lower.split_once('?') {
            Some((main, other)) => (Arc::from(main), Some(Arc::from(other))),
            None => (Arc::from(lower), None),
        })
    };
    Ok(match name {
        "REQ" => {
            let (main, other) = headers()?;
            Operator::Request(main, other)
        }
        "REQ_WITHOUT_QUERY" => {
            let (main, other) = headers()?;
            Operator::RequestWithoutQuery(main, other)
        }
        "RESP" => {
            let (main, other) = headers()?;
            Operator::Response(main, other)
        }
        "TRAILER" => {
            let (main, other) = headers()?;
            Operator::Trailer(main, other)
        }
        "START_TIME" => Operator::StartTime(Arc::from(argument.unwrap_or(""))),
        "DURATION" => Operator::Duration,
        "REQUEST_DURATION" => Operator::RequestDuration,
        "RESPONSE_DURATION" => Operator::ResponseDuration,
        "RESPONSE_TX_DURATION" => Operator::ResponseTxDuration,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Operator::ResponseFlagsLong,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamHost,
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::UpstreamHostIp,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Operator::UpstreamLocalAddress,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailureReason,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::UpstreamAttempts,
        "DOWNSTREAM_REMOTE_ADDRESS" => Operator::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamRemoteIp,
        "DOWNSTREAM_REMOTE_PORT" => Operator::DownstreamRemotePort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::DownstreamDirectRemoteAddress,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamDirectRemoteIp,
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocalIp,
        "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocalPort,
        "REQUESTED_SERVER_NAME" => Operator::RequestedServerName,
        "ROUTE_NAME" => Operator::RouteName,
        "FILTER_CHAIN_NAME" => Operator::FilterChainName,
        "HOSTNAME" => Operator::Hostname,
        "CONNECTION_ID" => Operator::ConnectionId,
        "STREAM_ID" => Operator::StreamId,
        "GRPC_STATUS" => Operator::GrpcStatus(false),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(true),
        "LOCAL_REPLY_BODY" => Operator::LocalReplyBody,
        other if is_known_but_absent(other) => Operator::Absent(Arc::from(other)),
        other => return Err(format!("unknown operator {other}")),
    })
}

/// Operators of Envoy whose facts this proxy does not have.
fn is_known_but_absent(name: &str) -> bool {
    name.starts_with("DOWNSTREAM_PEER_")
        || name.starts_with("DOWNSTREAM_LOCAL_")
        || name.starts_with("DOWNSTREAM_TLS_")
        || name.starts_with("DOWNSTREAM_WIRE_")
        || name.starts_with("DOWNSTREAM_HEADER_")
        || name.starts_with("DOWNSTREAM_TRANSPORT_")
        || name.starts_with("DOWNSTREAM_DIRECT_")
        || name.starts_with("UPSTREAM_")
        || matches!(
            name,
            "FILTER_STATE"
                | "UPSTREAM_FILTER_STATE"
                | "DYNAMIC_METADATA"
                | "CLUSTER_METADATA"
                | "METADATA"
                | "VIRTUAL_CLUSTER_NAME"
                | "ENVIRONMENT"
                | "EMIT_TIME"
                | "UNIQUE_ID"
                | "TRACE_ID"
                | "SPAN_ID"
                | "COMMON_DURATION"
                | "CUSTOM_FLAGS"
                | "ACCESS_LOG_TYPE"
                | "REQUEST_HEADERS_BYTES"
                | "RESPONSE_HEADERS_BYTES"
                | "RESPONSE_TRAILERS_BYTES"
                | "REQUEST_TX_DURATION"
                | "PATH"
                | "QUERY_PARAM"
                | "BYTES_RETRANSMITTED"
                | "PACKETS_RETRANSMITTED"
                | "REQUESTED_SERVER_NAME_INSENSITIVE"
                | "TLS_JA3_FINGERPRINT"
                | "TLS_JA4_FINGERPRINT"
                | "CEL"
        )
}
