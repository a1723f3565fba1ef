//! The client against servers that fail in every way a server can: absent, leaderless, dying
//! before or after they did what was asked.
//!
//! The servers speak real gRPC over real TLS, on in-memory connections that a test can cut.

mod calls;
mod following;
mod joining;
mod support;
