//! Whether what clients and servers saw can be true: histories and the properties they must have.
//!
//! In: recorded histories, from the simulator or from real processes. Out: a verdict, and for a
//! violation the shortest account of it. The simulator and the fault harness share these checks, so
//! that a property means the same in both.
//!
//! - [`history`]: operations of concurrent clients on registers, with outcomes that may be unknown
//! - [`linearizability`]: is there an order of them that explains every answer (Wing and Gong's
//!   search with Lowe's memory of visited states)
//! - [`watch`]: a watch delivers every change once, in order, also across resumptions; what is compacted is
//!   listed anew, and the watcher's view is the state
//! - [`listing`]: a list's pages are what there was at one revision, or say that they are not
//! - [`durability`]: no acknowledged write is lost
//! - [`consensus`]: one leader a term, equal states at equal indexes
//! - [`traffic`]: what proxies do with requests, hosts and limits
//! - [`configuration`]: what clients of a configuration protocol hold, and by which version requests are served
//!
//! Invariants: pure and deterministic; every search has a named limit and says when it met it.
//! Deliberately absent: recording, and anything that knows how histories come to be.

pub mod configuration;
pub mod consensus;
pub mod durability;
pub mod history;
pub mod linearizability;
pub mod listing;
pub mod traffic;
pub mod watch;
