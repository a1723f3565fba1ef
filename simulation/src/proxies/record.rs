//! What a world of proxies shows: its trace, and the traffic that is checked.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use trireme_check::configuration::Version;
use trireme_check::traffic::{Arrival, Break, Ending, Outage, Request, Traffic};

use crate::determinism;

use super::proxy;
use super::upstream;

/// Shared by all hosts of a world.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Recorded>>);

#[derive(Default)]
pub struct Recorded {
    /// One line an event: milliseconds, host, what happened.
    pub trace: String,
    pub traffic: Traffic,
    /// All versions of all routes.
    pub versions: Vec<Version>,
    /// How long messages take where nothing holds them up.
    pub transit_ms: u64,
    /// By proxy and upstream, since when messages between them are held up or, when that is over, until when.
    holds: BTreeMap<(u64, usize), (u64, u64)>,
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

    pub fn version(&self, version: Version) {
        let mut recorded = self.lock();
        let what = format!("version {} of {}", version.number, version.route);
        recorded.note("objects", what);
        recorded.versions.push(version);
    }

    /// A proxy goes down; whoever sees it serve again ends that.
    pub fn outage(&self, proxy: u64) {
        self.lock().traffic.outages.push(Outage {
            proxy,
            from_ms: now_ms(),
            to_ms: u64::MAX,
        });
    }

    /// An upstream goes down, or is out of reach of a proxy.
    pub fn breaks(&self, upstream: usize, proxy: Option<u64>) {
        self.lock().traffic.breaks.push(Break {
            host: upstream::name_of(upstream),
            proxy,
            from_ms: now_ms(),
            to_ms: u64::MAX,
        });
    }

    pub fn mended(&self, upstream: usize, proxy: Option<u64>) {
        let host = upstream::name_of(upstream);
        for it in &mut self.lock().traffic.breaks {
            if it.host == host && it.proxy == proxy && it.to_ms == u64::MAX {
                it.to_ms = now_ms();
            }
        }
    }

    /// Messages between the two are held up from now on, and longer than now they never were.
    pub fn held(&self, proxy: u64, upstream: usize) {
        self.lock()
            .holds
            .insert((proxy, upstream), (now_ms(), u64::MAX));
    }

    pub fn released(&self, proxy: u64, upstream: usize) {
        if let Some((_, until_ms)) = self.lock().holds.get_mut(&(proxy, upstream)) {
            *until_ms = now_ms();
        }
    }

    /// How long a message that arrives now may have been under way.
    pub fn transit_ms(&self, proxy: u64, upstream: usize) -> u64 {
        let recorded = self.lock();
        let usual_ms = recorded.transit_ms;
        match recorded.holds.get(&(proxy, upstream)) {
            Some((from_ms, until_ms)) if until_ms.saturating_add(usual_ms) >= now_ms() => {
                now_ms() - from_ms + usual_ms
            }
            _ => usual_ms,
        }
    }

    /// Returns its place, for what happens to it later.
    pub fn arrived(&self, arrival: Arrival) -> usize {
        let mut recorded = self.lock();
        let line = format!(
            "request {} attempt {} of proxy-{} for {} by version {:?}",
            arrival.request,
            arrival.attempt,
            arrival.proxy,
            arrival.cluster,
            arrival.configuration.unwrap_or_default()
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
        recorded.note(
            format_args!("client of {}", proxy::name_of(request.proxy)),
            line,
        );
        recorded.traffic.requests.push(request);
    }
}

impl Recorded {
    pub fn note(&mut self, host: impl Display, what: impl Display) {
        // Writing to a string cannot fail.
        writeln!(self.trace, "{:>7} {host} {what}", now_ms()).ok();
    }
}
