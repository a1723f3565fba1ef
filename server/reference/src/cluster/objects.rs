//! What a test or a workload asks of the cluster and puts into it.

use serde_json::{Value, json};
use trireme_decide::ObjectKey;
use trireme_model::kinds::{self, Kind};

use super::agents::ready_condition;
use super::{World, at, is_ready};

impl World {
    pub fn all(&self, kind: &'static Kind) -> Vec<&Value> {
        let of_kind = self.objects.iter().filter(|((other, _), _)| *other == kind);
        of_kind.map(|(_, object)| object).collect()
    }

    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, ObjectKey::new(namespace, name)))
    }

    /// Pods that are neither finished nor being deleted.
    pub fn active_pods(&self) -> Vec<&Value> {
        self.all(kinds::POD)
            .into_iter()
            .filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null())
            .filter(|pod| {
                !matches!(
                    pod["status"]["phase"].as_str(),
                    Some("Failed" | "Succeeded")
                )
            })
            .collect()
    }

    pub fn ready_pods(&self) -> usize {
        self.active_pods()
            .into_iter()
            .filter(|pod| is_ready(pod))
            .count()
    }

    pub fn has_event(&self, reason: &str, message: &str) -> bool {
        self.events.iter().any(|(r, m)| r == reason && m == message)
    }

    pub fn add_node(&mut self, name: &str, cpu: &str, memory: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
                "conditions": [ready_condition(self.now)],
            },
        });
        self.create(kinds::NODE, object).unwrap();
        self.alive.insert(name.to_owned());
    }

    pub fn add_namespace(&mut self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.create(kinds::NAMESPACE, object).unwrap();
    }

    pub fn add_deployment(&mut self, name: &str, replicas: i32, strategy: Value) {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "strategy": strategy,
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10,
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "main", "image": "web:1"}]},
                },
            },
        });
        self.create(kinds::DEPLOYMENT, object).unwrap();
    }

    /// Changes an object as a user would.
    pub fn edit(&mut self, kind: &'static Kind, name: &str, change: impl FnOnce(&mut Value)) {
        let namespace = if kind.namespaced { "default" } else { "" };
        let mut object = self.get(kind, namespace, name).unwrap().clone();
        change(&mut object);
        self.update(kind, object).unwrap();
    }
}
