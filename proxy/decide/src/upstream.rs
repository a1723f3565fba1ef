//! The running state of clusters: hosts, their health, limits and counters.

mod admission;
mod cluster;
mod host;
mod live;
mod members;
mod stats;

pub use admission::{Admission, Connection, Lease, PoolView, Waiting, admit, attach, connect};
pub use cluster::ClusterState;
pub use host::{ActiveRequest, Host, HostTotals, OpenConnection};
pub use live::Live;
pub use members::{LocalityHosts, Members, PriorityHosts};
pub use stats::ClusterStats;
