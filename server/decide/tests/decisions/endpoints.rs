//! EndpointSlices and Endpoints follow the pods' conditions.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use trireme_decide::ObjectKey;
use trireme_model::kinds;

use trireme_reference::cluster::{World, at};

fn cluster(seed: u64, replicas: i32) -> World {
    let mut world = World::new(seed);
    world.add_namespace("default");
    world.add_node("n1", "200", "512Gi");
    world.edit(kinds::NODE, "n1", |it| {
        it["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("z1");
    });
    let mut node = world.get(kinds::NODE, "", "n1").unwrap().clone();
    node["status"]["allocatable"]["pods"] = json!("1000");
    world.update_status(kinds::NODE, node).unwrap();
    world.add_deployment("web", replicas, json!(null));
    world
        .create(
            kinds::SERVICE,
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "web", "namespace": "default", "labels": {"team": "blue"}},
                "spec": {"clusterIP": "10.43.0.9", "selector": {"app": "web"},
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
            }),
        )
        .unwrap();
    world
}

fn endpoints(world: &World) -> Vec<Value> {
    world
        .all(kinds::ENDPOINT_SLICE)
        .iter()
        .flat_map(|slice| {
            at(slice, "/endpoints")
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .collect()
}

#[test]
fn slices_say_who_is_ready_serving_and_terminating() {
    let mut world = cluster(1, 2);
    world.settle();
    let slices = world.all(kinds::ENDPOINT_SLICE);
    assert_eq!(slices.len(), 1);
    let slice = slices[0];
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
    );
    let labels = &slice["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(labels["team"], "blue");
    assert_eq!(at(slice, "/metadata/ownerReferences/0/kind"), "Service");
    let all = endpoints(&world);
    assert_eq!(all.len(), 2);
    for endpoint in &all {
        assert_eq!(
            endpoint["conditions"],
            json!({"ready": true, "serving": true, "terminating": false})
        );
        assert_eq!(endpoint["nodeName"], "n1");
        assert_eq!(endpoint["zone"], "z1");
        assert_eq!(endpoint["targetRef"]["kind"], "Pod");
    }
    let list = world.get(kinds::ENDPOINTS, "default", "web").unwrap();
    assert_eq!(
        at(list, "/subsets/0/addresses").as_array().unwrap().len(),
        2
    );
    assert_eq!(at(list, "/subsets/0/ports/0/port"), 8080);
    world.assert_fixpoint();

    // A pod whose node can not confirm its deletion still serves, but takes nothing new.
    world.alive.clear();
    let name = at(&all[0], "/targetRef/name").as_str().unwrap().to_owned();
    world
        .delete(
            kinds::POD,
            ObjectKey::new("default", name.clone()),
            None,
            "Background",
        )
        .unwrap();
    world.settle();
    let all = endpoints(&world);
    let leaving = all
        .iter()
        .find(|it| it["targetRef"]["name"] == name.as_str())
        .unwrap();
    assert_eq!(
        leaving["conditions"],
        json!({"ready": false, "serving": true, "terminating": true})
    );
    let list = world.get(kinds::ENDPOINTS, "default", "web").unwrap();
    assert_eq!(
        at(list, "/subsets/0/addresses").as_array().unwrap().len(),
        1
    );
}

#[test]
fn named_ports_are_looked_up_in_each_pod() {
    let mut world = cluster(2, 1);
    world.edit(kinds::SERVICE, "web", |it| {
        it["spec"]["ports"][0]["targetPort"] = json!("http")
    });
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["template"]["spec"]["containers"][0]["ports"] =
            json!([{"name": "http", "containerPort": 9000, "protocol": "TCP"}]);
    });
    world.settle();
    world.create(kinds::POD, json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "odd", "namespace": "default", "labels": {"app": "web", "pod-template-hash": "x"}},
        "spec": {"containers": [{"name": "main", "image": "web:1",
            "ports": [{"name": "http", "containerPort": 9001, "protocol": "TCP"}]}]},
    })).unwrap();
    world.settle();
    let mut ports: Vec<i64> = world
        .all(kinds::ENDPOINT_SLICE)
        .iter()
        .map(|slice| at(slice, "/ports/0/port").as_i64().unwrap())
        .collect();
    ports.sort();
    assert_eq!(ports, [9000, 9001]);
    let list = world.get(kinds::ENDPOINTS, "default", "web").unwrap();
    assert_eq!(at(list, "/subsets").as_array().unwrap().len(), 2);
    world.assert_fixpoint();
}

#[test]
fn unready_pods_are_published_only_on_request() {
    let mut world = cluster(3, 1);
    world.settle();
    let name = world.active_pods()[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut pod = world.get(kinds::POD, "default", &name).unwrap().clone();
    pod["status"]["conditions"][1]["status"] = json!("False");
    world.pods_get_ready = false;
    world.update_status(kinds::POD, pod).unwrap();
    world.settle();
    assert_eq!(endpoints(&world)[0]["conditions"]["ready"], false);
    let list = world.get(kinds::ENDPOINTS, "default", "web").unwrap();
    assert_eq!(
        at(list, "/subsets/0/notReadyAddresses")
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world.edit(kinds::SERVICE, "web", |it| {
        it["spec"]["publishNotReadyAddresses"] = json!(true)
    });
    world.settle();
    let conditions = endpoints(&world)[0]["conditions"].clone();
    assert_eq!(
        (&conditions["ready"], &conditions["serving"]),
        (&json!(true), &json!(false))
    );
    world.assert_fixpoint();
}

#[test]
fn large_services_have_many_slices_and_small_changes_touch_one() {
    let mut world = cluster(4, 250);
    world.settle();
    let slices = world.all(kinds::ENDPOINT_SLICE);
    let sizes: Vec<usize> = slices
        .iter()
        .map(|it| at(it, "/endpoints").as_array().unwrap().len())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 250);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    let unique: BTreeSet<String> = endpoints(&world)
        .iter()
        .map(|it| it["targetRef"]["uid"].to_string())
        .collect();
    assert_eq!(unique.len(), 250);
    let versions = |world: &World| -> BTreeSet<String> {
        let slices = world.all(kinds::ENDPOINT_SLICE);
        slices
            .iter()
            .map(|it| it["metadata"]["resourceVersion"].to_string())
            .collect()
    };
    let before = versions(&world);
    world.pods_get_ready = false;
    let name = at(&endpoints(&world)[0], "/targetRef/name")
        .as_str()
        .unwrap()
        .to_owned();
    let mut pod = world.get(kinds::POD, "default", &name).unwrap().clone();
    pod["status"]["conditions"][1]["status"] = json!("False");
    world.update_status(kinds::POD, pod).unwrap();
    world.settle();
    assert_eq!(before.difference(&versions(&world)).count(), 1);
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["replicas"] = json!(0)
    });
    world.settle();
    assert_eq!(world.all(kinds::ENDPOINT_SLICE).len(), 1);
    assert!(endpoints(&world).is_empty());
    world.assert_fixpoint();
}

#[test]
fn what_belongs_to_a_deleted_service_goes() {
    let mut world = cluster(5, 1);
    world.settle();
    world
        .delete(
            kinds::SERVICE,
            ObjectKey::new("default", "web"),
            None,
            "Background",
        )
        .unwrap();
    world.settle();
    assert!(world.all(kinds::ENDPOINT_SLICE).is_empty());
    assert!(world.all(kinds::ENDPOINTS).is_empty());
    world.assert_fixpoint();
}

#[test]
fn services_without_a_selector_are_left_to_others() {
    let mut world = cluster(6, 1);
    world.create(kinds::SERVICE, json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "own", "namespace": "default"},
        "spec": {"clusterIP": "10.43.0.10", "ports": [{"port": 80}]},
    })).unwrap();
    world.create(kinds::ENDPOINTS, json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "own", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}],
    })).unwrap();
    world.settle();
    let own = world.get(kinds::ENDPOINTS, "default", "own").unwrap();
    assert_eq!(at(own, "/subsets/0/addresses/0/ip"), "192.0.2.1");
    // They are mirrored into a slice, for those who read slices only.
    let mirror = |world: &World| {
        world
            .get(kinds::ENDPOINT_SLICE, "default", "own-mirror-0-ipv4")
            .cloned()
    };
    let slice = mirror(&world).unwrap();
    assert_eq!(
        slice["endpoints"],
        json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}])
    );
    assert_eq!(
        slice["ports"],
        json!([{"name": "", "port": 80, "protocol": "TCP"}])
    );
    world.assert_fixpoint();
    world.edit(kinds::ENDPOINTS, "own", |it| {
        it["subsets"][0]["addresses"][0]["ip"] = json!("192.0.2.2")
    });
    world.settle();
    assert_eq!(
        mirror(&world).unwrap()["endpoints"][0]["addresses"][0],
        "192.0.2.2"
    );
    world
        .delete(
            kinds::ENDPOINTS,
            ObjectKey::new("default", "own"),
            None,
            "Background",
        )
        .unwrap();
    world.settle();
    assert!(mirror(&world).is_none());
    world.assert_fixpoint();
}
