//! Envoy's format strings: text with command operators such as `%REQ(:authority)%`, used by
//! header additions, access logs and local replies.

mod operator;
mod parse;
mod strftime;

use std::fmt::Write as _;
use std::sync::Arc;

pub use operator::{Operator, StreamFacts};
pub use strftime::strftime;

/// A parsed format string.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(Arc<str>),
    Operator {
        operator: Operator,
        max_length: Option<usize>,
    },
}

impl Format {
    /// Parses Envoy's syntax; `%%` is a percent sign.
    ///
    /// # Errors
    /// What is wrong: an operator without end, one that does not exist, a bad argument.
    pub fn parse(text: &str) -> Result<Format, String> {
        parse::pieces(text).map(|pieces| Format { pieces })
    }

    /// Text without operators.
    #[must_use]
    pub fn text(text: &str) -> Format {
        Format {
            pieces: vec![Piece::Text(Arc::from(text))],
        }
    }

    /// The text, where the format has no operators.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The operator, where the format is nothing else: JSON logs keep its type then.
    #[must_use]
    pub fn as_operator(&self) -> Option<&Operator> {
        match self.pieces.as_slice() {
            [Piece::Operator { operator, .. }] => Some(operator),
            _ => None,
        }
    }

    /// Writes the value; an absent one is `absent` (`-` in access logs, nothing in headers).
    pub fn write(&self, facts: &StreamFacts<'_>, absent: &str, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Operator {
                    operator,
                    max_length,
                } => {
                    let start = out.len();
                    if !operator.write(facts, out) {
                        out.truncate(start);
                        out.push_str(absent);
                    } else if let Some(max) = *max_length
                        && out.len() - start > max
                    {
                        let mut end = start + max;
                        while !out.is_char_boundary(end) {
                            end -= 1;
                        }
                        out.truncate(end);
                    }
                }
            }
        }
    }

    /// The value, with nothing for what is absent.
    #[must_use]
    pub fn render(&self, facts: &StreamFacts<'_>) -> String {
        let mut out = String::new();
        self.write(facts, "", &mut out);
        out
    }
}

/// Envoy's default access log line.
pub const DEFAULT_ACCESS_LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Writes a display value; formatting into a string cannot fail.
fn put(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}
