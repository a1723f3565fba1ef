//! How fast pods are placed on a large cluster. Each bound is ten times kube-scheduler's own threshold
//! for the same workload on 5,000 nodes; what was measured is printed.

use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_decide::{Action, Change, ObjectKey, View, schedule};
use trireme_model::kinds;

const NODES: usize = 5000;
const SETS: usize = 20;

fn cluster(pods: usize, spec: &Value) -> View {
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
    for number in 0..pods {
        let set = number % SETS;
        let name = format!("pod-{number:05}");
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default", "uid": name,
                "labels": {"app": format!("app-{set}"), "all": "yes"},
                "creationTimestamp": "2030-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": format!("set-{set}"), "uid": format!("set-{set}"), "controller": true}],
            },
            "spec": spec,
            "status": {"phase": "Pending"},
        });
        pod["spec"]["containers"] = json!([{"name": "main", "image": "web:1",
            "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]);
        view.update(kinds::POD, Change::Upsert(pod)).unwrap();
    }
    for set in 0..SETS {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("set-{set}"), "namespace": "default", "uid": format!("set-{set}")},
            "spec": {"selector": {"matchLabels": {"app": format!("app-{set}")}}},
        });
        view.update(kinds::REPLICA_SET, Change::Upsert(object))
            .unwrap();
    }
    view
}

fn measure(workload: &str, pods: usize, spec: Value, bound_pods_per_second: f64) {
    let mut view = cluster(pods, &spec);
    let start = Instant::now();
    let mut placed = 0;
    let mut plans = 0;
    while placed < pods {
        let plan = schedule::plan(&view, plans);
        plans += 1;
        for intent in &plan.intents {
            let Action::Bind {
                namespace,
                name,
                uid,
                node,
            } = &intent.action
            else {
                panic!("everything fits: {intent:?}");
            };
            view.assume(&ObjectKey::new(namespace.clone(), name.clone()), uid, node);
            placed += 1;
        }
    }
    let rate = pods as f64 / start.elapsed().as_secs_f64();
    println!("{workload}: {pods} pods on {NODES} nodes in {plans} plans, {rate:.0} pods/s");
    assert!(rate > bound_pods_per_second, "{workload}: {rate:.0} pods/s");
}

#[test]
fn pods_are_placed_on_five_thousand_nodes() {
    measure("basic", 10_000, json!({}), 2700.0);
    let own = json!({"matchLabels": {"all": "yes"}});
    measure(
        "topology spread",
        5000,
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": own}]}),
        850.0,
    );
    measure(
        "anti-affinity",
        2000,
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": own}]}}}),
        600.0,
    );
    measure(
        "affinity",
        2000,
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": own}]}}}),
        350.0,
    );
}

/// One pod at a time, as they come in quiet hours: a plan's own cost, whatever the cluster's size.
#[test]
fn a_single_pod_is_placed_in_milliseconds() {
    let view = cluster(1, &json!({}));
    let start = Instant::now();
    for seed in 0..20 {
        assert_eq!(schedule::plan(&view, seed).intents.len(), 1);
    }
    let each = start.elapsed() / 20;
    println!("one pod on {NODES} nodes: {each:?}");
    assert!(each.as_millis() < 50, "{each:?}");
}
