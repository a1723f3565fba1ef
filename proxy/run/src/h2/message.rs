//! From header fields to messages: what RFC 9113 §8 refuses is refused here, before anything is decided on it.

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::hpack::Field;

/// Keep-alive and Proxy-Connection are hop by hop, too.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Room for the headers that a proxy adds, so that the map does not grow again.
const SPARE_HEADERS: usize = 8;

/// What a block may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all fields, each with 32 more (§6.5.2).
    pub bytes: usize,
    /// Headers.
    pub headers: usize,
}

/// Whether a header concerns one connection only, which HTTP/2 says in other ways (§8.2.2).
#[must_use]
pub fn is_connection_specific(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// A block's fields as they come.
#[derive(Debug)]
pub struct Block {
    method: Option<Method>,
    scheme: Option<HeaderValue>,
    authority: Option<HeaderValue>,
    path: Option<PathAndQuery>,
    protocol: Option<HeaderValue>,
    status: Option<StatusCode>,
    headers: HeaderMap,
    bytes: usize,
    limits: Limits,
    malformed: Option<&'static str>,
    too_large: bool,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Against the rules: the stream is reset (§8.1.1).
    Malformed(&'static str),
    /// Beyond a limit: answered 431.
    TooLarge,
}

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `:method`
    pub method: Method,
    /// `:scheme` is `https`.
    pub https: bool,
    /// `:authority`, or `host`; empty where there is neither.
    pub authority: HeaderValue,
    /// `:path`
    pub path: PathAndQuery,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<HeaderValue>,
    /// The headers, without `host`.
    pub headers: HeaderMap,
    /// What the body has to come to.
    pub length: Option<u64>,
}

/// A response's head.
#[derive(Debug)]
pub struct Response {
    /// `:status`
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// What Content-Length says.
    pub length: Option<u64>,
}

fn put<T>(place: &mut Option<T>, value: T, twice: &mut bool) {
    *twice |= place.replace(value).is_some();
}

/// What Content-Length says; an error where it says nothing, or two things.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = all.next() else {
        return Ok(None);
    };
    let digits = first.as_bytes();
    // 19 digits always fit.
    let number = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
    if all.next().is_some() || !number {
        return Err(Refusal::Malformed("Content-Length is not one number"));
    }
    Ok(Some(digits.iter().fold(0, |length, digit| {
        length * 10 + u64::from(digit - b'0')
    })))
}

impl Block {
    /// Nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            headers: HeaderMap::new(),
            bytes: 0,
            limits,
            malformed: None,
            too_large: false,
        }
    }

    /// Adds a field that takes so many bytes.
    pub fn add(&mut self, field: Field, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > self.limits.bytes || self.headers.len() >= self.limits.headers {
            self.too_large = true;
        }
        if self.too_large || self.malformed.is_some() {
            return;
        }
        if let Field::Header(name, value) = field {
            return self.header(name, value);
        }
        let mut twice = false;
        match field {
            _ if !self.headers.is_empty() => {
                self.malformed = Some("a pseudo-header after a header");
            }
            Field::Method(value) => put(&mut self.method, value, &mut twice),
            Field::Scheme(value) => put(&mut self.scheme, value, &mut twice),
            Field::Authority(value) => put(&mut self.authority, value, &mut twice),
            Field::Path(value) => put(&mut self.path, value, &mut twice),
            Field::Protocol(value) => put(&mut self.protocol, value, &mut twice),
            Field::Status(value) => put(&mut self.status, value, &mut twice),
            Field::Header(..) | Field::Malformed(_) => {
                self.malformed = Some("a field's name or value is malformed");
            }
        }
        if twice {
            self.malformed = Some("a pseudo-header twice");
        }
    }

    fn header(&mut self, name: HeaderName, value: HeaderValue) {
        if is_connection_specific(&name) {
            self.malformed = Some("a header that concerns a connection");
        } else if name == TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers") {
            self.malformed = Some("TE is not trailers");
        } else {
            if self.headers.is_empty() {
                self.headers.reserve(SPARE_HEADERS);
            }
            self.headers.append(name, value);
        }
    }

    fn checked(&self) -> Result<(), Refusal> {
        match self.malformed {
            _ if self.too_large => Err(Refusal::TooLarge),
            Some(what) => Err(Refusal::Malformed(what)),
            None => Ok(()),
        }
    }

    /// The fields are a request's head.
    ///
    /// # Errors
    /// When they are not.
    pub fn request(mut self, connect_protocol: bool) -> Result<Request, Refusal> {
        self.checked()?;
        let malformed = |what| Err(Refusal::Malformed(what));
        if self.status.is_some() {
            return malformed("a request has no :status");
        }
        let Some(method) = self.method else {
            return malformed("there is no :method");
        };
        let path = if method == Method::CONNECT && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() || self.authority.is_none() {
                return malformed("CONNECT has :authority alone");
            }
            PathAndQuery::from_static("/")
        } else {
            if self.protocol.is_some() && (method != Method::CONNECT || !connect_protocol) {
                return malformed(":protocol was not offered");
            }
            if self.scheme.is_none() {
                return malformed("there is no :scheme");
            }
            match self.path {
                None => return malformed("there is no :path"),
                Some(path) => {
                    let asterisk = method == Method::OPTIONS && path.as_str() == "*";
                    if !path.as_str().starts_with('/') && !asterisk {
                        return malformed(":path is not absolute");
                    }
                    path
                }
            }
        };
        let length = content_length(&self.headers)?;
        if self.headers.contains_key(COOKIE) {
            join_cookies(&mut self.headers);
        }
        let host = if self.headers.contains_key(HOST) {
            if self.headers.get_all(HOST).iter().count() > 1 {
                return malformed("more than one host");
            }
            self.headers.remove(HOST)
        } else {
            None
        };
        Ok(Request {
            method,
            https: self.scheme.is_some_and(|scheme| scheme == "https"),
            authority: self
                .authority
                .filter(|authority| !authority.is_empty())
                .or(host)
                .unwrap_or_else(|| HeaderValue::from_static("")),
            path,
            protocol: self.protocol,
            headers: self.headers,
            length,
        })
    }

    /// The fields are the head of a response to such a request.
    ///
    /// # Errors
    /// When they are not.
    pub fn response(self, to: &Method) -> Result<Response, Refusal> {
        self.checked()?;
        let of_request = self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some();
        let Some(status) = self.status.filter(|_| !of_request) else {
            return Err(Refusal::Malformed("a response has :status alone"));
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::Malformed("HTTP/2 has no status 101"));
        }
        let length = content_length(&self.headers)?;
        let bodiless = *to == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(Response {
            status,
            headers: self.headers,
            length: if bodiless { Some(0) } else { length },
        })
    }

    /// The fields are trailers.
    ///
    /// # Errors
    /// When they are not.
    pub fn trailers(self) -> Result<HeaderMap, Refusal> {
        self.checked()?;
        let pseudo = self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some()
            || self.status.is_some();
        if pseudo {
            return Err(Refusal::Malformed("a pseudo-header in trailers"));
        }
        Ok(self.headers)
    }
}

/// HTTP/2 may split Cookie; nothing else does (§8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let mut whole = Vec::new();
    let mut sensitive = false;
    for crumb in crumbs {
        if !whole.is_empty() {
            whole.extend_from_slice(b"; ");
        }
        whole.extend_from_slice(crumb.as_bytes());
        sensitive |= crumb.is_sensitive();
    }
    // Values joined by what a value may have are a value.
    if let Ok(mut value) = HeaderValue::from_bytes(&whole) {
        value.set_sensitive(sensitive);
        headers.insert(COOKIE, value);
    }
}
