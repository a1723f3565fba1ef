//! Watches (being filled in).

use std::sync::Arc;

use trireme_state::{Event, Revision};

use crate::error::WatchError;

/// Everything that happened at one revision within the watched range; or, without events, the
/// word that nothing more happened up to `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: Vec<Arc<Event>>,
}

pub struct Watch {}

impl Watch {
    /// The next batch, in order of revision, without gap or repeat. An error is the last thing a
    /// watch says; `None` means that the replica has shut down.
    pub async fn next(&mut self) -> Option<Result<WatchBatch, WatchError>> {
        None
    }
}
