//! Reading keys as they were at a revision.

use bytes::Bytes;

use crate::command::{KeyValue, RangeError, RangeReply, RangeRequest, Revision};
use crate::layout::{
    Meta, Record, history_bound, history_key, key_of_live, live_key, parse_history_key,
};
use crate::view::{StateError, View};

type KeyValues<'a> = Box<dyn Iterator<Item = Result<KeyValue, StateError>> + 'a>;

impl From<StateError> for RangeError {
    fn from(error: StateError) -> Self {
        RangeError::Storage(error.to_string())
    }
}

pub fn range(view: &dyn View, request: &RangeRequest) -> Result<RangeReply, RangeError> {
    let meta = Meta::read(view)?;
    let revision = request.revision.unwrap_or(meta.revision);
    if revision > meta.revision {
        return Err(RangeError::Future {
            requested: revision,
            newest: meta.revision,
        });
    }
    if revision < meta.compacted {
        return Err(RangeError::Compacted {
            requested: revision,
            oldest: meta.compacted,
        });
    }
    let mut reply = RangeReply {
        revision: meta.revision,
        ..RangeReply::default()
    };
    if request.end.is_empty() {
        reply.kvs.extend(get_at(view, &request.start, revision)?);
    } else if request.start < request.end {
        let mut found: KeyValues<'_> = if revision == meta.revision {
            newest(view, request)
        } else {
            at_revision(view, request, revision)
        };
        for kv in found.by_ref() {
            let kv = kv?;
            if request.limit > 0 && reply.kvs.len() == request.limit {
                reply.more = true;
                reply.remaining = 1;
                break;
            }
            reply.kvs.push(kv);
        }
        for kv in found {
            kv?;
            reply.remaining += 1;
        }
    }
    if request.keys_only {
        for kv in &mut reply.kvs {
            kv.value = Bytes::new();
        }
    }
    Ok(reply)
}

/// One key as it was at a revision that is not compacted.
pub(crate) fn get_at(
    view: &dyn View,
    key: &Bytes,
    revision: Revision,
) -> Result<Option<KeyValue>, StateError> {
    let live = live_key(key);
    if let Some(value) = view.get(&live)? {
        let record = Record::decode(&live, &value)?;
        if record.mod_revision <= revision {
            return Ok(Some(record.into_key_value(key.clone())));
        }
    }
    let (from, until) = (
        history_key(key, 0),
        history_key(key, revision.saturating_add(1)),
    );
    let mut last = None;
    for pair in view.scan(&from, &until) {
        last = Some(pair?);
    }
    match last {
        None => Ok(None),
        Some((store_key, value)) => {
            let record = Record::decode(&store_key, &value)?;
            Ok((!record.is_deletion()).then(|| record.into_key_value(key.clone())))
        }
    }
}

fn newest<'a>(view: &'a dyn View, request: &RangeRequest) -> KeyValues<'a> {
    let pairs = view.scan(&live_key(&request.start), &live_key(&request.end));
    Box::new(pairs.map(|pair| {
        let (store_key, value) = pair?;
        Ok(Record::decode(&store_key, &value)?.into_key_value(key_of_live(&store_key)))
    }))
}

/// Merges the newest versions that are old enough with the histories of the keys.
fn at_revision<'a>(
    view: &'a dyn View,
    request: &RangeRequest,
    revision: Revision,
) -> KeyValues<'a> {
    let mut live = newest(view, request)
        .filter(move |kv| kv.as_ref().map_or(true, |kv| kv.mod_revision <= revision))
        .peekable();
    let mut past = past(view, request, revision).peekable();
    Box::new(std::iter::from_fn(move || {
        loop {
            let order = match (live.peek(), past.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => return live.next(),
                (_, Some(Err(_))) | (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(Ok(live)), Some(Ok((key, _)))) => live.key.cmp(key),
            };
            match order {
                std::cmp::Ordering::Less => return live.next(),
                std::cmp::Ordering::Equal => {
                    // A live version that is old enough is newer than all of its history.
                    past.next();
                    return live.next();
                }
                std::cmp::Ordering::Greater => match past.next()? {
                    Err(error) => return Some(Err(error)),
                    Ok((_, record)) if record.is_deletion() => {}
                    Ok((key, record)) => return Some(Ok(record.into_key_value(key))),
                },
            }
        }
    }))
}

/// For every key with a history, its last version at or before `revision`.
fn past<'a>(
    view: &'a dyn View,
    request: &RangeRequest,
    revision: Revision,
) -> Box<dyn Iterator<Item = Result<(Bytes, Record), StateError>> + 'a> {
    let pairs = view.scan(&history_bound(&request.start), &history_bound(&request.end));
    let mut versions = pairs
        .map(|pair| {
            let (store_key, value) = pair?;
            let (key, at) = parse_history_key(&store_key)?;
            Ok((key, at, Record::decode(&store_key, &value)?))
        })
        .filter(move |version: &Result<_, StateError>| {
            version.as_ref().map_or(true, |(_, at, _)| *at <= revision)
        })
        .peekable();
    Box::new(std::iter::from_fn(move || {
        let (key, mut record) = match versions.next()? {
            Err(error) => return Some(Err(error)),
            Ok((key, _, record)) => (key, record),
        };
        while let Some(Ok((_, _, later))) =
            versions.next_if(|next| next.as_ref().is_ok_and(|(next, _, _)| *next == key))
        {
            record = later;
        }
        Some(Ok((key, record)))
    }))
}
