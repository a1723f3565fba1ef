//! When to write. A connection of many streams waits until the worker has seen what else has come meanwhile: what its
//! streams then write goes out together, with one system call and one wake-up of the peer.

use std::future::Future as _;
use std::pin::pin;
use std::task::Context;

use super::connection::Connection;

/// Written at once: waiting saves nothing where this much is there.
const ENOUGH_BYTES: usize = 16 * 1024;

/// Of one connection.
#[derive(Default)]
pub(super) struct Gather {
    asked: bool,
    due: bool,
}

impl Gather {
    /// The driver has its turn.
    pub(super) fn turn(&mut self) {
        self.due = std::mem::take(&mut self.asked);
    }

    /// The driver will have another turn, to write: nobody else needs to wake it.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked
    }

    /// Whether to write later; the driver is woken for that, once the worker has nothing else to do and has asked the
    /// system what has come. A connection of one stream never waits.
    pub(super) fn waits(&mut self, connection: &Connection, context: &mut Context<'_>) -> bool {
        let unsent = connection.transport.unsent();
        if self.due || connection.streams.len() < 2 || unsent == 0 || unsent >= ENOUGH_BYTES {
            return false;
        }
        if !std::mem::replace(&mut self.asked, true) {
            // Its first turn only asks for the second.
            let _ = pin!(tokio::task::yield_now()).poll(context);
        }
        true
    }
}
