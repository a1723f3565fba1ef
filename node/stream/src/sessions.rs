use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sessions of one node at once: each takes a few tasks and up to about a
/// mebibyte of buffers.
const MAX_SESSIONS: usize = 512;

/// Owns the running sessions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    tracker: Arc<TaskTracker>,
    stop: CancellationToken,
}

impl Sessions {
    pub fn new() -> Sessions {
        Sessions::default()
    }

    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len() < MAX_SESSIONS && !self.stop.is_cancelled()
    }

    pub(crate) fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = session => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Ends all sessions and waits until they have.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
