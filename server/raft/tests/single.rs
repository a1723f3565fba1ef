//! One server: what it was told is there after a restart.

mod fleet;

use std::collections::BTreeMap;

use bytes::Bytes;
use fleet::{Fleet, LIMIT, create, prefix, put, txn, until, value};
use trireme_raft::{Member, ProposeError, Replica, ReplicaConfig, Timing};
use trireme_state::{Command, RangeError, RangeRequest, Reply};

async fn alone(fleet: &mut Fleet) {
    fleet.start(1).await;
    fleet
        .at(1)
        .initialize(BTreeMap::from([(1, fleet.members[&1].clone())]))
        .await
        .unwrap();
    until(fleet.at(1), "leads", |status| status.leader == Some(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_loses_nothing() {
    let mut fleet = Fleet::new(Timing {
        snapshot_entries: 40,
        keep_entries: 10,
        ..Timing::default()
    });
    alone(&mut fleet).await;
    for round in 0..4 {
        for n in 0..50 {
            let command = create(format!("/r{round}/k{n}"), format!("value {n}"));
            assert!(txn(fleet.at(1).propose(command).await.unwrap()).succeeded);
        }
        let before = (fleet.at(1).revision(), fleet.at(1).digest().unwrap().1);
        fleet.kill(1).await;
        fleet.start(1).await;
        fleet.at(1).read_barrier().await.unwrap();
        assert_eq!(
            (fleet.at(1).revision(), fleet.at(1).digest().unwrap().1),
            before
        );
        let all = fleet.at(1).range(&prefix("/r")).unwrap();
        assert_eq!(all.kvs.len(), 50 * (round + 1));
    }
    // Snapshots are made and the log behind them is dropped.
    let dropping = async {
        while fleet.at(1).status().purged_index == 0 {
            fleet.at(1).propose(put("/more", "and more")).await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, dropping)
        .await
        .expect("the log is dropped");
    let again = fleet.at(1).initialize(fleet.members.clone()).await;
    assert_eq!(again, Err(trireme_raft::MembershipError::Initialized));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_bounded_by_its_bytes() {
    // Far fewer entries than would make a snapshot by their number.
    let mut fleet = Fleet::new(Timing {
        log_bytes: 1 << 20,
        ..Timing::default()
    });
    alone(&mut fleet).await;
    let large = vec![b'v'; 100_000];
    for n in 0..30 {
        fleet
            .at(1)
            .propose(put(format!("/k{n}"), large.clone()))
            .await
            .unwrap();
    }
    let purging = async {
        for n in 0.. {
            let status = fleet.at(1).status();
            // 1 MiB of the newest is kept, some ten entries, and what came since the last snapshot.
            if status.purged_index > 20 && status.last_log_index - status.purged_index < 20 {
                break;
            }
            fleet
                .at(1)
                .propose(put(format!("/more{n}"), large.clone()))
                .await
                .unwrap();
        }
    };
    tokio::time::timeout(LIMIT, purging)
        .await
        .expect("the log is dropped");
    let before = fleet.at(1).digest().unwrap();
    fleet.kill(1).await;
    fleet.start(1).await;
    fleet.at(1).read_barrier().await.unwrap();
    assert_eq!(fleet.at(1).digest().unwrap().1, before.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_makes_old_revisions_unreadable() {
    let mut fleet = Fleet::new(Timing::default());
    alone(&mut fleet).await;
    let replica = fleet.at(1);
    // An empty store is at revision 1.
    for n in 1..100 {
        replica.propose(put("/a", format!("{n}"))).await.unwrap();
    }
    let reply = replica
        .propose(Command::Compact { revision: 60 })
        .await
        .unwrap();
    assert_eq!(reply, Reply::Compacted { revision: 60 });
    let at = |revision| RangeRequest {
        start: Bytes::from_static(b"/a"),
        revision: Some(revision),
        ..RangeRequest::default()
    };
    assert_eq!(
        replica.range(&at(59)),
        Err(RangeError::Compacted {
            requested: 59,
            oldest: 60
        })
    );
    assert_eq!(replica.range(&at(60)).unwrap().kvs[0].value, "59");
    assert_eq!(replica.range(&at(100)).unwrap().kvs[0].value, "99");
    assert_eq!(
        replica.range(&at(101)),
        Err(RangeError::Future {
            requested: 101,
            newest: 100
        })
    );
    assert!(
        replica
            .watch(Bytes::from_static(b"/"), Bytes::from_static(b"0"), 59)
            .is_err()
    );
    let mut watch = replica
        .watch(Bytes::from_static(b"/"), Bytes::from_static(b"0"), 60)
        .unwrap();
    for n in 60..100 {
        let batch = tokio::time::timeout(LIMIT, watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(batch.revision, n + 1);
        assert_eq!(batch.events[0].kv.value, format!("{n}"));
        let previous = batch.events[0].previous.as_ref().unwrap();
        assert_eq!(previous.value, format!("{}", n - 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_misses_nothing() {
    const WRITES: u64 = 10_000; // more than memory holds
    let mut fleet = Fleet::new(Timing::default());
    alone(&mut fleet).await;
    let replica = fleet.at(1).clone();
    let range = (Bytes::from_static(b"/"), Bytes::from_static(b"0"));
    let mut slow = replica.watch(range.0.clone(), range.1.clone(), 0).unwrap();
    let mut idle = replica.watch("/none".into(), Bytes::new(), 0).unwrap();
    let writers = (0..50).map(|writer| {
        let replica = replica.clone();
        tokio::spawn(async move {
            for n in 0..WRITES / 50 {
                replica
                    .propose(put(format!("/{writer}/{n}"), "v"))
                    .await
                    .unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    // An empty store is at revision 1.
    for revision in 2..=WRITES + 1 {
        let batch = tokio::time::timeout(LIMIT, slow.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    // One that has nothing to report says how far it has come.
    let batch = tokio::time::timeout(LIMIT, idle.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!((batch.revision, batch.events.len()), (WRITES + 1, 0));

    // One that is too slow for compaction is told so, once.
    let mut late = replica.watch(range.0, range.1, 0).unwrap();
    replica
        .propose(Command::Compact { revision: 500 })
        .await
        .unwrap();
    let error = tokio::time::timeout(LIMIT, late.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error,
        trireme_raft::WatchError::Compacted {
            after: 0,
            oldest: 500
        }
    );
    assert!(late.next().await.is_none());
    assert_eq!(replica.status().watchers, 3);
    drop(late);
    assert_eq!(replica.status().watchers, 2);
    replica.shutdown().await;
    assert!(
        tokio::time::timeout(LIMIT, slow.next())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_recovers() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let directory = tempfile::TempDir::new().unwrap();
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let probe = free.clone();
    let config = ReplicaConfig {
        free_space: Some(Arc::new(move || Ok(probe.load(Ordering::SeqCst)))),
        ..ReplicaConfig::single(1, directory.path())
    };
    let replica = Replica::open(config).await.unwrap();
    replica
        .initialize(BTreeMap::from([(1, Member::default())]))
        .await
        .unwrap();
    replica.propose(put("/a", "1")).await.unwrap();
    free.store(1 << 20, Ordering::SeqCst);
    until(&replica, "is full", |status| status.disk_full).await;
    match replica.propose(put("/a", "2")).await {
        Err(ProposeError::DiskFull(why)) => assert!(why.contains("64 MiB"), "{why}"),
        other => panic!("{other:?}"),
    }
    replica.read_barrier().await.unwrap();
    assert_eq!(value(&replica, "/a").unwrap(), "1");
    free.store(u64::MAX, Ordering::SeqCst);
    until(&replica, "has space", |status| !status.disk_full).await;
    replica.propose(put("/a", "3")).await.unwrap();
    assert_eq!(value(&replica, "/a").unwrap(), "3");
    let huge = put("/a", vec![0; trireme_raft::MAX_COMMAND_BYTES]);
    assert!(matches!(
        replica.propose(huge).await,
        Err(ProposeError::TooLarge { .. })
    ));
    replica.shutdown().await;
    assert!(
        matches!(replica.propose(put("/a", "4")).await, Err(error) if error.surely_not_applied())
    );
}
