//! The TCP proxy: a host, a connection to it, and bytes both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trireme_proxy_decide::balance::Choice;
use trireme_proxy_decide::breaker::{Resource, Token};
use trireme_proxy_decide::config::{HashSource, Priority, TcpProxy, TrafficDirection};
use trireme_proxy_decide::flags::Flags;
use trireme_proxy_decide::format::StreamFacts;
use trireme_proxy_decide::outlier;
use trireme_proxy_decide::upstream::{self, ClusterState, Host, OpenConnection};

use crate::h1::Transport;
use crate::listener::Downstream;
use crate::net::Stream;
use crate::pool::PoolError;
use crate::telemetry::istio::{Labels, Metrics, Protocol, Reporter};
use crate::telemetry::stats::{ClusterStat, ClusterStats, TcpStat, TcpStats};
use crate::tunnel::{self, Side};
use crate::worker::Worker;

/// How often bytes in flight are added to the metrics of a connection that lasts (Istio reports every 5 s).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

struct Counter {
    stats: Arc<TcpStats>,
    cluster: Arc<ClusterStats>,
    metrics: Arc<Metrics>,
    labels: Labels,
    received: u64,
    sent: u64,
    reported: (u64, u64),
    next_report: Instant,
}

impl Counter {
    fn report(&mut self, closed: bool) {
        let (received, sent) = (self.received - self.reported.0, self.sent - self.reported.1);
        if received + sent > 0 || closed {
            self.metrics
                .moved(self.labels.clone(), received, sent, closed);
        }
        self.reported = (self.received, self.sent);
    }

    fn moved(&mut self) {
        let now = Instant::now();
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(false);
        }
    }
}

impl tunnel::Count for Counter {
    fn forth(&mut self, bytes: u64) {
        self.received += bytes;
        self.stats.add_many(TcpStat::ReceivedBytes, bytes);
        self.cluster.add_many(ClusterStat::SentBytes, bytes);
        self.moved();
    }

    fn back(&mut self, bytes: u64) {
        self.sent += bytes;
        self.stats.add_many(TcpStat::SentBytes, bytes);
        self.cluster.add_many(ClusterStat::ReceivedBytes, bytes);
        self.moved();
    }
}

/// A cluster by weight, drawn once a connection.
fn cluster_name<'a>(worker: &Worker, proxy: &'a TcpProxy) -> &'a Arc<str> {
    let total: u64 = proxy.weighted.iter().map(|one| u64::from(one.weight)).sum();
    if total == 0 {
        return &proxy.cluster;
    }
    let mut draw = worker.draw() % total;
    for one in &proxy.weighted {
        let weight = u64::from(one.weight);
        if draw < weight {
            return &one.name;
        }
        draw -= weight;
    }
    &proxy.cluster
}

struct Connected {
    stream: Stream,
    host: Arc<Host>,
    _token: Token,
    _open: Option<OpenConnection>,
}

struct Failed {
    flags: Flags,
    details: Option<&'static str>,
    reason: String,
}

impl Failed {
    fn new(flags: Flags, details: &'static str) -> Self {
        Self {
            flags,
            details: Some(details),
            reason: String::new(),
        }
    }
}

async fn connect(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    proxy: &TcpProxy,
    cluster: &Arc<ClusterState>,
    attempts: &mut u32,
) -> Result<Connected, Failed> {
    let most = proxy.max_connect_attempts.max(1);
    let choice = Choice {
        hash: hash(proxy, downstream),
        labels: &proxy.metadata_match,
        destination: Some(downstream.destination),
        ..Choice::default()
    };
    loop {
        let now = worker.now();
        let Some(token) = cluster
            .breaker
            .take(Priority::Default, Resource::Connections)
        else {
            upstream::ClusterStats::inc(&cluster.stats.upstream_cx_overflow);
            return Err(Failed::new(
                Flags::UPSTREAM_OVERFLOW,
                "upstream_cx_overflow",
            ));
        };
        let Some(host) = worker.with_rng(|rng| cluster.choose(&choice, now, rng)) else {
            return Err(Failed::new(
                Flags::NO_HEALTHY_UPSTREAM,
                "no_healthy_upstream",
            ));
        };
        let open = OpenConnection::new(&host, cluster.breaker.max_connections_per_host());
        *attempts += 1;
        upstream::ClusterStats::inc(&cluster.stats.upstream_cx_total);
        let dialed = match worker.dialer(cluster, &host, Some(downstream.peer), None, &[], None) {
            Ok(dialer) => dialer.dial().await,
            Err(error) => Err(PoolError::Connect(error.to_string())),
        };
        let now = worker.now();
        match dialed {
            Ok((stream, _)) => {
                worker.with_rng(|rng| {
                    cluster.report(&host, outlier::Outcome::ConnectedFinal, now, rng)
                });
                return Ok(Connected {
                    stream,
                    host,
                    _token: token,
                    _open: open,
                });
            }
            Err(error) => {
                upstream::ClusterStats::inc(&cluster.stats.upstream_cx_connect_fail);
                let mut outcome = outlier::Outcome::ConnectFailed;
                if error == PoolError::Timeout {
                    upstream::ClusterStats::inc(&cluster.stats.upstream_cx_connect_timeout);
                    outcome = outlier::Outcome::Timeout(None);
                }
                worker.with_rng(|rng| cluster.report(&host, outcome, now, rng));
                if *attempts >= most {
                    let flags =
                        Flags::UPSTREAM_CONNECTION_FAILURE | Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
                    return Err(Failed {
                        flags,
                        details: None,
                        reason: error.to_string(),
                    });
                }
            }
        }
    }
}

/// The hash of the source address, where the policy asks for one.
fn hash(proxy: &TcpProxy, downstream: &Downstream) -> Option<u64> {
    let by_source = proxy
        .hash_policy
        .iter()
        .any(|policy| matches!(policy.source, HashSource::SourceIp));
    by_source.then(|| twox_hash::XxHash64::oneshot(0, downstream.peer.ip().to_string().as_bytes()))
}

struct ActiveConnection(Arc<ClusterStats>);

impl ActiveConnection {
    fn new(stats: &Arc<ClusterStats>) -> Self {
        stats.add(ClusterStat::ConnectionActive);
        Self(stats.clone())
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.remove(ClusterStat::ConnectionActive);
        self.0.add(ClusterStat::ConnectionDestroy);
    }
}

/// Serves one connection until it ends.
pub async fn serve(
    worker: &Rc<Worker>,
    downstream: Downstream,
    proxy: &TcpProxy,
    transport: Transport,
) {
    let begin = Instant::now();
    let stats = worker.shared.registry.tcp(&proxy.stat_prefix);
    stats.add(TcpStat::ConnectionTotal);
    let name = cluster_name(worker, proxy).clone();
    let live = worker.live();
    let cluster = live.cluster(&name, worker.now()).cloned();
    drop(live);
    let facts_of = cluster.as_ref().map(|cluster| worker.facts(cluster));
    let inbound = downstream.served.listener.direction == TrafficDirection::Inbound;
    let mut labels = Labels {
        reporter: if inbound {
            Reporter::Destination
        } else {
            Reporter::Source
        },
        source: (!inbound).then(|| worker.shared.peer.clone()),
        destination: inbound.then(|| worker.shared.peer.clone()),
        service: facts_of.as_ref().and_then(|facts| facts.service.clone()),
        protocol: Protocol::Tcp,
        code: 0,
        flags: Flags::NONE,
        grpc_status: None,
    };
    let mut facts = StreamFacts {
        start_unix_nanos: worker.shared.unix_nanos(begin),
        upstream_cluster: Some(&name),
        downstream_remote_address: Some(downstream.peer),
        downstream_direct_remote_address: Some(downstream.peer),
        downstream_local_address: Some(downstream.destination),
        requested_server_name: downstream.server_name.as_deref(),
        filter_chain_name: Some(&downstream.chain),
        connection_id: Some(downstream.id),
        response_code: Some(0),
        ..StreamFacts::default()
    };
    let mut attempts = 0;
    let connected = match &cluster {
        Some(cluster) => connect(worker, &downstream, proxy, cluster, &mut attempts).await,
        None => {
            stats.add(TcpStat::NoRoute);
            Err(Failed::new(Flags::NO_CLUSTER_FOUND, "cluster_not_found"))
        }
    };
    let mut reason = String::new();
    match (connected, facts_of) {
        (Ok(connected), Some(cluster)) => {
            if !inbound {
                labels.destination = connected
                    .host
                    .labels
                    .workload
                    .as_deref()
                    .map(|text| worker.peer(text));
            }
            worker.metrics.opened(labels.clone());
            let mut counter = Counter {
                stats: stats.clone(),
                cluster: cluster.stats.clone(),
                metrics: worker.metrics.clone(),
                labels,
                received: 0,
                sent: 0,
                reported: (0, 0),
                next_report: begin + REPORT_INTERVAL,
            };
            facts.upstream_host = Some(connected.host.address);
            let _active = ActiveConnection::new(&cluster.stats);
            match join(
                &downstream,
                proxy,
                transport,
                connected.stream,
                &mut counter,
            )
            .await
            {
                tunnel::Outcome::Idle => stats.add(TcpStat::IdleTimeout),
                tunnel::Outcome::FirstFailed(_) => {
                    facts.flags = Flags::DOWNSTREAM_CONNECTION_TERMINATION
                }
                tunnel::Outcome::SecondFailed(_) => {
                    facts.flags = Flags::UPSTREAM_CONNECTION_TERMINATION
                }
                tunnel::Outcome::Finished => {}
            }
            facts.bytes_received = counter.received;
            facts.bytes_sent = counter.sent;
            counter.labels.flags = facts.flags;
            counter.report(true);
        }
        (Err(failed), _) => {
            facts.flags = failed.flags;
            facts.response_code_details = failed.details;
            reason = failed.reason;
            labels.flags = failed.flags;
            worker.metrics.opened(labels.clone());
            worker.metrics.moved(labels, 0, 0, true);
        }
        (Ok(_), None) => {}
    }
    facts.upstream_transport_failure_reason = Some(&*reason).filter(|reason| !reason.is_empty());
    facts.upstream_attempts = attempts;
    facts.duration = Some(begin.elapsed());
    worker.access_log.log(&proxy.access_logs, &facts);
}

async fn join(
    downstream: &Downstream,
    proxy: &TcpProxy,
    transport: Transport,
    upstream: Stream,
    counter: &mut Counter,
) -> tunnel::Outcome {
    let (io, input, unsent) = transport.into_parts();
    let early = input.len() as u64;
    if early > 0 {
        tunnel::Count::forth(counter, early);
    }
    let first = Side { io, unsent };
    let second = Side {
        io: upstream,
        unsent: input.to_vec(),
    };
    let idle = Some(proxy.idle_timeout).filter(|timeout| !timeout.is_zero());
    let joined = tunnel::join(first, second, idle, counter);
    let most = async {
        match proxy.max_connection_duration {
            Some(most) => tokio::time::sleep(most).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = joined => outcome,
        () = downstream.served.drain.closed() => tunnel::Outcome::Idle,
        () = most => tunnel::Outcome::Finished,
    }
}
