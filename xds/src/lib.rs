//! Envoy's xDS types, the names and metadata we give to resources, and their reading into the
//! proxy's configuration.

pub use envoy_types::pb;
