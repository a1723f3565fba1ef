//! HTTP/1.1, both sides. Our own, because a proxy needs what general libraries hide: the refusal of every
//! ambiguous framing, no task and no channel per connection, and no buffer held by a connection that is idle.
//!
//! Heads are parsed by `httparse`; framing, limits and life cycle are here. Trailers are read and dropped, as Envoy
//! does without `enable_trailers`.

mod chunk;
pub mod client;
mod decode;
mod encode;
pub mod head;
pub mod server;
mod transport;

pub use decode::{BodyError, Decoder, Step};
pub use transport::Transport;
