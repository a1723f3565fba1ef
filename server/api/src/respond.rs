//! From results to HTTP responses: what the client accepts, and how it is written.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use trireme_model::Value;
use trireme_model::status::Status;

/// An error while a body is written ends the connection; clients see a cut body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Every response body of this crate.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// Longest text of one warning header, as kube-apiserver truncates.
const MAX_WARNING_BYTES: usize = 256;
/// Most warnings in one response: together they stay under common header limits.
const MAX_WARNINGS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What the client wants to see of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    Table,
    /// PartialObjectMetadata, or a list of them.
    Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub encoding: Encoding,
    pub shape: Shape,
}

/// One media type of an Accept header with its parameters, in order of preference.
pub(crate) struct MediaRange<'a> {
    pub media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality_permille: u32,
}

impl MediaRange<'_> {
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }
}

/// The Accept header's media types, best first. No header accepts anything.
pub(crate) fn media_ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let text = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let text = if text.trim().is_empty() { "*/*" } else { text };
    let mut ranges: Vec<MediaRange> = text
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media_type = parts.next().filter(|media_type| !media_type.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality_permille = parameters
                .iter()
                .find(|(key, _)| *key == "q")
                .and_then(|(_, value)| value.parse::<f32>().ok())
                .map_or(1000, |quality| (quality.clamp(0.0, 1.0) * 1000.0) as u32);
            Some(MediaRange {
                media_type,
                parameters,
                quality_permille,
            })
        })
        .filter(|range| range.quality_permille > 0)
        .collect();
    // Stable: equal qualities keep the client's order.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality_permille));
    ranges
}

/// Chooses the first form that we can write.
pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Accepted, Status> {
    for range in media_ranges(headers) {
        let encoding = match range.media_type {
            "application/json" | "application/*" | "*/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let group = range.parameter("g");
        let shape = match range.parameter("as") {
            "" => Shape::Whole,
            "Table" if group == "meta.k8s.io" && range.parameter("v") == "v1" => Shape::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList"
                if group == "meta.k8s.io" && range.parameter("v") == "v1" =>
            {
                Shape::Metadata
            }
            _ => continue,
        };
        return Ok(Accepted { encoding, shape });
    }
    Err(Status::not_acceptable(&[
        "application/json",
        "application/yaml",
    ]))
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

pub(crate) fn bytes(
    code: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", body.into())
}

/// A JSON document that is already written, in the client's encoding.
pub(crate) fn document(encoding: Encoding, code: StatusCode, json: Vec<u8>) -> Response<Body> {
    match encoding {
        Encoding::Json => bytes(code, "application/json", json),
        Encoding::Yaml => {
            let yaml = serde_json::from_slice::<Value>(&json)
                .map_err(|error| error.to_string())
                .and_then(|value| {
                    serde_yaml_ng::to_string(&value).map_err(|error| error.to_string())
                });
            match yaml {
                Ok(yaml) => bytes(code, "application/yaml", yaml),
                Err(error) => failure(&Status::internal(format!("writing YAML: {error}"))),
            }
        }
    }
}

pub(crate) fn value(encoding: Encoding, code: StatusCode, value: &Value) -> Response<Body> {
    document(encoding, code, value.to_string().into_bytes())
}

/// An error: always a Status in JSON.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut object = status.to_value();
    // The token with which an expired list may go on is list metadata.
    if let Some(token) = object["details"]
        .as_object_mut()
        .and_then(|details| details.remove("continue"))
    {
        object["metadata"]["continue"] = token;
    }
    let mut response = value(Encoding::Json, code, &object);
    if let Some(seconds) = status.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Adds `Warning` headers (RFC 7234, code 299), which kubectl prints.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let mut quoted = String::from("299 - \"");
        for character in warning.chars() {
            if quoted.len() > MAX_WARNING_BYTES {
                break;
            }
            match character {
                '"' | '\\' => {
                    quoted.push('\\');
                    quoted.push(character);
                }
                character if character.is_control() => quoted.push(' '),
                character => quoted.push(character),
            }
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Accepted = Accepted {
        encoding: Encoding::Json,
        shape: Shape::Whole,
    };

    fn accept(text: &str) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        negotiate(&headers).map_err(|status| status.code)
    }

    #[test]
    fn the_first_form_that_we_can_write_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl).unwrap().shape, Shape::Table);
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf,application/json"),
            Ok(JSON)
        );
        assert_eq!(accept("*/*"), Ok(JSON));
        assert_eq!(accept("application/yaml").unwrap().encoding, Encoding::Yaml);
        assert_eq!(accept("application/yaml;q=0.5, application/json"), Ok(JSON));
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json")
                .unwrap()
                .shape,
            Shape::Metadata
        );
        assert_eq!(accept("image/png"), Err(406));
    }
}
