//! How fast pods are placed on a large cluster. The bound is ten times kube-scheduler's own threshold
//! for 5,000 nodes; what was measured is printed.

use std::time::Instant;

use jiff::Timestamp;
use serde_json::json;
use trireme_decide::{Action, Change, ObjectKey, View, schedule};
use trireme_model::kinds;

const NODES: usize = 5000;
const PODS: usize = 10_000;
const BOUND_PODS_PER_SECOND: f64 = 2700.0;

#[test]
fn pods_are_placed_on_five_thousand_nodes() {
    let mut view = View::new("2030-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    for number in 0..NODES {
        let name = format!("node-{number:04}");
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "uid": name, "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
            }},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
        });
        view.update(kinds::NODE, Change::Upsert(node)).unwrap();
    }
    for number in 0..PODS {
        let set = number % 20;
        let name = format!("pod-{number:05}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default", "uid": name, "labels": {"app": format!("app-{set}")},
                "creationTimestamp": "2030-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": format!("set-{set}"), "uid": format!("set-{set}"), "controller": true}],
            },
            "spec": {"containers": [{"name": "main", "image": "web:1",
                "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
            "status": {"phase": "Pending"},
        });
        view.update(kinds::POD, Change::Upsert(pod)).unwrap();
    }
    for set in 0..20 {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("set-{set}"), "namespace": "default", "uid": format!("set-{set}")},
            "spec": {"selector": {"matchLabels": {"app": format!("app-{set}")}}},
        });
        view.update(kinds::REPLICA_SET, Change::Upsert(object)).unwrap();
    }
    let start = Instant::now();
    let mut placed = 0;
    let mut plans = 0;
    while placed < PODS {
        let plan = schedule::plan(&view, plans);
        plans += 1;
        for intent in &plan.intents {
            let Action::Bind { namespace, name, uid, node } = &intent.action else {
                panic!("everything fits: {intent:?}");
            };
            view.assume(&ObjectKey::new(namespace.clone(), name.clone()), uid, node);
            placed += 1;
        }
    }
    let rate = PODS as f64 / start.elapsed().as_secs_f64();
    println!("placed {PODS} pods on {NODES} nodes in {plans} plans: {rate:.0} pods/s");
    assert!(rate > BOUND_PODS_PER_SECOND, "{rate:.0} pods/s");
}
