//! Envoy's statistics. One set of atomics a cluster or connection manager, shared by the workers: a worker's own cache
//! line most of the time, since sidecars have one or two.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use trireme_proxy_decide::breaker::Resource;
use trireme_proxy_decide::config::Priority;
use trireme_proxy_decide::outlier::Detector;

use crate::shared::Shared;

macro_rules! statistics {
    ($(#[$meta:meta])* $set:ident, $kind:ident { $($name:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind { $(#[doc = $text] $name,)* }

        impl $kind {
            /// All with their names.
            pub const ALL: &'static [($kind, &'static str)] = &[$(($kind::$name, $text),)*];
        }

        /// One set of them.
        #[derive(Debug)]
        pub struct $set { values: Vec<AtomicU64>, codes: Codes }

        impl Default for $set {
            fn default() -> Self {
                Self { values: $kind::ALL.iter().map(|_| AtomicU64::new(0)).collect(), codes: Codes::default() }
            }
        }

        impl $set {
            /// Counts one.
            pub fn add(&self, which: $kind) {
                self.add_many(which, 1);
            }

            /// Counts so many.
            pub fn add_many(&self, which: $kind, count: u64) {
                self.values[which as usize].fetch_add(count, Ordering::Relaxed);
            }

            /// Takes one off a gauge.
            pub fn remove(&self, which: $kind) {
                let _ = self.values[which as usize].fetch_update(
                    Ordering::Relaxed, Ordering::Relaxed, |value| Some(value.saturating_sub(1)));
            }

            /// Sets a gauge.
            pub fn set(&self, which: $kind, value: u64) {
                self.values[which as usize].store(value, Ordering::Relaxed);
            }

            /// The value.
            #[must_use]
            pub fn get(&self, which: $kind) -> u64 {
                self.values[which as usize].load(Ordering::Relaxed)
            }

            /// Statuses.
            #[must_use]
            pub fn codes(&self) -> &Codes {
                &self.codes
            }

            /// Writes them as Envoy's `/stats` does.
            pub fn write(&self, prefix: &str, out: &mut String) {
                for (which, name) in $kind::ALL {
                    let _ = writeln!(out, "{prefix}.{name}: {}", self.get(*which));
                }
            }
        }
    };
}

/// Statuses from 100 to 599, each counted.
#[derive(Debug)]
pub struct Codes(Mutex<BTreeMap<u16, u64>>);

impl Default for Codes {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl Codes {
    /// Counts one.
    pub fn add(&self, code: u16) {
        // There are 500 codes at most: a peer's nonsense is not kept.
        if (100..600).contains(&code) {
            *self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(code)
                .or_insert(0) += 1;
        }
    }

    /// All that were seen.
    #[must_use]
    pub fn all(&self) -> Vec<(u16, u64)> {
        let codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.iter().map(|(code, count)| (*code, *count)).collect()
    }

    fn write(&self, prefix: &str, out: &mut String) {
        let mut classes = [0_u64; 6];
        for (code, count) in self.all() {
            let _ = writeln!(out, "{prefix}_{code}: {count}");
            classes[usize::from(code / 100)] += count;
        }
        for (class, count) in classes
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, count)| **count > 0)
        {
            let _ = writeln!(out, "{prefix}_{class}xx: {count}");
        }
    }
}

statistics!(
    /// A cluster's, by Envoy's names after `cluster.NAME.`, besides those that decisions count.
    ClusterStats, ClusterStat {
        ConnectionActive = "upstream_cx_active",
        ConnectionHttp1Total = "upstream_cx_http1_total",
        ConnectionHttp2Total = "upstream_cx_http2_total",
        ConnectionIdleTimeout = "upstream_cx_idle_timeout",
        ConnectionDestroy = "upstream_cx_destroy",
        ConnectionMaxRequests = "upstream_cx_max_requests",
        ReceivedBytes = "upstream_cx_rx_bytes_total",
        SentBytes = "upstream_cx_tx_bytes_total",
    }
);

statistics!(
    /// A connection manager's, by Envoy's names after `http.PREFIX.`.
    HttpStats, HttpStat {
        ConnectionTotal = "downstream_cx_total",
        ConnectionActive = "downstream_cx_active",
        ConnectionHttp1Total = "downstream_cx_http1_total",
        ConnectionHttp2Total = "downstream_cx_http2_total",
        ConnectionSslTotal = "downstream_cx_ssl_total",
        ConnectionProtocolError = "downstream_cx_protocol_error",
        ConnectionIdleTimeout = "downstream_cx_idle_timeout",
        RequestTotal = "downstream_rq_total",
        RequestActive = "downstream_rq_active",
        RequestHttp1Total = "downstream_rq_http1_total",
        RequestHttp2Total = "downstream_rq_http2_total",
        RequestCompleted = "downstream_rq_completed",
        RequestReceivedReset = "downstream_rq_rx_reset",
        RequestTooLarge = "downstream_rq_too_large",
        NoRoute = "no_route",
        NoCluster = "no_cluster",
    }
);

statistics!(
    /// A TCP proxy's, by Envoy's names after `tcp.PREFIX.`.
    TcpStats, TcpStat {
        ConnectionTotal = "downstream_cx_total",
        NoRoute = "downstream_cx_no_route",
        ReceivedBytes = "downstream_cx_rx_bytes_total",
        SentBytes = "downstream_cx_tx_bytes_total",
        IdleTimeout = "idle_timeout",
    }
);

/// All statistics by name.
#[derive(Debug, Default)]
pub struct Registry {
    clusters: Mutex<BTreeMap<Arc<str>, Arc<ClusterStats>>>,
    http: Mutex<BTreeMap<Arc<str>, Arc<HttpStats>>>,
    tcp: Mutex<BTreeMap<Arc<str>, Arc<TcpStats>>>,
}

fn find<T: Default>(map: &Mutex<BTreeMap<Arc<str>, Arc<T>>>, name: &str) -> Arc<T> {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = map.get(name) {
        return found.clone();
    }
    let made = Arc::new(T::default());
    map.insert(Arc::from(name), made.clone());
    made
}

fn listed<T>(map: &Mutex<BTreeMap<Arc<str>, Arc<T>>>) -> Vec<(Arc<str>, Arc<T>)> {
    let map = map.lock().unwrap_or_else(PoisonError::into_inner);
    map.iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

impl Registry {
    /// A cluster's.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Arc<ClusterStats> {
        find(&self.clusters, name)
    }

    /// A connection manager's.
    #[must_use]
    pub fn http(&self, prefix: &str) -> Arc<HttpStats> {
        find(&self.http, prefix)
    }

    /// A TCP proxy's.
    #[must_use]
    pub fn tcp(&self, prefix: &str) -> Arc<TcpStats> {
        find(&self.tcp, prefix)
    }

    /// All clusters'.
    #[must_use]
    pub fn clusters(&self) -> Vec<(Arc<str>, Arc<ClusterStats>)> {
        listed(&self.clusters)
    }

    /// Forgets clusters that are gone.
    pub fn retain_clusters(&self, keep: impl Fn(&str) -> bool) {
        self.clusters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| keep(name));
    }
}

/// Writes all as Envoy's `/stats` does, unsorted.
pub fn write(shared: &Shared, out: &mut String) {
    let live = shared.live();
    for cluster in live.in_use() {
        let name = cluster
            .config
            .alt_stat_name
            .as_ref()
            .unwrap_or(&cluster.config.name);
        let prefix = format!("cluster.{name}");
        // Statuses and their classes come from the codes below.
        for (counter, value) in cluster
            .stats
            .iter()
            .filter(|(counter, _)| !counter.ends_with("xx"))
        {
            let _ = writeln!(out, "{prefix}.{counter}: {value}");
        }
        let own = shared.registry.cluster(&cluster.config.name);
        own.write(&prefix, out);
        own.codes().write(&format!("{prefix}.upstream_rq"), out);
        let healthy = cluster
            .members
            .iter()
            .filter(|host| host.is_healthy())
            .count();
        let degraded = cluster
            .members
            .iter()
            .filter(|host| host.is_degraded())
            .count();
        let _ = writeln!(out, "{prefix}.membership_total: {}", cluster.members.len());
        let _ = writeln!(out, "{prefix}.membership_healthy: {healthy}");
        let _ = writeln!(out, "{prefix}.membership_degraded: {degraded}");
        for (priority, word) in [(Priority::Default, "default"), (Priority::High, "high")] {
            let breaker = &cluster.breaker;
            for (resource, gauge) in [
                (Resource::Connections, "cx_open"),
                (Resource::Pending, "rq_pending_open"),
                (Resource::Requests, "rq_open"),
                (Resource::Retries, "rq_retry_open"),
            ] {
                let open = breaker.is_open(priority, resource);
                let _ = writeln!(
                    out,
                    "{prefix}.circuit_breakers.{word}.{gauge}: {}",
                    u8::from(open)
                );
            }
        }
        let now = |resource| {
            u64::from(cluster.breaker.current(Priority::Default, resource))
                + u64::from(cluster.breaker.current(Priority::High, resource))
        };
        let _ = writeln!(
            out,
            "{prefix}.upstream_rq_active: {}",
            now(Resource::Requests)
        );
        let _ = writeln!(
            out,
            "{prefix}.upstream_rq_pending_active: {}",
            now(Resource::Pending)
        );
        if let Some(detector) = cluster.detector() {
            outlier(&prefix, detector, out);
        }
    }
    for (name, stats) in listed(&shared.registry.http) {
        let prefix = format!("http.{name}");
        stats.write(&prefix, out);
        stats.codes().write(&format!("{prefix}.downstream_rq"), out);
    }
    for (name, stats) in listed(&shared.registry.tcp) {
        stats.write(&format!("tcp.{name}"), out);
    }
}

fn outlier(prefix: &str, detector: &Detector, out: &mut String) {
    let counters = &detector.counters;
    let _ = writeln!(
        out,
        "{prefix}.outlier_detection.ejections_active: {}",
        detector.ejected()
    );
    for (name, value) in counters.iter() {
        let _ = writeln!(out, "{prefix}.outlier_detection.{name}: {value}");
    }
}
