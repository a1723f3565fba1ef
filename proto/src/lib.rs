//! Wire types of Trireme: `trireme.v1` for clients and node agents, `trireme.raft` between servers.
//!
//! Generated from the `.proto` files beside this crate, by protox, so that no protoc is needed.

/// The public API in gRPC form.
pub mod v1 {
    #![allow(clippy::all)]
    tonic::include_proto!("trireme.v1");
}

/// Between servers.
pub mod raft {
    #![allow(clippy::all)]
    tonic::include_proto!("trireme.raft");
}

/// Every message and service, as a `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
