//! What an agent is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// An image that comes with the binary, so that it needs no registry.
#[derive(Clone, Debug)]
pub struct BuiltinImage {
    /// Its name as a pod would write it, for instance `trireme.local/hello:latest`.
    pub reference: String,
    /// The OCI image configuration, JSON.
    pub config: Vec<u8>,
    /// One uncompressed layer, a tar archive.
    pub layer: Vec<u8>,
}

/// Everything an agent needs to know; see [`crate::run`].
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The node's name; the client certificate must be for `system:node:<name>`.
    pub name: String,
    /// The agent's directory: pods, images, runtime state.
    pub data: PathBuf,
    /// Every API server, `host:port`.
    pub servers: Vec<String>,
    /// Certificate authority of the cluster, PEM: for the API servers and for clients of port 10250.
    pub ca_pem: String,
    /// Client certificate, PEM: `CN=system:node:<name>, O=system:nodes`.
    pub client_cert_pem: String,
    /// Its key, PEM.
    pub client_key_pem: String,
    /// Serving certificate for the internal address, PEM.
    pub serving_cert_pem: String,
    /// Its key, PEM.
    pub serving_key_pem: String,
    /// Where the agent's HTTPS server listens, usually `0.0.0.0:10250`.
    pub listen: SocketAddr,
    /// The address that other nodes reach this one by.
    pub internal_ip: IpAddr,
    /// `registries.yaml` in k3s's format.
    pub registries: Option<PathBuf>,
    /// Which resolvers the node's DNS server asks about names outside the cluster, and what pods with
    /// `dnsPolicy: Default` get: usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Where the node's DNS server listens, and pods' `resolv.conf` points.
    pub cluster_dns: Ipv4Addr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Addresses of services, for instance `10.43.0.0/16`.
    pub service_cidr: String,
    /// Addresses of all pods, for instance `10.42.0.0/16`.
    pub cluster_cidr: String,
    /// Labels that the node registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with, `key=value:Effect`.
    pub taints: Vec<String>,
    /// The program whose `shim` subcommand runs containers: this binary.
    pub shim_binary: PathBuf,
    /// Arguments of that program before the shim's own: `["shim"]`.
    pub shim_args: Vec<String>,
    /// Parent of every cgroup of this node, absolute: `/trireme/<name>`.
    pub cgroup_root: String,
    /// Images that come with the binary.
    pub builtin_images: Vec<BuiltinImage>,
    /// The most pods that the node takes.
    pub max_pods: u32,
}

impl AgentConfig {
    /// The usual ports, ranges and limits, with the rest empty for the caller to fill in.
    pub fn new(name: &str, data: impl Into<PathBuf>, internal_ip: IpAddr) -> Self {
        AgentConfig {
            name: name.to_owned(),
            data: data.into(),
            servers: Vec::new(),
            ca_pem: String::new(),
            client_cert_pem: String::new(),
            client_key_pem: String::new(),
            serving_cert_pem: String::new(),
            serving_key_pem: String::new(),
            listen: SocketAddr::from(([0, 0, 0, 0], 10250)),
            internal_ip,
            registries: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cluster_dns: Ipv4Addr::new(169, 254, 20, 10),
            cluster_domain: "cluster.local".to_owned(),
            service_cidr: "10.43.0.0/16".to_owned(),
            cluster_cidr: "10.42.0.0/16".to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            shim_binary: PathBuf::from("/proc/self/exe"),
            shim_args: vec!["shim".to_owned()],
            cgroup_root: format!("/trireme/{name}"),
            builtin_images: Vec::new(),
            max_pods: 110,
        }
    }
}
