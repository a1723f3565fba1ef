//! ServiceEntry and WorkloadEntry: services and endpoints that Kubernetes does not know.

use std::collections::BTreeMap;

use super::{Object, WorkloadSelector};

pub type ServiceEntry = Object<ServiceEntrySpec>;
pub type WorkloadEntry = Object<WorkloadEntrySpec>;

message! {
    pub struct ServiceEntrySpec {
        pub hosts: Vec<String>,
        pub addresses: Vec<String>,
        pub ports: Vec<ServicePort>,
        pub location: Location,
        pub resolution: Resolution,
        pub endpoints: Vec<WorkloadEntrySpec>,
        pub workload_selector: Option<WorkloadSelector>,
        /// Empty means every namespace.
        pub export_to: Vec<String>,
        pub subject_alt_names: Vec<String>,
    }

    pub struct ServicePort {
        pub number: u32,
        /// Empty means that it is detected.
        pub protocol: String,
        pub name: String,
        /// Zero means `number`.
        pub target_port: u32,
    }

    /// Also the endpoint of a ServiceEntry.
    pub struct WorkloadEntrySpec {
        /// An IP address, a DNS name, or `unix://` and a path.
        pub address: String,
        /// By name of the service's port.
        pub ports: BTreeMap<String, u32>,
        pub labels: BTreeMap<String, String>,
        pub network: String,
        /// `region/zone/subzone`.
        pub locality: String,
        /// Zero means 1.
        pub weight: u32,
        pub service_account: String,
    }
}

choice! {
    pub enum Location {
        MeshExternal = "MESH_EXTERNAL",
        MeshInternal = "MESH_INTERNAL",
    }

    pub enum Resolution {
        None = "NONE",
        Static = "STATIC",
        Dns = "DNS",
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        DynamicDns = "DYNAMIC_DNS",
    }
}
