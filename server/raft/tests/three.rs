//! Three servers over loopback TLS.

mod fleet;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet::{Fleet, LIMIT, create, prefix, put, txn, until, value};
use trireme_raft::{Member, ProposeError, Replica, Timing, WatchBatch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_and_nothing_is_lost() {
    let mut fleet = Fleet::of_three(Timing::default()).await;
    for n in 0..30u64 {
        // Any server takes it, and has applied it when it answers.
        let at = fleet.at(1 + n % 3);
        assert!(
            txn(at
                .propose(create(format!("/k{n:02}"), "before"))
                .await
                .unwrap())
            .succeeded
        );
        assert_eq!(value(at, &format!("/k{n:02}")).unwrap(), "before");
    }
    let first = fleet.leader().await;
    fleet.kill(first).await;
    let second = fleet.leader().await;
    assert_ne!(first, second);
    for n in 30..60u64 {
        let at = fleet.running.values().nth(n as usize % 2).unwrap();
        at.replica
            .propose(create(format!("/k{n:02}"), "after"))
            .await
            .unwrap();
    }
    fleet.start(first).await;
    fleet.at(first).read_barrier().await.unwrap();
    let all = fleet.at(first).range(&prefix("/k")).unwrap();
    assert_eq!(all.kvs.len(), 60);
    fleet.converged().await;

    // All at once, and again.
    fleet.kill_all().await;
    for id in [1, 2, 3] {
        fleet.start(id).await;
    }
    fleet.leader().await;
    fleet.at(2).read_barrier().await.unwrap();
    assert_eq!(fleet.at(2).range(&prefix("/k")).unwrap().kvs.len(), 60);
    // An empty store is at 1.
    assert_eq!(fleet.at(2).revision(), 61);
    fleet.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_gets_a_snapshot() {
    let timing = Timing {
        snapshot_entries: 50,
        keep_entries: 5,
        ..Timing::default()
    };
    let mut fleet = Fleet::of_three(timing).await;
    let leader = fleet.leader().await;
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    fleet.at(leader).propose(put("/old", "gone")).await.unwrap();
    fleet.kill(behind).await;
    for n in 0..300 {
        let value = vec![b'x'; 2000];
        fleet
            .at(leader)
            .propose(put(format!("/k{}", n % 100), value))
            .await
            .unwrap();
    }
    until(fleet.at(leader), "purged the log", |status| {
        status.purged_index > 200
    })
    .await;
    fleet.start(behind).await;
    until(fleet.at(behind), "installed a snapshot", |status| {
        status.snapshot_index > 200
    })
    .await;
    fleet.converged().await;
    assert_eq!(
        fleet.at(behind).range(&prefix("/k")).unwrap().kvs.len(),
        100
    );

    // What was installed survives a restart, and goes on.
    fleet.kill(behind).await;
    fleet.start(behind).await;
    fleet.at(behind).propose(put("/new", "here")).await.unwrap();
    assert_eq!(value(fleet.at(behind), "/new").unwrap(), "here");
    assert_eq!(value(fleet.at(behind), "/old").unwrap(), "gone");
    fleet.converged().await;

    // A new server gets one, too.
    fleet.start(4).await;
    let member = fleet.members[&4].clone();
    fleet.at(behind).add_learner(4, member).await.unwrap();
    until(fleet.at(4), "installed a snapshot", |status| {
        status.snapshot_index > 200
    })
    .await;
    fleet.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let mut fleet = Fleet::of_three(Timing::default()).await;
    fleet.at(1).propose(put("/a", "1")).await.unwrap();
    let leader = fleet.leader().await;
    let other = (1..=3).find(|id| *id != leader).unwrap();
    // Asked of a follower, done by the leader.
    fleet.at(other).transfer_leader(other).await.unwrap();
    assert_eq!(fleet.leader().await, other);
    fleet.start(4).await;
    let member = fleet.members[&4].clone();
    fleet
        .at(leader)
        .add_learner(4, member.clone())
        .await
        .unwrap();
    until(fleet.at(1), "knows the learner", |status| {
        status.learners == [4]
    })
    .await;
    fleet.at(leader).promote(4).await.unwrap();
    until(fleet.at(1), "has four voters", |status| {
        status.voters == [1, 2, 3, 4]
    })
    .await;
    assert_eq!(fleet.at(2).member(4), Some(member));
    fleet.at(4).remove(other).await.unwrap();
    fleet.kill(other).await;
    let now = fleet.leader().await;
    assert_ne!(now, other);
    fleet.at(4).propose(put("/a", "2")).await.unwrap();
    assert_eq!(value(fleet.at(4), "/a").unwrap(), "2");
    assert!(!fleet.at(4).status().members.contains_key(&other));
    let refused = fleet.at(now).remove(99).await.unwrap_err();
    assert!(
        refused.to_string().contains("99 is not a member"),
        "{refused}"
    );
    fleet.converged().await;
}

/// A server that comes back with an empty disk under a new id neither votes nor takes entries for the one that was
/// at its address: that would be a second promise of the same member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_answers_for_a_predecessor_at_the_same_address() {
    let mut fleet = Fleet::of_three(Timing {
        propose_ms: 2_000,
        ..Timing::default()
    })
    .await;
    fleet.at(1).propose(put("/a", "1")).await.unwrap();
    fleet.converged().await;
    fleet.kill_all().await;
    for (predecessor, id) in [(2, 4), (3, 5)] {
        let address = fleet.members[&predecessor].peer_address.clone();
        let member = Member {
            name: format!("s{id}"),
            peer_address: address,
            api_address: String::new(),
        };
        fleet.members.insert(id, member);
        fleet.start(id).await;
    }
    fleet.start(1).await;
    let refused = fleet.at(1).propose(put("/a", "2")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NoLeader(_)), "{refused}");
    assert_eq!(fleet.at(4).status().last_log_index, 0);

    // With one of its own fellows it leads again.
    fleet.kill(4).await;
    fleet.start(2).await;
    fleet.at(1).propose(put("/a", "3")).await.unwrap();
    fleet.at(2).read_barrier().await.unwrap();
    assert_eq!(value(fleet.at(2), "/a").unwrap(), "3");
    fleet.kill_all().await;
}

/// Follows a watch through as many batches as it has events to see.
async fn collect(replica: &Arc<Replica>, after: u64, until: u64) -> Vec<WatchBatch> {
    let (start, end) = (Bytes::from_static(b"/w"), Bytes::from_static(b"/x"));
    let mut watch = replica.watch(start, end, after).unwrap();
    let mut seen = Vec::new();
    while watch.revision() < until {
        let batch = tokio::time::timeout(LIMIT, watch.next())
            .await
            .expect("an event in time");
        let batch = batch.expect("the watch goes on").unwrap();
        if !batch.events.is_empty() {
            seen.push(batch);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_has_no_gap_and_no_repeat() {
    let timing = Timing {
        progress_ms: 50,
        ..Timing::default()
    };
    let mut fleet = Fleet::of_three(timing).await;
    let leader = fleet.leader().await;
    let (a, b) = match leader {
        1 => (2, 3),
        2 => (1, 3),
        _ => (1, 2),
    };
    let watching = tokio::spawn({
        let replica = fleet.at(a).clone();
        async move { collect(&replica, 0, 121).await }
    });
    let mut written = 0u64;
    for n in 0..120u64 {
        if n == 60 {
            fleet.kill(leader).await;
        }
        let key = if n % 4 == 3 {
            format!("/other{n}")
        } else {
            format!("/w{n}")
        };
        // The only error that a caller of a create may repeat on is one that says so.
        let reply = fleet.at(b).propose(create(key, "v")).await;
        let reply = match reply {
            Ok(reply) => txn(reply),
            Err(error) => panic!("{n}: {error}"),
        };
        written = reply.revision;
    }
    // An empty store is at 1.
    assert_eq!(written, 121);
    let seen = tokio::time::timeout(LIMIT, watching)
        .await
        .unwrap()
        .unwrap();
    let revisions: Vec<u64> = seen.iter().map(|batch| batch.revision).collect();
    let wanted: Vec<u64> = (2..=121).filter(|n| (n - 2) % 4 != 3).collect();
    assert_eq!(revisions, wanted);
    // Resumed elsewhere, from the middle, it says the same.
    let rest = collect(fleet.at(b), 50, 121).await;
    assert_eq!(
        rest,
        seen.into_iter()
            .filter(|batch| batch.revision > 50)
            .collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_leader_is_found_within_a_second() {
    let mut fleet = Fleet::of_three(Timing::default()).await;
    let mut gaps = Vec::new();
    for round in 0..5 {
        let leader = fleet.leader().await;
        let survivor = (1..=3).find(|id| *id != leader).unwrap();
        fleet
            .at(survivor)
            .propose(put("/a", "before"))
            .await
            .unwrap();
        let began = std::time::Instant::now();
        fleet.kill(leader).await;
        let reply = fleet
            .at(survivor)
            .propose(put("/a", format!("{round}")))
            .await
            .unwrap();
        gaps.push(began.elapsed());
        txn(reply);
        fleet.start(leader).await;
        fleet.at(leader).read_barrier().await.unwrap();
    }
    gaps.sort();
    println!("gaps between a leader's end and the next acknowledged write: {gaps:?}");
    assert!(gaps[2] < Duration::from_secs(1), "{gaps:?}");
}
