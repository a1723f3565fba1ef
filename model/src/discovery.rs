//! Discovery: which groups, kinds and subresources there are, in the aggregated and in the older form.

use serde_json::{Map, Value, json};

use crate::kinds::{self, Kind, Subresource, group_version};

fn resources_v2(group: &str, version: &str) -> Vec<Value> {
    of_group(group, version).map(resource_v2).collect()
}

fn of_group(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    kinds::all()
        .iter()
        .filter(move |kind| kind.group == group && kind.version == version)
}

fn response_kind(group: &str, version: &str, kind: &str, own: &Kind) -> Value {
    // The aggregated form leaves group and version out where they are those of the resource itself.
    let (group, version) = if group == own.group && version == own.version {
        ("", "")
    } else {
        (group, version)
    };
    json!({"group": group, "version": version, "kind": kind})
}

fn resource_v2(kind: &'static Kind) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind(kind.group, kind.version, kind.kind, kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = kind.short_names.into();
    }
    if !kind.categories.is_empty() {
        resource["categories"] = kind.categories.into();
    }
    if !kind.subresources.is_empty() {
        resource["subresources"] = kind
            .subresources
            .iter()
            .map(|part| {
                json!({
                    "subresource": part.name,
                    "responseKind": response_kind(part.group, part.version, part.kind, kind),
                    "verbs": part.verbs,
                })
            })
            .collect();
    }
    resource
}

/// Every group with its versions, the preferred one first.
fn versions() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for (group, version) in kinds::groups() {
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    groups
}

fn aggregated(wanted: impl Fn(&str) -> bool) -> Value {
    let items: Vec<Value> = versions()
        .into_iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let mut metadata = Map::new();
            metadata.insert("creationTimestamp".to_owned(), Value::Null);
            if !group.is_empty() {
                metadata.insert("name".to_owned(), group.into());
            }
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "resources": resources_v2(group, version),
                        "freshness": "Current",
                    })
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

/// What `/api` answers with when asked for `as=APIGroupDiscoveryList`.
pub fn aggregated_core() -> Value {
    aggregated(str::is_empty)
}

/// What `/apis` answers with when asked for `as=APIGroupDiscoveryList`.
pub fn aggregated_apis() -> Value {
    aggregated(|group| !group.is_empty())
}

/// What `/api` answers with otherwise. `server_address` is the advertised `host:port`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let shown: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "versions": shown, "preferredVersion": shown.first()})
}

/// What `/apis` answers with otherwise.
pub fn api_group_list() -> Value {
    let groups: Vec<Value> = versions()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// What `/apis/GROUP` answers with.
pub fn api_group(group: &str) -> Option<Value> {
    let (group, versions) = versions()
        .into_iter()
        .find(|(name, _)| !name.is_empty() && *name == group)?;
    let mut value = group_value(group, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// What `/api/VERSION` and `/apis/GROUP/VERSION` answer with.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<Value> = Vec::new();
    for kind in of_group(group, version) {
        list.push(resource_v1(kind));
        list.extend(
            kind.subresources
                .iter()
                .map(|part| subresource_v1(kind, part)),
        );
    }
    if list.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, version),
        "resources": list,
    }))
}

fn resource_v1(kind: &Kind) -> Value {
    let mut resource = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = kind.short_names.into();
    }
    if !kind.categories.is_empty() {
        resource["categories"] = kind.categories.into();
    }
    resource
}

fn subresource_v1(kind: &Kind, part: &Subresource) -> Value {
    let mut resource = json!({
        "name": format!("{}/{}", kind.plural, part.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": part.kind,
        "verbs": part.verbs,
    });
    if part.group != kind.group || part.version != kind.version {
        resource["group"] = part.group.into();
        resource["version"] = part.version.into();
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_same_resources() {
        let core = aggregated_core();
        let apis = aggregated_apis();
        let groups = core["items"]
            .as_array()
            .unwrap()
            .iter()
            .chain(apis["items"].as_array().unwrap());
        let mut count = 0;
        for (name, version) in groups.flat_map(|group| {
            let name = group["metadata"]["name"].as_str().unwrap_or("");
            let versions = group["versions"].as_array().unwrap();
            versions.iter().map(move |version| (name, version))
        }) {
            let legacy = resources(name, version["version"].as_str().unwrap()).unwrap();
            for resource in version["resources"].as_array().unwrap() {
                count += 1;
                let listed = legacy["resources"].as_array().unwrap();
                let row = listed
                    .iter()
                    .find(|row| row["name"] == resource["resource"])
                    .unwrap();
                assert_eq!(row["kind"], resource["responseKind"]["kind"]);
                assert_eq!(row["verbs"], resource["verbs"]);
                assert_eq!(row["namespaced"], resource["scope"] == "Namespaced");
                for part in resource["subresources"].as_array().into_iter().flatten() {
                    let path = format!(
                        "{}/{}",
                        resource["resource"].as_str().unwrap(),
                        part["subresource"].as_str().unwrap()
                    );
                    assert!(listed.iter().any(|row| row["name"] == path), "{path}");
                }
            }
        }
        assert_eq!(count, kinds::all().len());
    }

    #[test]
    fn scale_is_of_its_own_group() {
        let apps = resources("apps", "v1").unwrap();
        let scale = apps["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == "deployments/scale")
            .unwrap();
        assert_eq!(
            (&scale["group"], &scale["version"], &scale["kind"]),
            (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
        );
        assert_eq!(resources("apps", "v2"), None);
        assert_eq!(
            api_group("apps").unwrap()["preferredVersion"]["groupVersion"],
            "apps/v1"
        );
        assert_eq!(api_group(""), None);
        let istio = api_group("networking.istio.io").unwrap();
        assert_eq!(istio["preferredVersion"]["version"], "v1");
        assert_eq!(istio["versions"].as_array().unwrap().len(), 3);
    }
}
