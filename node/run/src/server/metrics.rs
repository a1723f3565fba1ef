//! What pods use: the kubelet's summary, and the same for Prometheus.

use crate::agent::Agent;
use crate::instance::container_id;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};
use trireme_container::Stats;
use trireme_model::meta;
use trireme_node_decide::Instance;

/// Rates are computed over at least this long.
const WINDOW_MIN_MS: i64 = 500;

struct Sample {
    at: Timestamp,
    cpu_ns: u64,
    rate_nano: u64,
}

/// Earlier measurements, for rates.
#[derive(Default)]
pub(crate) struct Usage {
    samples: Mutex<BTreeMap<String, Sample>>,
}

struct Measured {
    namespace: String,
    pod: String,
    uid: String,
    started: Option<Timestamp>,
    containers: Vec<(String, Timestamp, Stats, u64)>,
}

impl Usage {
    fn samples(&self) -> MutexGuard<'_, BTreeMap<String, Sample>> {
        // A panic while holding it leaves the map as it was.
        self.samples
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Nano-CPUs in use since the last measurement.
    fn rate(&self, id: &str, cpu_ns: u64, now: Timestamp) -> u64 {
        let mut samples = self.samples();
        let Some(last) = samples.get_mut(id) else {
            let first = Sample {
                at: now,
                cpu_ns,
                rate_nano: 0,
            };
            samples.insert(id.to_owned(), first);
            return 0;
        };
        let passed_ms = i64::try_from(now.duration_since(last.at).as_millis()).unwrap_or(i64::MAX);
        if passed_ms >= WINDOW_MIN_MS {
            let used = cpu_ns.saturating_sub(last.cpu_ns);
            let passed = u64::try_from(passed_ms).unwrap_or(1);
            *last = Sample {
                at: now,
                cpu_ns,
                rate_nano: used.saturating_mul(1000) / passed,
            };
        }
        last.rate_nano
    }

    fn measure(&self, agent: &Agent) -> Vec<Measured> {
        let now = Timestamp::now();
        let mut all = Vec::new();
        let mut ids = Vec::new();
        for handle in agent.pods.all() {
            let seen = handle.seen.borrow().clone();
            let uid = seen.pod.metadata.uid.clone().unwrap_or_default();
            let mut containers = Vec::new();
            for (name, record) in &seen.runtime.containers {
                let Instance::Running {
                    attempt,
                    started_at,
                    ..
                } = &record.instance
                else {
                    continue;
                };
                let id = container_id(&uid, name, *attempt);
                // It may have ended this moment.
                let Ok(stats) = agent.runtime.stats(&id) else {
                    continue;
                };
                let rate = self.rate(&id, stats.cpu_usage_ns, now);
                containers.push((name.clone(), *started_at, stats, rate));
                ids.push(id);
            }
            all.push(Measured {
                namespace: seen.pod.metadata.namespace.clone().unwrap_or_default(),
                pod: seen.pod.metadata.name.clone().unwrap_or_default(),
                uid,
                started: seen.runtime.start_time,
                containers,
            });
        }
        // Containers that are gone need no rate any more.
        self.samples().retain(|id, _| ids.contains(id));
        all
    }

    /// `/stats/summary`.
    pub fn summary(&self, agent: &Agent) -> Value {
        let now = meta::timestamp(Timestamp::now());
        let figures = |cpu: u64, nano: u64, usage: u64, working: u64, rss: u64| {
            (
                json!({"time": now, "usageNanoCores": nano, "usageCoreNanoSeconds": cpu}),
                json!({"time": now, "usageBytes": usage, "workingSetBytes": working, "rssBytes": rss}),
            )
        };
        let pods: Vec<Value> = self
            .measure(agent)
            .into_iter()
            .map(|measured| {
                let mut total = (0u64, 0u64, 0u64, 0u64, 0u64);
                let containers: Vec<Value> = measured
                    .containers
                    .iter()
                    .map(|(name, started, stats, rate)| {
                        total.0 = total.0.saturating_add(stats.cpu_usage_ns);
                        total.1 = total.1.saturating_add(*rate);
                        total.2 = total.2.saturating_add(stats.memory_usage_bytes);
                        total.3 = total.3.saturating_add(stats.memory_working_set_bytes);
                        total.4 = total.4.saturating_add(stats.memory_rss_bytes);
                        let (cpu, memory) = figures(
                            stats.cpu_usage_ns,
                            *rate,
                            stats.memory_usage_bytes,
                            stats.memory_working_set_bytes,
                            stats.memory_rss_bytes,
                        );
                        json!({"name": name, "startTime": meta::timestamp(*started), "cpu": cpu, "memory": memory})
                    })
                    .collect();
                let (cpu, memory) = figures(total.0, total.1, total.2, total.3, total.4);
                json!({
                    "podRef": {"name": measured.pod, "namespace": measured.namespace, "uid": measured.uid},
                    "startTime": measured.started.map(meta::timestamp),
                    "containers": containers, "cpu": cpu, "memory": memory,
                })
            })
            .collect();
        let (free, memory_total) = crate::machine::memory_bytes().unwrap_or((0, 0));
        let (disk_free, disk_total) =
            crate::machine::disk_bytes(&agent.config.data).unwrap_or((0, 0));
        json!({
            "node": {
                "nodeName": agent.config.name,
                "memory": {
                    "time": now, "availableBytes": free,
                    "workingSetBytes": memory_total.saturating_sub(free),
                },
                "fs": {
                    "time": now, "availableBytes": disk_free, "capacityBytes": disk_total,
                    "usedBytes": disk_total.saturating_sub(disk_free),
                },
            },
            "pods": pods,
        })
    }

    /// `/metrics`, in Prometheus' text form with the kubelet's names.
    pub fn metrics(&self, agent: &Agent) -> String {
        let measured = self.measure(agent);
        let running: usize = measured.iter().map(|m| m.containers.len()).sum();
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}",
            measured.len()
        );
        let _ = writeln!(
            out,
            "# TYPE kubelet_running_containers gauge\nkubelet_running_containers {running}"
        );
        let _ = writeln!(out, "# TYPE container_cpu_usage_seconds_total counter");
        for pod in &measured {
            for (name, _, stats, _) in &pod.containers {
                let seconds = stats.cpu_usage_ns as f64 / 1e9;
                let _ = writeln!(
                    out,
                    "container_cpu_usage_seconds_total{{namespace=\"{}\",pod=\"{}\",container=\"{name}\"}} {seconds}",
                    pod.namespace, pod.pod
                );
            }
        }
        let _ = writeln!(out, "# TYPE container_memory_working_set_bytes gauge");
        for pod in &measured {
            for (name, _, stats, _) in &pod.containers {
                let _ = writeln!(
                    out,
                    "container_memory_working_set_bytes{{namespace=\"{}\",pod=\"{}\",container=\"{name}\"}} {}",
                    pod.namespace, pod.pod, stats.memory_working_set_bytes
                );
            }
        }
        out
    }
}
