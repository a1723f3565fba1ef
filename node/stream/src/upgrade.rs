//! The HTTP side of an upgrade.

use base64::Engine as _;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Body;

pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Spdy,
}

/// What the request asks to be upgraded to.
pub(crate) fn transport(headers: &HeaderMap) -> Result<Transport, Response<Body>> {
    let connection = words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let wanted = |name: &str| words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(name));
    if connection && wanted("websocket") {
        return Ok(Transport::WebSocket);
    }
    if connection && wanted("SPDY/3.1") {
        return Ok(Transport::Spdy);
    }
    Err(refuse(
        StatusCode::BAD_REQUEST,
        "BadRequest",
        "Upgrade request required",
    ))
}

/// The words of a comma-separated header, over all its lines.
pub(crate) fn words<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The first of the client's protocols that is `known`. A client that names
/// none speaks the first version, whose name is empty.
pub(crate) fn negotiate<'k>(offered: &[&str], known: &[&'k str]) -> Option<&'k str> {
    if offered.is_empty() {
        return known.iter().copied().find(|name| name.is_empty());
    }
    offered
        .iter()
        .find_map(|offer| known.iter().copied().find(|name| name == offer))
}

pub(crate) fn accept_websocket(
    headers: &HeaderMap,
    protocol: &str,
) -> Result<Response<Body>, Response<Body>> {
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes)
        .filter(|key| {
            base64::engine::general_purpose::STANDARD
                .decode(key)
                .is_ok_and(|nonce| nonce.len() == 16)
        });
    let Some(key) = key else {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "Sec-WebSocket-Key is missing or not 16 bytes in base64",
        ));
    };
    let mut response = switching("websocket");
    let accept = derive_accept_key(key);
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Ok(protocol) = HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

pub(crate) fn accept_spdy(protocol: &str) -> Response<Body> {
    let mut response = switching("SPDY/3.1");
    if let Ok(protocol) = HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        response.headers_mut().insert(STREAM_PROTOCOL, protocol);
    }
    response
}

fn switching(to: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// No protocol in common.
pub(crate) fn refuse_protocol(
    transport: Transport,
    offered: &[&str],
    known: &[&str],
) -> Response<Body> {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {known:?}"
    );
    match transport {
        Transport::WebSocket => refuse(StatusCode::BAD_REQUEST, "BadRequest", &message),
        Transport::Spdy => {
            let mut response = refuse(StatusCode::FORBIDDEN, "Forbidden", &message);
            for name in known.iter().filter(|name| !name.is_empty()) {
                if let Ok(name) = HeaderValue::from_str(name) {
                    response.headers_mut().append(ACCEPTED_PROTOCOLS, name);
                }
            }
            response
        }
    }
}

/// A refusal as a Kubernetes Status.
pub(crate) fn refuse(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    let mut response = Response::new(Full::new(Bytes::from(status.to_string())));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn too_many() -> Response<Body> {
    refuse(
        StatusCode::TOO_MANY_REQUESTS,
        "TooManyRequests",
        "this node has as many exec, attach and port-forward sessions as it allows: end one, or try again later",
    )
}
