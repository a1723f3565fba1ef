//! Addresses and ports belong to one Service at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::{Cluster, SERVICES};

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec["ports"].is_null() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn racing_services_get_different_addresses_and_ports() {
    // Ten ports and thirteen addresses for six services that race.
    let cluster = Cluster::with(|config| {
        config.service_cidr = "10.43.0.0/28".into();
        config.node_port_range = 30000..=30009;
    })
    .await;
    let cluster = Arc::new(cluster);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..6 {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            cluster
                .call(
                    "POST",
                    SERVICES,
                    service(&format!("s{index}"), json!({"type": "NodePort"})),
                )
                .await
                .ok()
        });
    }
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    while let Some(made) = tasks.join_next().await {
        let made = made.unwrap();
        addresses.insert(made["spec"]["clusterIP"].as_str().unwrap().to_owned());
        ports.insert(made["spec"]["ports"][0]["nodePort"].as_i64().unwrap());
    }
    assert_eq!((addresses.len(), ports.len()), (6, 6));
    assert!(!addresses.contains("10.43.0.1"));
}

#[tokio::test]
async fn a_full_range_refuses_and_a_deletion_frees() {
    let cluster = Cluster::with(|config| config.node_port_range = 30000..=30000).await;
    cluster
        .call("POST", SERVICES, service("a", json!({"type": "NodePort"})))
        .await
        .ok();
    cluster
        .call("POST", SERVICES, service("b", json!({"type": "NodePort"})))
        .await
        .refused(
            422,
            "Invalid",
            "failed to allocate a nodePort: range is full",
        );
    let taken = service(
        "b",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}),
    );
    cluster.call("POST", SERVICES, taken.clone()).await.refused(
        422,
        "Invalid",
        "provided port is already allocated",
    );
    cluster
        .call("DELETE", &format!("{SERVICES}/a"), Value::Null)
        .await
        .ok();
    cluster.call("POST", SERVICES, taken).await.ok();
}

#[tokio::test]
async fn an_address_is_kept_freed_and_taken_by_type() {
    let cluster = Cluster::start().await;
    let made = cluster
        .call(
            "POST",
            SERVICES,
            service("a", json!({"clusterIP": "10.43.0.9"})),
        )
        .await
        .ok();
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.43.0.9"]));
    cluster
        .call(
            "POST",
            SERVICES,
            service("b", json!({"clusterIP": "10.43.0.9"})),
        )
        .await
        .refused(422, "Invalid", "provided IP is already allocated");
    let path = format!("{SERVICES}/a");
    let to_port = cluster
        .patch(
            &path,
            "merge-patch+json",
            json!({"spec": {"type": "NodePort"}}),
        )
        .await
        .ok();
    let port = to_port["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(to_port["spec"]["clusterIP"], "10.43.0.9");
    let back = cluster
        .patch(
            &path,
            "merge-patch+json",
            json!({"spec": {"type": "ClusterIP"}}),
        )
        .await
        .ok();
    assert!(back["spec"]["ports"][0].get("nodePort").is_none(), "{back}");
    let again = service(
        "b",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}),
    );
    cluster.call("POST", SERVICES, again).await.ok();
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = cluster
        .patch(&path, "merge-patch+json", external)
        .await
        .ok();
    assert!(external["spec"].get("clusterIP").is_none(), "{external}");
    cluster
        .call(
            "POST",
            SERVICES,
            service("c", json!({"clusterIP": "10.43.0.9"})),
        )
        .await
        .ok();
    let headless = cluster
        .call("POST", SERVICES, service("d", json!({"clusterIP": "None"})))
        .await
        .ok();
    assert_eq!(headless["spec"]["clusterIP"], "None");
}
