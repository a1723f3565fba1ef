//! A whole agent with real containers, as root, against a stand-in for the API.
//!
//! The test binary is also the shim and the agent, and runs in namespaces of its own, so that it
//! leaves nothing on the machine.

mod api;
mod cases;
mod stand;

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Anything slower hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// A network and mounts of our own: the agent claims addresses, rules and port 53.
fn enter_namespaces() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    let address = format!("{}/32", stand::NODE_IP);
    for args in [
        vec!["link", "set", "lo", "up"],
        vec!["address", "add", &address, "dev", "lo"],
    ] {
        let done = std::process::Command::new("ip")
            .args(&args)
            .status()
            .expect("ip");
        assert!(done.success(), "ip {args:?}");
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("shim") => return ExitCode::from(trireme_container::shim_main(&args[2..]) as u8),
        Some("agent") => {
            stand::agent(std::path::Path::new(&args[2]));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: real containers need root");
        return ExitCode::SUCCESS;
    }
    enter_namespaces();
    let filter = args.iter().skip(1).find(|a| !a.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let mut failed = Vec::new();
    for (name, case) in cases::cases() {
        if filter.is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        let started = Instant::now();
        let outcome = runtime.block_on(async {
            match tokio::spawn(tokio::time::timeout(CASE_TIMEOUT, case())).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("timed out".to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        let took_ms = started.elapsed().as_millis();
        match outcome {
            Ok(()) => println!("test {name} ... ok ({took_ms} ms)"),
            Err(error) => {
                println!("test {name} ... FAILED ({took_ms} ms): {error}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}
