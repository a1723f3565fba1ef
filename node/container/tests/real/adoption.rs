//! Containers outlive the agent.

use std::path::PathBuf;
use std::process::ExitCode;

use trireme_container::{ContainerSpec, ContainerState, Runtime};

use crate::cases;
use crate::stand::{Stand, config};

cases![
    a_killed_agent_kills_nothing,
    a_lost_shim_ends_its_container,
    interrupted_creations_are_cleared,
];

/// `agent DIRECTORY CGROUP_ROOT SPEC`: starts the container, says so, and
/// waits to be killed.
pub fn agent(args: &[String]) -> ExitCode {
    let spec: ContainerSpec =
        serde_json::from_slice(&std::fs::read(&args[2]).expect("spec")).expect("spec");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let containers = Runtime::open(config(&PathBuf::from(&args[0]), &args[1]))
            .await
            .expect("open");
        let started = containers.create_and_start(&spec).await.expect("start");
        println!("{}", started.pid);
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

async fn a_killed_agent_kills_nothing() {
    use std::io::BufRead;
    let stand = Stand::new().await;
    let go = stand.directory.join("go");
    std::fs::create_dir_all(&go).expect("directory");
    let mut spec = stand.spec(
        "survivor",
        "while ! test -e /go/now; do usleep 1000; done; echo lived on; exit 42",
    );
    spec.mounts.push(crate::lifecycle::bind(
        &go.display().to_string(),
        "/go",
        false,
    ));
    let file = stand.directory.join("spec.json");
    std::fs::write(&file, serde_json::to_vec(&spec).expect("spec")).expect("spec");
    let mut agent = std::process::Command::new(std::env::current_exe().expect("own path"))
        .arg("agent")
        .args([&stand.directory, &PathBuf::from(&stand.cgroup_root), &file])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("agent");
    let mut line = String::new();
    std::io::BufReader::new(agent.stdout.take().expect("stdout"))
        .read_line(&mut line)
        .expect("line");
    let pid: u32 = line.trim().parse().expect("pid");
    agent.kill().expect("kill the agent");
    agent.wait().expect("reap the agent");

    let runtime = Runtime::open(config(&stand.directory, &stand.cgroup_root))
        .await
        .expect("open again");
    let list = runtime.list().expect("list");
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].spec, spec);
    let ContainerState::Running { pid: adopted, .. } = list[0].state else {
        panic!("not running: {:?}", list[0].state);
    };
    assert_eq!(adopted, pid);
    let output = runtime
        .exec_collect(
            "survivor",
            &["/bin/echo".to_string(), "still here".to_string()],
            std::time::Duration::from_secs(20),
            100,
        )
        .await
        .expect("exec after adoption");
    assert_eq!(output.output, b"still here\n");
    std::fs::write(go.join("now"), "").expect("go");
    let exit = runtime.wait("survivor").await.expect("wait");
    assert_eq!(exit.exit_code, 42);
    assert_eq!(stand.log("survivor"), ["stdout F lived on"]);

    // A third agent still learns of it.
    let third = Runtime::open(config(&stand.directory, &stand.cgroup_root))
        .await
        .expect("open a third time");
    assert_eq!(third.wait("survivor").await.expect("wait").exit_code, 42);
    stand.finish().await;
}

async fn a_lost_shim_ends_its_container() {
    let stand = Stand::new().await;
    let spec = stand.spec("orphan", "sleep 1000");
    let started = stand.runtime.create_and_start(&spec).await.expect("start");
    let shim = std::fs::read(stand.directory.join("state/containers/orphan/shim.json"))
        .expect("shim.json");
    let shim: serde_json::Value = serde_json::from_slice(&shim).expect("shim.json");
    let shim = shim["pid"].as_i64().expect("pid") as i32;
    // SAFETY: plain system call on the shim of this very container.
    unsafe { libc::kill(shim, libc::SIGKILL) };
    let exit = stand.runtime.wait("orphan").await.expect("wait");
    assert_eq!(exit.exit_code, 255);
    assert!(exit.error.expect("error").to_string().contains("shim"));
    while std::fs::read_to_string(format!("/proc/{}/stat", started.pid))
        .is_ok_and(|s| !s.contains(") Z "))
    {
        tokio::task::yield_now().await;
    }
    stand.finish().await;
}

async fn interrupted_creations_are_cleared() {
    let stand = Stand::new().await;
    let containers = stand.directory.join("state/containers");
    std::fs::create_dir_all(containers.join("empty")).expect("directory");
    std::fs::create_dir_all(containers.join("begun")).expect("directory");
    let spec = stand.spec("begun", "true");
    std::fs::write(
        containers.join("begun/spec.json"),
        serde_json::to_vec(&spec).expect("spec"),
    )
    .expect("spec");
    let runtime = Runtime::open(config(&stand.directory, &stand.cgroup_root))
        .await
        .expect("open");
    assert!(!containers.join("empty").exists());
    assert_eq!(runtime.wait("begun").await.expect("wait").exit_code, 255);
    stand.finish().await;
}
