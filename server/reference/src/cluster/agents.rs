//! Node agents: pods start and stop, leases are renewed.

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_decide::ObjectKey;
use trireme_model::kinds;

use super::{World, at};

impl World {
    /// One node agent does the next thing for one pod. Answers whether there was anything to do.
    pub(super) fn run_pods(&mut self) -> bool {
        let mut due = Vec::new();
        for ((kind, key), object) in &self.objects {
            let node = at(object, "/spec/nodeName");
            if *kind != kinds::POD || !node.as_str().is_some_and(|it| self.alive.contains(it)) {
                continue;
            }
            let leaving = !at(object, "/metadata/deletionTimestamp").is_null();
            let ready = at(object, "/status/podIP").is_string()
                && object["status"]["conditions"]
                    .as_array()
                    .is_some_and(|conditions| {
                        conditions
                            .iter()
                            .any(|it| it["type"] == "Ready" && it["status"] == "True")
                    });
            if leaving || (self.pods_get_ready && !ready) {
                due.push((key.clone(), leaving));
            }
        }
        if due.is_empty() {
            return false;
        }
        let index = self.random(due.len() as u64) as usize;
        let (key, leaving) = due[index].clone();
        let id = (kinds::POD, key);
        if leaving {
            self.erase(&id);
        } else {
            let mut object = self.objects[&id].clone();
            let number = self.revision;
            object["status"]["phase"] = json!("Running");
            object["status"]["podIP"] =
                json!(format!("10.42.{}.{}", number / 250 % 250, number % 250));
            object["status"]["conditions"] = json!([
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": self.now.to_string()},
            ]);
            self.store(id, object);
        }
        true
    }

    /// Every live node's agent renews its Lease and, where the API thinks otherwise, its status.
    pub fn heartbeat(&mut self) {
        for node in self.alive.clone() {
            let lease = (
                kinds::LEASE,
                ObjectKey::new("kube-node-lease", node.clone()),
            );
            let renewed = json!({"renewTime": format!("{:.6}", self.now)});
            match self.objects.get(&lease).cloned() {
                Some(mut object) => {
                    if object["spec"] != renewed {
                        object["spec"] = renewed;
                        self.store(lease, object);
                    }
                }
                None => {
                    let object = json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {"name": node, "namespace": "kube-node-lease"},
                        "spec": renewed,
                    });
                    self.create(kinds::LEASE, object).unwrap();
                }
            }
            let id = (kinds::NODE, ObjectKey::cluster(node));
            if let Some(mut object) = self.objects.get(&id).cloned() {
                let ready = at(&object, "/status/conditions/0/status");
                if ready != "True" {
                    object["status"]["conditions"] = json!([ready_condition(self.now)]);
                    self.store(id, object);
                }
            }
        }
    }
}

pub(super) fn ready_condition(now: Timestamp) -> Value {
    json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastHeartbeatTime": now.to_string(), "lastTransitionTime": now.to_string(),
    })
}
