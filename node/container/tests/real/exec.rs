//! Exec and attach.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trireme_container::{ContainerError, ExecSpec, TerminalSize, User};

use crate::cases;
use crate::lifecycle::wait_for_log;
use crate::stand::Stand;

cases![
    exec_has_streams_and_a_code,
    exec_has_a_terminal,
    exec_probe_times_out_and_kills,
    exec_errors_are_in_words,
    exec_joins_the_container,
    attach_reaches_stdin_and_output,
    attach_reaches_a_terminal,
    slow_clients_do_not_stop_the_container,
];

fn command(args: &[&str]) -> ExecSpec {
    ExecSpec {
        args: args.iter().map(|a| a.to_string()).collect(),
        ..ExecSpec::default()
    }
}

async fn stand_with_sleeper() -> Stand {
    let stand = Stand::new().await;
    stand
        .runtime
        .create_and_start(&stand.spec("main", "sleep 1000"))
        .await
        .expect("start");
    stand
}

async fn exec_has_streams_and_a_code() {
    let stand = stand_with_sleeper().await;
    let mut spec = command(&["/bin/sh", "-c", "cat; echo $GREETING$EXTRA >&2; exit 9"]);
    spec.stdin = true;
    spec.env = vec![("EXTRA".to_string(), "!".to_string())];
    let mut exec = stand.runtime.exec("main", &spec).await.expect("exec");
    let mut stdin = exec.stdin.take().expect("stdin");
    let mut stdout = exec.stdout.take().expect("stdout");
    let mut stderr = exec.stderr.take().expect("stderr");
    // More than a pipe holds.
    let sent = "0123456789abcdef".repeat(20_000);
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        stdin.write_all(copy.as_bytes()).await.expect("write");
        drop(stdin);
    });
    let (mut out, mut err) = (String::new(), String::new());
    let (a, b, status) = tokio::join!(
        stdout.read_to_string(&mut out),
        stderr.read_to_string(&mut err),
        exec.wait()
    );
    a.expect("stdout");
    b.expect("stderr");
    writer.await.expect("writer");
    assert_eq!(status.expect("status").exit_code, 9);
    assert_eq!(out.len(), sent.len());
    assert_eq!(err, "hello!\n");
    stand.finish().await;
}

async fn exec_has_a_terminal() {
    let stand = stand_with_sleeper().await;
    let mut spec = command(&[
        "/bin/sh",
        "-c",
        "tty; stty size; read line; stty size; exit 6",
    ]);
    spec.stdin = true;
    spec.tty = true;
    spec.size = Some(TerminalSize {
        columns: 101,
        rows: 33,
    });
    let mut exec = stand.runtime.exec("main", &spec).await.expect("exec");
    let mut stdin = exec.stdin.take().expect("stdin");
    let mut stdout = exec.stdout.take().expect("stdout");
    assert!(exec.stderr.is_none());
    let mut seen = String::new();
    let mut buffer = [0u8; 1024];
    while !seen.contains("33 101") {
        let count = stdout.read(&mut buffer).await.expect("read");
        assert!(count > 0, "ended early: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(seen.contains("/dev/pts/"), "{seen:?}");
    exec.terminal
        .as_ref()
        .expect("terminal")
        .resize(TerminalSize {
            columns: 80,
            rows: 24,
        })
        .await;
    stdin.write_all(b"go\n").await.expect("write");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.expect("read");
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("24 80"), "{rest:?}");
    assert_eq!(exec.wait().await.expect("status").exit_code, 6);
    stand.finish().await;
}

async fn exec_probe_times_out_and_kills() {
    let stand = stand_with_sleeper().await;
    let args = |list: &[&str]| list.iter().map(|a| a.to_string()).collect::<Vec<_>>();
    let output = stand
        .runtime
        .exec_collect(
            "main",
            &args(&["/bin/sh", "-c", "echo well; seq 1 100000; exit 2"]),
            Duration::from_secs(20),
            10,
        )
        .await
        .expect("probe");
    assert_eq!(output.status.exit_code, 2);
    assert_eq!(output.output, b"well\n1\n2\n3");
    let begun = Instant::now();
    let error = stand
        .runtime
        .exec_collect(
            "main",
            &args(&["/bin/sleep", "4242"]),
            Duration::from_millis(500),
            10,
        )
        .await
        .expect_err("it slept");
    assert!(matches!(error, ContainerError::Timeout { .. }), "{error}");
    assert_eq!(error.to_string(), "command timed out after 500 ms");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // The process must go; how soon is the scheduler's affair.
    loop {
        let output = stand
            .runtime
            .exec_collect("main", &args(&["/bin/ps"]), Duration::from_secs(20), 10_000)
            .await
            .expect("ps");
        if !String::from_utf8_lossy(&output.output).contains("4242") {
            break;
        }
    }
    stand.finish().await;
}

async fn exec_errors_are_in_words() {
    let stand = stand_with_sleeper().await;
    let error = |result: Result<_, ContainerError>| match result {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    };
    let e = error(stand.runtime.exec("main", &command(&["nosuch"])).await);
    assert_eq!(
        e.to_string(),
        "unable to start container process: exec: \"nosuch\": executable file not found in $PATH"
    );
    let e = error(stand.runtime.exec("main", &command(&[])).await);
    assert!(matches!(e, ContainerError::InvalidSpec { .. }), "{e}");
    let e = error(stand.runtime.exec("other", &command(&["true"])).await);
    assert!(matches!(e, ContainerError::NotFound { .. }), "{e}");
    stand.runtime.kill("main").await.expect("kill");
    let e = error(stand.runtime.exec("main", &command(&["true"])).await);
    assert!(matches!(e, ContainerError::NotRunning { .. }), "{e}");
    stand.finish().await;
}

/// Same namespaces, cgroups, root and identity as the container.
async fn exec_joins_the_container() {
    let stand = Stand::new().await;
    let script = "for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done; \
                  cat /proc/self/cgroup; id -u; pwd; ls /srv";
    let mut spec = stand.spec("main", &format!("touch /srv/mark; {script}; sleep 1000"));
    spec.cwd = "/srv".into();
    stand.runtime.create_and_start(&spec).await.expect("start");
    wait_for_log(&stand, "main", "stdout F mark").await;
    let output = stand
        .runtime
        .exec_collect(
            "main",
            &["/bin/sh".into(), "-c".into(), script.into()],
            Duration::from_secs(20),
            100_000,
        )
        .await
        .expect("exec");
    let inside: Vec<String> = stand
        .log("main")
        .iter()
        .map(|l| l.trim_start_matches("stdout F ").to_string())
        .collect();
    let text = String::from_utf8_lossy(&output.output).into_owned();
    let outside: Vec<&str> = text.lines().collect();
    assert_eq!(outside, inside);
    let mut other = command(&["/bin/id", "-u"]);
    other.user = Some(User {
        uid: 1234,
        gid: 5,
        supplemental_gids: vec![],
    });
    let mut exec = stand.runtime.exec("main", &other).await.expect("exec");
    let mut out = String::new();
    exec.stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut out)
        .await
        .expect("read");
    exec.wait().await.expect("status");
    assert_eq!(out, "1234\n");
    stand.finish().await;
}

async fn attach_reaches_stdin_and_output() {
    let stand = Stand::new().await;
    let mut spec = stand.spec(
        "cat",
        "while read l; do echo got $l; done; echo end; exit 8",
    );
    spec.stdin = true;
    spec.stdin_once = true;
    stand.runtime.create_and_start(&spec).await.expect("start");
    let mut attached = stand.runtime.attach("cat").await.expect("attach");
    let mut stdin = attached.stdin.take().expect("stdin");
    let mut stdout = attached.stdout.take().expect("stdout");
    stdin.write_all(b"one\ntwo\n").await.expect("write");
    stdin.shutdown().await.expect("close");
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "got one\ngot two\nend\n");
    assert_eq!(stand.runtime.wait("cat").await.expect("wait").exit_code, 8);
    assert_eq!(
        stand.log("cat"),
        ["stdout F got one", "stdout F got two", "stdout F end"]
    );
    stand.finish().await;
}

async fn attach_reaches_a_terminal() {
    let stand = Stand::new().await;
    let mut spec = stand.spec("tty", "while read l; do stty size; done");
    spec.stdin = true;
    spec.tty = true;
    stand.runtime.create_and_start(&spec).await.expect("start");
    let mut attached = stand.runtime.attach("tty").await.expect("attach");
    assert!(attached.stderr.is_none());
    let mut stdin = attached.stdin.take().expect("stdin");
    let mut stdout = attached.stdout.take().expect("stdout");
    attached
        .terminal
        .as_ref()
        .expect("terminal")
        .resize(TerminalSize {
            columns: 77,
            rows: 11,
        })
        .await;
    let mut seen = String::new();
    let mut buffer = [0u8; 1024];
    // The size travels beside the input, so ask until it has arrived.
    while !seen.contains("11 77") {
        stdin.write_all(b"x\n").await.expect("write");
        let count = stdout.read(&mut buffer).await.expect("read");
        assert!(count > 0, "ended early: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    stand.finish().await;
}

async fn slow_clients_do_not_stop_the_container() {
    let stand = Stand::new().await;
    let mut spec = stand.spec(
        "flood",
        "read l; yes 0123456789abcdef | head -n 500000; echo end",
    );
    spec.stdin = true;
    stand.runtime.create_and_start(&spec).await.expect("start");
    // Attached, and never read.
    let mut attached = stand.runtime.attach("flood").await.expect("attach");
    let mut stdin = attached.stdin.take().expect("stdin");
    stdin.write_all(b"go\n").await.expect("write");
    let exit = stand.runtime.wait("flood").await.expect("wait");
    assert_eq!(exit.exit_code, 0);
    assert_eq!(
        stand.log("flood").last().map(String::as_str),
        Some("stdout F end")
    );
    stand.finish().await;
}
