//! HPACK (RFC 7541): header fields as HTTP/2 has them. Fields are understood once, when they enter the dynamic table;
//! a reference to one costs a clone.

mod decode;
mod encode;
mod huffman;

use std::sync::LazyLock;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, StatusCode};

pub use decode::{DecodeError, Decoder};
pub use encode::Encoder;
pub use huffman::{decode as huffman_decode, encode as huffman_encode};

/// The dynamic table of each direction: the protocol's default, which both sides may count on.
pub const TABLE_BYTES: usize = 4096;
/// What a field costs beyond its bytes (RFC 7541 §4.1).
pub const FIELD_OVERHEAD_BYTES: usize = 32;

/// A field's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:protocol` (RFC 8441)
    Protocol,
    /// `:status`
    Status,
    /// A header's.
    Header(HeaderName),
    /// None that HTTP knows.
    Malformed,
}

/// A field that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `:method`
    Method(Method),
    /// `:scheme`, in lower case.
    Scheme(HeaderValue),
    /// `:authority`
    Authority(HeaderValue),
    /// `:path`
    Path(PathAndQuery),
    /// `:protocol`
    Protocol(HeaderValue),
    /// `:status`
    Status(StatusCode),
    /// A header.
    Header(HeaderName, HeaderValue),
    /// Not HTTP: the message that has it is refused, the connection goes on (RFC 9113 §8.1.1).
    Malformed(Name),
}

impl Name {
    /// Reads a name.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        match bytes {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            // Upper case is refused, too (RFC 9113 §8.2.1).
            _ => HeaderName::from_lowercase(bytes).map_or(Self::Malformed, Self::Header),
        }
    }
}

/// A value as RFC 9113 §8.2.1 has it: no control characters, no white space around it.
fn value(bytes: &[u8]) -> Option<HeaderValue> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(bytes.first()) || blank(bytes.last()) {
        return None;
    }
    HeaderValue::from_bytes(bytes).ok()
}

fn authority(bytes: &[u8]) -> Option<HeaderValue> {
    if bytes.is_empty() {
        return Some(HeaderValue::from_static(""));
    }
    let value = value(bytes)?;
    // Who is asked for never names a user (RFC 9113 §8.3.1).
    if bytes.contains(&b'@') {
        return None;
    }
    Authority::try_from(bytes).is_ok().then_some(value)
}

fn path(bytes: &[u8]) -> Option<PathAndQuery> {
    // Empty is no path; a fragment is no part of one.
    if bytes.is_empty() || bytes.contains(&b'#') {
        return None;
    }
    PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(bytes)).ok()
}

fn scheme(bytes: &[u8]) -> Option<HeaderValue> {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    (!bytes.is_empty() && bytes.iter().all(letter))
        .then(|| HeaderValue::from_bytes(&bytes.to_ascii_lowercase()).ok())
        .flatten()
}

impl Field {
    /// Reads a value under a name.
    #[must_use]
    pub fn read(name: &Name, bytes: &[u8]) -> Self {
        let field = match name {
            Name::Method => Method::from_bytes(bytes).ok().map(Self::Method),
            Name::Scheme => scheme(bytes).map(Self::Scheme),
            Name::Authority => authority(bytes).map(Self::Authority),
            Name::Path => path(bytes).map(Self::Path),
            Name::Protocol => value(bytes).map(Self::Protocol),
            Name::Status => (bytes.len() == 3)
                .then(|| StatusCode::from_bytes(bytes).ok())
                .flatten()
                .map(Self::Status),
            Name::Header(name) => value(bytes).map(|value| Self::Header(name.clone(), value)),
            Name::Malformed => None,
        };
        field.unwrap_or_else(|| Self::Malformed(name.clone()))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Authority(_) => Name::Authority,
            Self::Path(_) => Name::Path,
            Self::Protocol(_) => Name::Protocol,
            Self::Status(_) => Name::Status,
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Malformed(name) => name.clone(),
        }
    }
}

/// The static table (RFC 7541, Appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A field in a table, with what it costs there.
#[derive(Clone, Debug)]
struct Entry {
    field: Field,
    name_bytes: usize,
    value_bytes: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.name_bytes + self.value_bytes + FIELD_OVERHEAD_BYTES
    }
}

/// The static table, understood.
static STATIC_ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let entry = |(name, value): &(&str, &str)| Entry {
        field: Field::read(&Name::read(name.as_bytes()), value.as_bytes()),
        name_bytes: name.len(),
        value_bytes: value.len(),
    };
    STATIC.iter().map(entry).collect()
});
