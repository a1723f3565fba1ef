//! The decisions against a small model of the API: controllers and scheduler run to a fixpoint, with
//! stale views, half-executed plans and restarts in between.

mod addresses;
mod endpoints;
mod nodes;
mod ownership;
mod replicas;
mod roles;
mod rollout;
mod scheduling;
mod throughput;
