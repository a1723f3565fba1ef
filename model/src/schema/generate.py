#!/usr/bin/env python3
"""Writes types.txt: every type the table of kinds reaches, with JSON names, protobuf field numbers and merge rules.

Field numbers come from the prost attributes of crate k8s-pb, JSON names and the types of lists from crate
k8s-openapi. Run it again when the level of Kubernetes moves, and read the diff:

    python3 model/src/schema/generate.py ~/.cargo/registry/src/*/k8s-pb-0.9.0 \
        ~/.cargo/registry/src/*/k8s-openapi-0.29.0/src/v1_36 > model/src/schema/types.txt
"""

import pathlib
import re
import sys

pb_root, openapi_root = (pathlib.Path(argument) for argument in sys.argv[1:3])

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
CORE = "io.k8s.api.core.v1."
ROOTS = (
    [CORE + kind for kind in (
        "Namespace Node Pod Service Endpoints ConfigMap Secret ServiceAccount Event Binding").split()]
    + ["io.k8s.api.apps.v1." + kind for kind in "Deployment ReplicaSet".split()]
    + ["io.k8s.api.rbac.v1." + kind for kind in "ClusterRole ClusterRoleBinding Role RoleBinding".split()]
    + ["io.k8s.api.authorization.v1." + kind for kind in (
        "SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview").split()]
    + ["io.k8s.api.authentication.v1." + kind for kind in "SelfSubjectReview TokenRequest".split()]
    + [
        "io.k8s.api.events.v1.Event",
        "io.k8s.api.coordination.v1.Lease",
        "io.k8s.api.discovery.v1.EndpointSlice",
        "io.k8s.api.policy.v1.Eviction",
        "io.k8s.api.autoscaling.v1.Scale",
    ]
    + [META + kind for kind in "ListMeta Status DeleteOptions CreateOptions UpdateOptions PatchOptions".split()]
)

# Messages that JSON does not show as objects.
SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    META + "Time": "time",
    META + "MicroTime": "micro-time",
    META + "FieldsV1": "fields",
    "io.k8s.api.authentication.v1.ExtraValue": "strings",
    "io.k8s.api.authorization.v1.ExtraValue": "strings",
}

# Strategic merge, as the patchStrategy and patchMergeKey tags of Kubernetes' types say.
CONTAINER = {
    "ports": "merge:containerPort", "env": "merge:name", "volumeMounts": "merge:mountPath",
    "volumeDevices": "merge:devicePath",
}
PATCH = {
    META + "ObjectMeta": {"finalizers": "merge:", "ownerReferences": "merge:uid"},
    CORE + "PodSpec": {
        "volumes": "merge,retainKeys:name", "initContainers": "merge:name", "containers": "merge:name",
        "ephemeralContainers": "merge:name", "imagePullSecrets": "merge:name", "hostAliases": "merge:ip",
        "topologySpreadConstraints": "merge:topologyKey", "schedulingGates": "merge:name",
        "resourceClaims": "merge,retainKeys:name",
    },
    CORE + "Container": CONTAINER,
    CORE + "EphemeralContainerCommon": CONTAINER,
    CORE + "PodStatus": {
        "conditions": "merge:type", "podIPs": "merge:ip", "hostIPs": "merge:ip",
        "resourceClaimStatuses": "merge,retainKeys:name",
    },
    CORE + "ServiceSpec": {"ports": "merge:port"},
    CORE + "ServiceStatus": {"conditions": "merge:type"},
    CORE + "ServiceAccount": {"secrets": "merge:name"},
    CORE + "NodeSpec": {"podCIDRs": "merge:"},
    CORE + "NodeStatus": {"conditions": "merge:type", "addresses": "merge:type"},
    CORE + "NamespaceStatus": {"conditions": "merge:type"},
    "io.k8s.api.apps.v1.DeploymentSpec": {"strategy": "retainKeys:"},
    "io.k8s.api.apps.v1.DeploymentStatus": {"conditions": "merge:type"},
    "io.k8s.api.apps.v1.ReplicaSetStatus": {"conditions": "merge:type"},
}

# Structs that server-side apply owns as a whole.
ATOMIC = {CORE + name for name in (
    "ConfigMapKeySelector SecretKeySelector FileKeySelector LocalObjectReference ObjectReference NodeSelector "
    "NodeSelectorTerm ObjectFieldSelector ResourceFieldSelector TypedLocalObjectReference EndpointAddress "
    "EndpointPort").split()} | {
    META + "LabelSelector", META + "OwnerReference", "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.rbac.v1.RoleRef", "io.k8s.api.rbac.v1.Subject",
}

# Go embeds these; JSON shows their fields where protobuf has a message.
INLINED = {"VolumeSource", "EphemeralContainerCommon", "ProbeHandler", "LocalObjectReference"}

# Keys that have a default are left out by k8s-openapi's merge.
EXTRA_KEYS = {
    (CORE + "PodSpec", "topologySpreadConstraints"): ["topologyKey", "whenUnsatisfiable"],
    (CORE + "ServiceSpec", "ports"): ["port", "protocol"],
    (CORE + "Container", "ports"): ["containerPort", "protocol"],
    (CORE + "EphemeralContainerCommon", "ports"): ["containerPort", "protocol"],
}

# k8s-openapi takes for apply's list what only strategic merge has keys of.
ATOMIC_LISTS = {(CORE + "PodStatus", "hostIPs")}


def squash(name):
    return name.replace("_", "").replace("r#", "").lower()


# From k8s-openapi: definition -> {squashed: JSON name}, and definition -> {squashed field: list or map type}.
properties, merges, bodies, definitions = {}, {}, {}, {}
for path in sorted(openapi_root.rglob("*.rs")):
    text = path.read_text()
    found = re.search(r'fn schema_name\(\) -> std::borrow::Cow<\'static, str> \{\s*"([^"]+)"', text)
    if not found:
        continue
    definition = found.group(1)
    definitions[definition.lower()] = definition
    schema = text[text.index("fn json_schema("):]
    names = re.findall(r'^ {16}"([^"]+)": [({]', schema, re.M)
    properties[definition] = {squash(name): name for name in names}
    for name, body in re.findall(r'^ {16}"([^"]+)": (.*?)^ {16}\S', schema, re.M | re.S):
        bodies[(definition, name)] = re.sub(r'"description": ".*"', "", body)
    rules = {}
    for kind, field in re.findall(r"merge_strategies::(\w+::\w+)\(\s*&mut self\.([\w#]+)", text):
        rules[squash(field).rstrip("_")] = kind.replace("::", "-")
    for field, keys in re.findall(r"list::map\(\s*&mut self\.([\w#]+),\s*other\.[\w#]+,\s*&\[([^\]]*)\]", text):
        rules[squash(field)] = "list-map:" + ",".join(re.findall(r"lhs\.(\w+) ==", keys))
    merges[definition] = rules


def newer_shape(body):
    target = re.search(r"subschema_for::<crate::([\w:]+)>", body)
    if target:
        path = "io.k8s." + target.group(1).replace("::", ".")
        shape = definitions.get(path.lower(), path)
        shape = SPECIAL.get(shape, shape)
    else:
        kinds = re.findall(r'"type": "(\w+)"', body)
        form = re.search(r'"format": "(\w+)"', body)
        shape = {"boolean": "bool", "integer": form and form.group(1)}.get(kinds[-1], kinds[-1])
    if '"items"' in body:
        return "[]" + shape
    if '"additionalProperties"' in body:
        return "{}" + shape
    return shape


everywhere = {}
for names in properties.values():
    for key, name in names.items():
        everywhere.setdefault(key, set()).add(name)

# From k8s-pb: module path -> {struct: [(number, rust field, prost type, rust type)]}.
structs = {}
for path in sorted((pb_root / "src").rglob("mod.rs")):
    module = path.relative_to(pb_root / "src").parent.parts
    for name, body in re.findall(r"pub struct (\w+) \{\n(.*?)\n\}", path.read_text(), re.S):
        fields = []
        for attribute, field, rust in re.findall(
                r"#\[prost\(([^\]]*)\)\]\s*pub ([\w#]+):\s*(.*?),\n(?= {4}[#/]|\Z)", body + "\n", re.S):
            number = int(re.search(r'tag = "(\d+)"', attribute).group(1))
            fields.append((number, field, attribute, re.sub(r"\s+", "", rust)))
        structs[(module, name)] = fields


def definition_of(module, name):
    plain = "io.k8s." + ".".join(module) + "." + name
    return definitions.get(plain.lower(), plain)


by_definition = {definition_of(module, name): (module, name) for module, name in structs}


def resolve(module, path):
    parts = path.split("::")
    ups = len([part for part in parts if part == "super"])
    base = module[: len(module) - ups]
    rest = [part for part in parts if part != "super"]
    return tuple(list(base) + rest[:-1]) if ups else module, rest[-1]


def json_name(definition, field, parent):
    key = squash(field)
    for names in (properties.get(definition), properties.get(parent) if definition not in properties else None):
        if names and key in names:
            return names[key]
    if definition in properties:
        return None
    names = everywhere.get(key, set())
    if len(names) == 1:
        return next(iter(names))
    print(f"no JSON name for {definition}.{field}: {names}", file=sys.stderr)
    words = field.replace("r#", "").split("_")
    return words[0] + "".join(word.capitalize() for word in words[1:])


SCALAR = {"string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "double": "double", "bytes": "bytes"}
out, done, queue = [], set(), [(root, None) for root in ROOTS]
while queue:
    definition, parent = queue.pop(0)
    if definition in done:
        continue
    done.add(definition)
    module, name = by_definition.get(definition, ((), ""))
    lines, seen = [], set()
    for number, field, attribute, rust in structs.get((module, name), []):
        container = "[]" if "repeated" in attribute else ""
        kind = re.match(r'(\w+)', attribute).group(1)
        target = None
        if kind == "btree_map":
            container = "{}"
            kind = re.search(r'"string, (\w+)"', attribute).group(1)
        if kind == "message":
            path = re.sub(r"^::core::option::Option<|^::prost::alloc::vec::Vec<|,?>$", "", rust)
            if container == "{}":
                path = re.search(r"String,(.*?),?>$", rust).group(1)
            target = definition_of(*resolve(module, path))
            shape = SPECIAL.get(target, target)
        else:
            shape = SCALAR[kind]
        key = json_name(definition, field, parent)
        if key is None:
            if target is None or target.rsplit(".", 1)[1] not in INLINED:
                print(f"{definition}.{field} is not in JSON", file=sys.stderr)
                continue
            lines.append(f" {number} ... {shape}")
            seen |= set(properties.get(target, {}).values())
            queue.append((target, definition))
            continue
        seen.add(key)
        rules = []
        merge = merges.get(definition, merges.get(parent, {})).get(squash(field))
        keys = EXTRA_KEYS.get((definition, key))
        if keys:
            merge = "list-map:" + ",".join(keys)
        if (definition, key) in ATOMIC_LISTS:
            merge = "list-atomic"
        if merge and merge != "map-granular" and not (merge == "list-atomic"):
            if merge.startswith("list-map:"):
                target_names = properties.get(target, {})
                merge = "list-map:" + ",".join(
                    target_names.get(squash(part).rstrip("_"), part) for part in merge[9:].split(","))
            rules.append(merge)
        patch = PATCH.get(definition, {}).get(key)
        if patch:
            rules.append("patch-" + patch)
        lines.append(" ".join([f" {number} {key} {container}{shape}"] + rules))
        if target and target not in SPECIAL:
            queue.append((target, definition))
    missing = set(properties.get(definition, {}).values()) - seen - {"apiVersion", "kind"}
    if any(" ... " in line for line in lines):
        # Volume and the like: what is missing stands in the inlined message.
        missing = set()
    for key in sorted(missing):
        # Newer than the protobuf crate: known to JSON, without a number.
        print(f"{definition}.{key} is not in protobuf", file=sys.stderr)
        lines.append(f" 0 {key} {newer_shape(bodies[(definition, key)])}")
        queue.extend((target, definition) for target in re.findall(r"io\.k8s\.[\w.]+", lines[-1]) if target not in done)
    mark = " atomic" if definition in ATOMIC else ""
    out.append(definition + mark)
    out.extend(lines)

print("\n".join(out))
