//! Asks the global rate limit service (envoy.service.ratelimit.v3), as one unary gRPC call over the service's own
//! cluster, limits and pool included.

use std::pin::Pin;
use std::rc::Rc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method};
use http_body::Body as _;
use prost::Message as _;
use trireme_proxy_decide::balance::Choice;
use trireme_proxy_decide::config::{Priority, Scheme};
use trireme_proxy_decide::exchange::{RateLimitAnswer, RateLimitQuestion};
use trireme_proxy_decide::head::RequestHead;
use trireme_xds::pb::envoy::config::core::v3::HeaderValue as Header;
use trireme_xds::pb::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use trireme_xds::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use trireme_xds::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

use crate::attempt::{Attempt, Progress};
use crate::body::Body;
use crate::net::Local;
use crate::worker::Worker;

const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// An answer has headers and a body for the client; more than this is none.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// What a gRPC message has before it.
const PREFIX_BYTES: usize = 5;

/// Asks. The exchange limits the time.
pub fn ask(worker: &Rc<Worker>, question: RateLimitQuestion) -> Local<'static, RateLimitAnswer> {
    let worker = worker.clone();
    Box::pin(async move {
        answered(&worker, &question)
            .await
            .unwrap_or(RateLimitAnswer::Error)
    })
}

fn message(question: &RateLimitQuestion) -> Bytes {
    let descriptors = question
        .descriptors
        .iter()
        .map(|entries| RateLimitDescriptor {
            entries: entries
                .iter()
                .map(|entry| Entry {
                    key: entry.key.to_string(),
                    value: entry.value.to_string(),
                })
                .collect(),
            ..RateLimitDescriptor::default()
        });
    let request = RateLimitRequest {
        domain: question.filter.domain.to_string(),
        descriptors: descriptors.collect(),
        hits_addend: 0,
    };
    let length = request.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer has room: it grows.
    let _ = request.encode(&mut bytes);
    bytes.freeze()
}

fn headers(list: &[Header]) -> HeaderMap {
    let pairs = list.iter().filter_map(|header| {
        let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
        let value = if header.raw_value.is_empty() {
            HeaderValue::from_str(&header.value).ok()?
        } else {
            HeaderValue::from_bytes(&header.raw_value).ok()?
        };
        Some((name, value))
    });
    pairs.collect()
}

async fn answered(worker: &Rc<Worker>, question: &RateLimitQuestion) -> Option<RateLimitAnswer> {
    let live = worker.live();
    let now = worker.now();
    let cluster = live.cluster(&question.filter.cluster, now)?.clone();
    let host = worker.with_rng(|rng| cluster.choose(&Choice::default(), now, rng))?;
    let mut head = RequestHead::get(&question.filter.cluster, PATH)?;
    if let Some((_, rest)) = question.filter.cluster.rsplit_once('|') {
        head.authority = HeaderValue::from_str(rest).ok()?;
    }
    head.method = Method::POST;
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers
        .insert(TE, HeaderValue::from_static("trailers"));
    let peer = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let pool = worker
        .pool(&cluster, &host, Priority::Default, Some(true), peer, None)
        .ok()?;
    let (mut attempt, mut progress) = Attempt::begin(pool, cluster);
    let mut place = None;
    let received = loop {
        let next = match progress.take() {
            Some(next) => next,
            None => std::future::poll_fn(|context| attempt.poll(context)).await,
        };
        match next {
            Progress::Attached(attached) => {
                place = Some(attached);
                attempt.send(
                    &head,
                    Scheme::MatchUpstream,
                    None,
                    Body::text(message(question)),
                );
            }
            Progress::Head(received) => break received,
            Progress::Failed(_) => return None,
        }
    };
    let mut received = received;
    let mut bytes = BytesMut::new();
    while let Some(frame) =
        std::future::poll_fn(|context| Pin::new(&mut received.body).poll_frame(context)).await
    {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MAX_ANSWER_BYTES {
            return None;
        }
    }
    drop(place);
    if bytes.len() < PREFIX_BYTES || bytes[0] != 0 {
        return None;
    }
    let answer = RateLimitResponse::decode(&bytes[PREFIX_BYTES..]).ok()?;
    let response_headers = headers(&answer.response_headers_to_add);
    Some(match Code::try_from(answer.overall_code) {
        Ok(Code::OverLimit) => RateLimitAnswer::OverLimit {
            response_headers,
            body: answer.raw_body,
        },
        Ok(Code::Ok) => RateLimitAnswer::Ok {
            request_headers: headers(&answer.request_headers_to_add),
            response_headers,
        },
        _ => RateLimitAnswer::Error,
    })
}
