//! Addresses of LoadBalancer services.

use serde_json::{Value, json};
use trireme_model::kinds;

use trireme_reference::cluster::World;

fn node(name: &str, address: &str, ready: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
        "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}]}})
}

fn service(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": kind, "clusterIP": "10.43.0.9", "ports": [{"port": 80}]}, "status": {"loadBalancer": {}}})
}

fn addresses(world: &World, name: &str) -> Vec<String> {
    let service = world.get(kinds::SERVICE, "default", name).unwrap();
    service["status"]["loadBalancer"]["ingress"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ingress| ingress["ip"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_load_balancer_has_the_addresses_of_the_ready_nodes() {
    let mut world = World::new(1);
    for object in [
        node("b", "192.168.7.10", "True"),
        node("a", "192.168.7.9", "True"),
        node("c", "192.168.7.11", "Unknown"),
    ] {
        world.create(kinds::NODE, object).unwrap();
    }
    for object in [
        service("open", "LoadBalancer"),
        service("closed", "ClusterIP"),
    ] {
        world.create(kinds::SERVICE, object).unwrap();
    }
    let mut foreign = service("foreign", "LoadBalancer");
    foreign["spec"]["loadBalancerClass"] = "example.com/other".into();
    world.create(kinds::SERVICE, foreign).unwrap();
    world.settle();
    assert_eq!(addresses(&world, "open"), ["192.168.7.9", "192.168.7.10"]);
    assert!(addresses(&world, "closed").is_empty());
    assert!(addresses(&world, "foreign").is_empty());

    let writes = world.writes;
    world.settle();
    assert_eq!(world.writes, writes, "at rest nothing is written");

    let mut lost = world.get(kinds::NODE, "", "a").unwrap().clone();
    lost["status"]["conditions"][0]["status"] = "Unknown".into();
    world.update_status(kinds::NODE, lost).unwrap();
    world.settle();
    assert_eq!(addresses(&world, "open"), ["192.168.7.10"]);

    world.edit(kinds::NODE, "b", |node| {
        node["metadata"]["labels"] =
            json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    });
    world.settle();
    assert!(addresses(&world, "open").is_empty());
}
