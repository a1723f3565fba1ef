//! What a world of proxies shows: its trace, and the traffic that is checked.

use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use trireme_check::traffic::{Arrival, Ending, Request, Traffic};

use crate::determinism;

/// Shared by all hosts of a world.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Recorded>>);

#[derive(Default)]
pub struct Recorded {
    /// One line an event: milliseconds, host, what happened.
    pub trace: String,
    pub traffic: Traffic,
    pub faults: u64,
    /// Requests that their clients gave up.
    pub left: u64,
    pub violations: Vec<String>,
}

pub fn now_ms() -> u64 {
    determinism::elapsed_ns() / 1_000_000
}

impl Record {
    pub fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn note(&self, host: impl Display, what: impl Display) {
        self.lock().note(host, what);
    }

    pub fn fault(&self, what: impl Display) {
        let mut recorded = self.lock();
        recorded.faults += 1;
        recorded.note("fault", what);
    }

    pub fn violation(&self, what: impl Display) {
        let mut recorded = self.lock();
        recorded.note("VIOLATION", &what);
        recorded.violations.push(what.to_string());
    }

    /// Returns its place, for what happens to it later.
    pub fn arrived(&self, arrival: Arrival) -> usize {
        let mut recorded = self.lock();
        let line = format!(
            "request {} attempt {} of proxy-{} for {}",
            arrival.request, arrival.attempt, arrival.proxy, arrival.cluster
        );
        recorded.note(&arrival.host, line);
        recorded.traffic.arrivals.push(arrival);
        recorded.traffic.arrivals.len() - 1
    }

    pub fn cut(&self, place: usize) {
        let mut recorded = self.lock();
        if let Some(arrival) = recorded.traffic.arrivals.get_mut(place) {
            arrival.cut = true;
        }
    }

    pub fn ended(&self, request: Request) {
        let mut recorded = self.lock();
        let what = match &request.ending {
            Ending::Answered { status, body } => format!("{status} {body}"),
            other => format!("{other:?}"),
        };
        let line = format!(
            "request {} after {} ms: {what}",
            request.id,
            request.ended_ms - request.began_ms
        );
        recorded.note(format_args!("client of proxy-{}", request.proxy), line);
        recorded.traffic.requests.push(request);
    }
}

impl Recorded {
    pub fn note(&mut self, host: impl Display, what: impl Display) {
        // Writing to a string cannot fail.
        writeln!(self.trace, "{:>7} {host} {what}", now_ms()).ok();
    }
}
