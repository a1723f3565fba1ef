//! SPDY/3.1 as Kubernetes clients speak it: streams the client opens, over one
//! upgraded connection. <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>
//!
//! Flow control: Kubernetes' own library neither sends nor heeds
//! WINDOW_UPDATE, so our side sends them for what it has taken in, and holds
//! itself to the peer's window only once the peer has sent one.

mod connection;
#[cfg(test)]
mod conversation;
mod frame;
mod header;
mod stream;

pub(crate) use connection::Connection;
pub(crate) use stream::{Stream, StreamSender};

/// How many blocks are read before one is refused.
pub(crate) fn read_headers(blocks: &[&[u8]]) -> usize {
    let mut decoder = header::Decoder::new();
    let read = |block: &&&[u8]| decoder.decode(block).is_ok();
    blocks.iter().take_while(read).count()
}
