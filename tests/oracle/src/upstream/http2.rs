//! Scripted servers over HTTP/2 and over TLS, and the global rate limit service, which is one of them.
//!
//! Actions are the module's above, less those that need bytes: `reset` resets the stream. `trailer:NAME=VALUE` adds a
//! trailer. A rate limit is over where a descriptor has the entry `limit` of the value `over`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use trireme_xds::pb::envoy::config::core::v3::HeaderValue as Header;
use trireme_xds::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use trireme_xds::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

use super::{HANG_LIMIT, Upstreams};
use crate::tls;

const RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// What a gRPC message has before it.
const PREFIX_BYTES: usize = 5;

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

/// Takes TLS off; what the client asked for by it is part of what each request shows.
pub async fn serve_tls(upstreams: &Upstreams, stream: TcpStream, host: usize) -> Result<()> {
    let stream = tls::acceptor(&["h2", "http/1.1"])?.accept(stream).await?;
    let (_, session) = stream.get_ref();
    let chosen = session.alpn_protocol().map(String::from_utf8_lossy);
    let seen = json!({ "sni": session.server_name(), "alpn": chosen });
    let http2 = session.alpn_protocol() == Some(b"h2");
    serve(upstreams, stream, host, Some(seen), http2).await
}

pub async fn serve<Io>(
    upstreams: &Upstreams,
    stream: Io,
    host: usize,
    tls: Option<Value>,
    http2: bool,
) -> Result<()>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upstreams = upstreams.clone();
    let service = hyper::service::service_fn(move |request| {
        let (upstreams, tls) = (upstreams.clone(), tls.clone());
        async move { answer(&upstreams, request, host, tls).await }
    });
    let stream = TokioIo::new(stream);
    if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(stream, service)
            .await?;
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(stream, service)
            .await?;
    }
    Ok(())
}

async fn answer(
    upstreams: &Upstreams,
    request: Request<Incoming>,
    host: usize,
    tls: Option<Value>,
) -> Result<Answer> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(listed);
    let body = body.to_bytes();
    if parts.uri.path() == RATE_LIMIT {
        return rate_limit(upstreams, &body, host);
    }
    let text = |name: &str| {
        let value = parts.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut seen = json!({
        "line": format!("{} {} {:?}", parts.method, parts.uri.path_and_query().map_or("", |it| it.as_str()), parts.version),
        "headers": listed(&parts.headers),
        "body": String::from_utf8_lossy(&body),
    });
    if parts.version == http::Version::HTTP_2 {
        seen["authority"] = json!(parts.uri.authority().map(ToString::to_string));
        seen["scheme"] = json!(parts.uri.scheme_str());
    }
    if let Some(trailers) = trailers {
        seen["trailers"] = json!(trailers);
    }
    if let Some(tls) = tls {
        seen["tls"] = tls;
    }
    let action = upstreams.plan(text("x-key"), text("x-plan"), host, seen);
    scripted(&action, host, parts.method == http::Method::HEAD).await
}

fn listed(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.to_string()).or_default().push(value);
    }
    all
}

async fn scripted(action: &str, host: usize, bare: bool) -> Result<Answer> {
    let mut parts = action.split('+');
    let what = parts.next().unwrap_or("200");
    let mut response = Response::builder().header("x-host", host);
    let mut trailers = HeaderMap::new();
    for part in parts {
        let (name, value) = part.split_once(':').context("NAME:VALUE")?;
        match name {
            "after" => tokio::time::sleep(Duration::from_millis(value.parse()?)).await,
            "trailer" => {
                let (name, value) = value.split_once('=').context("NAME=VALUE")?;
                let name: HeaderName = name.parse()?;
                trailers.insert(name, value.parse::<HeaderValue>()?);
            }
            _ => response = response.header(name, value),
        }
    }
    match what {
        "reset" => bail!("reset as planned"),
        "hang" => tokio::time::sleep(HANG_LIMIT).await,
        _ => {}
    }
    let status: u16 = what.parse().unwrap_or(200);
    let body = match status {
        204 | 304 => Bytes::new(),
        _ => format!("host {host}\n").into(),
    };
    let body = if bare {
        response = response.header("content-length", body.len());
        Full::default()
    } else {
        Full::new(body)
    };
    let body = match trailers.is_empty() {
        true => body.boxed(),
        false => body
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed(),
    };
    Ok(response.status(status).body(body)?)
}

/// Answers by what the descriptors say, and notes what was asked under the key among them.
fn rate_limit(upstreams: &Upstreams, body: &Bytes, host: usize) -> Result<Answer> {
    let message = body.get(PREFIX_BYTES..).context("a gRPC message")?;
    let asked = RateLimitRequest::decode(message)?;
    let entries = || asked.descriptors.iter().flat_map(|one| &one.entries);
    let value = |key: &str| {
        entries()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    };
    let key = value("key").unwrap_or_default();
    let descriptors: Vec<Vec<String>> = asked
        .descriptors
        .iter()
        .map(|one| {
            let entries = one.entries.iter().filter(|entry| entry.key != "key");
            entries
                .map(|entry| format!("{}={}", entry.key, entry.value))
                .collect()
        })
        .collect();
    let seen =
        json!({ "domain": asked.domain, "descriptors": descriptors, "hits": asked.hits_addend });
    upstreams.plan(key, "", host, seen);
    let limit = value("limit").unwrap_or_default();
    if limit == "broken" {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "13");
        return Ok(response.body(Full::new(Bytes::new()).boxed())?);
    }
    let header = |name: &str, value: &str| Header {
        key: name.to_owned(),
        value: value.to_owned(),
        ..Header::default()
    };
    let over = limit == "over";
    let decided = RateLimitResponse {
        overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
        response_headers_to_add: vec![header("x-limit", if over { "over" } else { "within" })],
        request_headers_to_add: vec![header("x-asked", "yes")],
        raw_body: if over && value("body").is_some() {
            b"too much of it\n".to_vec()
        } else {
            Vec::new()
        },
        ..RateLimitResponse::default()
    };
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(decided.encoded_len())?);
    decided.encode(&mut bytes)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(bytes.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body.boxed())?)
}
