//! The cases, a file for each matter.

mod balancing;
mod breakers;
mod faults;
mod global_limits;
mod headers;
mod http2;
mod limits;
mod matching;
mod outliers;
mod protocols;
mod retries;
mod rewriting;
mod timeouts;
mod tls;
mod updates;

use crate::case::Case;

/// All of them, in the order in which the table shows them.
pub fn all() -> Vec<Case> {
    [
        matching::cases(),
        rewriting::cases(),
        headers::cases(),
        timeouts::cases(),
        retries::cases(),
        balancing::cases(),
        breakers::cases(),
        outliers::cases(),
        faults::cases(),
        limits::cases(),
        protocols::cases(),
        global_limits::cases(),
        http2::cases(),
        tls::cases(),
        updates::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
