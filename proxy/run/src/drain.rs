//! Going away politely: first ask clients to go (`Connection: close`, GOAWAY), then close what is idle.

use std::future::Future;

use tokio_util::sync::CancellationToken;

/// What the connections of one listener watch.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    asked: CancellationToken,
    closed: CancellationToken,
}

impl Drain {
    /// Nothing to drain yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also drained when this one is.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            asked: self.asked.child_token(),
            closed: self.closed.child_token(),
        }
    }

    /// Asks clients to go from their next response on.
    pub fn ask(&self) {
        self.asked.cancel();
    }

    /// Closes connections on which nothing happens.
    pub fn close(&self) {
        self.asked.cancel();
        self.closed.cancel();
    }

    /// Whether clients are asked to go.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Completes when clients are to be asked.
    pub fn asked(&self) -> impl Future<Output = ()> + '_ {
        self.asked.cancelled()
    }

    /// Completes when idle connections are to be closed.
    pub fn closed(&self) -> impl Future<Output = ()> + '_ {
        self.closed.cancelled()
    }
}
