//! What a connection pool may do: the rules of Envoy's pools under a cluster's limits. The pool
//! itself (sockets, idle lists) is the driver's.

use std::sync::Arc;

use super::cluster::ClusterState;
use super::host::{ActiveRequest, Host, OpenConnection};
use super::stats::ClusterStats;
use crate::breaker::{Resource, Token};
use crate::config::Priority;
use crate::planted;

/// What a pool (one host, priority and protocol) has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// Whether a connection can take a stream at once.
    pub ready: bool,
    /// Streams that the connections being opened will take (1 each for HTTP/1).
    pub connecting_capacity: u32,
    /// Requests waiting.
    pub pending: u32,
    /// Connections, open or opening.
    pub connections: u32,
}

/// What becomes of a request that comes to a pool.
#[derive(Debug)]
pub enum Admission {
    /// It takes a stream of a ready connection.
    Attach(Lease),
    /// It waits; a connection is to be opened where there is one.
    Wait(Waiting, Option<Connection>),
    /// A limit refuses it: report an overflow.
    Overflow,
}

/// A request's place on a connection: held until the attempt is over.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    _request: Token,
    _active: ActiveRequest,
}

/// A request's place among the waiting; dropped when it gets a connection or fails.
#[derive(Debug)]
#[must_use]
pub struct Waiting(Token);

impl Waiting {
    /// Gives the place back because the request was cancelled.
    pub fn cancel(self, cluster: &ClusterState) {
        ClusterStats::inc(&cluster.stats.upstream_rq_cancelled);
        self.0.cancel();
    }
}

/// A connection's place under the limits: held until it is closed.
#[derive(Debug)]
#[must_use]
pub struct Connection {
    _limit: Token,
    _host: OpenConnection,
}

/// Decides about a request that comes to a pool.
pub fn admit(
    cluster: &ClusterState,
    host: &Arc<Host>,
    priority: Priority,
    pool: PoolView,
) -> Admission {
    if pool.ready {
        return match attach(cluster, host, priority) {
            Some(lease) => Admission::Attach(lease),
            None => Admission::Overflow,
        };
    }
    let Some(pending) = cluster.breaker.take(priority, Resource::Pending) else {
        ClusterStats::inc(&cluster.stats.upstream_rq_pending_overflow);
        return Admission::Overflow;
    };
    ClusterStats::inc(&cluster.stats.upstream_rq_pending_total);
    let after = PoolView {
        pending: pool.pending + 1,
        ..pool
    };
    Admission::Wait(Waiting(pending), connect(cluster, host, priority, after))
}

/// A stream on a connection that can take one; none where the limit of requests refuses.
#[must_use]
pub fn attach(cluster: &ClusterState, host: &Arc<Host>, priority: Priority) -> Option<Lease> {
    let Some(request) = cluster.breaker.take(priority, Resource::Requests) else {
        ClusterStats::inc(&cluster.stats.upstream_rq_active_overflow);
        return None;
    };
    ClusterStats::inc(&cluster.stats.upstream_rq_total);
    Some(Lease {
        _request: request,
        _active: ActiveRequest::new(host),
    })
}

/// Whether the pool opens a connection for those that wait: where those being opened do not
/// suffice and the limits allow. A pool without any connection always may, or its requests would
/// wait for nothing.
#[must_use]
pub fn connect(
    cluster: &ClusterState,
    host: &Arc<Host>,
    priority: Priority,
    pool: PoolView,
) -> Option<Connection> {
    if pool.pending <= pool.connecting_capacity {
        return None;
    }
    let open = || {
        let per_host = cluster.breaker.max_connections_per_host();
        let host = OpenConnection::new(host, per_host)?;
        let limit = cluster.breaker.take(priority, Resource::Connections)?;
        Some(Connection {
            _limit: limit,
            _host: host,
        })
    };
    let connection = open().or_else(|| {
        ClusterStats::inc(&cluster.stats.upstream_cx_overflow);
        let lonely = pool.connections == 0 || planted::on(planted::Bug::HalfOpenStampede);
        if !lonely {
            return None;
        }
        Some(Connection {
            _limit: cluster.breaker.take_anyway(priority, Resource::Connections),
            _host: OpenConnection::new(host, None)?,
        })
    })?;
    ClusterStats::inc(&cluster.stats.upstream_cx_total);
    Some(connection)
}
