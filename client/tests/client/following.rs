//! Informers through server deaths and compactions.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use trireme_client::{Change, Informer, InformerOptions};
use trireme_model::{kinds, meta};

use crate::support::FakeCluster;

/// What a test waits for must come; this only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next(changes: &mut Receiver<Change>) -> Change {
    tokio::time::timeout(PATIENCE, changes.recv())
        .await
        .expect("a change in time")
        .expect("a running informer")
}

/// Takes changes until everything up to a version is delivered. Shows them as `+name@version` and
/// `-name`.
async fn until(changes: &mut Receiver<Change>, version: u64) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match next(changes).await {
            Change::Upsert(object) => seen.push(format!(
                "+{}@{}",
                meta::name(&object),
                meta::resource_version(&object)
            )),
            Change::Delete(object) => seen.push(format!("-{}", meta::name(&object))),
            Change::Progress { resource_version } => {
                if resource_version.parse::<u64>().unwrap() >= version {
                    return seen;
                }
            }
        }
    }
}

#[tokio::test]
async fn lists_then_follows() {
    let cluster = FakeCluster::start(1);
    cluster.change(|store| {
        store.put("a", "u1", "");
        store.put("b", "u2", "");
    });
    let (informer, mut changes) = Informer::start(
        cluster.client(),
        kinds::CONFIG_MAP,
        InformerOptions::default(),
    );
    assert_eq!(until(&mut changes, 2).await, ["+a@1", "+b@2"]);
    informer.wait_synced().await;
    assert!(informer.synced());
    cluster.change(|store| store.put("a", "u1", "x"));
    cluster.change(|store| store.delete("b"));
    assert_eq!(until(&mut changes, 4).await, ["+a@3", "-b"]);
    assert_eq!(informer.resource_version(), "4");
    informer.stop().await;
    assert_eq!(changes.recv().await, None);
}

#[tokio::test]
async fn a_dead_server_costs_no_change_and_repeats_none() {
    let cluster = FakeCluster::start(3);
    let (_informer, mut changes) = Informer::start(
        cluster.client(),
        kinds::CONFIG_MAP,
        InformerOptions::default(),
    );
    let mut seen = until(&mut changes, 0).await;
    // Servers die and come back in turn while objects change.
    for round in 0..6 {
        let server = round % 3;
        cluster.change(|store| store.put(&format!("o{round}"), "u", "1"));
        cluster.servers[server].kill();
        let version = cluster.change(|store| {
            store.put(&format!("o{round}"), "u", "2");
            store.revision
        });
        seen.extend(until(&mut changes, version).await);
        cluster.servers[server].revive();
    }
    let want: Vec<String> = (1..=12)
        .map(|version| format!("+o{}@{version}", (version - 1) / 2))
        .collect();
    assert_eq!(seen, want);
}

#[tokio::test]
async fn a_compacted_revision_leads_to_a_new_list_and_its_differences() {
    let cluster = FakeCluster::start(1);
    cluster.change(|store| {
        store.put("kept", "u1", "");
        store.put("gone", "u2", "");
        store.put("anew", "u3", "");
    });
    let (_informer, mut changes) = Informer::start(
        cluster.client(),
        kinds::CONFIG_MAP,
        InformerOptions::default(),
    );
    until(&mut changes, 3).await;
    cluster.servers[0].kill();
    let version = cluster.change(|store| {
        store.delete("gone");
        store.delete("anew");
        store.put("anew", "u4", "");
        store.put("able", "u5", "");
        store.compacted = store.revision;
        store.revision
    });
    cluster.servers[0].revive();
    let mut seen = BTreeMap::new();
    let mut order = Vec::new();
    loop {
        match next(&mut changes).await {
            Change::Progress { resource_version } => {
                if resource_version == version.to_string() {
                    break;
                }
            }
            Change::Upsert(object) => {
                let name = meta::name(&object).to_string();
                order.push(format!("+{name}"));
                seen.insert(name, meta::uid(&object).to_string());
            }
            Change::Delete(object) => {
                order.push(format!("-{}", meta::name(&object)));
                assert_eq!(object["kind"], "ConfigMap");
                assert_eq!(meta::namespace(&object), "default");
            }
        }
    }
    // Nothing about what stayed as it was; the object made anew is first reported gone. What is there comes in
    // the order in which it changed, not in that of the list.
    assert_eq!(order, ["-gone", "-anew", "+anew", "+able"]);
    assert_eq!(seen["anew"], "u4");
}

#[tokio::test]
async fn a_slow_consumer_loses_nothing() {
    let cluster = FakeCluster::start(1);
    let (informer, mut changes) = Informer::start(
        cluster.client(),
        kinds::CONFIG_MAP,
        InformerOptions::default(),
    );
    until(&mut changes, 0).await;
    informer.wait_synced().await;
    // More than the channel, the stream's window and the server's buffer hold.
    cluster.change(|store| {
        for index in 0..4000 {
            store.put(&format!("c{index}"), "u", &"x".repeat(500));
        }
    });
    assert_eq!(until(&mut changes, 4000).await.len(), 4000);
}

#[tokio::test]
async fn it_ends_with_its_consumer() {
    let cluster = FakeCluster::start(1);
    let (informer, changes) = Informer::start(
        cluster.client(),
        kinds::CONFIG_MAP,
        InformerOptions::default(),
    );
    drop(changes);
    tokio::time::timeout(PATIENCE, informer.finished())
        .await
        .expect("the task ends");
}
