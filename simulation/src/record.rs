//! What a world shows: its trace, and what the properties are checked against.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};

use trireme_check::consensus::{Applied, Leadership};
use trireme_check::history::{Action, History, Outcome};
use trireme_check::listing::Listing;
use trireme_check::watch::{Watcher, Write};

use crate::determinism;

/// Shared by all hosts of a world.
#[derive(Clone, Default)]
pub struct Record {
    inner: Arc<Mutex<Recorded>>,
}

#[derive(Default)]
pub struct Recorded {
    /// One line an event: milliseconds, host, what happened.
    pub trace: String,
    pub history: History,
    pub acknowledged: Vec<Write>,
    pub leaders: Vec<Leadership>,
    pub applied: Vec<Applied>,
    pub watchers: Vec<Watcher>,
    pub listings: Vec<Listing>,
    /// What was written to the clients' keys, as the first server applied it.
    pub written: Vec<Write>,
    /// Up to which revision `written` holds everything.
    pub written_through: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    pub writes: u64,
    pub reads: u64,
    pub unknown: u64,
    pub watched: u64,
    /// Operations that were refused because a disk is full.
    pub disk_full: u64,
    /// Servers replaced by others on empty disks.
    pub replaced: u64,
    /// Transfers of leadership that were asked for.
    pub transfers: u64,
    /// Watches and lists that met what was compacted.
    pub expired: u64,
    /// What went wrong beside the properties of the histories.
    pub violations: Vec<String>,
}

impl Record {
    pub fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn note(&self, host: &str, what: impl Display) {
        self.lock().note(host, what);
    }

    pub fn fault(&self, kind: &'static str, what: impl Display) {
        let mut recorded = self.lock();
        *recorded.faults.entry(kind).or_default() += 1;
        recorded.note("fault", what);
    }

    pub fn violation(&self, what: impl Display) {
        let mut recorded = self.lock();
        recorded.note("violation", &what);
        recorded.violations.push(what.to_string());
    }

    pub fn leads(&self, server: u64, term: u64) {
        let mut recorded = self.lock();
        recorded.note(&format!("id-{server}"), format!("leads term {term}"));
        recorded.leaders.push(Leadership {
            term,
            leader: server,
        });
    }

    pub fn applied(&self, server: u64, index: u64, state: u64) {
        let digest = format!("{state:016x}");
        let mut recorded = self.lock();
        recorded.note(&format!("id-{server}"), format!("applied {index} {digest}"));
        recorded.applied.push(Applied {
            server,
            index,
            digest,
        });
    }

    pub fn invoke(&self, client: u64, key: &str, action: Action) {
        let mut recorded = self.lock();
        recorded.note(&format!("client-{client}"), format!("{key} {action:?}"));
        recorded.history.invoke(client, key, action);
    }

    pub fn finish(
        &self,
        client: u64,
        key: &str,
        action: Action,
        outcome: Outcome,
        revision: Option<u64>,
    ) {
        let mut recorded = self.lock();
        recorded.note(
            &format!("client-{client}"),
            format!("{key} {outcome:?} {revision:?}"),
        );
        recorded.history.finish(client, key, outcome);
        match (action, outcome) {
            (_, Outcome::Read(_)) => recorded.reads += 1,
            (_, Outcome::Unknown) => recorded.unknown += 1,
            (Action::Write(value) | Action::CompareAndSwap { new: value, .. }, Outcome::Done) => {
                recorded.writes += 1;
                if let Some(revision) = revision {
                    recorded.acknowledged.push(Write {
                        revision,
                        key: key.to_owned(),
                        value,
                    });
                }
            }
            _ => {}
        }
    }
}

impl Recorded {
    pub fn note(&mut self, host: &str, what: impl Display) {
        use std::fmt::Write;
        let now_ms = determinism::elapsed_ns() / 1_000_000;
        // Writing to a string cannot fail.
        writeln!(self.trace, "{now_ms:>7} {host} {what}").ok();
    }
}
