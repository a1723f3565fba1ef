//! Counters in Prometheus' text form, under kube-apiserver's names where it has them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trireme_raft::Replica;

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Distinct (verb, resource, code) rows kept: every kind and subresource with every verb and the usual
/// codes is below 1,000; beyond the limit requests are counted under resource `other`.
const MAX_ROWS: usize = 4096;

#[derive(Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    sum_seconds: f64,
    total: u64,
}

#[derive(Default)]
struct Rows {
    requests: BTreeMap<(&'static str, String, u16), u64>,
    latency: BTreeMap<&'static str, Histogram>,
}

#[derive(Default)]
pub(crate) struct Metrics {
    rows: Mutex<Rows>,
    connections: Arc<AtomicI64>,
    watchers: Arc<AtomicI64>,
}

/// Counts one while it lives.
pub(crate) struct Gauge(Arc<AtomicI64>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn gauge(count: &Arc<AtomicI64>) -> Gauge {
    count.fetch_add(1, Ordering::Relaxed);
    Gauge(count.clone())
}

impl Metrics {
    pub fn connection(&self) -> Gauge {
        gauge(&self.connections)
    }

    pub fn watcher(&self) -> Gauge {
        gauge(&self.watchers)
    }

    pub fn record(&self, verb: &'static str, resource: &str, code: u16, elapsed: Duration) {
        let Ok(mut rows) = self.rows.lock() else {
            return;
        };
        let full = rows.requests.len() >= MAX_ROWS;
        let key = (verb, resource.to_owned(), code);
        match rows.requests.get_mut(&key) {
            Some(count) => *count += 1,
            None if full => {
                *rows
                    .requests
                    .entry((verb, "other".to_owned(), code))
                    .or_default() += 1
            }
            None => {
                rows.requests.insert(key, 1);
            }
        }
        let seconds = elapsed.as_secs_f64();
        let histogram = rows.latency.entry(verb).or_default();
        histogram.sum_seconds += seconds;
        histogram.total += 1;
        for (count, bound) in histogram.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
    }

    pub fn render(&self, replica: &Replica) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, replica);
        out
    }

    fn write(&self, out: &mut String, replica: &Replica) -> std::fmt::Result {
        let status = replica.status();
        for (name, help, kind, value) in [
            (
                "trireme_raft_term",
                "Raft term of this server.",
                "gauge",
                status.term,
            ),
            (
                "trireme_raft_applied_index",
                "Last log index applied here.",
                "counter",
                status.applied_index,
            ),
            (
                "trireme_raft_last_log_index",
                "Last log index stored here.",
                "counter",
                status.last_log_index,
            ),
            (
                "trireme_store_revision",
                "Newest revision applied here.",
                "counter",
                status.revision,
            ),
            (
                "trireme_store_compacted_revision",
                "Oldest readable revision.",
                "counter",
                replica.compacted(),
            ),
            (
                "trireme_raft_is_leader",
                "1 on the leader.",
                "gauge",
                u64::from(status.leader == Some(status.id)),
            ),
            (
                "trireme_raft_has_leader",
                "1 while a leader is known.",
                "gauge",
                u64::from(status.leader.is_some()),
            ),
            (
                "trireme_raft_voters",
                "Voting members.",
                "gauge",
                status.voters.len() as u64,
            ),
            (
                "trireme_disk_full",
                "1 while writes are refused for want of disk space.",
                "gauge",
                u64::from(status.disk_full),
            ),
        ] {
            writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )?;
        }
        for (name, help, value) in [
            (
                "trireme_api_connections",
                "Open client connections.",
                &self.connections,
            ),
            (
                "apiserver_longrunning_requests",
                "Open watches.",
                &self.watchers,
            ),
        ] {
            let value = value.load(Ordering::Relaxed);
            writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"
            )?;
        }
        let Ok(rows) = self.rows.lock() else {
            return Ok(());
        };
        writeln!(
            out,
            "# HELP apiserver_request_total Requests answered.\n# TYPE apiserver_request_total counter"
        )?;
        for ((verb, resource, code), count) in &rows.requests {
            writeln!(
                out,
                "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}"
            )?;
        }
        let name = "apiserver_request_duration_seconds";
        writeln!(
            out,
            "# HELP {name} Time to the response's head.\n# TYPE {name} histogram"
        )?;
        for (verb, histogram) in &rows.latency {
            for (count, bound) in histogram.counts.iter().zip(BUCKETS) {
                writeln!(
                    out,
                    "{name}_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {count}"
                )?;
            }
            writeln!(
                out,
                "{name}_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {}",
                histogram.total
            )?;
            writeln!(
                out,
                "{name}_sum{{verb=\"{verb}\"}} {}",
                histogram.sum_seconds
            )?;
            writeln!(out, "{name}_count{{verb=\"{verb}\"}} {}", histogram.total)?;
        }
        Ok(())
    }
}
