//! Node loss and return, evictions, ranges of addresses, garbage on absent nodes.

use jiff::SignedDuration;
use serde_json::{Value, json};
use trireme_decide::ObjectKey;
use trireme_model::kinds;

use trireme_reference::cluster::{World, at};

fn cluster(seed: u64, nodes: &[&str]) -> World {
    let mut world = World::new(seed);
    world.add_namespace("default");
    for node in nodes {
        world.add_node(node, "16", "16Gi");
    }
    world.heartbeat();
    world.add_deployment("web", 4, json!(null));
    world.settle();
    assert_eq!(world.ready_pods(), 4);
    world
}

fn taints(world: &World, node: &str) -> Vec<String> {
    let node = world.get(kinds::NODE, "", node).unwrap();
    let taints = at(node, "/spec/taints")
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |taint: &Value, field: &str| taint[field].as_str().unwrap().to_owned();
    taints
        .iter()
        .map(|it| format!("{}:{}", text(it, "key"), text(it, "effect")))
        .collect()
}

fn ready_status(world: &World, node: &str) -> Value {
    at(
        world.get(kinds::NODE, "", node).unwrap(),
        "/status/conditions/0/status",
    )
}

fn pods_on(world: &World, node: &str) -> usize {
    world
        .active_pods()
        .iter()
        .filter(|pod| pod["spec"]["nodeName"] == node)
        .count()
}

#[test]
fn a_silent_node_is_tainted_and_its_pods_replaced() {
    let mut world = cluster(1, &["n1", "n2", "n3"]);
    assert!(pods_on(&world, "n2") > 0);
    world.alive.remove("n2");
    world.pass(SignedDuration::from_secs(9));
    assert_eq!(ready_status(&world, "n2"), "True");
    assert!(taints(&world, "n2").is_empty());
    world.pass(SignedDuration::from_secs(2));
    assert_eq!(ready_status(&world, "n2"), "Unknown");
    assert_eq!(
        taints(&world, "n2"),
        [
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute"
        ]
    );
    assert!(world.has_event("NodeNotReady", "Node n2 status is now: NodeNotReady"));
    assert!(
        world
            .events
            .iter()
            .any(|(reason, _)| reason == "TaintManagerEviction")
    );
    assert_eq!(pods_on(&world, "n2"), 0);
    assert_eq!(world.ready_pods(), 4);
    world.assert_fixpoint();
    // It comes back: everything is taken back, and what it still ran can go.
    world.alive.insert("n2".to_owned());
    world.pass(SignedDuration::from_secs(2));
    assert_eq!(ready_status(&world, "n2"), "True");
    assert!(taints(&world, "n2").is_empty());
    assert_eq!(world.all(kinds::POD).len(), 4);
    world.assert_fixpoint();
}

#[test]
fn when_all_nodes_fall_silent_nothing_is_evicted() {
    let mut world = cluster(2, &["n1", "n2", "n3"]);
    world.alive.clear();
    world.pass(SignedDuration::from_secs(60));
    assert_eq!(world.all(kinds::POD).len(), 4);
    assert_eq!(world.active_pods().len(), 4);
    assert_eq!(world.ready_pods(), 4, "nobody else could serve");
    for node in ["n1", "n2", "n3"] {
        assert_eq!(ready_status(&world, node), "Unknown");
        assert_eq!(
            taints(&world, node),
            ["node.kubernetes.io/unreachable:NoSchedule"]
        );
    }
    // One returns: now the others are lost for certain.
    world.alive.insert("n1".to_owned());
    world.pass(SignedDuration::from_secs(5));
    assert_eq!(pods_on(&world, "n2") + pods_on(&world, "n3"), 0);
    assert_eq!(world.ready_pods(), 4);
}

#[test]
fn most_of_a_small_zone_lost_at_once_evicts_nothing() {
    let mut world = cluster(3, &["n1", "n2", "n3", "n4", "n5"]);
    for node in ["n1", "n2", "n3"] {
        world.alive.remove(node);
    }
    world.pass(SignedDuration::from_secs(30));
    assert_eq!(
        taints(&world, "n1"),
        ["node.kubernetes.io/unreachable:NoSchedule"]
    );
    assert_eq!(world.all(kinds::POD).len(), 4);
}

#[test]
fn pods_stay_as_long_as_they_tolerate() {
    let mut world = cluster(4, &["n1", "n2"]);
    world.create(kinds::POD, json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "patient", "namespace": "default"},
        "spec": {
            "containers": [{"name": "main", "image": "web:1"}],
            "nodeSelector": {"kubernetes.io/hostname": "n1"},
            "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 30}],
        },
    })).unwrap();
    world.settle();
    world.alive.remove("n1");
    world.pass(SignedDuration::from_secs(35));
    let leaving = |world: &World| {
        let pod = world.get(kinds::POD, "default", "patient").unwrap();
        !at(pod, "/metadata/deletionTimestamp").is_null()
    };
    assert!(!leaving(&world));
    world.pass(SignedDuration::from_secs(8));
    assert!(leaving(&world));
}

#[test]
fn a_new_leader_gives_every_node_its_full_grace() {
    let mut world = cluster(5, &["n1", "n2"]);
    world.alive.remove("n1");
    world.pass(SignedDuration::from_secs(8));
    world.restart();
    world.pass(SignedDuration::from_secs(8));
    assert_eq!(ready_status(&world, "n1"), "True");
    world.pass(SignedDuration::from_secs(4));
    assert_eq!(ready_status(&world, "n1"), "Unknown");
    assert_eq!(world.ready_pods(), 4);
}

#[test]
fn cordoned_nodes_are_tainted_as_unschedulable() {
    let mut world = cluster(6, &["n1", "n2"]);
    world.edit(kinds::NODE, "n1", |it| {
        it["spec"]["unschedulable"] = json!(true)
    });
    world.settle();
    assert_eq!(
        taints(&world, "n1"),
        ["node.kubernetes.io/unschedulable:NoSchedule"]
    );
    assert_eq!(world.active_pods().len(), 4);
    world.edit(kinds::NODE, "n1", |it| {
        it["spec"]["unschedulable"] = json!(false)
    });
    world.settle();
    assert!(taints(&world, "n1").is_empty());
    world.assert_fixpoint();
}

#[test]
fn every_node_gets_its_own_range() {
    let world = cluster(7, &["n1", "n2", "n3"]);
    let mut ranges: Vec<String> = world
        .all(kinds::NODE)
        .iter()
        .map(|node| at(node, "/spec/podCIDR").as_str().unwrap().to_owned())
        .collect();
    ranges.sort();
    assert_eq!(ranges, ["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24"]);
}

#[test]
fn pods_of_a_deleted_node_are_removed() {
    let mut world = cluster(8, &["n1", "n2"]);
    world.alive.remove("n2");
    world
        .delete(kinds::NODE, ObjectKey::cluster("n2"), None, "Background")
        .unwrap();
    world.settle();
    let on_n2 = |pod: &&&Value| pod["spec"]["nodeName"] == "n2";
    assert_eq!(world.all(kinds::POD).iter().filter(on_n2).count(), 0);
    assert_eq!(world.ready_pods(), 4);
    world.assert_fixpoint();
}
