//! Istio's `networking.istio.io` kinds as types: what the control plane of the mesh reads.
//!
//! Field names, defaults and meanings are those of Istio 1.2x's API, whatever version (v1, v1beta1, v1alpha3) an object
//! was written in: all three are one form. What users of older releases write is brought to today's by [`normalize`]
//! before anything else looks at it, so these types know only today's spelling.
//!
//! Absent scalars are zero or empty as in proto3; where Istio tells absence from zero, the field is an `Option`.

#[macro_use]
mod message;
mod destination_rule;
mod duration;
mod envoy_filter;
mod gateway;
mod grpc_status;
mod legacy;
mod object;
mod selection;
mod service_entry;
mod sidecar;
mod traffic_policy;
mod virtual_service;

pub use destination_rule::*;
pub use duration::{Duration, DurationError};
pub use envoy_filter::*;
pub use gateway::*;
pub use grpc_status::grpc_status;
pub use legacy::normalize;
pub use object::*;
pub use selection::*;
pub use service_entry::*;
pub use sidecar::*;
pub use traffic_policy::*;
pub use virtual_service::*;

/// API group of all of these kinds.
pub const GROUP: &str = "networking.istio.io";
