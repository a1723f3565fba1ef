//! Single calls: failover, what is retried, what is reported.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use trireme_client::{ApplyOptions, DeleteOptions, Error, ListOptions, PatchType};
use trireme_model::kinds;

use crate::support::FakeCluster;

const CONFIG_MAP: &kinds::Kind = kinds::CONFIG_MAP;

fn config_map(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}})
}

#[tokio::test]
async fn every_operation_reaches_the_server_and_answers_come_back() {
    let cluster = FakeCluster::start(1);
    let client = cluster.client();
    let created = client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap();
    assert_eq!(created["data"]["v"], "tester");
    assert_eq!(
        client.get(CONFIG_MAP, "default", "a").await.unwrap(),
        created
    );

    let mut next = created.clone();
    next["data"]["v"] = "two".into();
    let updated = client.update(CONFIG_MAP, &next).await.unwrap();
    assert_eq!(updated["data"]["v"], "two");
    let stale = client.update(CONFIG_MAP, &next).await.unwrap_err();
    assert!(stale.is_conflict() && !stale.is_already_exists());

    let patch = json!({"x": 1});
    let patched = client
        .patch(
            CONFIG_MAP,
            "default",
            "a",
            "status",
            PatchType::StrategicMerge,
            &patch,
        )
        .await
        .unwrap();
    assert_eq!(patched["data"]["v"], "StrategicMerge status {\"x\":1}");
    let options = ApplyOptions {
        force: true,
        ..ApplyOptions::default()
    };
    let applied = client
        .apply(CONFIG_MAP, &config_map("a"), &options)
        .await
        .unwrap();
    assert_eq!(applied["data"]["v"], "tester true");
    let other = client.with_field_manager("other");
    let applied = other
        .apply(CONFIG_MAP, &config_map("a"), &ApplyOptions::default())
        .await
        .unwrap();
    assert_eq!(applied["data"]["v"], "other false");

    client.bind("default", "p", "u", "node-1").await.unwrap();
    assert_eq!(
        client.get(CONFIG_MAP, "default", "bound-p").await.unwrap()["metadata"]["uid"],
        "node-1"
    );

    let deletion = client
        .delete(CONFIG_MAP, "default", "a", &DeleteOptions::default())
        .await
        .unwrap();
    assert!(deletion.deleted);
    let gone = client.get(CONFIG_MAP, "default", "a").await.unwrap_err();
    assert!(gone.is_not_found());
    assert_eq!(gone.to_string(), "configmaps \"a\" not found");
    assert_eq!(client.cluster_status().await.unwrap().answered_by, 7);
}

#[tokio::test]
async fn errors_carry_kubernetes_statuses() {
    let cluster = FakeCluster::start(1);
    let client = cluster.client();
    client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap();
    let error = client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap_err();
    assert!(error.is_already_exists());
    let status = error.status().unwrap();
    assert_eq!(
        (status.code, status.reason.as_str()),
        (409, "AlreadyExists")
    );
    // An error without a Status names server and operation.
    let error = client.remove_server(3).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "remove server: s0:6443 answered Unimplemented: not here"
    );
}

#[tokio::test]
async fn calls_go_to_the_next_server_when_one_is_gone() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    cluster.servers[0].kill();
    client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap();
    assert_eq!(cluster.requests(1), 1);
    // And stay there, until that one is gone too: then the connection itself is broken.
    client.get(CONFIG_MAP, "default", "a").await.unwrap();
    assert_eq!(client.preferred_server(), "s1:6443");
    cluster.servers[1].kill();
    client.get(CONFIG_MAP, "default", "a").await.unwrap();
    assert_eq!(client.preferred_server(), "s2:6443");
    cluster.servers[2].kill();
    cluster.servers[0].revive();
    client.get(CONFIG_MAP, "default", "a").await.unwrap();
}

#[tokio::test]
async fn a_leaderless_server_is_left_and_writes_happen_once() {
    let cluster = FakeCluster::start(2);
    cluster.servers[0]
        .faults
        .leaderless
        .store(true, Ordering::SeqCst);
    let client = cluster.client();
    client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap();
    assert_eq!((cluster.requests(0), cluster.requests(1)), (1, 1));
    assert_eq!(cluster.store.lock().unwrap().revision, 1);
}

#[tokio::test]
async fn a_cluster_without_leader_is_waited_for() {
    let cluster = FakeCluster::start(2);
    for server in cluster.servers.iter() {
        server.faults.leaderless.store(true, Ordering::SeqCst);
    }
    let client = cluster.client();
    let object = config_map("a");
    let creating = client.create(CONFIG_MAP, "default", &object);
    let electing = async {
        // After some rounds of refusals there is a leader.
        while cluster.requests(0) + cluster.requests(1) < 6 {
            tokio::task::yield_now().await;
        }
        cluster.servers[1]
            .faults
            .leaderless
            .store(false, Ordering::SeqCst);
    };
    let (created, ()) = tokio::join!(creating, electing);
    created.unwrap();
    assert_eq!(cluster.store.lock().unwrap().revision, 1);
}

#[tokio::test]
async fn without_any_leader_the_servers_words_are_reported() {
    let cluster = FakeCluster::start(2);
    for server in cluster.servers.iter() {
        server.faults.leaderless.store(true, Ordering::SeqCst);
    }
    let client = cluster.client_with_deadline(Duration::from_millis(300));
    let error = client.get(CONFIG_MAP, "default", "a").await.unwrap_err();
    assert_eq!(error.to_string(), "no leader");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_sent_again() {
    let cluster = FakeCluster::start(2);
    cluster.servers[0]
        .faults
        .die_after_write
        .store(true, Ordering::SeqCst);
    let client = cluster.client();
    let error = client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Lost { server, .. } if server == "s0:6443"),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .starts_with("create configmaps default/a: the answer of s0:6443 was lost")
    );
    assert!(!error.is_transient());
    // It did happen, once; the caller can find that out from the other server.
    client.get(CONFIG_MAP, "default", "a").await.unwrap();
    assert_eq!(cluster.store.lock().unwrap().revision, 1);
}

#[tokio::test]
async fn an_apply_whose_answer_is_lost_is_repeated() {
    let cluster = FakeCluster::start(2);
    cluster.servers[0]
        .faults
        .die_after_write
        .store(true, Ordering::SeqCst);
    let client = cluster.client();
    client
        .apply(CONFIG_MAP, &config_map("a"), &ApplyOptions::default())
        .await
        .unwrap();
    assert_eq!((cluster.requests(0), cluster.requests(1)), (1, 1));
}

#[tokio::test]
async fn unreachable_servers_are_named_by_the_deadline() {
    let cluster = FakeCluster::start(2);
    for server in cluster.servers.iter() {
        server.kill();
    }
    let client = cluster.client_with_deadline(Duration::from_millis(200));
    let error = client
        .create(CONFIG_MAP, "default", &config_map("a"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(
        text.contains("s0:6443, s1:6443") && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let cluster = FakeCluster::start(1);
    cluster.change(|store| {
        for index in 0..1203 {
            store.put(&format!("c{index:04}"), "u", "");
        }
    });
    let list = cluster
        .client()
        .list(CONFIG_MAP, &ListOptions::default())
        .await
        .unwrap();
    assert_eq!(list.items.len(), 1203);
    assert_eq!(list.resource_version, "1203");
    assert_eq!(list.items[1202]["metadata"]["name"], "c1202");
    assert_eq!(cluster.requests(0), 3);
}

#[tokio::test]
async fn a_client_needs_addresses() {
    let cluster = FakeCluster::start(1);
    let tls = trireme_client::client_config(&cluster.authority.certificate.pem(), None).unwrap();
    let none = trireme_client::ClientConfig::new(Vec::new(), tls, "x");
    assert!(matches!(
        trireme_client::Client::new(none),
        Err(Error::Request(_))
    ));
}
