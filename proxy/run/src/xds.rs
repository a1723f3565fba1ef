//! The xDS client: one incremental stream to one of the servers, another server when it breaks, and the configuration
//! that is known put together to snapshots.

mod assemble;
mod client;
mod grpc;

pub use assemble::Known;
pub use client::{Options, run};
