//! What a proxy decides, as pure functions and values: nothing here knows a socket, a clock or
//! the system's randomness.
//!
//! **In:** a configuration ([`config::Snapshot`]), requests' heads, what happens to them, the
//! time ([`Nanos`]) and random numbers. **Out:** effects for the driver (`trireme-proxy`), the
//! simulator or a test to carry out.
//!
//! ```text
//! config      what the control plane sent: immutable, replaced as a whole
//! upstream    clusters as they run: hosts, health, limits; Live = configuration + that state
//! exchange    one request from its head to its response's end, by way of
//!   route       which route: virtual hosts, matches, weighted clusters, and explaining it
//!   balance     which host: schedules, rings, tables, priorities, places, panic, subsets
//!   breaker     whether there is room: places under limits, given back when dropped
//!   retry       whether again, and after how long
//!   fault, ratelimit, cors, rewrite, timeouts: what their names say
//! outlier     which hosts are out of the way
//! ```
//!
//! **Invariants**
//! - Every request gets exactly one answer ([`exchange`]).
//! - Limits are never exceeded, and whatever was taken is given back on every path ([`breaker`]).
//! - Ejected hosts are at most the configured share, and return only at sweeps ([`outlier`]).
//! - A route and the clusters it names come from one [`upstream::Live`].
//! - The same inputs give the same outputs: no map whose order can be seen, no hidden state.
//!
//! Envoy is the model: each module says where it follows which part of it, and the oracle in
//! `tests/` compares with a real one. Differences, on purpose: a retry takes a host not yet tried
//! where there is one, however often the balancer draws one that was; limits and ejections
//! survive changes of a cluster's configuration.
//!
//! Deliberately not here: connections and their pools (but for what they are allowed,
//! [`upstream::admit`]), TLS, bodies, logs and metrics, active health checks.

pub mod balance;
pub mod breaker;
pub mod config;
mod cors;
pub mod exchange;
pub mod fault;
pub mod flags;
pub mod format;
mod hash;
pub mod head;
mod header_change;
mod names;
pub mod outlier;
pub mod planted;
pub mod ratelimit;
pub mod retry;
mod rewrite;
pub mod route;
mod text;
mod time;
mod timeouts;
pub mod upstream;

pub use time::Nanos;
pub use timeouts::Timeouts;
