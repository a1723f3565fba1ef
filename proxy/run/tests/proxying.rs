//! The whole proxy over real sockets: a configuration, clients on one side, upstreams on the other.

mod proxying {
    pub mod balancing;
    pub mod breaking;
    pub mod configuration;
    pub mod discovery;
    pub mod http2;
    pub mod network;
    pub mod requests;
    pub mod retries;
    pub mod support;
    pub mod tls;
    pub mod transport;
}
