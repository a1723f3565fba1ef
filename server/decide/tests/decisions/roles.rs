//! Aggregated cluster roles.

use serde_json::{Value, json};
use trireme_decide::ObjectKey;
use trireme_model::kinds;

use trireme_reference::cluster::World;

fn role(name: &str, labels: Value, resources: &[&str]) -> Value {
    let rules: Vec<Value> = resources
        .iter()
        .map(|resource| json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]}))
        .collect();
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels}, "rules": rules})
}

fn gathering(name: &str, selectors: Value) -> Value {
    let mut role = role(name, json!({}), &["left-over"]);
    role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    role
}

fn resources(world: &World, name: &str) -> Vec<String> {
    let role = world.get(kinds::CLUSTER_ROLE, "", name).unwrap();
    let rules = role["rules"].as_array().unwrap();
    rules
        .iter()
        .map(|rule| rule["resources"][0].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_aggregated_role_holds_what_its_selectors_choose_and_nothing_else() {
    let mut world = World::new(1);
    for role in [
        role("b", json!({"to": "all"}), &["pods", "secrets"]),
        role("a", json!({"to": "all", "more": "yes"}), &["pods", "nodes"]),
        role("c", json!({"to": "none"}), &["events"]),
        gathering(
            "all",
            json!([{"matchLabels": {"more": "yes"}}, {"matchLabels": {"to": "all"}}]),
        ),
        // Of one that is itself aggregated.
        gathering(
            "beyond",
            json!([{"matchExpressions": [{"key": "to", "operator": "In", "values": ["none", "up"]}]}]),
        ),
    ] {
        world.create(kinds::CLUSTER_ROLE, role).unwrap();
    }
    world.settle();
    assert_eq!(resources(&world, "all"), ["pods", "nodes", "secrets"]);
    assert_eq!(resources(&world, "beyond"), ["events"]);

    // Labels decide, also when they change; so do the sources' rules.
    world.edit(kinds::CLUSTER_ROLE, "all", |role| {
        role["metadata"]["labels"] = json!({"to": "up"});
    });
    world.edit(kinds::CLUSTER_ROLE, "a", |role| {
        role["metadata"]["labels"] = json!({});
    });
    world.edit(kinds::CLUSTER_ROLE, "b", |role| {
        role["rules"][1]["resources"][0] = json!("leases");
    });
    world.settle();
    assert_eq!(resources(&world, "all"), ["pods", "leases"]);
    assert_eq!(resources(&world, "beyond"), ["pods", "leases", "events"]);
    let gone = ObjectKey::cluster("b");
    world
        .delete(kinds::CLUSTER_ROLE, gone, None, "Background")
        .unwrap();
    world.settle();
    assert_eq!(resources(&world, "beyond"), ["events"]);
    world.assert_fixpoint();
}
