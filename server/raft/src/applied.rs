//! What has been applied: where it stands, and the recent events for watchers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;
use trireme_state::{Event, Meta, Revision, in_range};

/// Events kept in memory for watchers; whoever is further behind reads the store.
const RECENT_BYTES: usize = 8 << 20;
/// Small events cost memory beyond their bytes.
const RECENT_REVISIONS: usize = 8192;

/// Where applying stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub index: u64,
    pub revision: Revision,
    pub compacted: Revision,
}

/// All events of one revision, shared by those who watch.
pub struct Happened {
    pub revision: Revision,
    pub events: Vec<Arc<Event>>,
    bytes: usize,
}

impl Happened {
    pub fn new(revision: Revision, events: Vec<Event>) -> Happened {
        let bytes = events.iter().map(|event| {
            let previous = event.previous.as_ref().map_or(0, |kv| kv.value.len());
            2 * event.kv.key.len() + event.kv.value.len() + previous + 128
        });
        let bytes = bytes.sum();
        Happened {
            revision,
            events: events.into_iter().map(Arc::new).collect(),
            bytes,
        }
    }
}

/// One watcher's place among those to wake.
pub struct Watcher {
    pub start: Bytes,
    pub end: Bytes,
    pub wake: Notify,
    /// The first revision since the watcher last looked that has something for it; `u64::MAX`: none.
    pub first_match: AtomicU64,
}

/// Written by applying, read by everybody.
pub struct Applied {
    progress: tokio::sync::watch::Sender<Progress>,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    happened: VecDeque<Arc<Happened>>,
    bytes: usize,
    /// Everything after this revision is in memory.
    since: Revision,
    newest: Revision,
    watchers: BTreeMap<u64, Arc<Watcher>>,
    next_watcher: u64,
    closed: bool,
}

/// What a watcher finds in memory.
pub enum Look {
    /// Matching revisions, and up to where that is all.
    Found {
        happened: Vec<Arc<Happened>>,
        through: Revision,
    },
    /// It is too far behind for memory.
    Behind,
    Closed,
}

impl Applied {
    pub fn new(index: u64, meta: Meta) -> Applied {
        let progress = Progress {
            index,
            revision: meta.revision,
            compacted: meta.compacted,
        };
        let recent = Recent {
            since: meta.revision,
            newest: meta.revision,
            ..Recent::default()
        };
        Applied {
            progress: tokio::sync::watch::Sender::new(progress),
            recent: Mutex::new(recent),
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    pub fn follow(&self) -> tokio::sync::watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// After a write to the store: what it did, in order.
    pub fn publish(&self, index: u64, meta: Meta, happened: Vec<Happened>) {
        {
            let mut recent = self.recent();
            for happened in happened {
                for watcher in recent.watchers.values() {
                    let matches = happened
                        .events
                        .iter()
                        .any(|event| in_range(&event.kv.key, &watcher.start, &watcher.end));
                    if matches {
                        watcher
                            .first_match
                            .fetch_min(happened.revision, Ordering::AcqRel);
                        watcher.wake.notify_one();
                    }
                }
                recent.bytes += happened.bytes;
                recent.happened.push_back(Arc::new(happened));
            }
            recent.newest = meta.revision;
            while recent.bytes > RECENT_BYTES || recent.happened.len() > RECENT_REVISIONS {
                let Some(oldest) = recent.happened.pop_front() else {
                    break;
                };
                recent.bytes -= oldest.bytes;
                recent.since = oldest.revision;
            }
        }
        let progress = Progress {
            index,
            revision: meta.revision,
            compacted: meta.compacted,
        };
        self.progress.send_replace(progress);
    }

    /// The store was replaced by a snapshot: what happened in between is not known.
    pub fn replace(&self, index: u64, meta: Meta) {
        {
            let mut recent = self.recent();
            recent.happened.clear();
            recent.bytes = 0;
            recent.since = meta.revision;
            recent.newest = meta.revision;
            for watcher in recent.watchers.values() {
                watcher.first_match.store(0, Ordering::Release);
                watcher.wake.notify_one();
            }
        }
        let progress = Progress {
            index,
            revision: meta.revision,
            compacted: meta.compacted,
        };
        self.progress.send_replace(progress);
    }

    pub fn register(&self, start: Bytes, end: Bytes) -> (u64, Arc<Watcher>) {
        let mut recent = self.recent();
        let id = recent.next_watcher;
        recent.next_watcher += 1;
        let watcher = Arc::new(Watcher {
            start,
            end,
            wake: Notify::new(),
            // Everything may be news at first.
            first_match: AtomicU64::new(0),
        });
        recent.watchers.insert(id, watcher.clone());
        (id, watcher)
    }

    pub fn unregister(&self, id: u64) {
        self.recent().watchers.remove(&id);
    }

    pub fn watchers(&self) -> usize {
        self.recent().watchers.len()
    }

    /// Wakes every watcher for good.
    pub fn close(&self) {
        let mut recent = self.recent();
        recent.closed = true;
        for watcher in recent.watchers.values() {
            watcher.wake.notify_one();
        }
    }

    /// What happened after `after` that matters to the watcher, at most `limit` revisions of it.
    pub fn look(&self, watcher: &Watcher, after: Revision, limit: usize) -> Look {
        let recent = self.recent();
        if recent.closed {
            return Look::Closed;
        }
        let newest = recent.newest;
        let first_match = watcher.first_match.swap(u64::MAX, Ordering::AcqRel);
        if after >= newest || first_match == u64::MAX {
            // A watcher may wait for a revision that this replica has not reached.
            return Look::Found {
                happened: Vec::new(),
                through: after.max(newest),
            };
        }
        if after < recent.since {
            watcher.first_match.fetch_min(first_match, Ordering::AcqRel);
            return Look::Behind;
        }
        let from = after.max(first_match.saturating_sub(1));
        let skip = recent
            .happened
            .partition_point(|happened| happened.revision <= from);
        let mut found = Vec::new();
        for happened in recent.happened.iter().skip(skip) {
            let matches = happened
                .events
                .iter()
                .any(|event| in_range(&event.kv.key, &watcher.start, &watcher.end));
            if !matches {
                continue;
            }
            if found.len() == limit {
                watcher
                    .first_match
                    .fetch_min(happened.revision, Ordering::AcqRel);
                return Look::Found {
                    happened: found,
                    through: happened.revision - 1,
                };
            }
            found.push(happened.clone());
        }
        Look::Found {
            happened: found,
            through: newest,
        }
    }
}
