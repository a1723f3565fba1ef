//! What became of a request, for statistics and logs.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;

use super::Exchange;
use crate::flags::Flags;
use crate::format::StreamFacts;
use crate::time::Nanos;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The status sent to the client; none where there was none.
    pub status: Option<u16>,
    /// The gRPC status, where it is known.
    pub grpc_status: Option<u64>,
    /// Response flags.
    pub flags: Flags,
    /// Whether the proxy answered itself.
    pub answered_here: bool,
    /// Attempts.
    pub attempts: u32,
    /// From the request's head to the response's end.
    pub duration: Duration,
}

impl Exchange {
    /// What became of the request so far.
    #[must_use]
    pub fn outcome(&self, now: Nanos) -> Outcome {
        Outcome {
            status: self.status,
            grpc_status: self.grpc_status,
            flags: self.flags,
            answered_here: self.answered_here,
            attempts: self.attempts(),
            duration: self.ended.unwrap_or(now).since(self.began),
        }
    }

    /// Response flags so far.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Adds a flag that the driver alone can know.
    pub fn add_flags(&mut self, flags: Flags) {
        self.flags.insert(flags);
    }

    /// Why the response is as it is, in Envoy's `%RESPONSE_CODE_DETAILS%`.
    #[must_use]
    pub fn details(&self) -> &str {
        &self.details
    }

    /// What formats need; the driver adds what only it knows (bytes, the upstream's local end).
    #[must_use]
    pub fn facts<'a>(&'a self, response: Option<&'a HeaderMap>) -> StreamFacts<'a> {
        let connection = &*self.connection;
        let text = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        StreamFacts {
            request: Some(&self.head),
            response,
            response_code: self.status,
            response_code_details: text(&self.details),
            flags: self.flags,
            protocol: Some(connection.protocol.text()),
            start_unix_nanos: self.began_unix_nanos,
            duration: self.ended.map(|ended| ended.since(self.began)),
            request_duration: self.request_ended.map(|ended| ended.since(self.began)),
            response_duration: self.response_began.map(|began| began.since(self.began)),
            response_tx_duration: self
                .ended
                .zip(self.response_began)
                .map(|(ended, began)| ended.since(began)),
            upstream_host: self.host().map(|host| host.address),
            upstream_cluster: self.upstream_cluster(),
            upstream_transport_failure_reason: self.transport_failure.as_deref(),
            upstream_attempts: self.attempts(),
            downstream_remote_address: Some(self.remote),
            downstream_direct_remote_address: Some(connection.remote),
            downstream_local_address: Some(connection.local),
            requested_server_name: connection.server_name.as_deref(),
            route_name: self
                .place
                .as_ref()
                .and_then(|place| text(&place.route().name)),
            filter_chain_name: text(&connection.filter_chain),
            connection_id: Some(connection.id),
            ..StreamFacts::default()
        }
    }

    fn upstream_cluster(&self) -> Option<&str> {
        match &self.forwarding {
            Some(forwarding) => Some(
                forwarding
                    .cluster
                    .config
                    .alt_stat_name
                    .as_deref()
                    .unwrap_or(&forwarding.name),
            ),
            None => None,
        }
    }

    /// The local end of the client's connection and its peer, for the driver's own records.
    #[must_use]
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.connection.remote, self.connection.local)
    }
}
