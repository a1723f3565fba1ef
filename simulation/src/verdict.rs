//! The properties, checked once a world has come to its end.

use std::collections::BTreeMap;

use anyhow::Context;
use trireme_check::watch::Write;
use trireme_check::{consensus, durability, linearizability, watch};
use trireme_state::{EventKind, KeyValue, RangeRequest};

use crate::client::{CONFIG_MAP_PREFIX, config_map};
use crate::disk::Disk;
use crate::record::Record;
use crate::server::RAW_PREFIX;

/// Revisions read at a time.
const PAGE: usize = 1_000;

/// What a server's store holds of the clients' keys, and how it came to be.
pub struct Stored {
    pub writes: Vec<Write>,
    pub state: BTreeMap<String, u64>,
}

impl Stored {
    pub fn newest_config_map(&self) -> u64 {
        let config_maps = self
            .writes
            .iter()
            .filter(|write| write.key.starts_with(CONFIG_MAP_PREFIX));
        config_maps
            .map(|write| write.revision)
            .max()
            .unwrap_or_default()
    }
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

/// Reads the store itself, not a server.
pub fn stored(disk: &Disk) -> anyhow::Result<Stored> {
    let mut writes = Vec::new();
    let mut state = BTreeMap::new();
    for prefix in [CONFIG_MAP_PREFIX, RAW_PREFIX] {
        let (start, end) = (prefix.as_bytes().to_vec(), end_of(prefix));
        let mut after = 0;
        loop {
            let mut page = None;
            disk.with_state(&mut |view| {
                page = Some(trireme_state::events(view, &start, &end, after, PAGE));
            });
            let page = page.context("the state was not lent")??;
            for event in page.revisions.into_iter().flat_map(|r| r.events) {
                let key = String::from_utf8_lossy(&event.kv.key).into_owned();
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
            if page.through >= page.newest {
                break;
            }
            after = page.through;
        }
        let request = RangeRequest {
            start: start.into(),
            end: end.into(),
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
    Ok(Stored { writes, state })
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
        let durable = durability::check(&recorded.acknowledged, &stored.writes);
        hold(
            "no acknowledged write is lost",
            durable.map_err(|it| it.to_string()),
        );
        let state = durability::check_state(&stored.writes, &stored.state);
        hold(
            "the state follows from the writes",
            state.map_err(|it| it.to_string()),
        );
        let linear = linearizability::check(&recorded.history, &BTreeMap::new());
        hold("linearizability", linear.map_err(|it| it.to_string()));
        for watcher in &recorded.watchers {
            let watched = watch::check(watcher, &stored.writes);
            hold(
                "watches without gap or repeat",
                watched.map_err(|it| it.to_string()),
            );
        }
    }
    for violation in found {
        record.violation(violation);
    }
}
