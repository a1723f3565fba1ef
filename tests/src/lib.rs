//! End-to-end tests: stock clients against clusters of real processes in real namespaces.
//!
//! Here are the parts that the tests in `tests/tests/` are made of: a cluster started by the product's
//! own `trireme up`, stock kubectls, a real registry. Everything a test starts ends with the value that
//! owns it, also when the test fails.

pub mod certificate;
pub mod cluster;
pub mod http;
pub mod kubectl;
pub mod outside;
pub mod registry;
pub mod rest;
pub mod wait;

pub use cluster::Cluster;
pub use kubectl::Kubectl;
pub use outside::Outside;
pub use registry::Registry;
pub use rest::Rest;
pub use wait::eventually;
