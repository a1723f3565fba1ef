//! Lists: pages of one revision, versions, compaction.

use std::collections::BTreeSet;

use serde_json::Value;
use trireme_state::Command;

use crate::cluster::{CONFIG_MAPS, Cluster, config_map, version};

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

fn token(list: &Value) -> Option<String> {
    list["metadata"]["continue"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn pages_are_of_one_revision_while_others_write() {
    let cluster = Cluster::start().await;
    for index in 0..10 {
        cluster
            .call("POST", CONFIG_MAPS, config_map(&format!("c{index}"), "1"))
            .await
            .ok();
    }
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=3")).await.ok();
    assert_eq!(names(&first), ["c0", "c1", "c2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 7);
    let mut seen = names(&first);
    let mut next = token(&first);
    let mut round = 0;
    while let Some(token) = next {
        // Between the pages: one behind, one ahead, one changed, one new.
        cluster
            .call(
                "DELETE",
                &format!("{CONFIG_MAPS}/c{}", 9 - round),
                Value::Null,
            )
            .await
            .ok();
        cluster
            .call("POST", CONFIG_MAPS, config_map(&format!("c5{round}"), "1"))
            .await
            .ok();
        let page = cluster
            .get(&format!("{CONFIG_MAPS}?limit=3&continue={token}"))
            .await
            .ok();
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        seen.extend(names(&page));
        next = self::token(&page);
        round += 1;
    }
    let wanted: Vec<String> = (0..10).map(|index| format!("c{index}")).collect();
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn selected_pages_miss_nothing() {
    let cluster = Cluster::start().await;
    for index in 0..20 {
        let mut object = config_map(&format!("c{index:02}"), "1");
        object["metadata"]["labels"] = serde_json::json!({"even": (index % 2 == 0).to_string()});
        cluster.call("POST", CONFIG_MAPS, object).await.ok();
    }
    let mut seen = BTreeSet::new();
    let mut path = format!("{CONFIG_MAPS}?limit=3&labelSelector=even=true");
    loop {
        let page = cluster.get(&path).await.ok();
        assert!(page["metadata"].get("remainingItemCount").is_none());
        for name in names(&page) {
            assert!(seen.insert(name), "an object came twice");
        }
        match token(&page) {
            Some(token) => {
                path = format!("{CONFIG_MAPS}?limit=3&labelSelector=even=true&continue={token}")
            }
            None => break,
        }
    }
    assert_eq!(seen.len(), 10);
}

#[tokio::test]
async fn an_old_token_says_how_to_go_on() {
    let cluster = Cluster::start().await;
    for index in 0..4 {
        cluster
            .call("POST", CONFIG_MAPS, config_map(&format!("c{index}"), "1"))
            .await
            .ok();
    }
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    cluster
        .call("POST", CONFIG_MAPS, config_map("c9", "1"))
        .await
        .ok();
    let revision = cluster.replica.revision();
    cluster
        .replica
        .propose(Command::Compact { revision })
        .await
        .unwrap();
    let expired = cluster
        .get(&format!(
            "{CONFIG_MAPS}?limit=2&continue={}",
            token(&first).unwrap()
        ))
        .await;
    assert_eq!(expired.body["reason"], "Expired");
    assert_eq!(expired.code, 410);
    let on = token(&expired.body).unwrap();
    let rest = cluster
        .get(&format!("{CONFIG_MAPS}?continue={on}"))
        .await
        .ok();
    assert_eq!(names(&rest), ["c2", "c3", "c9"]);
    cluster
        .get(&format!(
            "{CONFIG_MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
            version(&first)
        ))
        .await
        .refused(410, "Expired", "too old resource version");
}

#[tokio::test]
async fn versions_choose_what_is_seen() {
    let cluster = Cluster::start().await;
    let first = cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    cluster
        .call("POST", CONFIG_MAPS, config_map("b", "1"))
        .await
        .ok();
    let at = version(&first);
    let exact = format!("{CONFIG_MAPS}?resourceVersion={at}&resourceVersionMatch=Exact");
    assert_eq!(names(&cluster.get(&exact).await.ok()), ["a"]);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={at}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&cluster.get(&newer).await.ok()), ["a", "b"]);
    assert_eq!(
        names(
            &cluster
                .get(&format!("{CONFIG_MAPS}?resourceVersion=0"))
                .await
                .ok()
        ),
        ["a", "b"]
    );
    let future = cluster.replica.revision() + 100;
    cluster
        .get(&format!("{CONFIG_MAPS}?resourceVersion={future}"))
        .await
        .refused(504, "Timeout", "Too large resource version");
}

#[tokio::test]
async fn a_list_spans_namespaces() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("a", "1"))
        .await
        .ok();
    cluster
        .call(
            "POST",
            "/api/v1/namespaces/kube-system/configmaps",
            config_map("b", "1"),
        )
        .await
        .ok();
    let list = cluster.get("/api/v1/configmaps").await.ok();
    assert_eq!(names(&list), ["a", "b"]);
    assert_eq!(list["kind"], "ConfigMapList");
    let one = cluster
        .get("/api/v1/configmaps?fieldSelector=metadata.namespace=kube-system")
        .await
        .ok();
    assert_eq!(names(&one), ["b"]);
}
