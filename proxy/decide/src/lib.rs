//! What a proxy decides, as pure functions: route match, balancing, circuit breaking, outlier
//! ejection, retries, faults, rate limits.

pub mod balance;
pub mod breaker;
pub mod config;
pub mod flags;
pub mod format;
pub mod head;
mod names;
pub mod outlier;
pub mod planted;
pub mod route;
mod text;
mod time;
pub mod upstream;

pub use time::Nanos;
