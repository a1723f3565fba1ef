//! Models that say what is right: beside them, the state machine and the decisions are run.
//!
//! - [`store`]: the state machine as it would be if nothing cost anything, every revision kept whole
//! - [`cluster`]: an API with Kubernetes' rules, watches that lag, lose and repeat, an executor that may crash after
//!   any write, node agents; around the real scheduler and controllers
//!
//! In: commands or a seed. Out: what should have been answered, or a cluster to look at after each step, and
//! [`cluster::invariants`]. Shared by the tests of `server/state` and `server/decide` and by the simulator.
//!
//! Pure: no clock, no random source but the seed. A broken promise of the decisions panics, as an assertion does:
//! nothing of the product depends on this crate.

pub mod cluster;
pub mod store;
