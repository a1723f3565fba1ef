//! Envoy as the oracle of our proxy: the same xDS configuration and the same requests to both, and what
//! each of them did compared: statuses, bodies, headers, response flags, counters, proportions, times.
//!
//! A [`case`] is a configuration in Envoy's own JSON and a script of requests. [`proxy`] starts a stock
//! Envoy and our proxy, each subscribed to one ADS server of ours, all on loopback addresses of their
//! own; [`upstream`] are the scripted servers behind them, which do what a request asks for and note who
//! came when. Cases run in parallel. What differs on purpose is in [`differences`], with reasons.

pub mod case;
pub mod cases;
pub mod client;
pub mod differences;
pub mod place;
pub mod proxy;
pub mod shape;
pub mod statistics;
pub mod tls;
pub mod transcode;
pub mod upstream;

pub use case::{Case, Observation};
pub use place::Place;
