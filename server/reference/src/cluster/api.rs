//! The API: objects with Kubernetes' rules of precondition, deletion and generation.

use serde_json::{Map, Value, json};
use trireme_decide::{Action, Change, Intent, ObjectKey, Subresource};
use trireme_model::kinds::{self, Kind};

use super::{Id, Refusal, World, at};

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

impl World {
    pub(super) fn id(kind: &'static Kind, object: &Value) -> Id {
        let namespace = if kind.namespaced {
            at(object, "/metadata/namespace")
        } else {
            json!("")
        };
        let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
        (
            kind,
            ObjectKey::new(text(namespace), text(at(object, "/metadata/name"))),
        )
    }

    pub(super) fn store(&mut self, id: Id, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.publish(id.0, Change::Upsert(object.clone()));
        self.objects.insert(id, object);
    }

    pub(super) fn erase(&mut self, id: &Id) {
        self.revision += 1;
        self.objects.remove(id);
        self.publish(id.0, Change::Delete(id.1.clone()));
    }

    pub(super) fn publish(&mut self, kind: &'static Kind, change: Change) {
        self.pending
            .entry(kind)
            .or_default()
            .push_back((self.revision, change));
    }

    pub fn create(&mut self, kind: &'static Kind, mut object: Value) -> Result<(), Refusal> {
        let id = Self::id(kind, &object);
        if self.objects.contains_key(&id) {
            return Err(Refusal::AlreadyExists);
        }
        let uid = format!("uid-{}", self.revision + 1);
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(self.now.to_string());
        if kind == kinds::POD && object.get("status").is_none() {
            object["status"] = json!({"phase": "Pending"});
        }
        if kind == kinds::NAMESPACE {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        self.store(id, object);
        Ok(())
    }

    fn checked(&self, id: &Id, sent: &Value) -> Result<Value, Refusal> {
        let known = self.objects.get(id).ok_or(Refusal::NotFound)?;
        for field in ["/metadata/uid", "/metadata/resourceVersion"] {
            let wanted = at(sent, field);
            if !wanted.is_null() && wanted != at(known, field) {
                return Err(Refusal::Conflict);
            }
        }
        Ok(known.clone())
    }

    fn replace(&mut self, id: Id, known: Value, mut object: Value) {
        object["metadata"]["generation"] = known["metadata"]["generation"].clone();
        if object["spec"] != known["spec"] {
            let generation = known["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        let leaving = !at(&object, "/metadata/deletionTimestamp").is_null();
        let held = at(&object, "/metadata/finalizers")
            .as_array()
            .is_some_and(|it| !it.is_empty());
        if leaving && !held && !matches!(id.0.kind, "Pod" | "Namespace") {
            self.erase(&id);
        } else if object != known {
            self.store(id, object);
        }
    }

    pub fn update(&mut self, kind: &'static Kind, mut object: Value) -> Result<(), Refusal> {
        let id = Self::id(kind, &object);
        let known = self.checked(&id, &object)?;
        object["status"] = known["status"].clone();
        if object["status"].is_null() {
            object.as_object_mut().unwrap().remove("status");
        }
        self.replace(id, known, object);
        Ok(())
    }

    pub fn update_status(&mut self, kind: &'static Kind, object: Value) -> Result<(), Refusal> {
        let id = Self::id(kind, &object);
        let known = self.checked(&id, &object)?;
        let mut updated = known.clone();
        updated["status"] = object["status"].clone();
        self.replace(id, known, updated);
        Ok(())
    }

    pub fn patch(
        &mut self,
        kind: &'static Kind,
        key: ObjectKey,
        patch: &Value,
    ) -> Result<(), Refusal> {
        let id = (kind, key);
        let known = self.checked(&id, patch)?;
        let mut updated = known.clone();
        merge(&mut updated, patch);
        self.replace(id, known, updated);
        Ok(())
    }

    pub fn delete(
        &mut self,
        kind: &'static Kind,
        key: ObjectKey,
        grace: Option<u64>,
        propagation: &str,
    ) -> Result<(), Refusal> {
        let id = (kind, key);
        let mut object = self.objects.get(&id).cloned().ok_or(Refusal::NotFound)?;
        let mut finalizers: Vec<Value> = at(&object, "/metadata/finalizers")
            .as_array()
            .cloned()
            .unwrap_or_default();
        match propagation {
            "Foreground" => finalizers.push(json!("foregroundDeletion")),
            "Orphan" => finalizers.push(json!("orphan")),
            _ => {}
        }
        let gone = match kind.kind {
            "Pod" => grace == Some(0) || at(&object, "/spec/nodeName").is_null(),
            "Namespace" => false,
            _ => finalizers.is_empty(),
        };
        if gone {
            self.erase(&id);
            return Ok(());
        }
        if at(&object, "/metadata/deletionTimestamp").is_null() {
            object["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
            if !finalizers.is_empty() {
                object["metadata"]["finalizers"] = json!(finalizers);
            }
            if kind == kinds::NAMESPACE {
                object["status"]["phase"] = json!("Terminating");
            }
            self.store(id, object);
        }
        Ok(())
    }

    pub(super) fn execute(&mut self, intent: &Intent) -> Result<(), Refusal> {
        for absent in &intent.absent {
            let id = (
                absent.kind,
                ObjectKey::new(absent.namespace.clone(), absent.name.clone()),
            );
            if let Some(found) = self.objects.get(&id)
                && (absent.uid.is_empty() || at(found, "/metadata/uid") == absent.uid.as_str())
            {
                return Err(Refusal::Conflict);
            }
        }
        match &intent.action {
            Action::Create { kind, object, .. } => self.create(kind, object.clone()),
            Action::Update { kind, object } => self.update(kind, object.clone()),
            Action::UpdateStatus { kind, object } => self.update_status(kind, object.clone()),
            Action::Patch {
                kind,
                namespace,
                name,
                subresource,
                patch,
            } => {
                assert_eq!(*subresource, Subresource::Main);
                self.patch(kind, ObjectKey::new(namespace.clone(), name.clone()), patch)
            }
            Action::Delete {
                kind,
                namespace,
                name,
                uid,
                resource_version,
                grace_seconds,
                propagation,
            } => {
                let key = ObjectKey::new(namespace.clone(), name.clone());
                let mut sent = json!({"metadata": {"uid": uid}});
                if let Some(version) = resource_version {
                    sent["metadata"]["resourceVersion"] = json!(version);
                }
                self.checked(&(*kind, key.clone()), &sent)?;
                self.delete(kind, key, *grace_seconds, propagation.as_str())
            }
            Action::Bind {
                namespace,
                name,
                uid,
                node,
            } => {
                let id = (kinds::POD, ObjectKey::new(namespace.clone(), name.clone()));
                let known = self.checked(&id, &json!({"metadata": {"uid": uid}}))?;
                let bound = !at(&known, "/spec/nodeName").is_null();
                if bound || !at(&known, "/metadata/deletionTimestamp").is_null() {
                    return Err(Refusal::Conflict);
                }
                let mut object = known;
                object["spec"]["nodeName"] = json!(node);
                *self.binds.entry(uid.clone()).or_default() += 1;
                self.store(id, object);
                Ok(())
            }
            Action::FinalizeNamespace { object, .. } => {
                let id = Self::id(kinds::NAMESPACE, object);
                self.checked(&id, object)?;
                assert!(
                    !self
                        .objects
                        .keys()
                        .any(|(_, key)| key.namespace == id.1.name),
                    "a namespace was let go with objects in it"
                );
                self.erase(&id);
                Ok(())
            }
            Action::Record => Ok(()),
        }
    }
}
