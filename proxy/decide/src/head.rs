//! A request's head as decisions see and change it.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A request without its body. The driver takes `host` out of the headers into `authority`, so
/// that there is one place for it.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Whether the request came over TLS (`:scheme` is `https`).
    pub https: bool,
    /// The authority (`host` or `:authority`); empty where there was none.
    pub authority: HeaderValue,
    /// The path and query.
    pub path: PathAndQuery,
    /// The other headers.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// A plain GET of `path` at `authority`, for tests and explanations; none where either is
    /// not valid.
    #[must_use]
    pub fn get(authority: &str, path: &str) -> Option<RequestHead> {
        Some(RequestHead {
            method: Method::GET,
            https: false,
            authority: HeaderValue::from_str(authority).ok()?,
            path: PathAndQuery::try_from(path).ok()?,
            headers: HeaderMap::new(),
        })
    }

    /// The authority as text; empty where it is none.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or("")
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The first value of a header or pseudo-header by its name in lower case.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&str> {
        match self.pseudo(name) {
            Some(value) => Some(value).filter(|value| !value.is_empty()),
            None => self.headers.get(name).and_then(|value| value.to_str().ok()),
        }
    }

    /// Every value of a header joined by commas.
    #[must_use]
    pub fn joined(&self, name: &str, key: Option<&HeaderName>) -> Option<Cow<'_, str>> {
        match key {
            Some(key) => joined(&self.headers, key),
            None => self
                .pseudo(name)
                .filter(|value| !value.is_empty())
                .map(Cow::Borrowed),
        }
    }

    fn pseudo(&self, name: &str) -> Option<&str> {
        Some(match name {
            ":path" => self.path.as_str(),
            ":method" => self.method.as_str(),
            ":authority" | "host" => self.authority(),
            ":scheme" => self.scheme(),
            _ => return None,
        })
    }

    /// Whether it is gRPC: `content-type` is `application/grpc` or begins with
    /// `application/grpc+`.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| is_grpc_type(value.as_bytes()))
    }
}

/// Whether a content type is gRPC's, as Envoy tells it.
pub(crate) fn is_grpc_type(value: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    value.starts_with(GRPC) && (value.len() == GRPC.len() || value[GRPC.len()] == b'+')
}

/// Headers up to which looking at each is faster than hashing a name.
const FEW_HEADERS: usize = 24;

/// Every value of a header.
pub(crate) fn values<'a>(
    headers: &'a HeaderMap,
    key: &HeaderName,
) -> impl Iterator<Item = Cow<'a, str>> {
    let few = headers.len() <= FEW_HEADERS;
    let scanned = few.then(|| headers.iter().filter(move |(name, _)| *name == key));
    let found = (!few).then(|| headers.get_all(key).iter());
    scanned
        .into_iter()
        .flatten()
        .map(|(_, value)| value)
        .chain(found.into_iter().flatten())
        .map(text)
}

/// Every value of a header joined by commas.
pub(crate) fn joined<'a>(headers: &'a HeaderMap, key: &HeaderName) -> Option<Cow<'a, str>> {
    join(values(headers, key))
}

fn join<'a>(mut values: impl Iterator<Item = Cow<'a, str>>) -> Option<Cow<'a, str>> {
    let first = values.next()?;
    let mut all = match values.next() {
        None => return Some(first),
        Some(second) => format!("{first},{second}"),
    };
    for value in values {
        all.push(',');
        all.push_str(&value);
    }
    Some(Cow::Owned(all))
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}
