//! What a container sees and may do.

use trireme_container::{Device, Mount, MountSource};

use crate::cases;
use crate::lifecycle::bind;
use crate::stand::Stand;

cases![
    pods_share_hostname_ipc_and_shm,
    identity_and_capabilities,
    mounts_are_as_ordered,
    sub_paths_stay_inside,
    read_only_roots_refuse_writes,
    proc_is_masked_unless_privileged,
    devices_are_only_those_ordered,
    limits_are_set,
    pod_limits_bind_the_pod,
    shared_pid_namespaces_show_neighbours,
    host_namespaces_are_the_hosts,
    layers_are_stacked,
    stats_count,
];

async fn pods_share_hostname_ipc_and_shm() {
    let stand = Stand::new().await;
    let (code, text) = stand
        .run(&stand.spec(
            "a",
            "hostname; echo shared > /dev/shm/x; readlink /proc/self/ns/ipc",
        ))
        .await;
    assert_eq!((code, text[0].as_str()), (0, "web-0"));
    let (_, other) = stand
        .run(&stand.spec("b", "hostname; cat /dev/shm/x; readlink /proc/self/ns/ipc"))
        .await;
    assert_eq!(other[..2], ["web-0", "shared"]);
    assert_eq!(text[1], other[2], "one ipc namespace for the pod");
    let host = std::fs::read_link("/proc/self/ns/ipc").expect("link");
    assert_ne!(text[1], host.display().to_string());
    stand.finish().await;
}

async fn identity_and_capabilities() {
    let stand = Stand::new().await;
    let show =
        "id -u; id -g; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -d '\\t'";
    let mut spec = stand.spec("plain", show);
    let (_, text) = stand.run(&spec).await;
    assert_eq!(text[..3], ["0", "0", "0"]);
    assert_eq!(
        text[3..],
        [
            "CapEff:00000000a80425fb",
            "CapBnd:00000000a80425fb",
            "NoNewPrivs:0"
        ]
    );
    spec = stand.spec("user", show);
    spec.user.uid = 1000;
    spec.user.gid = 2000;
    spec.user.supplemental_gids = vec![3000, 4000];
    spec.no_new_privileges = true;
    spec.capabilities.drop = vec!["all".to_string()];
    spec.capabilities.add = vec!["NET_BIND_SERVICE".to_string()];
    let (_, text) = stand.run(&spec).await;
    assert_eq!(text[..3], ["1000", "2000", "2000 3000 4000"]);
    assert_eq!(
        text[3..],
        [
            "CapEff:0000000000000000",
            "CapBnd:0000000000000400",
            "NoNewPrivs:1"
        ]
    );
    stand.finish().await;
}

async fn mounts_are_as_ordered() {
    let stand = Stand::new().await;
    let volume = stand.directory.join("volume");
    std::fs::create_dir_all(&volume).expect("volume");
    std::fs::write(volume.join("file"), "content\n").expect("file");
    let path = volume.display().to_string();
    let mut spec = stand.spec(
        "mounts",
        "cat /deep/er/ro/file; touch /deep/er/ro/x 2>/dev/null || echo refused; touch /rw/new; \
         cat /etc/hosts; touch /scratch/x; grep scratch /proc/self/mounts | grep -o size=.*k; pwd; \
         stat -c %a /scratch",
    );
    spec.mounts.push(bind(&path, "/deep/er/ro", true));
    spec.mounts.push(bind(&path, "/rw", false));
    spec.mounts
        .push(bind(&format!("{path}/file"), "/etc/hosts", false));
    spec.mounts.push(Mount {
        destination: "/scratch".into(),
        source: MountSource::Tmpfs {
            size_bytes: Some(1024 * 1024),
            mode: 0o1777,
        },
        read_only: false,
        propagation: Default::default(),
    });
    // The image lacks it.
    spec.cwd = "/made/here".into();
    let (code, text) = stand.run(&spec).await;
    assert_eq!(code, 0, "{text:?}");
    assert_eq!(
        text[..],
        [
            "content",
            "refused",
            "content",
            "size=1024k",
            "/made/here",
            "1777"
        ]
    );
    assert!(volume.join("new").exists());
    stand.finish().await;
}

async fn sub_paths_stay_inside() {
    let stand = Stand::new().await;
    let volume = stand.directory.join("volume");
    std::fs::create_dir_all(volume.join("etc")).expect("volume");
    std::fs::write(volume.join("etc/name"), "inside\n").expect("file");
    std::os::unix::fs::symlink("/etc", volume.join("evil")).expect("link");
    let mut spec = stand.spec("sub", "cat /data/name; ls -d /new");
    for (sub_path, destination) in [("evil", "/data"), ("made/new", "/new")] {
        spec.mounts.push(Mount {
            destination: destination.into(),
            source: MountSource::Bind {
                path: volume.clone(),
                sub_path: Some(sub_path.into()),
            },
            read_only: false,
            propagation: Default::default(),
        });
    }
    let (code, text) = stand.run(&spec).await;
    assert_eq!(
        (code, &text[..]),
        (0, &["inside".to_string(), "/new".to_string()][..])
    );
    assert!(volume.join("made/new").is_dir());
    stand.finish().await;
}

async fn read_only_roots_refuse_writes() {
    let stand = Stand::new().await;
    let mut spec = stand.spec(
        "ro",
        "touch /x 2>/dev/null || echo refused; touch /dev/shm/ok && echo ok",
    );
    spec.read_only_rootfs = true;
    let (_, text) = stand.run(&spec).await;
    assert_eq!(text, ["refused", "ok"]);
    stand.finish().await;
}

async fn proc_is_masked_unless_privileged() {
    let stand = Stand::new().await;
    let script = "echo 1 2>/dev/null > /proc/sys/vm/drop_caches || echo refused; \
                  head -c 1 /proc/keys | wc -c; touch /sys/x 2>&1 | grep -o Read-only; \
                  ls /sys/fs/cgroup | wc -l";
    let (_, text) = stand.run(&stand.spec("masked", script)).await;
    assert_eq!(text[..3], ["refused", "0", "Read-only"]);
    let mut spec = stand.spec(
        "privileged",
        "test -w /proc/sys/vm/drop_caches && echo open; \
        grep CapEff /proc/self/status | tr -d '\\t'",
    );
    spec.privileged = true;
    let (_, text) = stand.run(&spec).await;
    assert_eq!(text[0], "open");
    assert_ne!(text[1], "CapEff:00000000a80425fb");
    stand.finish().await;
}

async fn devices_are_only_those_ordered() {
    let stand = Stand::new().await;
    let script = "mknod /dev/mem1 c 1 1; head -c 1 /dev/mem1 2>&1 | grep -o 'not permitted'; \
                  head -c 3 /dev/zero | wc -c; stat -c '%a %n' /dev/null /dev/tty; \
                  ls /dev/my 2>/dev/null";
    let (_, text) = stand.run(&stand.spec("none", script)).await;
    assert_eq!(
        text[..],
        ["not permitted", "3", "666 /dev/null", "666 /dev/tty"]
    );
    let mut spec = stand.spec("one", "head -c 2 /dev/my | wc -c");
    spec.devices.push(Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/my".into(),
        permissions: "rw".to_string(),
    });
    let (_, text) = stand.run(&spec).await;
    assert_eq!(text, ["2"]);
    stand.finish().await;
}

fn read_cgroup(controller: &str, path: &str, file: &str) -> String {
    let split = format!("/sys/fs/cgroup/{controller}{path}/{file}");
    std::fs::read_to_string(split)
        .unwrap_or_default()
        .trim()
        .to_string()
}

async fn limits_are_set() {
    let stand = Stand::new().await;
    let mut spec = stand.spec("limited", "sleep 1000");
    spec.limits.memory_bytes = Some(32 * 1024 * 1024);
    spec.limits.cpu_shares = Some(512);
    spec.limits.cpu_quota_us = Some(50_000);
    spec.limits.pids = Some(20);
    let started = stand.runtime.create_and_start(&spec).await.expect("start");
    let path = spec.cgroup_path();
    assert_eq!(
        read_cgroup("memory", &path, "memory.limit_in_bytes"),
        "33554432"
    );
    assert_eq!(read_cgroup("cpu", &path, "cpu.shares"), "512");
    assert_eq!(read_cgroup("cpu", &path, "cpu.cfs_quota_us"), "50000");
    assert_eq!(read_cgroup("pids", &path, "pids.max"), "20");
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", started.pid));
    assert_eq!(score.expect("score").trim(), "500");
    let shims = format!("{}/shims", stand.cgroup_root);
    let shim = read_cgroup("memory", &shims, "cgroup.procs");
    let score = std::fs::read_to_string(format!("/proc/{shim}/oom_score_adj"));
    let score = score.expect("the shim's score");
    // Without CAP_SYS_RESOURCE it cannot be lowered.
    assert!(["-998", "0"].contains(&score.trim()), "{score}");
    // In every hierarchy, the one of v2 too.
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", started.pid)).expect("cgroup");
    for line in own.lines() {
        assert!(line.ends_with(&path), "{line}");
    }
    stand.finish().await;
}

async fn pod_limits_bind_the_pod() {
    let stand = Stand::new().await;
    let sandbox = stand
        .sandbox_with(|s| {
            s.pod_uid = "small".to_string();
            s.limits.memory_bytes = Some(24 * 1024 * 1024);
        })
        .await;
    let spec = stand.spec_in(&sandbox, "greedy", &["/bin/tail", "/dev/zero"]);
    stand.runtime.create_and_start(&spec).await.expect("start");
    let exit = stand.runtime.wait("greedy").await.expect("wait");
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true));
    stand.finish().await;
}

async fn shared_pid_namespaces_show_neighbours() {
    let stand = Stand::new().await;
    let sandbox = stand
        .sandbox_with(|s| {
            s.pod_uid = "shared".to_string();
            s.share_process_namespace = true;
        })
        .await;
    let first = stand.spec_in(&sandbox, "first", &["/bin/sleep", "5151"]);
    stand.runtime.create_and_start(&first).await.expect("start");
    let second = stand.spec_in(&sandbox, "second", &["/bin/ps"]);
    let (_, text) = stand.run(&second).await;
    assert!(text.iter().any(|l| l.contains("5151")), "{text:#?}");
    // One container's end is not the other's.
    let status = stand
        .runtime
        .status("first")
        .expect("status")
        .expect("exists");
    assert!(matches!(
        status.state,
        trireme_container::ContainerState::Running { .. }
    ));
    stand.finish().await;
}

async fn host_namespaces_are_the_hosts() {
    let stand = Stand::new().await;
    let mut spec = stand.spec(
        "host",
        "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; test -d /proc/$AGENT && echo sees",
    );
    spec.env
        .push(("AGENT".to_string(), std::process::id().to_string()));
    spec.namespaces = trireme_container::Namespaces {
        pid: trireme_container::PidNamespace::Host,
        ..Default::default()
    };
    let (_, mut text) = stand.run(&spec).await;
    assert_eq!(text.pop().as_deref(), Some("sees"));
    let host: Vec<String> = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|n| {
            let link = std::fs::read_link(format!("/proc/self/ns/{n}")).expect("link");
            link.display().to_string()
        })
        .collect();
    assert_eq!(text, host);
    // Without a pid namespace of its own, the cgroup finds what is left.
    spec.id = "fork".to_string();
    spec.log = trireme_container::LogSpec::at(stand.log_path("fork"));
    spec.args[2] = "sleep 1000 & echo begun; exit 3".to_string();
    let (code, text) = stand.run(&spec).await;
    assert_eq!((code, text), (3, vec!["begun".to_string()]));
    stand.finish().await;
}

async fn layers_are_stacked() {
    let stand = Stand::new().await;
    let mut layers = vec![stand.directory.join("layer")];
    // More than `mount(2)` has room for.
    for number in 0..100 {
        let layer = stand
            .directory
            .join(format!("layer-{number}-{}", "x".repeat(80)));
        std::fs::create_dir_all(&layer).expect("layer");
        std::fs::write(layer.join("number"), format!("{number}\n")).expect("file");
        std::fs::write(layer.join(format!("file-{number}")), "").expect("file");
        layers.push(layer);
    }
    let mut spec = stand.spec("stack", "cat /number; ls / | grep -c file-");
    spec.layers = layers;
    let (_, text) = stand.run(&spec).await;
    assert_eq!(text, ["99", "100"]);
    stand.finish().await;
}

async fn stats_count() {
    let stand = Stand::new().await;
    let spec = stand.spec("busy", "yes > /dev/null & sleep 1000");
    stand.runtime.create_and_start(&spec).await.expect("start");
    let mut stats = stand.runtime.stats("busy").expect("stats");
    while stats.cpu_usage_ns < 50_000_000 {
        tokio::task::yield_now().await;
        stats = stand.runtime.stats("busy").expect("stats");
    }
    assert!(
        stats.memory_usage_bytes > 0 && stats.processes >= 2,
        "{stats:?}"
    );
    assert!(stats.memory_working_set_bytes <= stats.memory_usage_bytes);
    stand.finish().await;
}
