//! The API against a real replica of one member.

mod access;
mod bad_input;
mod cluster;
mod lists;
mod mesh;
mod objects;
mod services;
mod transport;
mod watches;
