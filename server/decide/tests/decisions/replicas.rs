//! ReplicaSets: never more pods than asked for, adoption and release, the choice of what to delete.

use proptest::prelude::*;
use serde_json::{Value, json};
use trireme_model::kinds;

use trireme_decide::ObjectKey;
use trireme_reference::cluster::{World, at};

fn replica_set(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "web:1"}]},
            },
        },
    })
}

fn pod(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "web:1"}]},
    })
}

#[test]
fn pods_are_adopted_and_let_go() {
    let mut world = World::new(1);
    world.add_namespace("default");
    world.add_node("n1", "8", "8Gi");
    world
        .create(kinds::POD, pod("stray", json!({"app": "web"})))
        .unwrap();
    world
        .create(kinds::REPLICA_SET, replica_set("web", 2))
        .unwrap();
    world.settle();
    assert_eq!(world.active_pods().len(), 2);
    let stray = world.get(kinds::POD, "default", "stray").unwrap();
    assert_eq!(at(stray, "/metadata/ownerReferences/0/name"), "web");
    assert_eq!(at(stray, "/metadata/ownerReferences/0/controller"), true);
    // A changed label takes a pod out of the set, which replaces it and lets it live.
    world.edit(kinds::POD, "stray", |it| {
        it["metadata"]["labels"]["app"] = json!("debug")
    });
    world.settle();
    let stray = world.get(kinds::POD, "default", "stray").unwrap();
    assert_eq!(at(stray, "/metadata/ownerReferences"), Value::Null);
    assert_eq!(world.active_pods().len(), 3);
    world.assert_fixpoint();
}

#[test]
fn surplus_pods_go_in_kubernetes_order() {
    let mut world = World::new(2);
    world.add_namespace("default");
    world.add_node("n1", "8", "8Gi");
    world
        .create(kinds::REPLICA_SET, replica_set("web", 3))
        .unwrap();
    world.settle();
    // The node is gone for new pods: the fourth stays pending and is the first to go.
    world.edit(kinds::NODE, "n1", |it| {
        it["spec"]["unschedulable"] = json!(true)
    });
    world.edit(kinds::REPLICA_SET, "web", |it| {
        it["spec"]["replicas"] = json!(4)
    });
    world.settle();
    assert_eq!((world.active_pods().len(), world.ready_pods()), (4, 3));
    let cheap = world
        .active_pods()
        .into_iter()
        .find(|it| trireme_reference::cluster::is_ready(it))
        .unwrap();
    let cheap = cheap["metadata"]["name"].as_str().unwrap().to_owned();
    world.edit(kinds::POD, &cheap, |it| {
        it["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-1"});
    });
    world.edit(kinds::REPLICA_SET, "web", |it| {
        it["spec"]["replicas"] = json!(3)
    });
    world.settle();
    assert_eq!((world.active_pods().len(), world.ready_pods()), (3, 3));
    world.edit(kinds::REPLICA_SET, "web", |it| {
        it["spec"]["replicas"] = json!(2)
    });
    world.settle();
    assert!(world.get(kinds::POD, "default", &cheap).is_none());
    assert!(world.has_event("SuccessfulDelete", &format!("Deleted pod: {cheap}")));
    world.assert_fixpoint();
}

#[test]
fn a_pod_that_is_being_deleted_is_replaced_at_once() {
    let mut world = World::new(3);
    world.add_namespace("default");
    world.add_node("n1", "8", "8Gi");
    world
        .create(kinds::REPLICA_SET, replica_set("web", 1))
        .unwrap();
    world.settle();
    // Its node can not confirm the deletion any more.
    world.alive.clear();
    let name = world.active_pods()[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let key = ObjectKey::new("default", name);
    world.delete(kinds::POD, key, None, "Background").unwrap();
    world.settle();
    assert_eq!(world.all(kinds::POD).len(), 2);
    assert_eq!(world.active_pods().len(), 1);
    let set = world.get(kinds::REPLICA_SET, "default", "web").unwrap();
    assert_eq!(set["status"]["replicas"], 1);
    assert_eq!(set["status"]["terminatingReplicas"], 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever the view has missed and whenever the leader changes, there is never a pod too many.
    #[test]
    fn there_is_never_a_pod_too_many(
        seed in any::<u64>(),
        replicas in 1usize..12,
        crashes in 0usize..5,
        deletions in 0usize..5,
    ) {
        let mut world = World::new(seed);
        world.add_namespace("default");
        world.add_node("n1", "64", "64Gi");
        world.create(kinds::REPLICA_SET, replica_set("web", replicas as i32)).unwrap();
        for round in 0..crashes.max(deletions) {
            let steps = world.random(60);
            for _ in 0..steps {
                world.step();
                prop_assert!(world.active_pods().len() <= replicas);
            }
            if round < crashes {
                world.crash();
            }
            let names: Vec<Value> = world
                .active_pods()
                .iter()
                .map(|pod| pod["metadata"]["name"].clone())
                .collect();
            if round < deletions && !names.is_empty() {
                let index = world.random(names.len() as u64) as usize;
                let key = ObjectKey::new("default", names[index].as_str().unwrap());
                world.delete(kinds::POD, key, None, "Background").unwrap();
            }
        }
        world.settle_with(|world| assert!(world.active_pods().len() <= replicas));
        prop_assert_eq!(world.ready_pods(), replicas);
        world.assert_fixpoint();
    }
}
