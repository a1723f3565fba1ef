//! Conditions of retries.

use http::HeaderMap;

use crate::config::RetryOn;

/// How a try broke before it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A breaker refused it: never retried.
    Overflow,
    /// Connecting failed here.
    LocalConnectionFailure,
    /// Connecting failed there.
    RemoteConnectionFailure,
    /// Connecting took too long.
    ConnectionTimeout,
    /// The connection closed.
    ConnectionTermination,
    /// The host reset the stream.
    RemoteReset,
    /// The host refused the stream.
    RemoteRefusedStream,
    /// It was reset here: a timeout of the try.
    LocalReset,
    /// The host's answer broke the protocol.
    ProtocolError,
}

impl Broken {
    /// Envoy's words for it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Broken::Overflow => "overflow",
            Broken::LocalConnectionFailure => "local connection failure",
            Broken::RemoteConnectionFailure => "remote connection failure",
            Broken::ConnectionTimeout => "connection timeout",
            Broken::ConnectionTermination => "connection termination",
            Broken::RemoteReset => "remote reset",
            Broken::RemoteRefusedStream => "remote refused stream reset",
            Broken::LocalReset => "local reset",
            Broken::ProtocolError => "protocol error",
        }
    }

    /// Whether no connection was had.
    #[must_use]
    pub fn is_connection_failure(self) -> bool {
        matches!(
            self,
            Broken::LocalConnectionFailure
                | Broken::RemoteConnectionFailure
                | Broken::ConnectionTimeout
        )
    }
}

macro_rules! conditions {
    ($($bit:literal $name:ident $text:literal $group:ident;)*) => {
        impl RetryOn {
            $(#[doc = concat!("`", $text, "`")] pub const $name: RetryOn = RetryOn(1 << $bit);)*

            /// Conditions of HTTP by Envoy's names, separated by commas; unknown ones count for
            /// nothing, as in Envoy's request header.
            #[must_use]
            pub fn parse_http(text: &str) -> RetryOn {
                let mut all = RetryOn::default();
                for name in text.split(',').map(str::trim) {
                    $(if $group == Group::Http && name == $text { all.0 |= Self::$name.0; })*
                }
                all
            }

            /// Conditions of gRPC by Envoy's names, separated by commas.
            #[must_use]
            pub fn parse_grpc(text: &str) -> RetryOn {
                let mut all = RetryOn::default();
                for name in text.split(',').map(str::trim) {
                    $(if $group == Group::Grpc && name == $text { all.0 |= Self::$name.0; })*
                }
                all
            }
        }
    };
}

#[derive(PartialEq)]
enum Group {
    Http,
    Grpc,
}

const HTTP: Group = Group::Http;
const GRPC: Group = Group::Grpc;

conditions! {
    0 FIVE_XX "5xx" HTTP;
    1 GATEWAY_ERROR "gateway-error" HTTP;
    2 CONNECT_FAILURE "connect-failure" HTTP;
    3 RETRIABLE_4XX "retriable-4xx" HTTP;
    4 REFUSED_STREAM "refused-stream" HTTP;
    5 RETRIABLE_STATUS_CODES "retriable-status-codes" HTTP;
    6 RESET "reset" HTTP;
    7 RESET_BEFORE_REQUEST "reset-before-request" HTTP;
    8 RETRIABLE_HEADERS "retriable-headers" HTTP;
    9 ENVOY_RATELIMITED "envoy-ratelimited" HTTP;
    10 HTTP3_POST_CONNECT_FAILURE "http3-post-connect-failure" HTTP;
    11 GRPC_CANCELLED "cancelled" GRPC;
    12 GRPC_DEADLINE_EXCEEDED "deadline-exceeded" GRPC;
    13 GRPC_INTERNAL "internal" GRPC;
    14 GRPC_RESOURCE_EXHAUSTED "resource-exhausted" GRPC;
    15 GRPC_UNAVAILABLE "unavailable" GRPC;
}

impl RetryOn {
    /// Conditions of either kind, as a route's `retry_on` mixes them.
    #[must_use]
    pub fn parse_any(text: &str) -> RetryOn {
        RetryOn(RetryOn::parse_http(text).0 | RetryOn::parse_grpc(text).0)
    }

    /// Whether every one of `other` is among these.
    #[must_use]
    pub fn contains(self, other: RetryOn) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn wants_status(self, status: u16) -> bool {
        (self.contains(RetryOn::FIVE_XX) && (500..600).contains(&status))
            || (self.contains(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504))
            || (self.contains(RetryOn::RETRIABLE_4XX) && status == 409)
    }

    pub(super) fn wants_broken(self, broken: Broken, started: bool) -> bool {
        if broken == Broken::Overflow {
            return false;
        }
        self.contains(RetryOn::RESET)
            || (self.contains(RetryOn::RESET_BEFORE_REQUEST) && !started)
            || self.contains(RetryOn::FIVE_XX)
            || self.contains(RetryOn::GATEWAY_ERROR)
            || (self.contains(RetryOn::REFUSED_STREAM) && broken == Broken::RemoteRefusedStream)
            || (self.contains(RetryOn::CONNECT_FAILURE) && broken.is_connection_failure())
    }

    pub(super) fn wants_grpc(self, headers: &HeaderMap) -> bool {
        const STATUSES: [(u64, RetryOn); 5] = [
            (1, RetryOn::GRPC_CANCELLED),
            (4, RetryOn::GRPC_DEADLINE_EXCEEDED),
            (8, RetryOn::GRPC_RESOURCE_EXHAUSTED),
            (13, RetryOn::GRPC_INTERNAL),
            (14, RetryOn::GRPC_UNAVAILABLE),
        ];
        grpc_status(headers).is_some_and(|status| {
            STATUSES
                .iter()
                .any(|(of, condition)| *of == status && self.contains(*condition))
        })
    }
}

/// `grpc-status` of headers or trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u64> {
    headers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .and_then(crate::text::parse_number)
}

/// The HTTP status that a gRPC status counts as in outlier detection.
#[must_use]
pub fn grpc_to_http(status: u64) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
