//! The cases, a file for each matter.

mod balancing;
mod breakers;
mod faults;
mod headers;
mod limits;
mod matching;
mod outliers;
mod protocols;
mod retries;
mod rewriting;
mod timeouts;

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
    ]
    .into_iter()
    .flatten()
    .collect()
}
