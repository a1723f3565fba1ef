//! The decisions against a small model of the API: controllers and scheduler run to a fixpoint, with
//! stale views, half-executed plans and restarts in between.

mod endpoints;
mod nodes;
mod ownership;
mod replicas;
mod rollout;
mod scheduling;
mod throughput;
mod world;
