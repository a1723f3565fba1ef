//! The volume through which a pod's containers reach the API: a token of the pod's service account that is
//! renewed, the cluster's CA, and the namespace.

use rand::Rng;
use serde_json::json;
use trireme_model::Value;

/// Where client libraries look.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a few seconds, as Kubernetes', so that an hour is always left to use.
const TOKEN_SECONDS: i64 = 3607;
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_BYTES: usize = 5;

/// Mounts the volume into every container that does not have something there already, unless the pod or
/// its service account asks for none.
pub(super) fn mount(pod: &mut Value, account: Option<&Value>) {
    let asks = |value: Option<&Value>| value?.get("automountServiceAccountToken")?.as_bool();
    if asks(pod.get("spec")).or_else(|| asks(account)) == Some(false) {
        return;
    }
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let volumes = spec
        .get("volumes")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    // A pod made from another one's specification brings its volume along.
    let existing = volumes
        .iter()
        .filter_map(|volume| volume.get("name")?.as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(volume_name);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else {
                continue;
            };
            let taken = mounts
                .iter()
                .any(|mount| mount.get("mountPath").and_then(Value::as_str) == Some(MOUNT_PATH));
            if !taken {
                mounts.push(json!({ "name": name, "mountPath": MOUNT_PATH, "readOnly": true }));
                mounted = true;
            }
        }
    }
    if mounted && existing.is_none() {
        let list = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(volume(&name));
        }
    }
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}

fn volume_name() -> String {
    let mut random = rand::rng();
    let suffix = (0..SUFFIX_BYTES)
        .map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())]));
    VOLUME_PREFIX.chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_gets_it_once() {
        let mut pod = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [
            {"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}});
        mount(&mut pod, None);
        let name = pod["spec"]["volumes"][0]["name"].clone();
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["name"],
            name
        );
        assert_eq!(
            pod["spec"]["initContainers"][0]["volumeMounts"][0]["name"],
            name
        );
        assert_eq!(
            pod["spec"]["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let again = pod.clone();
        mount(&mut pod, None);
        assert_eq!(pod, again);
    }

    #[test]
    fn pod_and_account_may_ask_for_none() {
        let bare = json!({"spec": {"containers": [{"name": "a"}]}});
        let account = json!({"automountServiceAccountToken": false});
        let mut pod = bare.clone();
        mount(&mut pod, Some(&account));
        assert_eq!(pod, bare);
        let mut pod =
            json!({"spec": {"automountServiceAccountToken": true, "containers": [{"name": "a"}]}});
        mount(&mut pod, Some(&account));
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
    }
}
