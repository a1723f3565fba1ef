//! Request bodies: JSON, YAML and Kubernetes' protobuf envelope.

use bytes::Bytes;
use http::{HeaderMap, header};
use trireme_model::status::Status;
use trireme_model::{Value, protobuf, schema};

const ACCEPTED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// A decoded body, not yet checked against its kind.
pub(crate) struct Decoded {
    pub object: Value,
    /// What is wrong with the text itself under strict validation, such as a key given twice.
    pub duplicates: Vec<String>,
}

/// The media type without its parameters, in lower case; JSON where there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let text = text
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    if text.is_empty() {
        "application/json".to_owned()
    } else {
        text
    }
}

pub(crate) fn decode(headers: &HeaderMap, body: &Bytes) -> Result<Decoded, Status> {
    let media_type = media_type(headers);
    if protobuf::is_envelope(body) {
        return decode_protobuf(body);
    }
    match media_type.as_str() {
        "application/json" => decode_json(body),
        "application/yaml" => decode_yaml(body),
        "application/vnd.kubernetes.protobuf" => decode_protobuf(body),
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

pub(crate) fn decode_json(body: &[u8]) -> Result<Decoded, Status> {
    let (object, duplicates) = schema::parse_json(body)?;
    Ok(Decoded { object, duplicates })
}

pub(crate) fn decode_yaml(body: &[u8]) -> Result<Decoded, Status> {
    let (object, duplicates) = schema::parse_yaml(body)?;
    Ok(Decoded { object, duplicates })
}

fn decode_protobuf(body: &[u8]) -> Result<Decoded, Status> {
    let object = protobuf::decode(body).map_err(Status::bad_request)?;
    Ok(Decoded {
        object,
        duplicates: Vec::new(),
    })
}
