//! HTTP/2 (RFC 9113), both sides, by our own code. A connection with its streams is one value of one thread; there is
//! no task, no channel and no lock for a stream. Flood limits stand in `connection`.
//!
//! Deliberately not here: server push, and priorities, which RFC 9113 withdrew.

pub mod client;
mod connection;
mod flow;
mod frame;
mod gather;
pub mod hpack;
mod message;
pub mod server;
mod stream;
#[doc(hidden)]
pub mod understood;

use std::time::Duration;

pub use client::{Driver, Sender, connect};
pub use connection::{Broken, Options};
pub use frame::Reason;
pub use message::{Limits, Request};
pub use stream::{Incoming, Lost};

/// Streams at a time on one connection: ours to allow. Envoy allows 2^31−1, which is how rapid resets became an
/// attack; its own edge guide says 100.
pub const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// Per stream; Envoy's edge guide has the same.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Per connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long a ping may go unanswered where the configuration only says how often to ping.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
