//! The rows of the table.

use super::{Kind, Subresource};

const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const NAMESPACE_VERBS: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const CREATE: &[&str] = &["create"];
const READ_WRITE: &[&str] = &["get", "patch", "update"];

const fn part(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource {
        name,
        group,
        version,
        kind,
        verbs,
    }
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    storage: &'static str,
) -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage,
        package: "io.k8s.api.core.v1",
    }
}

const fn grouped(
    group: &'static str,
    package: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    storage: &'static str,
) -> Kind {
    Kind {
        group,
        package,
        ..core(kind, plural, singular, storage)
    }
}

const fn review(
    group: &'static str,
    package: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Kind {
    Kind {
        namespaced: false,
        verbs: CREATE,
        ..grouped(group, package, kind, plural, singular, "")
    }
}

pub const NAMESPACE: &Kind = &Kind {
    short_names: &["ns"],
    namespaced: false,
    verbs: NAMESPACE_VERBS,
    subresources: &[
        part("finalize", "", "v1", "Namespace", &["update"]),
        part("status", "", "v1", "Namespace", READ_WRITE),
    ],
    ..core(
        "Namespace",
        "namespaces",
        "namespace",
        "/registry/namespaces",
    )
};
pub const NODE: &Kind = &Kind {
    short_names: &["no"],
    namespaced: false,
    subresources: &[part("status", "", "v1", "Node", READ_WRITE)],
    ..core("Node", "nodes", "node", "/registry/nodes")
};
pub const POD: &Kind = &Kind {
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        part("attach", "", "v1", "PodAttachOptions", &["create", "get"]),
        part("binding", "", "v1", "Binding", CREATE),
        part("ephemeralcontainers", "", "v1", "Pod", READ_WRITE),
        part("eviction", "policy", "v1", "Eviction", CREATE),
        part("exec", "", "v1", "PodExecOptions", &["create", "get"]),
        part("log", "", "v1", "Pod", &["get"]),
        part(
            "portforward",
            "",
            "v1",
            "PodPortForwardOptions",
            &["create", "get"],
        ),
        part("status", "", "v1", "Pod", READ_WRITE),
    ],
    ..core("Pod", "pods", "pod", "/registry/pods")
};
pub const SERVICE: &Kind = &Kind {
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[part("status", "", "v1", "Service", READ_WRITE)],
    ..core("Service", "services", "service", "/registry/services")
};
pub const ENDPOINTS: &Kind = &Kind {
    short_names: &["ep"],
    ..core("Endpoints", "endpoints", "endpoints", "/registry/endpoints")
};
pub const CONFIG_MAP: &Kind = &Kind {
    short_names: &["cm"],
    ..core(
        "ConfigMap",
        "configmaps",
        "configmap",
        "/registry/configmaps",
    )
};
pub const SECRET: &Kind = &core("Secret", "secrets", "secret", "/registry/secrets");
pub const SERVICE_ACCOUNT: &Kind = &Kind {
    short_names: &["sa"],
    subresources: &[part(
        "token",
        "authentication.k8s.io",
        "v1",
        "TokenRequest",
        CREATE,
    )],
    ..core(
        "ServiceAccount",
        "serviceaccounts",
        "serviceaccount",
        "/registry/serviceaccounts",
    )
};
/// Events as core/v1 shows them; this is also the form they are stored in.
pub const EVENT: &Kind = &Kind {
    short_names: &["ev"],
    ..core("Event", "events", "event", "/registry/events")
};
/// The same events as events.k8s.io/v1 shows them; see [`crate::event`].
pub const EVENTS_EVENT: &Kind = &Kind {
    short_names: &["ev"],
    ..grouped(
        "events.k8s.io",
        "io.k8s.api.events.v1",
        "Event",
        "events",
        "event",
        "/registry/events",
    )
};
pub const LEASE: &Kind = &grouped(
    "coordination.k8s.io",
    "io.k8s.api.coordination.v1",
    "Lease",
    "leases",
    "lease",
    "/registry/coordination.k8s.io/leases",
);
pub const ENDPOINT_SLICE: &Kind = &grouped(
    "discovery.k8s.io",
    "io.k8s.api.discovery.v1",
    "EndpointSlice",
    "endpointslices",
    "endpointslice",
    "/registry/discovery.k8s.io/endpointslices",
);
pub const REPLICA_SET: &Kind = &Kind {
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[
        part("scale", "autoscaling", "v1", "Scale", READ_WRITE),
        part("status", "apps", "v1", "ReplicaSet", READ_WRITE),
    ],
    ..grouped(
        "apps",
        "io.k8s.api.apps.v1",
        "ReplicaSet",
        "replicasets",
        "replicaset",
        "/registry/apps/replicasets",
    )
};
pub const DEPLOYMENT: &Kind = &Kind {
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[
        part("scale", "autoscaling", "v1", "Scale", READ_WRITE),
        part("status", "apps", "v1", "Deployment", READ_WRITE),
    ],
    ..grouped(
        "apps",
        "io.k8s.api.apps.v1",
        "Deployment",
        "deployments",
        "deployment",
        "/registry/apps/deployments",
    )
};

const RBAC: &str = "rbac.authorization.k8s.io";
const RBAC_PACKAGE: &str = "io.k8s.api.rbac.v1";
pub const CLUSTER_ROLE: &Kind = &Kind {
    namespaced: false,
    ..grouped(
        RBAC,
        RBAC_PACKAGE,
        "ClusterRole",
        "clusterroles",
        "clusterrole",
        "/registry/rbac.authorization.k8s.io/clusterroles",
    )
};
pub const CLUSTER_ROLE_BINDING: &Kind = &Kind {
    namespaced: false,
    ..grouped(
        RBAC,
        RBAC_PACKAGE,
        "ClusterRoleBinding",
        "clusterrolebindings",
        "clusterrolebinding",
        "/registry/rbac.authorization.k8s.io/clusterrolebindings",
    )
};
pub const ROLE: &Kind = &grouped(
    RBAC,
    RBAC_PACKAGE,
    "Role",
    "roles",
    "role",
    "/registry/rbac.authorization.k8s.io/roles",
);
pub const ROLE_BINDING: &Kind = &grouped(
    RBAC,
    RBAC_PACKAGE,
    "RoleBinding",
    "rolebindings",
    "rolebinding",
    "/registry/rbac.authorization.k8s.io/rolebindings",
);

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHORIZATION_PACKAGE: &str = "io.k8s.api.authorization.v1";
pub const SELF_SUBJECT_ACCESS_REVIEW: &Kind = &review(
    AUTHORIZATION,
    AUTHORIZATION_PACKAGE,
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
);
pub const SELF_SUBJECT_RULES_REVIEW: &Kind = &review(
    AUTHORIZATION,
    AUTHORIZATION_PACKAGE,
    "SelfSubjectRulesReview",
    "selfsubjectrulesreviews",
    "selfsubjectrulesreview",
);
pub const SUBJECT_ACCESS_REVIEW: &Kind = &review(
    AUTHORIZATION,
    AUTHORIZATION_PACKAGE,
    "SubjectAccessReview",
    "subjectaccessreviews",
    "subjectaccessreview",
);
pub const SELF_SUBJECT_REVIEW: &Kind = &review(
    "authentication.k8s.io",
    "io.k8s.api.authentication.v1",
    "SelfSubjectReview",
    "selfsubjectreviews",
    "selfsubjectreview",
);

const ISTIO: Kind = Kind {
    categories: &["istio-io", "networking-istio-io"],
    ..grouped(crate::istio::GROUP, "", "", "", "", "")
};

/// The rows of one of Istio's kinds: one storage, three versions, of which v1 is stored.
macro_rules! istio {
    ($kind:literal, $plural:literal, $singular:literal, $short:expr, $v1:ident, $v1beta1:ident, $v1alpha3:ident) => {
        istio!($kind, $plural, $singular, $short, "v1", $v1);
        istio!($kind, $plural, $singular, $short, "v1beta1", $v1beta1);
        istio!($kind, $plural, $singular, $short, "v1alpha3", $v1alpha3);
    };
    ($kind:literal, $plural:literal, $singular:literal, $short:expr, $version:literal, $name:ident) => {
        pub const $name: &Kind = &Kind {
            version: $version,
            kind: $kind,
            plural: $plural,
            singular: $singular,
            short_names: $short,
            subresources: &[part(
                "status",
                crate::istio::GROUP,
                $version,
                $kind,
                READ_WRITE,
            )],
            storage: concat!("/registry/networking.istio.io/", $plural),
            package: concat!("io.istio.networking.", $version),
            ..ISTIO
        };
    };
}
istio!(
    "VirtualService",
    "virtualservices",
    "virtualservice",
    &["vs"],
    VIRTUAL_SERVICE,
    VIRTUAL_SERVICE_V1BETA1,
    VIRTUAL_SERVICE_V1ALPHA3
);
istio!(
    "DestinationRule",
    "destinationrules",
    "destinationrule",
    &["dr"],
    DESTINATION_RULE,
    DESTINATION_RULE_V1BETA1,
    DESTINATION_RULE_V1ALPHA3
);
istio!(
    "Gateway",
    "gateways",
    "gateway",
    &["gw"],
    GATEWAY,
    GATEWAY_V1BETA1,
    GATEWAY_V1ALPHA3
);
istio!(
    "ServiceEntry",
    "serviceentries",
    "serviceentry",
    &["se"],
    SERVICE_ENTRY,
    SERVICE_ENTRY_V1BETA1,
    SERVICE_ENTRY_V1ALPHA3
);
istio!(
    "Sidecar",
    "sidecars",
    "sidecar",
    &[],
    SIDECAR,
    SIDECAR_V1BETA1,
    SIDECAR_V1ALPHA3
);
istio!(
    "WorkloadEntry",
    "workloadentries",
    "workloadentry",
    &["we"],
    WORKLOAD_ENTRY,
    WORKLOAD_ENTRY_V1BETA1,
    WORKLOAD_ENTRY_V1ALPHA3
);
istio!(
    "EnvoyFilter",
    "envoyfilters",
    "envoyfilter",
    &[],
    "v1alpha3",
    ENVOY_FILTER
);

/// Every kind, in the order in which discovery lists groups, their versions (the preferred one first) and, within a
/// version, resources. Of kinds that share a storage the first is the one whose form is stored.
pub(super) static TABLE: [Kind; 41] = [
    *CONFIG_MAP,
    *ENDPOINTS,
    *EVENT,
    *NAMESPACE,
    *NODE,
    *POD,
    *SECRET,
    *SERVICE_ACCOUNT,
    *SERVICE,
    *DEPLOYMENT,
    *REPLICA_SET,
    *EVENTS_EVENT,
    *SELF_SUBJECT_REVIEW,
    *SELF_SUBJECT_ACCESS_REVIEW,
    *SELF_SUBJECT_RULES_REVIEW,
    *SUBJECT_ACCESS_REVIEW,
    *CLUSTER_ROLE_BINDING,
    *CLUSTER_ROLE,
    *ROLE_BINDING,
    *ROLE,
    *LEASE,
    *ENDPOINT_SLICE,
    *DESTINATION_RULE,
    *GATEWAY,
    *SERVICE_ENTRY,
    *SIDECAR,
    *VIRTUAL_SERVICE,
    *WORKLOAD_ENTRY,
    *DESTINATION_RULE_V1BETA1,
    *GATEWAY_V1BETA1,
    *SERVICE_ENTRY_V1BETA1,
    *SIDECAR_V1BETA1,
    *VIRTUAL_SERVICE_V1BETA1,
    *WORKLOAD_ENTRY_V1BETA1,
    *DESTINATION_RULE_V1ALPHA3,
    *ENVOY_FILTER,
    *GATEWAY_V1ALPHA3,
    *SERVICE_ENTRY_V1ALPHA3,
    *SIDECAR_V1ALPHA3,
    *VIRTUAL_SERVICE_V1ALPHA3,
    *WORKLOAD_ENTRY_V1ALPHA3,
];
