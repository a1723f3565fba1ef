//! Answers of the proxy's own, as Envoy's `sendLocalReply` makes them.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::effect::{Effect, Reply};
use super::{Exchange, Stage, hop};
use crate::config::{Direct, HeaderAddition};
use crate::flags::Flags;
use crate::header_change::{add_to_response, change_response};
use crate::time::Nanos;

pub(super) const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What gRPC encodes in a message: all but printable ASCII, and the percent sign.
const GRPC_MESSAGE_SET: &AsciiSet = &CONTROLS.add(b'%');

/// An answer before the route's and the connection manager's changes.
pub(super) struct LocalReply {
    status: u16,
    body: Cow<'static, [u8]>,
    details: Cow<'static, str>,
    flags: Flags,
    late_flags: Flags,
    headers: HeaderMap,
    additions: Vec<HeaderAddition>,
    grpc_status: Option<u32>,
    is_attempt: bool,
    is_plain: bool,
}

impl LocalReply {
    pub fn new(
        status: u16,
        body: impl Into<Cow<'static, str>>,
        details: impl Into<Cow<'static, str>>,
    ) -> LocalReply {
        LocalReply {
            status,
            body: match body.into() {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
            details: details.into(),
            flags: Flags::NONE,
            late_flags: Flags::NONE,
            headers: HeaderMap::new(),
            additions: Vec::new(),
            grpc_status: None,
            is_attempt: false,
            is_plain: false,
        }
    }

    /// A direct response of a route.
    pub fn direct(direct: &Direct) -> LocalReply {
        let mut reply = LocalReply::new(direct.status.as_u16(), "", "direct_response");
        reply.body = Cow::Owned(direct.body.to_vec());
        if let Some(kind) = &direct.content_type
            && let Ok(value) = HeaderValue::from_str(kind)
        {
            reply.headers.insert(CONTENT_TYPE, value);
        }
        reply
    }

    pub fn flags(mut self, flags: Flags) -> LocalReply {
        self.flags = flags;
        self
    }

    /// Flags that Envoy sets only after the answer is made, so that its headers do not show them.
    pub fn late_flags(mut self, flags: Flags) -> LocalReply {
        self.late_flags = flags;
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> LocalReply {
        self.body = Cow::Owned(body);
        self
    }

    pub fn location(mut self, location: String) -> LocalReply {
        if let Ok(value) = HeaderValue::from_str(&location) {
            self.headers.insert(LOCATION, value);
        }
        self
    }

    pub fn header(mut self, name: HeaderName, value: &'static str) -> LocalReply {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    pub fn headers(mut self, headers: HeaderMap) -> LocalReply {
        self.headers = headers;
        self
    }

    /// Headers with format strings, added after the route's.
    pub fn additions(mut self, additions: &[HeaderAddition]) -> LocalReply {
        self.additions = additions.to_vec();
        self
    }

    /// The gRPC status instead of the one that the HTTP status stands for.
    pub fn grpc(mut self, status: Option<u32>) -> LocalReply {
        self.grpc_status = status;
        self
    }

    /// The router had begun to look for a host, so the number of attempts may be told.
    pub fn attempt(mut self) -> LocalReply {
        self.is_attempt = true;
        self
    }

    /// Not a local reply in Envoy's sense but a filter's own answer (a CORS preflight): the
    /// route's changes do not apply.
    pub fn plain(mut self) -> LocalReply {
        self.is_plain = true;
        self
    }
}

impl Exchange {
    /// Answers; or, where an answer is on its way already, breaks that off.
    pub(super) fn reply(&mut self, local: LocalReply, effects: &mut Vec<Effect>) {
        self.flags.insert(local.flags);
        self.cancel(effects);
        if self.stage == Stage::Streaming {
            self.flags.insert(local.late_flags);
            self.details = local.details;
            self.finish(self.last_activity);
            effects.push(Effect::ResetDownstream);
            return;
        }
        let late = local.late_flags;
        let mut reply = self.build(local);
        self.flags.insert(late);
        reply.flags = self.flags;
        self.details = reply.details.clone();
        self.status = Some(reply.status.as_u16());
        self.answered_here = true;
        let now = self.last_activity;
        self.response_began = Some(now);
        self.finish(now);
        effects.push(Effect::Reply(reply));
    }

    fn build(&mut self, local: LocalReply) -> Reply {
        let mut headers = HeaderMap::new();
        if !local.is_plain
            && let Some(place) = &self.place
        {
            let facts = self.facts(None);
            for changes in place.header_changes() {
                change_response(changes, &mut headers, &facts);
            }
        }
        for (name, value) in &local.headers {
            headers.append(name.clone(), value.clone());
        }
        add_to_response(&local.additions, &mut headers, &self.facts(None));
        if local.is_attempt
            && let Some(place) = &self.place
            && place.virtual_host().include_attempt_count_in_response
        {
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.attempts().max(1)));
        }
        let mut status = local.status;
        let mut body = local.body;
        if !local.is_plain {
            self.map(&mut status, &mut body, &mut headers, local.flags);
        }
        let grpc = self.grpc && !local.is_plain;
        if grpc {
            grpc_headers(&mut headers, status, &body, local.grpc_status);
            self.grpc_status = headers
                .get(&GRPC_STATUS)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.parse().ok());
            status = 200;
            body = Cow::Borrowed(b"");
        } else if body.is_empty() {
            headers.remove(CONTENT_TYPE);
        } else if !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let bodiless = status == StatusCode::NO_CONTENT || status.is_informational();
        if !bodiless {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        self.encode(&mut headers);
        hop::leave(&self.connection, &self.head, &mut headers);
        Reply {
            status,
            headers,
            body,
            flags: self.flags,
            details: local.details,
            origin: self.origin().cloned(),
        }
    }

    /// The connection manager's changes to local replies: the first that fits.
    fn map(
        &self,
        status: &mut u16,
        body: &mut Cow<'static, [u8]>,
        headers: &mut HeaderMap,
        flags: Flags,
    ) {
        let fits = |mapper: &&crate::config::LocalReplyMapper| {
            let shown = flags.to_string();
            (mapper.statuses.is_empty() || mapper.statuses.contains(status))
                && (mapper.flags.is_empty()
                    || mapper
                        .flags
                        .iter()
                        .any(|flag| shown.split(',').any(|own| own == &**flag)))
        };
        let hcm = &*self.connection.hcm;
        let Some(mapper) = hcm.local_replies.iter().find(fits) else {
            return;
        };
        let text = String::from_utf8_lossy(body).into_owned();
        let facts = |code: u16| crate::format::StreamFacts {
            response_code: Some(code),
            local_reply_body: Some(&text),
            ..self.facts(None)
        };
        // In this order, so that headers see the status as it was and the body as it becomes.
        add_to_response(&mapper.headers_to_add, headers, &facts(*status));
        if let Some(code) = mapper.status {
            *status = code;
        }
        if let Some(format) = &mapper.body {
            *body = Cow::Owned(format.render(&facts(*status)).into_bytes());
        }
        if let Some(kind) = &mapper.content_type
            && let Ok(value) = HeaderValue::from_str(kind)
        {
            headers.insert(CONTENT_TYPE, value);
        }
    }

    /// What filters add to every answer.
    pub(super) fn encode(&self, headers: &mut HeaderMap) {
        if let Some(grant) = &self.cors {
            crate::cors::grant(grant, headers);
        }
        if let Some(standing) = &self.standing {
            let mut add = |name: &'static str, value: u64| {
                headers.append(name, HeaderValue::from(value));
            };
            add("x-ratelimit-limit", u64::from(standing.limit));
            add("x-ratelimit-remaining", standing.remaining);
            add("x-ratelimit-reset", standing.reset_secs);
        }
        for (name, value) in self.limit_headers.iter().flat_map(|headers| headers.iter()) {
            headers.append(name.clone(), value.clone());
        }
    }

    /// Time as the exchange last saw it.
    pub(super) fn see(&mut self, now: Nanos) {
        self.last_activity = self.last_activity.max(now);
    }
}

fn grpc_headers(headers: &mut HeaderMap, status: u16, body: &[u8], own: Option<u32>) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let code = own.unwrap_or_else(|| http_to_grpc(status));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if !body.is_empty() {
        let text = String::from_utf8_lossy(body);
        let encoded = utf8_percent_encode(&text, GRPC_MESSAGE_SET).to_string();
        if let Ok(value) = HeaderValue::from_str(&encoded) {
            headers.insert(GRPC_MESSAGE, value);
        }
    }
}

/// The gRPC status that an HTTP status stands for (gRPC's `http-grpc-status-mapping`).
fn http_to_grpc(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
