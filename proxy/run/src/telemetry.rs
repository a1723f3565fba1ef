//! What the proxy tells about its traffic: Envoy's statistics by Envoy's names, Istio's metrics by Istio's, and access
//! logs.

pub mod access_log;
pub mod istio;
pub mod prometheus;
pub mod stats;
