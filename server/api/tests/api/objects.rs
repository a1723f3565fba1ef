//! The life of objects: made, changed, applied, deleted.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, PODS, admin, config_map, deployment, pod, version,
};

#[tokio::test]
async fn an_object_is_made_read_changed_and_deleted() {
    let cluster = Cluster::start().await;
    let made = cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await;
    assert_eq!(made.code, 201);
    let made = made.body;
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(!made["metadata"]["uid"].as_str().unwrap().is_empty());
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.ok(), made);

    let mut changed = made.clone();
    changed["data"]["key"] = "2".into();
    let changed = cluster
        .call("PUT", &format!("{CONFIG_MAPS}/a"), changed)
        .await
        .ok();
    assert!(version(&changed) > version(&made));
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    cluster
        .call("PUT", &format!("{CONFIG_MAPS}/a"), made)
        .await
        .refused(409, "Conflict", "modified");

    let gone = cluster
        .call("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null)
        .await
        .ok();
    assert_eq!(
        (gone["kind"].as_str(), gone["status"].as_str()),
        (Some("Status"), Some("Success"))
    );
    assert_eq!(gone["details"]["uid"], changed["metadata"]["uid"]);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let object = json!({"metadata": {"generateName": "made-"}});
    let one = cluster.call("POST", CONFIG_MAPS, object.clone()).await.ok();
    let other = cluster.call("POST", CONFIG_MAPS, object).await.ok();
    assert!(
        one["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("made-")
    );
    assert_ne!(one["metadata"]["name"], other["metadata"]["name"]);
}

#[tokio::test]
async fn a_write_that_changes_nothing_writes_nothing() {
    let cluster = Cluster::start().await;
    let made = cluster
        .call("POST", DEPLOYMENTS, deployment("a"))
        .await
        .ok();
    let path = format!("{DEPLOYMENTS}/a");
    let before = cluster.replica.revision();
    let same = cluster.call("PUT", &path, made.clone()).await.ok();
    assert_eq!(version(&same), version(&made));
    cluster
        .patch(&path, "merge-patch+json", json!({"spec": {"replicas": 2}}))
        .await
        .ok();
    cluster
        .patch(
            &path,
            "strategic-merge-patch+json",
            json!({"spec": {"replicas": 2}}),
        )
        .await
        .ok();
    assert_eq!(cluster.replica.revision(), before);
}

#[tokio::test]
async fn a_dry_run_answers_and_leaves_no_trace() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("there", "1"))
        .await
        .ok();
    let before = cluster.replica.revision();
    let made = cluster
        .call("POST", &format!("{PODS}?dryRun=All"), pod("a"))
        .await
        .ok();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let there = format!("{CONFIG_MAPS}/there?dryRun=All");
    let patched = cluster
        .patch(&there, "merge-patch+json", json!({"data": {"key": "2"}}))
        .await
        .ok();
    assert_eq!(patched["data"]["key"], "2");
    cluster
        .call(
            "POST",
            &format!("{CONFIG_MAPS}?dryRun=All"),
            config_map("there", "1"),
        )
        .await
        .refused(409, "AlreadyExists", "");
    cluster.call("DELETE", &there, Value::Null).await.ok();
    cluster
        .call(
            "DELETE",
            &format!("{CONFIG_MAPS}/there"),
            json!({"dryRun": ["All"]}),
        )
        .await
        .ok();
    assert_eq!(
        cluster.get(&format!("{CONFIG_MAPS}/there")).await.ok()["data"]["key"],
        "1"
    );
    assert_eq!(cluster.replica.revision(), before);
}

#[tokio::test]
async fn the_three_patches_and_their_fields_of_status() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", DEPLOYMENTS, deployment("a"))
        .await
        .ok();
    let path = format!("{DEPLOYMENTS}/a");
    let json_patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    let object = cluster
        .patch(&path, "json-patch+json", json_patch)
        .await
        .ok();
    assert_eq!(
        (
            &object["spec"]["replicas"],
            &object["metadata"]["generation"]
        ),
        (&json!(3), &json!(2))
    );
    let merge = json!({"metadata": {"labels": {"x": "y"}}, "status": {"replicas": 9}});
    let object = cluster.patch(&path, "merge-patch+json", merge).await.ok();
    assert_eq!(object["metadata"]["labels"]["x"], "y");
    assert_eq!(object["metadata"]["generation"], 2);
    assert!(object["status"].get("replicas").is_none(), "{object}");
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s:1"}]}}}});
    let object = cluster
        .patch(&path, "strategic-merge-patch+json", strategic)
        .await
        .ok();
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let status = json!({"status": {"replicas": 2}, "spec": {"replicas": 7}});
    let object = cluster
        .patch(&format!("{path}/status"), "merge-patch+json", status)
        .await
        .ok();
    assert_eq!(
        (&object["status"]["replicas"], &object["spec"]["replicas"]),
        (&json!(2), &json!(3))
    );
}

#[tokio::test]
async fn scale_is_read_and_written() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", DEPLOYMENTS, deployment("a"))
        .await
        .ok();
    let path = format!("{DEPLOYMENTS}/a/scale");
    let mut scale = cluster.get(&path).await.ok();
    assert_eq!(
        (scale["kind"].as_str(), &scale["spec"]["replicas"]),
        (Some("Scale"), &json!(2))
    );
    scale["spec"]["replicas"] = 5.into();
    let scaled = cluster.call("PUT", &path, scale.clone()).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    cluster
        .call("PUT", &path, scale)
        .await
        .refused(409, "Conflict", "modified");
    let patched = cluster
        .patch(&path, "merge-patch+json", json!({"spec": {"replicas": 1}}))
        .await
        .ok();
    assert_eq!(patched["spec"]["replicas"], 1);
    assert_eq!(
        cluster.get(&format!("{DEPLOYMENTS}/a")).await.ok()["spec"]["replicas"],
        1
    );
    cluster
        .patch(&path, "merge-patch+json", json!({"spec": {"replicas": -1}}))
        .await
        .refused(422, "Invalid", "spec.replicas");
}

#[tokio::test]
async fn apply_makes_changes_and_guards_fields() {
    let cluster = Cluster::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let made = cluster
        .apply(&path, "one", false, config_map("a", "1"))
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let before = cluster.replica.revision();
    cluster
        .apply(&path, "one", false, config_map("a", "1"))
        .await
        .ok();
    assert_eq!(
        cluster.replica.revision(),
        before,
        "applying the same again wrote"
    );
    cluster
        .apply(&path, "two", false, config_map("a", "2"))
        .await
        .refused(409, "Conflict", "conflict with \"one\"");
    let forced = cluster
        .apply(&path, "two", true, config_map("a", "2"))
        .await
        .ok();
    assert_eq!(forced["data"]["key"], "2");
    let mut without = config_map("a", "2");
    without.as_object_mut().unwrap().remove("data");
    let left = cluster.apply(&path, "two", false, without).await.ok();
    assert!(left.get("data").is_none(), "{left}");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let cluster = Cluster::start().await;
    let mut object = config_map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.call("POST", CONFIG_MAPS, object).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let marked = cluster.call("DELETE", &path, Value::Null).await.ok();
    assert!(
        marked["metadata"]["deletionTimestamp"].is_string(),
        "{marked}"
    );
    let before = cluster.replica.revision();
    cluster.call("DELETE", &path, Value::Null).await.ok();
    assert_eq!(cluster.replica.revision(), before);
    cluster
        .patch(
            &path,
            "merge-patch+json",
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_is_left_to_the_collector_by_finalizers() {
    let cluster = Cluster::start().await;
    for (name, policy, finalizer) in [
        ("f", "Foreground", "foregroundDeletion"),
        ("o", "Orphan", "orphan"),
    ] {
        cluster
            .call("POST", DEPLOYMENTS, deployment(name))
            .await
            .ok();
        let path = format!("{DEPLOYMENTS}/{name}");
        let marked = cluster
            .call("DELETE", &path, json!({"propagationPolicy": policy}))
            .await
            .ok();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
    }
    cluster
        .call("POST", DEPLOYMENTS, deployment("b"))
        .await
        .ok();
    cluster
        .call(
            "DELETE",
            &format!("{DEPLOYMENTS}/b"),
            json!({"propagationPolicy": "Background"}),
        )
        .await
        .ok();
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/b")).await.code, 404);
}

#[tokio::test]
async fn preconditions_guard_deletions() {
    let cluster = Cluster::start().await;
    let made = cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    let path = format!("{CONFIG_MAPS}/a");
    let other = json!({"preconditions": {"uid": "other"}});
    cluster
        .call("DELETE", &path, other)
        .await
        .refused(409, "Conflict", "Precondition failed: UID");
    let old = json!({"preconditions": {"resourceVersion": "1"}});
    cluster.call("DELETE", &path, old).await.refused(
        409,
        "Conflict",
        "Precondition failed: ResourceVersion",
    );
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}});
    cluster.call("DELETE", &path, right).await.ok();
}

fn binding(node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": node}})
}

#[tokio::test]
async fn pods_on_a_node_go_gracefully() {
    let cluster = Cluster::start().await;
    cluster.call("POST", PODS, pod("pending")).await.ok();
    cluster
        .call("DELETE", &format!("{PODS}/pending"), Value::Null)
        .await
        .ok();
    assert_eq!(cluster.get(&format!("{PODS}/pending")).await.code, 404);

    cluster.call("POST", PODS, pod("a")).await.ok();
    let path = format!("{PODS}/a");
    let bound = cluster
        .call("POST", &format!("{path}/binding"), binding("n1"))
        .await;
    assert_eq!(
        (bound.code, bound.body["status"].as_str()),
        (201, Some("Success"))
    );
    cluster
        .call("POST", &format!("{path}/binding"), binding("n2"))
        .await
        .refused(409, "Conflict", "already assigned");
    let marked = cluster.call("DELETE", &path, Value::Null).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = cluster
        .call("DELETE", &path, json!({"gracePeriodSeconds": 3}))
        .await
        .ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 3);
    let gone = cluster
        .call("DELETE", &path, json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    assert_eq!(gone["metadata"]["name"], "a");
    assert_eq!(cluster.get(&path).await.code, 404);

    cluster.call("POST", PODS, pod("e")).await.ok();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "e"}});
    assert_eq!(
        cluster
            .call("POST", &format!("{PODS}/e/eviction"), eviction)
            .await
            .code,
        201
    );
    assert_eq!(cluster.get(&format!("{PODS}/e")).await.code, 404);
}

#[tokio::test]
async fn a_dying_namespace_takes_nothing_new_and_goes_when_finalized() {
    let cluster = Cluster::start().await;
    cluster
        .call(
            "POST",
            "/api/v1/namespaces",
            json!({"metadata": {"name": "team"}}),
        )
        .await
        .ok();
    let pods = "/api/v1/namespaces/team/pods";
    cluster.call("POST", pods, pod("a")).await.ok();
    let marked = cluster
        .call("DELETE", "/api/v1/namespaces/team", Value::Null)
        .await
        .ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    cluster.call("POST", pods, pod("b")).await.refused(
        403,
        "Forbidden",
        "pods \"b\" is forbidden: unable to create new content in namespace team because it is being terminated",
    );
    let mut finalized = cluster.get("/api/v1/namespaces/team").await.ok();
    finalized["spec"]["finalizers"] = json!([]);
    cluster
        .call("PUT", "/api/v1/namespaces/team/finalize", finalized)
        .await
        .ok();
    assert_eq!(cluster.get("/api/v1/namespaces/team").await.code, 404);
}

#[tokio::test]
async fn racing_patches_all_count() {
    let cluster = Arc::new(Cluster::start().await);
    cluster
        .call("POST", CONFIG_MAPS, json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            let patch = json!({"data": {format!("key-{writer}"): "x"}});
            cluster
                .patch(&format!("{CONFIG_MAPS}/a"), "merge-patch+json", patch)
                .await
                .ok();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let object = cluster.get(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 8);
}

#[tokio::test]
async fn events_are_one_store_with_two_views() {
    let cluster = Cluster::start().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "it runs", "type": "Normal",
    });
    cluster
        .call("POST", "/api/v1/namespaces/default/events", event)
        .await
        .ok();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let shown = cluster.get(&format!("{path}/e")).await.ok();
    assert_eq!(
        (&shown["note"], &shown["apiVersion"]),
        (&json!("it runs"), &json!("events.k8s.io/v1"))
    );
    let listed = cluster
        .get(&format!("{path}?fieldSelector=reason=Started"))
        .await
        .ok();
    assert_eq!(listed["items"][0]["regarding"]["name"], "p");
}

#[tokio::test]
async fn yaml_and_tables_are_spoken() {
    let cluster = Cluster::start().await;
    let yaml = "metadata:\n  name: a\ndata:\n  key: value\n";
    let headers = [
        ("content-type", "application/yaml"),
        ("accept", "application/yaml"),
    ];
    let made = cluster
        .send(Some(admin()), "POST", CONFIG_MAPS, &headers, yaml)
        .await;
    assert_eq!(made.code, 201);
    assert!(
        made.body.as_str().unwrap().contains("key: value"),
        "{}",
        made.body
    );
    let accept = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let table = cluster
        .send(Some(admin()), "GET", CONFIG_MAPS, &accept, "")
        .await
        .ok();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    let accept = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let list = cluster
        .send(Some(admin()), "GET", CONFIG_MAPS, &accept, "")
        .await
        .ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none());
    cluster
        .send(
            Some(admin()),
            "GET",
            CONFIG_MAPS,
            &[("accept", "image/png")],
            "",
        )
        .await
        .refused(406, "NotAcceptable", "");
}

#[tokio::test]
async fn a_collection_is_deleted_as_selected() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        let mut object = config_map(name, "1");
        object["metadata"]["labels"] = json!({"keep": if name == "b" { "yes" } else { "no" }});
        cluster.call("POST", CONFIG_MAPS, object).await.ok();
    }
    let path = format!("{CONFIG_MAPS}?labelSelector=keep=no");
    let deleted = cluster.call("DELETE", &path, Value::Null).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = cluster.get(CONFIG_MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}

#[tokio::test]
async fn a_put_creates_what_kubernetes_lets_it_create() {
    let cluster = Cluster::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let events = "/api/v1/namespaces/default/events";
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let lease =
        json!({"metadata": {"name": "l", "resourceVersion": "3"}, "spec": {"holderIdentity": "a"}});
    let event = json!({"metadata": {"name": "e"}, "reason": "Tested",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let role = json!({"metadata": {"name": "r"}, "rules": []});
    for (path, object) in [(leases, &lease), (events, &event), (roles, &role)] {
        let name = object["metadata"]["name"].as_str().unwrap();
        let made = cluster
            .call("PUT", &format!("{path}/{name}"), object.clone())
            .await;
        assert_eq!(made.code, 201, "{path}: {}", made.body);
        assert!(made.body["metadata"]["uid"].is_string());
    }
    for (path, object) in [
        (CONFIG_MAPS, config_map("c", "1")),
        (PODS, pod("c")),
        (DEPLOYMENTS, deployment("c")),
    ] {
        cluster
            .call("PUT", &format!("{path}/c"), object)
            .await
            .refused(404, "NotFound", "\"c\" not found");
    }
    // Who names a uid means the object that had it.
    let mut gone = lease.clone();
    gone["metadata"]["name"] = "gone".into();
    gone["metadata"]["uid"] = "u".into();
    cluster
        .call("PUT", &format!("{leases}/gone"), gone)
        .await
        .refused(409, "Conflict", "Precondition failed: UID");
    // A lease is replaced only by who knows which.
    let blind = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "b"}});
    cluster
        .call("PUT", &format!("{leases}/l"), blind)
        .await
        .refused(
            422,
            "Invalid",
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        );
}

#[tokio::test]
async fn ephemeral_containers_are_kept_with_their_defaults() {
    let cluster = Cluster::start().await;
    cluster.call("POST", PODS, pod("a")).await.ok();
    let path = format!("{PODS}/a/ephemeralcontainers");
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}});
    let kept = cluster
        .patch(&path, "strategic-merge-patch+json", debug)
        .await
        .ok();
    let container = &kept["spec"]["ephemeralContainers"][0];
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(container["imagePullPolicy"], "Always");
    let other = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "other"}]}});
    cluster
        .patch(&path, "strategic-merge-patch+json", other)
        .await
        .refused(
            422,
            "Invalid",
            "existing ephemeral containers \"debug\" may not be changed",
        );
}

#[tokio::test]
async fn an_empty_store_is_at_a_version_that_can_be_watched() {
    let directory = tempfile::tempdir().unwrap();
    let replica = crate::cluster::replica(directory.path()).await;
    assert_eq!(replica.revision(), 1);
}
