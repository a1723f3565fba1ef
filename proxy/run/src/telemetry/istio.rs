//! Istio's metrics, by Istio's names and labels. A worker counts for itself; a scrape merges.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use trireme_proxy_decide::flags::Flags;

/// Envoy's default buckets, which Istio's histograms have: milliseconds, or bytes.
pub const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];
/// Series of one worker. Workloads times statuses times flags stay far below; past it, what is new counts as unknown.
const MAX_SERIES: usize = 4096;

/// A workload as labels name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The workload.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// `service.istio.io/canonical-name`, else the app.
    pub canonical_service: String,
    /// `service.istio.io/canonical-revision`, else the version.
    pub canonical_revision: String,
    /// Its cluster.
    pub cluster: String,
    /// Its label `app`.
    pub app: String,
    /// Its label `version`.
    pub version: String,
}

impl Peer {
    /// From `name;namespace;canonical;revision;cluster`, as endpoints and peers carry it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (workload, namespace, canonical_service, canonical_revision, cluster) =
            (next(), next(), next(), next(), next());
        Self {
            app: canonical_service.clone(),
            version: canonical_revision.clone(),
            workload,
            namespace,
            canonical_service,
            canonical_revision,
            cluster,
        }
    }

    /// The same text.
    #[must_use]
    pub fn compact(&self) -> String {
        format!(
            "{};{};{};{};{}",
            self.workload,
            self.namespace,
            self.canonical_service,
            self.canonical_revision,
            self.cluster
        )
    }
}

/// A service as labels name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Its host.
    pub host: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// Who reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
    /// TCP.
    Tcp,
}

/// The labels of one series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    /// Who reports.
    pub reporter: Reporter,
    /// The client; none is unknown.
    pub source: Option<Arc<Peer>>,
    /// The server; none is unknown.
    pub destination: Option<Arc<Peer>>,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The response's status; 0 for none.
    pub code: u16,
    /// Envoy's response flags.
    pub flags: Flags,
    /// gRPC's status.
    pub grpc_status: Option<u8>,
}

impl std::hash::Hash for Labels {
    /// By identity where sharing makes that cheap. Equal labels behind different pointers are two series, which a
    /// scrape merges.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        fn address<T, H: std::hash::Hasher>(shared: Option<&Arc<T>>, state: &mut H) {
            state.write_usize(shared.map_or(0, |shared| Arc::as_ptr(shared) as usize));
        }
        address(self.source.as_ref(), state);
        address(self.destination.as_ref(), state);
        address(self.service.as_ref(), state);
        self.reporter.hash(state);
        self.protocol.hash(state);
        self.code.hash(state);
        self.flags.hash(state);
        self.grpc_status.hash(state);
    }
}

/// A histogram in [`BUCKETS`].
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Values at most as large as the bucket, not cumulated; the last is everything above.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    fn observe(&mut self, value: f64) {
        let at = BUCKETS.partition_point(|bound| *bound < value);
        self.buckets[at] += 1;
        self.sum += value;
    }

    fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What one series counts.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Requests.
    pub requests: u64,
    /// Their durations, milliseconds.
    pub duration_ms: Histogram,
    /// Their bodies' sizes.
    pub request_bytes: Histogram,
    /// Their responses' bodies' sizes.
    pub response_bytes: Histogram,
    /// TCP connections opened.
    pub opened: u64,
    /// TCP connections closed.
    pub closed: u64,
    /// Bytes from the client.
    pub received_bytes: u64,
    /// Bytes to the client.
    pub sent_bytes: u64,
}

impl Series {
    fn merge(&mut self, other: &Series) {
        self.requests += other.requests;
        self.duration_ms.merge(&other.duration_ms);
        self.request_bytes.merge(&other.request_bytes);
        self.response_bytes.merge(&other.response_bytes);
        self.opened += other.opened;
        self.closed += other.closed;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
    }
}

/// One worker's series.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<HashMap<Labels, Box<Series>, Hashing>>);

/// The same order in every run: nothing here is chosen by a stranger, so hashing needs no secret.
type Hashing = crate::number::NumberHashing;

impl Metrics {
    fn with(&self, labels: Labels, change: impl FnOnce(&mut Series)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = all.get_mut(&labels) {
            return change(series);
        }
        let labels = if all.len() < MAX_SERIES {
            labels
        } else {
            Labels {
                source: None,
                destination: None,
                service: None,
                flags: Flags::NONE,
                grpc_status: None,
                ..labels
            }
        };
        change(all.entry(labels).or_default());
    }

    /// Counts a finished request.
    pub fn request(
        &self,
        labels: Labels,
        duration: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        #[allow(clippy::cast_precision_loss)]
        self.with(labels, |series| {
            series.requests += 1;
            series.duration_ms.observe(duration.as_secs_f64() * 1e3);
            series.request_bytes.observe(request_bytes as f64);
            series.response_bytes.observe(response_bytes as f64);
        });
    }

    /// Counts an opened connection.
    pub fn opened(&self, labels: Labels) {
        self.with(labels, |series| series.opened += 1);
    }

    /// Counts bytes of a connection, and its end.
    pub fn moved(&self, labels: Labels, received: u64, sent: u64, closed: bool) {
        self.with(labels, |series| {
            series.received_bytes += received;
            series.sent_bytes += sent;
            series.closed += u64::from(closed);
        });
    }

    /// Adds them to what others counted.
    pub fn merge_into(&self, all: &mut BTreeMap<Labels, Series>) {
        let mine = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, series) in &*mine {
            all.entry(labels.clone()).or_default().merge(series);
        }
    }
}
