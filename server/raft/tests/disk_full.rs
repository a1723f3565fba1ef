//! Real disks that fill up: small tmpfs mounts. Needs root; says so and passes where there is none.

mod fleet;

use std::path::Path;
use std::process::Command;

use fleet::{Fleet, prefix, put, until, value};
use trireme_raft::{ProposeError, Timing};

/// Mounted for as long as it lives.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: &Path, mebibytes: u32) -> Option<Tmpfs> {
        std::fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m"),
                "trireme-test",
            ])
            .arg(path)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Tmpfs(path.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "umount {:?}",
            self.0
        );
    }
}

/// Leaves this much of the disk.
fn fill(path: &Path, leave: u64) {
    let disk = rustix::fs::statvfs(path).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let ballast = vec![0u8; usize::try_from(free.saturating_sub(leave)).unwrap()];
    std::fs::write(path.join("ballast"), ballast).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_refuse_writes_serve_reads_and_recover() {
    let mut fleet = Fleet::new(Timing {
        propose_ms: 2_000,
        ..Timing::default()
    });
    let mut disks = Vec::new();
    for id in [1, 2, 3] {
        match Tmpfs::mount(&fleet.path(id), 160) {
            Some(disk) => disks.push(disk),
            None => {
                println!("skipped: mounting needs root");
                return;
            }
        }
    }
    fleet.form_three().await;
    for n in 0..100 {
        fleet
            .at(1)
            .propose(put(format!("/k{n}"), vec![b'x'; 10_000]))
            .await
            .unwrap();
    }

    // A follower alone: the others go on, and it neither dies nor writes.
    let leader = fleet.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let other = 6 - leader - follower;
    fill(&fleet.path(follower), 1 << 20);
    until(fleet.at(follower), "the follower is full", |status| {
        status.disk_full
    })
    .await;
    for n in 0..100 {
        fleet
            .at(leader)
            .propose(put(format!("/k{n}"), vec![b'y'; 10_000]))
            .await
            .unwrap();
    }
    // Two of three: no quorum could store it.
    fill(&fleet.path(other), 1 << 20);
    until(fleet.at(other), "the other is full", |status| {
        status.disk_full
    })
    .await;
    let refused = async {
        loop {
            match fleet.at(leader).propose(put("/refused", "1")).await {
                Err(ProposeError::DiskFull(why)) => return why,
                // The leader hears of it with the next heartbeat: what it took before that waits for
                // space and has no outcome yet.
                Err(ProposeError::Unknown(_)) => {}
                Err(error) => panic!("{error}"),
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    };
    let why = tokio::time::timeout(fleet::LIMIT, refused)
        .await
        .expect("a refusal");
    assert!(why.contains("leaves no quorum"), "{why}");
    std::fs::remove_file(fleet.path(other).join("ballast")).unwrap();
    until(fleet.at(other), "the other has space", |status| {
        !status.disk_full
    })
    .await;

    // The leader.
    fill(&fleet.path(leader), 1 << 20);
    until(fleet.at(leader), "the leader is full", |status| {
        status.disk_full
    })
    .await;
    for at in [leader, other] {
        match fleet.at(at).propose(put("/refused", "2")).await {
            Err(ProposeError::DiskFull(why)) => assert!(why.contains("the leader"), "{why}"),
            unexpected => panic!("{unexpected:?}"),
        }
        fleet.at(at).read_barrier().await.unwrap();
        assert_eq!(fleet.at(at).range(&prefix("/k")).unwrap().kvs.len(), 100);
        assert_eq!(value(fleet.at(at), "/k7").unwrap(), vec![b'y'; 10_000]);
    }

    // Space returns.
    for id in [leader, follower] {
        std::fs::remove_file(fleet.path(id).join("ballast")).unwrap();
        until(fleet.at(id), "has space", |status| !status.disk_full).await;
    }
    fleet
        .at(follower)
        .propose(put("/after", "3"))
        .await
        .unwrap();
    assert_eq!(value(fleet.at(follower), "/after").unwrap(), "3");
    fleet.converged().await;
    fleet.kill_all().await;
    drop(disks);
}
