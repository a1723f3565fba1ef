//! Which columns each kind has.

use serde_json::{Value, json};

use crate::kinds::Kind;

/// One column definition.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type of the cells: `string`, `integer` or `date`.
    pub cell_type: &'static str,
    /// `name` marks the primary identifier.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
}

impl Column {
    pub(super) fn to_json(self) -> Value {
        json!({
            "name": self.name,
            "type": self.cell_type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        cell_type: "string",
        format: "",
        description,
        priority: 0,
    }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        priority: 1,
        ..text(name, description)
    }
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    Column {
        cell_type: "integer",
        ..text(name, description)
    }
}

const NAME: Column = Column {
    format: "name",
    ..text(
        "Name",
        "Unique name of the object, within its namespace where it has one.",
    )
};
const AGE: Column = text("Age", "Time since the server created the object.");
const CONTAINERS: Column = wide("Containers", "Names of the template's containers.");
const IMAGES: Column = wide("Images", "Images of the template's containers.");

const POD: &[Column] = &[
    NAME,
    text("Ready", "Containers that are ready, of all that should be."),
    text("Status", "State of the pod, summed up over its containers."),
    text(
        "Restarts",
        "How often containers were restarted, and how long ago the last one was.",
    ),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node on which the pod runs."),
    wide(
        "Nominated Node",
        "Node on which the pod waits for room made by preemption.",
    ),
    wide(
        "Readiness Gates",
        "Additional conditions that are met, of all that are required.",
    ),
];

const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the service is exposed."),
    text("Cluster-IP", "Address inside the cluster."),
    text("External-IP", "Addresses outside the cluster."),
    text("Port(s)", "Ports, with node ports behind a colon."),
    AGE,
    wide("Selector", "Labels of the pods that serve."),
];

const NODE: &[Column] = &[
    NAME,
    text("Status", "Whether the node is ready and takes new pods."),
    text("Roles", "Roles that labels give the node."),
    AGE,
    text("Version", "Version of the node agent."),
    wide("Internal-IP", "Address inside the cluster."),
    wide("External-IP", "Address outside the cluster."),
    wide("OS-Image", "Operating system of the node."),
    wide("Kernel-Version", "Kernel of the node."),
    wide("Container-Runtime", "Container runtime of the node."),
];

const NAMESPACE: &[Column] = &[
    NAME,
    text("Status", "Whether the namespace is active or going."),
    AGE,
];

const ENDPOINTS: &[Column] = &[
    NAME,
    text("Endpoints", "Addresses and ports that are ready."),
    AGE,
];

const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "Family of the addresses."),
    text("Ports", "Ports of every endpoint."),
    text("Endpoints", "Addresses of the endpoints."),
    AGE,
];

const CONFIG_MAP: &[Column] = &[NAME, text("Data", "Number of entries."), AGE];

const SECRET: &[Column] = &[
    NAME,
    text("Type", "What the secret is used for."),
    text("Data", "Number of entries."),
    AGE,
];

const SERVICE_ACCOUNT: &[Column] = &[NAME, AGE];

const EVENT: &[Column] = &[
    text("Last Seen", "Time since it last happened."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why it happened, in one word."),
    text("Object", "What it happened to."),
    wide("Subobject", "Part of the object that it happened to."),
    wide("Source", "Who reported it."),
    text("Message", "What happened."),
    wide("First Seen", "Time since it first happened."),
    wide("Count", "How often it happened."),
    Column {
        priority: 1,
        ..NAME
    },
];

const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];

const REPLICA_SET: &[Column] = &[
    NAME,
    integer("Desired", "Pods that should be."),
    integer("Current", "Pods that are."),
    integer("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", "Labels of the pods that count."),
];

const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Pods that are ready, of all that should be."),
    text("Up-to-date", "Pods of the newest template."),
    text("Available", "Pods that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", "Labels of the pods that count."),
];

const ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", "Role that is granted."),
    AGE,
    wide("Users", "Users to whom it is granted."),
    wide("Groups", "Groups to whom it is granted."),
    wide("ServiceAccounts", "Service accounts to whom it is granted."),
];

const CREATED: Column = Column {
    cell_type: "date",
    ..text("Age", "Time since the server created the object.")
};
const VIRTUAL_SERVICE: &[Column] = &[
    NAME,
    text("Gateways", "Gateways and sidecars that use these routes."),
    text("Hosts", "Names that requests are for."),
    CREATED,
];
const DESTINATION_RULE: &[Column] = &[
    NAME,
    text("Host", "Service that the policies are for."),
    CREATED,
];
const SERVICE_ENTRY: &[Column] = &[
    NAME,
    text("Hosts", "Names of the service."),
    text("Location", "Whether its endpoints are of the mesh."),
    text("Resolution", "Where its endpoints come from."),
    CREATED,
];
const WORKLOAD_ENTRY: &[Column] = &[NAME, CREATED, text("Address", "Address of the endpoint.")];
/// What a custom resource without columns of its own shows.
const CUSTOM: &[Column] = &[NAME, CREATED];

const PLAIN: &[Column] = &[
    NAME,
    Column {
        cell_type: "date",
        ..text("Created At", "When the server created the object.")
    },
];

/// The columns of a kind; kinds without their own have a name and a date.
pub fn columns(kind: &Kind) -> &'static [Column] {
    match kind.kind {
        "Pod" => POD,
        "Service" => SERVICE,
        "Node" => NODE,
        "Namespace" => NAMESPACE,
        "Endpoints" => ENDPOINTS,
        "EndpointSlice" => ENDPOINT_SLICE,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "Event" => EVENT,
        "Lease" => LEASE,
        "ReplicaSet" => REPLICA_SET,
        "Deployment" => DEPLOYMENT,
        "RoleBinding" | "ClusterRoleBinding" => ROLE_BINDING,
        "VirtualService" => VIRTUAL_SERVICE,
        "DestinationRule" => DESTINATION_RULE,
        "ServiceEntry" => SERVICE_ENTRY,
        "WorkloadEntry" => WORKLOAD_ENTRY,
        "Gateway" | "Sidecar" | "EnvoyFilter" => CUSTOM,
        _ => PLAIN,
    }
}
