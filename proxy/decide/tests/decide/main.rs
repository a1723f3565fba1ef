//! The decisions as a whole: golden tests of what a real Envoy 1.40 answered, properties under
//! random events, and what a decision costs.

mod balance;
mod breaker;
mod chains;
mod driver;
mod envoy;
mod exchange;
mod format;
mod outlier;
#[cfg(feature = "planted")]
mod planted;
mod properties;
mod ratelimit;
mod route;
mod speed;
mod world;
