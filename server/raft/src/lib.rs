//! A replica of the cluster's state: openraft over a disk and a network that are both passed in.
//!
//! In: [`Command`](trireme_state::Command)s, which any server may [`propose`](Replica::propose).
//! Out: their replies, reads at a revision, [`Watch`]es, and who leads.
//!
//! What it keeps:
//! - An acknowledged command is on the disks of a majority and applied where it was proposed.
//! - After [`read_barrier`](Replica::read_barrier), a read sees all that was acknowledged before.
//! - An error that does not say [`Unknown`](ProposeError::Unknown) means that nothing was done.
//! - A watch has no gap and no repeat, on whichever replica it goes on.
//! - A full disk refuses writes before it can break anything; reads go on.
//!
//! The disk is an [`Engine`](engine::Engine): [`RocksEngine`](rocks::RocksEngine), or a
//! simulator's. The network is a [`Dial`](dial::Dial) outwards and, inwards, whatever stream of
//! connections the [`service`](Replica::service) is mounted on. No task blocks on the disk, and
//! nothing here starts threads but the engine.
//!
//! Deliberately not here: what the keys mean, TLS identities, and the decisions to change the
//! membership and to compact.

pub mod dial;
pub mod engine;
pub mod rocks;
pub mod space;

mod applied;
mod barrier;
#[cfg(test)]
mod conformance;
mod entry;
mod error;
mod extent;
mod intake;
mod link;
mod log;
mod machine;
mod member;
mod membership;
mod message;
mod network;
mod propose;
mod replica;
mod service;
mod timing;
#[cfg(test)]
mod unwritten;
mod watch;

pub use dial::{Dial, NoDial, PeerStream, TcpDial, TlsDial};
pub use error::{MembershipError, OpenError, ProposeError, ReadError, WatchError};
pub use member::{Leadership, Member, ReplicaStatus, Role};
pub use propose::MAX_COMMAND_BYTES;
pub use replica::{Replica, ReplicaConfig, Storage};
pub use service::{RaftService, serve_connection, serve_listener};
pub use timing::Timing;
pub use watch::{Watch, WatchBatch};
