//! ConfigMaps and Secrets that pods of this node refer to: watched while somebody does.

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use trireme_client::{Change, Client, Informer, InformerOptions};
use trireme_model::kinds;

/// Changes waiting to be handed to pods; beyond it the watches wait.
const CHANGES_MAX: usize = 256;

/// What kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReferenceKind {
    ConfigMap,
    Secret,
}

impl ReferenceKind {
    /// As messages name it.
    pub fn title(self) -> &'static str {
        match self {
            ReferenceKind::ConfigMap => "configmap",
            ReferenceKind::Secret => "secret",
        }
    }

    fn kind(self) -> &'static kinds::Kind {
        match self {
            ReferenceKind::ConfigMap => kinds::CONFIG_MAP,
            ReferenceKind::Secret => kinds::SECRET,
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub kind: ReferenceKind,
    pub namespace: String,
    pub name: String,
}

/// None: not known yet. Some(None): it does not exist.
type Known = Option<Option<Arc<Value>>>;

struct Entry {
    users: BTreeSet<String>,
    state: watch::Receiver<Known>,
    task: JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The objects that are referred to.
pub(crate) struct References {
    client: Client,
    entries: Mutex<BTreeMap<Reference, Entry>>,
    changes: mpsc::Sender<Reference>,
}

impl References {
    /// Changes of objects come out of the channel.
    pub fn new(client: Client) -> (Self, mpsc::Receiver<Reference>) {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        let references = References {
            client,
            entries: Mutex::new(BTreeMap::new()),
            changes,
        };
        (references, receiver)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Reference, Entry>> {
        // A panic while holding it leaves the map as it was.
        self.entries
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Says what a pod refers to from now on; an empty set when it is gone.
    pub fn hold(&self, uid: &str, wanted: &BTreeSet<Reference>) {
        let mut entries = self.entries();
        entries.retain(|reference, entry| {
            if !wanted.contains(reference) {
                entry.users.remove(uid);
            }
            !entry.users.is_empty()
        });
        for reference in wanted {
            let entry = entries
                .entry(reference.clone())
                .or_insert_with(|| self.follow(reference));
            entry.users.insert(uid.to_owned());
        }
    }

    /// Pods that refer to an object.
    pub fn users(&self, reference: &Reference) -> Vec<String> {
        self.entries()
            .get(reference)
            .map(|entry| entry.users.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn follow(&self, reference: &Reference) -> Entry {
        let (sender, state) = watch::channel(None);
        let options = InformerOptions {
            namespace: Some(reference.namespace.clone()),
            field_selector: format!("metadata.name={}", reference.name),
            ..InformerOptions::default()
        };
        let (client, changes) = (self.client.clone(), self.changes.clone());
        let reference = reference.clone();
        let task = tokio::spawn(async move {
            let (_informer, mut receiver) = Informer::start(client, reference.kind.kind(), options);
            while let Some(change) = receiver.recv().await {
                let new: Known = match change {
                    Change::Upsert(object) => Some(Some(Arc::new(object))),
                    Change::Delete(_) => Some(None),
                    // The list is complete: what was not in it does not exist.
                    Change::Progress { .. } if sender.borrow().is_none() => Some(None),
                    Change::Progress { .. } => continue,
                };
                sender.send_replace(new);
                if changes.send(reference.clone()).await.is_err() {
                    return;
                }
            }
        });
        Entry {
            users: BTreeSet::new(),
            state,
            task,
        }
    }

    /// The object; none if it does not exist; an error where that cannot be known.
    pub async fn get(&self, reference: &Reference) -> Result<Option<Arc<Value>>, String> {
        let known = self
            .entries()
            .get(reference)
            .and_then(|entry| entry.state.borrow().clone());
        // A watch that says "not there" may be a moment behind; the API's word is asked for.
        if let Some(Some(object)) = known {
            return Ok(Some(object));
        }
        let got = self
            .client
            .get(reference.kind.kind(), &reference.namespace, &reference.name)
            .await;
        match got {
            Ok(object) => Ok(Some(Arc::new(object))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(format!(
                "failed to read {} {:?}: {error}",
                reference.kind.title(),
                reference.name
            )),
        }
    }
}

/// Everything a pod refers to.
pub(crate) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            found.insert(Reference {
                kind,
                namespace: namespace.clone(),
                name: name.to_owned(),
            });
        }
    };
    let Some(spec) = &pod.spec else { return found };
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(ReferenceKind::Secret, &secret.name);
    }
    let containers: Vec<Container> = trireme_node_decide::containers(pod)
        .into_iter()
        .map(|found| found.container)
        .collect();
    for container in &containers {
        for source in container.env_from.iter().flatten() {
            if let Some(one) = &source.config_map_ref {
                add(ReferenceKind::ConfigMap, &one.name);
            }
            if let Some(one) = &source.secret_ref {
                add(ReferenceKind::Secret, &one.name);
            }
        }
        for variable in container.env.iter().flatten() {
            let Some(source) = &variable.value_from else {
                continue;
            };
            if let Some(one) = &source.config_map_key_ref {
                add(ReferenceKind::ConfigMap, &one.name);
            }
            if let Some(one) = &source.secret_key_ref {
                add(ReferenceKind::Secret, &one.name);
            }
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume_references(volume, &mut add);
    }
    found
}

fn volume_references(volume: &Volume, add: &mut impl FnMut(ReferenceKind, &str)) {
    if let Some(source) = &volume.config_map {
        add(ReferenceKind::ConfigMap, &source.name);
    }
    if let Some(source) = &volume.secret {
        add(
            ReferenceKind::Secret,
            source.secret_name.as_deref().unwrap_or_default(),
        );
    }
    let projected = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    for source in projected {
        if let Some(one) = &source.config_map {
            add(ReferenceKind::ConfigMap, &one.name);
        }
        if let Some(one) = &source.secret {
            add(ReferenceKind::Secret, &one.name);
        }
    }
}

/// A ConfigMap's or Secret's content by key.
pub(crate) fn content(kind: ReferenceKind, object: &Value) -> BTreeMap<String, Vec<u8>> {
    use base64::Engine;
    let decode = |value: &Value| {
        base64::engine::general_purpose::STANDARD
            .decode(value.as_str().unwrap_or_default())
            .unwrap_or_default()
    };
    let plain = |value: &Value| value.as_str().unwrap_or_default().as_bytes().to_vec();
    let mut found = BTreeMap::new();
    let fields: [(&str, bool); 2] = match kind {
        ReferenceKind::ConfigMap => [("data", false), ("binaryData", true)],
        ReferenceKind::Secret => [("data", true), ("", false)],
    };
    for (field, encoded) in fields {
        let Some(map) = object.get(field).and_then(Value::as_object) else {
            continue;
        };
        for (key, value) in map {
            let bytes = if encoded { decode(value) } else { plain(value) };
            found.insert(key.clone(), bytes);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_a_pod_names_is_found() {
        let pod = serde_json::from_value(json!({
            "metadata": {"namespace": "n"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "a",
                    "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}],
                    "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                            {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
                "volumes": [
                    {"name": "v1", "configMap": {"name": "c3"}},
                    {"name": "v2", "secret": {"secretName": "s3"}},
                    {"name": "v3", "projected": {"sources": [
                        {"configMap": {"name": "c4"}}, {"secret": {"name": "s4"}}]}}
                ]
            }
        }))
        .unwrap();
        let names: Vec<String> = references(&pod).into_iter().map(|r| r.name).collect();
        assert_eq!(
            names,
            ["c1", "c2", "c3", "c4", "pull", "s1", "s2", "s3", "s4"]
        );
    }

    #[test]
    fn contents_are_decoded() {
        let secret = json!({"data": {"a": "aGk="}});
        assert_eq!(content(ReferenceKind::Secret, &secret)["a"], b"hi");
        let map = json!({"data": {"a": "x"}, "binaryData": {"b": "AP8="}});
        assert_eq!(content(ReferenceKind::ConfigMap, &map)["b"], [0, 255]);
        assert_eq!(content(ReferenceKind::ConfigMap, &map)["a"], b"x");
    }
}
