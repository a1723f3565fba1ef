//! A replica: openraft over a disk and a network that are both passed in.

mod error;
mod member;
mod replica;
mod timing;
mod watch;

pub use error::{MembershipError, OpenError, ProposeError, ReadError, WatchError};
pub use member::{Leadership, Member, ReplicaStatus, Role};
pub use replica::{Replica, ReplicaConfig, Storage};
pub use timing::Timing;
pub use watch::{Watch, WatchBatch};
