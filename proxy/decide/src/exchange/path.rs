//! Normalisation of paths before routing (RFC 3986 §6.2.2, and what Envoy's canonicaliser does).

use crate::config::EscapedSlashes;

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Normalised {
    /// It stays.
    Same,
    /// It becomes this.
    Changed(String),
    /// The client is sent there.
    Redirect(String),
    /// It is refused.
    Refused,
}

/// Settings of the connection manager.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

/// Normalises path and query; the query stays as it is.
pub(super) fn normalise(whole: &str, rules: Rules) -> Normalised {
    let (path, query) = match whole.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (whole, None),
    };
    let mut next = path.to_owned();
    let mut redirect = false;
    let has_escaped = has_escaped_slash(path);
    if has_escaped {
        match rules.escaped_slashes {
            EscapedSlashes::Keep => {}
            EscapedSlashes::Reject => return Normalised::Refused,
            EscapedSlashes::UnescapeAndForward => next = unescape_slashes(&next),
            EscapedSlashes::UnescapeAndRedirect => {
                next = unescape_slashes(&next);
                redirect = true;
            }
        }
    }
    if rules.normalize {
        match canonical(&next) {
            Some(path) => next = path,
            None => return Normalised::Refused,
        }
    }
    if rules.merge_slashes {
        next = merge_slashes(&next);
    }
    if next == path {
        return Normalised::Same;
    }
    if let Some(query) = query {
        next.push('?');
        next.push_str(query);
    }
    if redirect {
        Normalised::Redirect(next)
    } else {
        Normalised::Changed(next)
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|triple| {
        triple[0] == b'%'
            && matches!(
                (triple[1], triple[2].to_ascii_lowercase()),
                (b'2', b'f') | (b'5', b'c')
            )
    })
}

fn unescape_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    for (escaped, plain) in [("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")] {
        out = out.replace(escaped, plain);
    }
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !out.ends_with('/') {
            out.push(letter);
        }
    }
    out
}

/// Backslashes become slashes, escaped unreserved letters are decoded, dot segments resolved;
/// none where the path is not absolute or an escape is broken by a NUL.
fn canonical(path: &str) -> Option<String> {
    if !path.starts_with(['/', '\\']) {
        return None;
    }
    let decoded = decode_unreserved(&path.replace('\\', "/"))?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = decoded.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." => {
                if last {
                    segments.push("");
                }
            }
            ".." => {
                segments.pop();
                if last {
                    segments.push("");
                }
            }
            other => segments.push(other),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

fn decode_unreserved(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%'
            && let (Some(high), Some(low)) = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2)))
        {
            let byte = high * 16 + low;
            match byte {
                0 => return None,
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(byte);
                }
                _ => out.extend_from_slice(&bytes[at..at + 3]),
            }
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

fn digit(byte: Option<&u8>) -> Option<u8> {
    match byte? {
        byte @ b'0'..=b'9' => Some(byte - b'0'),
        byte @ b'a'..=b'f' => Some(byte - b'a' + 10),
        byte @ b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
