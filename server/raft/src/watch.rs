//! Watches: everything that happens to a range of keys, in order, without gap or repeat.
//!
//! A watcher pulls. Recent events are shared in memory, older ones are read from the store, so a
//! slow watcher holds up nothing and holds on to nothing; it is cut off when what it has not read
//! is compacted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trireme_state::{Event, EventPage, RangeError, Revision, in_range};

use crate::applied::{Applied, Look, Watcher};
use crate::engine::Engine;
use crate::error::WatchError;

/// Revisions taken at a time: bounds what one watcher holds.
const PAGE_REVISIONS: usize = 256;

/// Everything that happened at one revision within the watched range; or, without events, the
/// word that nothing more happened up to `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: Vec<Arc<Event>>,
}

pub struct Watch {
    applied: Arc<Applied>,
    engine: Arc<dyn Engine>,
    id: u64,
    watcher: Arc<Watcher>,
    /// Everything up to this revision is delivered or queued.
    after: Revision,
    /// The newest revision that the reader has heard of.
    reported: Revision,
    queue: VecDeque<WatchBatch>,
    progress: Duration,
    over: bool,
}

impl Watch {
    pub(crate) fn start(
        applied: Arc<Applied>,
        engine: Arc<dyn Engine>,
        start: Bytes,
        end: Bytes,
        after: Revision,
        progress: Duration,
    ) -> Result<Watch, RangeError> {
        let oldest = applied.progress().compacted;
        if after < oldest {
            return Err(RangeError::Compacted {
                requested: after,
                oldest,
            });
        }
        let (id, watcher) = applied.register(start, end);
        Ok(Watch {
            applied,
            engine,
            id,
            watcher,
            after,
            reported: after,
            queue: VecDeque::new(),
            progress,
            over: false,
        })
    }

    /// The next batch, in order of revision, without gap or repeat. An error is the last thing a
    /// watch says; `None` means that the replica has shut down. Safe to drop half way.
    pub async fn next(&mut self) -> Option<Result<WatchBatch, WatchError>> {
        loop {
            if let Some(batch) = self.queue.pop_front() {
                self.reported = self.reported.max(batch.revision);
                return Some(Ok(batch));
            }
            if self.over {
                return None;
            }
            match self.fill() {
                Ok(true) => continue,
                Ok(false) if self.over => return None,
                Ok(false) => {}
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
            let woken = self.watcher.wake.notified();
            if tokio::time::timeout(self.progress, woken).await.is_err() {
                // Everything up to `after` was looked at by `fill`, just now or last time.
                if self.after > self.reported {
                    self.reported = self.after;
                    let revision = self.after;
                    return Some(Ok(WatchBatch {
                        revision,
                        events: Vec::new(),
                    }));
                }
            }
        }
    }

    /// The revision up to which nothing is missing from what [`next`](Self::next) has returned.
    pub fn revision(&self) -> Revision {
        self.reported
    }

    /// Queues what there is; false when there is nothing yet.
    fn fill(&mut self) -> Result<bool, WatchError> {
        match self.applied.look(&self.watcher, self.after, PAGE_REVISIONS) {
            Look::Closed => {
                self.over = true;
                Ok(false)
            }
            Look::Found { happened, through } => {
                self.after = self.after.max(through);
                let (start, end) = (&self.watcher.start, &self.watcher.end);
                self.queue.extend(happened.iter().map(|happened| {
                    WatchBatch {
                        revision: happened.revision,
                        events: happened
                            .events
                            .iter()
                            .filter(|event| in_range(&event.kv.key, start, end))
                            .cloned()
                            .collect(),
                    }
                }));
                Ok(!happened.is_empty())
            }
            Look::Behind => {
                let page = self.older()?;
                self.after = self.after.max(page.through);
                self.queue
                    .extend(page.revisions.into_iter().map(|happened| WatchBatch {
                        revision: happened.revision,
                        events: happened.events.into_iter().map(Arc::new).collect(),
                    }));
                Ok(true)
            }
        }
    }

    fn older(&self) -> Result<EventPage, WatchError> {
        let mut found = None;
        self.engine.with_state(&mut |view| {
            let (start, end) = (&self.watcher.start, &self.watcher.end);
            found = Some(trireme_state::events(
                view,
                start,
                end,
                self.after,
                PAGE_REVISIONS,
            ));
        });
        match found {
            Some(page) => Ok(page?),
            None => Err(WatchError::Storage("the state was not lent".into())),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.applied.unregister(self.id);
    }
}
