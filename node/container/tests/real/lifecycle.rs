//! Start, exit, signals, memory, logs, errors.

use trireme_container::{ContainerError, ContainerState};

use crate::cases;
use crate::stand::Stand;

cases![
    exit_code_and_log,
    a_cancelled_start_is_not_lost,
    signals_reach_the_program,
    kill_takes_everything,
    out_of_memory_is_told,
    start_errors_are_in_words,
    create_errors_are_in_words,
    logs_rotate,
    exits_are_announced,
    orphans_do_not_hold_the_exit,
];

async fn exit_code_and_log() {
    let stand = Stand::new().await;
    let spec = stand.spec("one", "echo $GREETING; echo oops >&2; printf part; exit 7");
    let started = stand.runtime.create_and_start(&spec).await.expect("start");
    assert!(started.pid > 0);
    let exit = stand.runtime.wait("one").await.expect("wait");
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (7, None, false)
    );
    assert_eq!(exit.started_at, Some(started.started_at));
    assert!(exit.finished_at >= started.started_at);
    let mut log = stand.log("one");
    log.sort();
    assert_eq!(log, ["stderr F oops", "stdout F hello", "stdout F part"]);
    let raw = std::fs::read_to_string(stand.log_path("one")).expect("log");
    let time = raw.split(' ').next().expect("time");
    assert_eq!(
        (time.len(), &time[10..11], &time[29..]),
        (30, "T", "Z"),
        "{time}"
    );
    let status = stand
        .runtime
        .status("one")
        .expect("status")
        .expect("exists");
    assert_eq!(status.state, ContainerState::Exited(exit));
    assert_eq!(status.spec, spec);
    let again = stand.runtime.create_and_start(&spec).await;
    assert!(
        matches!(again, Err(ContainerError::Exists { .. })),
        "{again:?}"
    );
    stand.runtime.delete("one").await.expect("delete");
    assert!(stand.runtime.status("one").expect("status").is_none());
    assert!(
        stand.log_path("one").exists(),
        "the log must outlive the container"
    );
    stand.runtime.delete("one").await.expect("delete again");
    stand.finish().await;
}

/// Whoever asked may have lost interest; the container is still kept track of.
async fn a_cancelled_start_is_not_lost() {
    let stand = Stand::new().await;
    let spec = stand.spec("cancelled", "sleep 1000");
    let start = stand.runtime.create_and_start(&spec);
    let soon = std::time::Duration::from_micros(100);
    let _ = tokio::time::timeout(soon, start).await;
    loop {
        let status = stand.runtime.status("cancelled").expect("status");
        if status.is_some_and(|s| matches!(s.state, ContainerState::Running { .. })) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let exit = stand.runtime.kill("cancelled").await.expect("kill");
    assert_eq!(exit.exit_code, 137);
    stand.finish().await;
}

async fn signals_reach_the_program() {
    let stand = Stand::new().await;
    let spec = stand.spec(
        "term",
        "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    );
    stand.runtime.create_and_start(&spec).await.expect("start");
    wait_for_log(&stand, "term", "stdout F ready").await;
    stand.runtime.signal("term", libc::SIGTERM).expect("signal");
    let exit = stand.runtime.wait("term").await.expect("wait");
    assert_eq!((exit.exit_code, exit.signal), (3, None));
    assert_eq!(
        stand.log("term").last().map(String::as_str),
        Some("stdout F bye")
    );
    let late = stand.runtime.signal("term", libc::SIGTERM);
    assert!(
        matches!(late, Err(ContainerError::NotRunning { .. })),
        "{late:?}"
    );
    // Rust ignores SIGPIPE; the container's programs must not inherit that.
    let (_, text) = stand
        .run(&stand.spec(
            "pipe",
            "grep -E 'SigIgn|SigBlk' /proc/self/status | tr -d '\\t'",
        ))
        .await;
    assert_eq!(text, ["SigBlk:0000000000000000", "SigIgn:0000000000000000"]);
    stand.finish().await;
}

async fn kill_takes_everything() {
    let stand = Stand::new().await;
    let spec = stand.spec("stubborn", "trap '' TERM; sleep 1000 & sleep 1000 & wait");
    let started = stand.runtime.create_and_start(&spec).await.expect("start");
    let exit = stand.runtime.kill("stubborn").await.expect("kill");
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    assert!(!std::path::Path::new(&format!("/proc/{}", started.pid)).exists());
    stand.finish().await;
}

async fn out_of_memory_is_told() {
    let stand = Stand::new().await;
    let mut spec = stand.spec("greedy", "exec tail /dev/zero");
    spec.limits.memory_bytes = Some(16 * 1024 * 1024);
    stand.runtime.create_and_start(&spec).await.expect("start");
    let exit = stand.runtime.wait("greedy").await.expect("wait");
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.exit_code, 137);
    let mut modest = stand.spec("modest", "kill -9 $$; exit 1");
    modest.limits.memory_bytes = Some(16 * 1024 * 1024);
    stand
        .runtime
        .create_and_start(&modest)
        .await
        .expect("start");
    let exit = stand.runtime.wait("modest").await.expect("wait");
    assert!(!exit.oom_killed, "{exit:?}");
    stand.finish().await;
}

async fn start_errors_are_in_words() {
    let stand = Stand::new().await;
    for (id, args, words) in [
        (
            "a",
            &["foo"][..],
            "exec: \"foo\": executable file not found in $PATH",
        ),
        (
            "b",
            &["/bin/foo"],
            "exec: \"/bin/foo\": stat /bin/foo: no such file or directory",
        ),
        ("c", &["data"], "exec: \"data\": permission denied"),
        ("d", &["/etc"], "exec: \"/etc\": is a directory"),
        (
            "e",
            &["/bin/broken"],
            "exec: \"/bin/broken\": no such file or directory",
        ),
    ] {
        let spec = stand.spec_in(stand.sandbox(), id, args);
        let error = stand
            .runtime
            .create_and_start(&spec)
            .await
            .expect_err("started");
        assert_eq!(
            error.to_string(),
            format!("unable to start container process: {words}")
        );
        assert_eq!(error.reason(), "StartError");
        assert!(stand.runtime.status(id).expect("status").is_none());
    }
    stand.finish().await;
}

async fn create_errors_are_in_words() {
    let stand = Stand::new().await;
    let refuse = |spec: trireme_container::ContainerSpec| {
        let runtime = stand.runtime.clone();
        async move {
            runtime
                .create_and_start(&spec)
                .await
                .expect_err("started")
                .to_string()
        }
    };
    let mut spec = stand.spec("volume", "true");
    spec.mounts.push(bind("/nowhere", "/data", false));
    assert_eq!(
        refuse(spec).await,
        "failed to mount \"/nowhere\" at \"/data\": no such file or directory"
    );
    let mut spec = stand.spec("target", "true");
    // A file where the mount wants a directory.
    spec.mounts.push(bind("/tmp", "/etc/passwd", false));
    let words = refuse(spec).await;
    assert!(
        words.contains("/etc/passwd") || words.contains("director"),
        "{words}"
    );
    let mut spec = stand.spec("cwd", "true");
    spec.cwd = "/etc/passwd".into();
    let words = refuse(spec).await;
    assert!(
        words.contains("/etc/passwd") || words.contains("chdir"),
        "{words}"
    );
    let mut spec = stand.spec("layer", "true");
    spec.layers = vec!["/no/layer".into()];
    let words = refuse(spec).await;
    assert!(words.contains("/no/layer"), "{words}");
    let mut spec = stand.spec("capability", "true");
    spec.capabilities.add = vec!["FLY".to_string()];
    let words = refuse(spec).await;
    assert!(words.contains("unknown capability \"FLY\""), "{words}");
    let mut spec = stand.spec("network", "true");
    spec.namespaces.network = Some("/no/netns".into());
    let words = refuse(spec).await;
    assert!(words.contains("no such file"), "{words}");
    stand.finish().await;
}

async fn logs_rotate() {
    let stand = Stand::new().await;
    let mut spec = stand.spec("chatty", "seq 1 20000");
    spec.log.max_bytes = 256 * 1024;
    spec.log.max_files = 3;
    stand.runtime.create_and_start(&spec).await.expect("start");
    stand.runtime.wait("chatty").await.expect("wait");
    let path = stand.log_path("chatty").display().to_string();
    let mut numbers = Vec::new();
    for name in [format!("{path}.2"), format!("{path}.1"), path.clone()] {
        let text = std::fs::read_to_string(&name).expect("log file");
        assert!(text.len() <= 256 * 1024);
        numbers.extend(text.lines().map(|l| {
            l.rsplit(' ')
                .next()
                .expect("number")
                .parse::<u32>()
                .expect("number")
        }));
    }
    assert!(!std::path::Path::new(&format!("{path}.3")).exists());
    assert_eq!(numbers.last(), Some(&20000));
    let first = numbers[0];
    assert!(
        numbers.iter().copied().eq(first..=20000),
        "lines lost or out of order"
    );
    stand.finish().await;
}

async fn exits_are_announced() {
    let stand = Stand::new().await;
    let mut exits = stand.runtime.exits();
    stand
        .runtime
        .create_and_start(&stand.spec("brief", "exit 4"))
        .await
        .expect("start");
    let exit = exits.recv().await.expect("exit");
    assert_eq!((exit.id.as_str(), exit.exit.exit_code), ("brief", 4));
    stand.finish().await;
}

/// A background child that holds stdout ends with the container.
async fn orphans_do_not_hold_the_exit() {
    let stand = Stand::new().await;
    let sandbox = stand
        .sandbox_with(|s| {
            s.pod_uid = "shared-pid".to_string();
            s.share_process_namespace = true;
        })
        .await;
    let spec = stand.spec_in(
        &sandbox,
        "parent",
        &["/bin/sh", "-c", "sleep 1000 & echo started; exit 5"],
    );
    let (code, text) = stand.run(&spec).await;
    assert_eq!((code, text), (5, vec!["started".to_string()]));
    stand.finish().await;
}

pub fn bind(path: &str, destination: &str, read_only: bool) -> trireme_container::Mount {
    trireme_container::Mount {
        destination: destination.into(),
        source: trireme_container::MountSource::Bind {
            path: path.into(),
            sub_path: None,
        },
        read_only,
        propagation: Default::default(),
    }
}

/// Waits until the log holds the line; the case's own limit ends the wait.
pub async fn wait_for_log(stand: &Stand, id: &str, line: &str) {
    while !stand.log(id).iter().any(|l| l == line) {
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
