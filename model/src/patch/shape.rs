//! How the fields of each kind merge: which lists have keys, which values change only as a whole.
//!
//! One table serves strategic merge patch and server-side apply. It holds only what differs from
//! the rule for everything else: maps merge field by field, lists are replaced.
//! Source: the `x-kubernetes-*` extensions of Kubernetes' published OpenAPI document.

use crate::kinds::Kind;

/// The fields of a struct that need a rule of their own.
pub(crate) type Fields = &'static [(&'static str, Shape)];

/// A key of list items; apply fills in the default when an item leaves it out.
pub(crate) type ListKey = (&'static str, Option<&'static str>);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A map that merges field by field.
    Struct(Fields),
    /// Like [`Shape::Struct`], and a strategic patch may say with `$retainKeys` what else to drop.
    Union(Fields),
    /// Apply owns it as a whole; a strategic patch merges it field by field.
    Atomic,
    /// A list whose items are told apart by keys.
    Map(MapList),
    /// A list of primitives without order or repetition.
    Set,
    /// A list that a strategic patch merges by key while apply owns it as a whole.
    PatchMap(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MapList {
    /// What a strategic patch tells items apart by.
    pub merge_key: &'static str,
    /// What apply tells items apart by, in the order in which `k:{…}` writes them (sorted).
    pub keys: &'static [ListKey],
    pub item: Fields,
    /// Apply owns each item as a whole.
    pub atomic_items: bool,
}

const NONE: Fields = &[];

const fn by(merge_key: &'static str, keys: &'static [ListKey], item: Fields) -> Shape {
    Shape::Map(MapList {
        merge_key,
        keys,
        item,
        atomic_items: false,
    })
}

const fn atomic_by(merge_key: &'static str, keys: &'static [ListKey]) -> Shape {
    Shape::Map(MapList {
        merge_key,
        keys,
        item: NONE,
        atomic_items: true,
    })
}

const NAME: &[ListKey] = &[("name", None)];
const TYPE: &[ListKey] = &[("type", None)];
const CONDITIONS: Shape = by("type", TYPE, NONE);

const METADATA: Fields = &[
    ("finalizers", Shape::Set),
    ("ownerReferences", atomic_by("uid", &[("uid", None)])),
];

const VALUE_FROM: Fields = &[
    ("configMapKeyRef", Shape::Atomic),
    ("fieldRef", Shape::Atomic),
    ("fileKeyRef", Shape::Atomic),
    ("resourceFieldRef", Shape::Atomic),
    ("secretKeyRef", Shape::Atomic),
];

const ENVIRONMENT: Fields = &[("valueFrom", Shape::Struct(VALUE_FROM))];

const RESOURCES: Fields = &[("claims", by("name", NAME, NONE))];

const CONTAINER: Fields = &[
    ("env", by("name", NAME, ENVIRONMENT)),
    (
        "ports",
        by(
            "containerPort",
            &[("containerPort", None), ("protocol", Some("TCP"))],
            NONE,
        ),
    ),
    ("resources", Shape::Struct(RESOURCES)),
    (
        "volumeDevices",
        by("devicePath", &[("devicePath", None)], NONE),
    ),
    (
        "volumeMounts",
        by("mountPath", &[("mountPath", None)], NONE),
    ),
];

const NODE_AFFINITY: Fields = &[(
    "requiredDuringSchedulingIgnoredDuringExecution",
    Shape::Atomic,
)];
const AFFINITY: Fields = &[("nodeAffinity", Shape::Struct(NODE_AFFINITY))];

const CSI: Fields = &[("nodePublishSecretRef", Shape::Atomic)];
const SECRET_REF: Fields = &[("secretRef", Shape::Atomic)];
const CLAIM_SPEC: Fields = &[("dataSource", Shape::Atomic), ("selector", Shape::Atomic)];
const CLAIM_TEMPLATE: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(CLAIM_SPEC)),
];
const EPHEMERAL: Fields = &[("volumeClaimTemplate", Shape::Struct(CLAIM_TEMPLATE))];
const VOLUME: Fields = &[
    ("cephfs", Shape::Struct(SECRET_REF)),
    ("csi", Shape::Struct(CSI)),
    ("ephemeral", Shape::Struct(EPHEMERAL)),
    ("flexVolume", Shape::Struct(SECRET_REF)),
    ("iscsi", Shape::Struct(SECRET_REF)),
];

const SPREAD: Fields = &[("labelSelector", Shape::Atomic)];

const POD_SPEC: Fields = &[
    ("affinity", Shape::Struct(AFFINITY)),
    ("containers", by("name", NAME, CONTAINER)),
    ("ephemeralContainers", by("name", NAME, CONTAINER)),
    ("hostAliases", by("ip", &[("ip", None)], NONE)),
    ("imagePullSecrets", atomic_by("name", NAME)),
    ("initContainers", by("name", NAME, CONTAINER)),
    ("nodeSelector", Shape::Atomic),
    ("resourceClaims", by("name", NAME, NONE)),
    ("resources", Shape::Struct(RESOURCES)),
    ("schedulingGates", by("name", NAME, NONE)),
    (
        "topologySpreadConstraints",
        by(
            "topologyKey",
            &[("topologyKey", None), ("whenUnsatisfiable", None)],
            SPREAD,
        ),
    ),
    ("volumes", by("name", NAME, VOLUME)),
];

const POD_STATUS: Fields = &[
    ("conditions", CONDITIONS),
    ("hostIPs", Shape::PatchMap("ip")),
    ("podIPs", by("ip", &[("ip", None)], NONE)),
    ("resourceClaimStatuses", by("name", NAME, NONE)),
];

const POD: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(POD_SPEC)),
    ("status", Shape::Struct(POD_STATUS)),
];

const POD_TEMPLATE: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(POD_SPEC)),
];

const WITH_CONDITIONS: Fields = &[("conditions", CONDITIONS)];

const DEPLOYMENT_SPEC: Fields = &[
    ("selector", Shape::Atomic),
    ("strategy", Shape::Union(NONE)),
    ("template", Shape::Struct(POD_TEMPLATE)),
];
const DEPLOYMENT: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(DEPLOYMENT_SPEC)),
    ("status", Shape::Struct(WITH_CONDITIONS)),
];

const REPLICA_SET_SPEC: Fields = &[
    ("selector", Shape::Atomic),
    ("template", Shape::Struct(POD_TEMPLATE)),
];
const REPLICA_SET: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(REPLICA_SET_SPEC)),
    ("status", Shape::Struct(WITH_CONDITIONS)),
];

const SERVICE_SPEC: Fields = &[
    (
        "ports",
        by("port", &[("port", None), ("protocol", Some("TCP"))], NONE),
    ),
    ("selector", Shape::Atomic),
];
const SERVICE: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(SERVICE_SPEC)),
    ("status", Shape::Struct(WITH_CONDITIONS)),
];

const NODE_SPEC: Fields = &[("podCIDRs", Shape::Set)];
const NODE_STATUS: Fields = &[
    ("addresses", by("type", TYPE, NONE)),
    ("conditions", CONDITIONS),
];
const NODE: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("spec", Shape::Struct(NODE_SPEC)),
    ("status", Shape::Struct(NODE_STATUS)),
];

const NAMESPACE: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("status", Shape::Struct(WITH_CONDITIONS)),
];

const SERVICE_ACCOUNT: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("secrets", atomic_by("name", NAME)),
];

const EVENT: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("involvedObject", Shape::Atomic),
    ("regarding", Shape::Atomic),
    ("related", Shape::Atomic),
];

const BINDING_TO_ROLE: Fields = &[
    ("metadata", Shape::Struct(METADATA)),
    ("roleRef", Shape::Atomic),
];

const OTHER: Fields = &[("metadata", Shape::Struct(METADATA))];

/// The shape of a whole object of this kind.
pub(crate) fn root(kind: &Kind) -> Fields {
    match kind.kind {
        "Pod" => POD,
        "Deployment" => DEPLOYMENT,
        "ReplicaSet" => REPLICA_SET,
        "Service" => SERVICE,
        "Node" => NODE,
        "Namespace" => NAMESPACE,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "Event" => EVENT,
        "RoleBinding" | "ClusterRoleBinding" => BINDING_TO_ROLE,
        _ => OTHER,
    }
}

/// The rule for one field, when it has one.
pub(crate) fn field(fields: Fields, name: &str) -> Option<Shape> {
    fields
        .iter()
        .find(|(field, _)| *field == name)
        .map(|(_, shape)| *shape)
}
