//! What happened after a revision, for watches that start in the past or have fallen behind.

use bytes::Bytes;

use crate::command::{Event, EventKind, KeyValue, RangeError, Revision};
use crate::layout::{
    Change, Meta, Record, changes_end, changes_key, decode_changes, history_key, live_key,
    parse_changes_key,
};
use crate::view::{StateError, View};

/// Everything that happened at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    pub revision: Revision,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Revisions with matching events only, ascending.
    pub revisions: Vec<RevisionEvents>,
    /// Everything up to this revision has been looked at: where to go on from.
    pub through: Revision,
    /// The newest revision; the page is the last one when `through` has reached it.
    pub newest: Revision,
}

/// Events of keys from `start` to `end` (empty `end`: the key `start` alone) after the revision
/// `after`, looking at no more than `limit` revisions.
pub fn events(
    view: &dyn View,
    start: &[u8],
    end: &[u8],
    after: Revision,
    limit: usize,
) -> Result<EventPage, RangeError> {
    let meta = Meta::read(view)?;
    if after < meta.compacted {
        return Err(RangeError::Compacted {
            requested: after,
            oldest: meta.compacted,
        });
    }
    let mut page = EventPage {
        revisions: Vec::new(),
        through: after.min(meta.revision),
        newest: meta.revision,
    };
    if after >= meta.revision {
        return Ok(page);
    }
    let mut looked_at = 0;
    for pair in view
        .scan(&changes_key(after + 1), &changes_end())
        .take(limit)
    {
        looked_at += 1;
        let (store_key, value) = pair?;
        let revision = parse_changes_key(&store_key)?;
        let mut found = Vec::new();
        for change in decode_changes(&store_key, &value)? {
            if in_range(&change.key, start, end) {
                found.push(event(view, revision, change)?);
            }
        }
        if !found.is_empty() {
            page.revisions.push(RevisionEvents {
                revision,
                events: found,
            });
        }
        page.through = revision;
    }
    if looked_at < limit {
        // No change is left: an empty store is at revision 1, which changed nothing.
        page.through = meta.revision;
    }
    Ok(page)
}

/// Whether a key lies in a range as [`RangeRequest`](crate::RangeRequest) means it.
pub fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    if end.is_empty() {
        key == start
    } else {
        start <= key && key < end
    }
}

fn event(view: &dyn View, revision: Revision, change: Change) -> Result<Event, StateError> {
    let previous = match change.replaced {
        0 => None,
        replaced => version(view, &change.key, replaced)?,
    };
    let kv = match change.kind {
        EventKind::Delete => Record::deletion(revision).into_key_value(change.key),
        EventKind::Put => version(view, &change.key, revision)?.ok_or(StateError::Corrupt {
            what: "missing version",
            key: change.key,
        })?,
    };
    Ok(Event {
        kind: change.kind,
        kv,
        previous,
    })
}

/// The version of a key that was made at exactly this revision.
fn version(
    view: &dyn View,
    key: &Bytes,
    revision: Revision,
) -> Result<Option<KeyValue>, StateError> {
    for store_key in [live_key(key), history_key(key, revision)] {
        if let Some(value) = view.get(&store_key)? {
            let record = Record::decode(&store_key, &value)?;
            if record.mod_revision == revision {
                return Ok(Some(record.into_key_value(key.clone())));
            }
        }
    }
    Ok(None)
}
