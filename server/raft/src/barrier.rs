//! Sharing one confirmation of leadership among the reads that wait for one.
//!
//! A read may use any confirmation that began after it arrived. So while one is under way, all
//! reads that arrive wait together for the next.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::error::ReadError;

/// The log index to wait for.
pub type Confirmed = Result<u64, ReadError>;
type Round = watch::Sender<Option<Confirmed>>;

#[derive(Default)]
pub struct Barrier {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    /// The round that has not begun.
    next: Option<Round>,
}

impl Barrier {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for a confirmation that begins after this call.
    pub async fn wait<F, R>(self: &Arc<Self>, tasks: &TaskTracker, confirm: F) -> Confirmed
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Confirmed> + Send,
    {
        let mut result = {
            let mut state = self.state();
            let result = state
                .next
                .get_or_insert_with(|| watch::Sender::new(None))
                .subscribe();
            if !state.running {
                state.running = true;
                let barrier = self.clone();
                tasks.spawn(async move {
                    while let Some(round) = barrier.begin() {
                        round.send_replace(Some(confirm().await));
                    }
                });
            }
            result
        };
        let stopped = || ReadError::Stopped("shutting down".into());
        match result.wait_for(Option::is_some).await {
            Ok(confirmed) => confirmed.clone().unwrap_or_else(|| Err(stopped())),
            Err(_) => Err(stopped()),
        }
    }

    fn begin(&self) -> Option<Round> {
        let mut state = self.state();
        let round = state.next.take();
        state.running = round.is_some();
        round
    }
}
