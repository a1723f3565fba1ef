//! What a proxy decides, as pure functions: route match, balancing, circuit breaking, outlier
//! ejection, retries, faults, rate limits. Each takes (event, now, rng) and returns effects.
pub mod config;
pub mod flags;
pub mod format;
pub mod head;
pub mod route;
mod time;

pub use time::Nanos;
