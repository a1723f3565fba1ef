//! The properties, checked once a world has come to its end.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use trireme_check::watch::Write;
use trireme_check::{consensus, durability, linearizability, listing, watch};
use trireme_state::{EventKind, KeyValue, RangeRequest};

use crate::client::{CONFIG_MAP_PREFIX, config_map};
use crate::disk::Disk;
use crate::record::Record;
use crate::server::RAW_PREFIX;

/// Revisions read at a time.
const PAGE: usize = 1_000;

/// The clients' keys.
const PREFIXES: [&str; 2] = [CONFIG_MAP_PREFIX, RAW_PREFIX];

/// What a server's store holds of the clients' keys in the end.
pub struct Stored {
    pub state: BTreeMap<String, u64>,
    /// What can still be read of how that came to be.
    pub writes: Vec<Write>,
    pub compacted: u64,
}

/// The value that a client wrote.
fn value(key: &str, kv: &KeyValue) -> Option<u64> {
    if key.starts_with(RAW_PREFIX) {
        return std::str::from_utf8(&kv.value).ok()?.parse().ok();
    }
    let mut object: serde_json::Value = serde_json::from_slice(&kv.value).ok()?;
    object["metadata"]["resourceVersion"] = kv.mod_revision.to_string().into();
    config_map(&object).map(|(value, _)| value)
}

fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Both prefixes end with a slash.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// What was written to the clients' keys after a revision, as far as a store goes, and up to where that is.
fn writes_after(disk: &Disk, mut after: u64) -> anyhow::Result<(Vec<Write>, u64)> {
    let mut writes = Vec::new();
    loop {
        let mut page = None;
        disk.with_state(&mut |view| {
            page = Some(trireme_state::events(view, &[0], &[u8::MAX], after, PAGE));
        });
        let page = page.context("the state was not lent")??;
        for event in page.revisions.into_iter().flat_map(|r| r.events) {
            let key = String::from_utf8_lossy(&event.kv.key).into_owned();
            if !PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
                continue;
            }
            let value = match event.kind {
                EventKind::Delete => None,
                EventKind::Put => {
                    Some(value(&key, &event.kv).with_context(|| format!("value of {key}"))?)
                }
            };
            writes.push(Write {
                revision: event.kv.mod_revision,
                key,
                value,
            });
        }
        after = after.max(page.through);
        if page.through >= page.newest {
            return Ok((writes, after));
        }
    }
}

/// Notes what a store has that nobody has noted: in the end, most of it is compacted.
pub fn note_writes(record: &Record, disk: &Disk) {
    let through = record.lock().written_through;
    match writes_after(disk, through) {
        Ok((writes, through)) => {
            let mut recorded = record.lock();
            recorded.written.extend(writes);
            recorded.written_through = through;
        }
        Err(error) => record.violation(format_args!("reading what was written: {error:#}")),
    }
}

/// Reads the store itself, not a server.
pub fn stored(disk: &Disk) -> anyhow::Result<Stored> {
    let mut meta = None;
    disk.with_state(&mut |view| meta = Some(trireme_state::meta(view)));
    let compacted = meta.context("the state was not lent")??.compacted;
    let (writes, _) = writes_after(disk, compacted)?;
    let mut state = BTreeMap::new();
    for prefix in PREFIXES {
        let request = RangeRequest {
            start: prefix.as_bytes().to_vec().into(),
            end: end_of(prefix).into(),
            ..RangeRequest::default()
        };
        let mut reply = None;
        disk.with_state(&mut |view| reply = Some(trireme_state::range(view, &request)));
        for kv in reply.context("the state was not lent")??.kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let value = value(&key, &kv).with_context(|| format!("value of {key}"))?;
            state.insert(key, value);
        }
    }
    Ok(Stored {
        state,
        writes,
        compacted,
    })
}

/// The revision of the newest write to a ConfigMap.
pub fn newest_config_map(record: &Record) -> u64 {
    let recorded = record.lock();
    let config_maps = recorded
        .written
        .iter()
        .filter(|write| write.key.starts_with(CONFIG_MAP_PREFIX));
    config_maps
        .map(|write| write.revision)
        .max()
        .unwrap_or_default()
}

/// What a store can still tell must be what was written.
fn same_history(written: &[Write], stored: &Stored) -> Result<(), String> {
    let readable = |writes: &[Write]| -> BTreeSet<Write> {
        let after = writes
            .iter()
            .filter(|write| write.revision > stored.compacted);
        after.cloned().collect()
    };
    let (written, kept) = (readable(written), readable(&stored.writes));
    match written.symmetric_difference(&kept).next() {
        None => Ok(()),
        Some(write) if written.contains(write) => Err(format!("{write:?} is not stored")),
        Some(write) => Err(format!("{write:?} is stored and was not written")),
    }
}

/// Adds what does not hold to the record's violations.
pub fn check(record: &Record, stored: &Stored) {
    let mut found: Vec<String> = Vec::new();
    {
        let recorded = record.lock();
        let mut hold = |property: &str, result: Result<(), String>| {
            if let Err(why) = result {
                found.push(format!("{property}: {why}"));
            }
        };
        let leaders = consensus::check_leaders(&recorded.leaders);
        hold("one leader a term", leaders.map_err(|it| it.to_string()));
        let states = consensus::check_states(&recorded.applied);
        hold(
            "the same state at the same index",
            states.map_err(|it| it.to_string()),
        );
        let durable = durability::check(&recorded.acknowledged, &recorded.written);
        hold(
            "no acknowledged write is lost",
            durable.map_err(|it| it.to_string()),
        );
        let state = durability::check_state(&recorded.written, &stored.state);
        hold(
            "the state follows from the writes",
            state.map_err(|it| it.to_string()),
        );
        let history = same_history(&recorded.written, stored);
        hold("what is not compacted is kept", history);
        let linear = linearizability::check(&recorded.history, &BTreeMap::new());
        hold("linearizability", linear.map_err(|it| it.to_string()));
        for watcher in &recorded.watchers {
            let watched = watch::check(watcher, &recorded.written, stored.compacted);
            hold(
                "watches without gap or repeat",
                watched.map_err(|it| it.to_string()),
            );
        }
        for list in &recorded.listings {
            let listed = listing::check(list, &recorded.written, stored.compacted);
            hold(
                "lists are of one revision",
                listed.map_err(|it| it.to_string()),
            );
        }
    }
    for violation in found {
        record.violation(violation);
    }
}
