//! Watches: in order, without gap or repeat, for each watcher what it selected.

use serde_json::{Value, json};
use trireme_state::Command;

use crate::cluster::{CONFIG_MAPS, Cluster, PODS, admin, config_map, pod, version};

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("before", "1"))
        .await
        .ok();
    let list = cluster.get(CONFIG_MAPS).await.ok();
    let made = cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    let mut watch = cluster
        .watch(&format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={}",
            version(&list)
        ))
        .await;
    let (event_type, object) = watch.next().await.unwrap();
    assert_eq!((event_type.as_str(), &object), ("ADDED", &made));
    cluster
        .patch(
            &format!("{CONFIG_MAPS}/a"),
            "merge-patch+json",
            json!({"data": {"key": "2"}}),
        )
        .await
        .ok();
    let (event_type, changed) = watch.next().await.unwrap();
    assert_eq!(
        (event_type.as_str(), &changed["data"]["key"]),
        ("MODIFIED", &json!("2"))
    );
    cluster
        .call("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null)
        .await
        .ok();
    let (event_type, gone) = watch.next().await.unwrap();
    assert_eq!(event_type, "DELETED");
    assert_eq!(gone["data"], changed["data"]);
    assert!(version(&gone) > version(&changed));

    // From any version in between, the rest comes again.
    let mut again = cluster
        .watch(&format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={}",
            version(&changed)
        ))
        .await;
    assert_eq!(again.next().await.unwrap(), ("DELETED".to_owned(), gone));
}

#[tokio::test]
async fn without_a_version_it_begins_with_what_there_is() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(watch.shown().await, "ADDED a");
    cluster
        .call("POST", CONFIG_MAPS, config_map("b", "1"))
        .await
        .ok();
    assert_eq!(watch.shown().await, "ADDED b");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    let options = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?{options}")).await;
    assert_eq!(watch.shown().await, "ADDED a");
    let (event_type, bookmark) = watch.next().await.unwrap();
    assert_eq!(event_type, "BOOKMARK");
    assert_eq!(bookmark["kind"], "ConfigMap");
    assert_eq!(
        bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    cluster
        .call("POST", CONFIG_MAPS, config_map("b", "1"))
        .await
        .ok();
    assert_eq!(watch.shown().await, "ADDED b");
    cluster
        .get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true"))
        .await
        .refused(
            422,
            "Invalid",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
}

#[tokio::test]
async fn selectors_turn_changes_into_comings_and_goings() {
    let cluster = Cluster::start().await;
    let list = cluster.get(PODS).await.ok();
    let path = format!(
        "{PODS}?watch=true&labelSelector=app=web&resourceVersion={}",
        version(&list)
    );
    let mut watch = cluster.watch(&path).await;
    let on_node = format!(
        "{PODS}?watch=true&fieldSelector=spec.nodeName=n1&resourceVersion={}",
        version(&list)
    );
    let mut node = cluster.watch(&on_node).await;

    let mut other = pod("a");
    other["metadata"]["labels"] = json!({"app": "other"});
    cluster.call("POST", PODS, other).await.ok();
    let relabel = |label: &str| json!({"metadata": {"labels": {"app": label}}});
    let path = format!("{PODS}/a");
    cluster
        .patch(&path, "merge-patch+json", relabel("web"))
        .await
        .ok();
    cluster
        .patch(
            &path,
            "merge-patch+json",
            json!({"metadata": {"annotations": {"x": "y"}}}),
        )
        .await
        .ok();
    cluster
        .patch(&path, "merge-patch+json", relabel("other"))
        .await
        .ok();
    assert_eq!(watch.shown().await, "ADDED a");
    assert_eq!(watch.shown().await, "MODIFIED a");
    let (event_type, last) = watch.next().await.unwrap();
    assert_eq!(
        (
            event_type.as_str(),
            last["metadata"]["labels"]["app"].as_str()
        ),
        ("DELETED", Some("web"))
    );

    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    cluster
        .call("POST", &format!("{path}/binding"), binding)
        .await
        .ok();
    assert_eq!(node.shown().await, "ADDED a");
    cluster
        .call("DELETE", &path, json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    assert_eq!(node.shown().await, "DELETED a");
}

#[tokio::test]
async fn a_compacted_version_is_expired() {
    let cluster = Cluster::start().await;
    let list = cluster.get(CONFIG_MAPS).await.ok();
    cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    let revision = cluster.replica.revision();
    cluster
        .replica
        .propose(Command::Compact { revision })
        .await
        .unwrap();
    let mut watch = cluster
        .watch(&format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={}",
            version(&list)
        ))
        .await;
    let (event_type, status) = watch.next().await.unwrap();
    assert_eq!(event_type, "ERROR");
    assert_eq!(
        (&status["code"], &status["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("too old resource version")
    );
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn bookmarks_tell_how_far_a_quiet_watch_is_and_it_ends_in_time() {
    let cluster = Cluster::start().await;
    let list = cluster.get(PODS).await.ok();
    let options = "watch=true&allowWatchBookmarks=true&timeoutSeconds=3";
    let mut watch = cluster
        .watch(&format!(
            "{PODS}?{options}&resourceVersion={}",
            version(&list)
        ))
        .await;
    let other = cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    let (event_type, bookmark) = watch.next().await.unwrap();
    assert_eq!(event_type, "BOOKMARK");
    assert!(version(&bookmark) >= version(&other));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_are_watched_with_their_columns_once() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    cluster
        .call("POST", CONFIG_MAPS, config_map("b", "1"))
        .await
        .ok();
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1");
    let text = cluster
        .send(Some(admin()), "GET", &path, &accept, "")
        .await
        .body;
    let lines: Vec<Value> = text
        .as_str()
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["object"]["kind"], "Table");
    assert!(lines[0]["object"]["columnDefinitions"].is_array());
    assert!(lines[1]["object"]["columnDefinitions"].is_null());
    assert_eq!(lines[1]["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn many_writes_reach_every_watcher_in_order() {
    let cluster = Cluster::start().await;
    let list = cluster.get(CONFIG_MAPS).await.ok();
    let path = format!(
        "{CONFIG_MAPS}?watch=true&resourceVersion={}",
        version(&list)
    );
    let mut one = cluster.watch(&path).await;
    for index in 0..300 {
        cluster
            .call(
                "POST",
                CONFIG_MAPS,
                config_map(&format!("c{index:03}"), "1"),
            )
            .await
            .ok();
    }
    let mut late = cluster.watch(&path).await;
    for index in 0..300 {
        let wanted = format!("ADDED c{index:03}");
        assert_eq!(one.shown().await, wanted);
        assert_eq!(late.shown().await, wanted);
    }
}
