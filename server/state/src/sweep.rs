//! Compaction in small steps.
//!
//! `Compact` makes old revisions unreadable at once. Deleting what only they needed is spread over
//! the commands that follow, a bounded number of revisions each, so that no single command stalls
//! the log; it depends on the log alone, so every replica deletes the same at the same index.

use crate::command::EventKind;
use crate::layout::{Meta, changes_key, decode_changes, history_key};
use crate::view::{Overlay, StateError, View};

/// Revisions cleaned up after a transaction: twice as many as it makes would suffice to keep up.
pub const SWEEP_REVISIONS: u64 = 8;
/// Revisions cleaned up by `Compact` itself: about 10 ms of work.
pub const COMPACT_REVISIONS: u64 = 1024;

pub(crate) fn sweep(
    store: &mut Overlay<'_>,
    meta: &mut Meta,
    revisions: u64,
) -> Result<(), StateError> {
    let until = meta.compacted.min(meta.swept + revisions);
    while meta.swept < until {
        let revision = meta.swept + 1;
        let changes_at = changes_key(revision);
        if let Some(value) = store.get(&changes_at)? {
            for change in decode_changes(&changes_at, &value)? {
                // The replaced version can only be seen before this revision.
                if change.replaced > 0 {
                    store.delete(history_key(&change.key, change.replaced));
                }
                // A deletion is remembered only to tell it from the version before it.
                if change.kind == EventKind::Delete {
                    store.delete(history_key(&change.key, revision));
                }
            }
            store.delete(changes_at);
        }
        meta.swept = revision;
    }
    Ok(())
}
