//! Garbage collection, namespaces and what each of them starts with, events' lifetime.

use jiff::SignedDuration;
use serde_json::{Value, json};
use trireme_decide::ObjectKey;
use trireme_model::kinds;

use trireme_reference::cluster::{World, at};

fn cluster(seed: u64) -> World {
    let mut world = World::new(seed);
    world.add_namespace("default");
    world.add_node("n1", "16", "16Gi");
    world.add_deployment("web", 2, json!(null));
    world.settle();
    assert_eq!(world.ready_pods(), 2);
    world
}

fn web() -> ObjectKey {
    ObjectKey::new("default", "web")
}

#[test]
fn background_deletion_takes_everything_along() {
    let mut world = cluster(1);
    world
        .delete(kinds::DEPLOYMENT, web(), None, "Background")
        .unwrap();
    world.settle();
    assert!(world.all(kinds::REPLICA_SET).is_empty());
    assert!(world.all(kinds::POD).is_empty());
    world.assert_fixpoint();
}

#[test]
fn foreground_deletion_waits_for_the_last_dependent() {
    let mut world = cluster(2);
    world
        .delete(kinds::DEPLOYMENT, web(), None, "Foreground")
        .unwrap();
    world.settle_with(|world| {
        let pods = world.all(kinds::POD).len();
        let sets = world.all(kinds::REPLICA_SET).len();
        assert!(
            pods == 0 || sets == 1,
            "the ReplicaSet went before its pods"
        );
        assert!(sets == 0 || world.all(kinds::DEPLOYMENT).len() == 1);
    });
    assert!(world.all(kinds::DEPLOYMENT).is_empty());
    assert!(world.all(kinds::POD).is_empty());
    world.assert_fixpoint();
}

#[test]
fn orphans_live_on_without_an_owner() {
    let mut world = cluster(3);
    world
        .delete(kinds::DEPLOYMENT, web(), None, "Orphan")
        .unwrap();
    world.settle();
    assert!(world.all(kinds::DEPLOYMENT).is_empty());
    let sets = world.all(kinds::REPLICA_SET);
    assert_eq!(sets.len(), 1);
    assert_eq!(at(sets[0], "/metadata/ownerReferences"), Value::Null);
    assert_eq!(world.ready_pods(), 2);
    world.assert_fixpoint();
    // A Deployment of the same selector and template takes them over without a new pod.
    let names = |world: &World| -> Vec<Value> {
        world
            .active_pods()
            .iter()
            .map(|pod| pod["metadata"]["name"].clone())
            .collect()
    };
    let before = names(&world);
    world.add_deployment("web", 2, json!(null));
    world.settle();
    assert_eq!(names(&world), before);
    assert_eq!(world.all(kinds::REPLICA_SET).len(), 1);
    world.assert_fixpoint();
}

#[test]
fn an_absent_owner_is_struck_out_and_the_last_one_pulls_along() {
    let mut world = cluster(4);
    let config = |name: &str, owners: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default", "ownerReferences": owners}})
    };
    world
        .create(kinds::CONFIG_MAP, config("one", json!(null)))
        .unwrap();
    world
        .create(kinds::CONFIG_MAP, config("two", json!(null)))
        .unwrap();
    let reference = |world: &World, name: &str| {
        let uid = at(
            world.get(kinds::CONFIG_MAP, "default", name).unwrap(),
            "/metadata/uid",
        );
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid})
    };
    let owners = json!([reference(&world, "one"), reference(&world, "two")]);
    world
        .create(kinds::CONFIG_MAP, config("child", owners))
        .unwrap();
    world.settle();
    world
        .delete(
            kinds::CONFIG_MAP,
            ObjectKey::new("default", "one"),
            None,
            "Background",
        )
        .unwrap();
    world.settle();
    let child = world.get(kinds::CONFIG_MAP, "default", "child").unwrap();
    assert_eq!(
        at(child, "/metadata/ownerReferences")
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world
        .delete(
            kinds::CONFIG_MAP,
            ObjectKey::new("default", "two"),
            None,
            "Background",
        )
        .unwrap();
    world.settle();
    assert!(world.get(kinds::CONFIG_MAP, "default", "child").is_none());
    world.assert_fixpoint();
}

#[test]
fn an_owner_of_an_unknown_kind_is_left_alone() {
    let mut world = cluster(5);
    world
        .create(
            kinds::CONFIG_MAP,
            json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "child", "namespace": "default", "ownerReferences": [
            {"apiVersion": "example.org/v1", "kind": "Widget", "name": "w", "uid": "w"}]}}),
        )
        .unwrap();
    world.settle();
    assert!(world.get(kinds::CONFIG_MAP, "default", "child").is_some());
}

#[test]
fn a_namespace_starts_with_its_account_and_ca_and_ends_empty() {
    let mut world = cluster(6);
    assert!(
        world
            .get(kinds::SERVICE_ACCOUNT, "default", "default")
            .is_some()
    );
    let ca = world
        .get(kinds::CONFIG_MAP, "default", "kube-root-ca.crt")
        .unwrap();
    assert_eq!(ca["data"], json!({"ca.crt": "CA"}));
    world.edit(kinds::CONFIG_MAP, "kube-root-ca.crt", |it| {
        it["data"]["ca.crt"] = json!("forged")
    });
    world.settle();
    let ca = world
        .get(kinds::CONFIG_MAP, "default", "kube-root-ca.crt")
        .unwrap();
    assert_eq!(ca["data"], json!({"ca.crt": "CA"}));
    world
        .delete(
            kinds::NAMESPACE,
            ObjectKey::cluster("default"),
            None,
            "Background",
        )
        .unwrap();
    world.settle();
    assert!(world.get(kinds::NAMESPACE, "", "default").is_none());
    assert!(
        world
            .objects
            .keys()
            .all(|(_, key)| key.namespace != "default")
    );
    world.assert_fixpoint();
}

#[test]
fn events_go_an_hour_after_they_were_last_seen() {
    let mut world = cluster(7);
    let event = |name: &str, seen: &str| {
        json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": seen})
    };
    world
        .create(kinds::EVENT, event("a", "2030-01-01T00:00:00Z"))
        .unwrap();
    world
        .create(kinds::EVENT, event("b", "2030-01-01T00:30:00Z"))
        .unwrap();
    world.settle();
    world.pass(SignedDuration::from_mins(59));
    assert_eq!(world.all(kinds::EVENT).len(), 2);
    world.pass(SignedDuration::from_mins(2));
    assert_eq!(world.all(kinds::EVENT).len(), 1);
    world.pass(SignedDuration::from_mins(30));
    assert!(world.all(kinds::EVENT).is_empty());
}
