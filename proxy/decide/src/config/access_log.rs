//! Access logs: where they go and how a line looks.

use std::sync::Arc;

use crate::format::Format;

/// One access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: AccessLogSink,
    /// How a line looks.
    pub format: AccessLogFormat,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogSink {
    /// Standard output (`/dev/stdout` too).
    Stdout,
    /// Standard error.
    Stderr,
    /// A file to append to.
    File(Arc<str>),
}

/// How an access log line looks.
#[derive(Clone, Debug, PartialEq)]
pub enum AccessLogFormat {
    /// Envoy's default text line.
    Default,
    /// A text line; it brings its own newline.
    Text(Format),
    /// A JSON object of these keys in this order; a value that is one operator keeps its type.
    Json(Vec<(Arc<str>, Format)>),
}
