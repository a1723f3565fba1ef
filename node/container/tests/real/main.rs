//! Real containers from a static busybox, as root.
//!
//! The test binary is also the shim (`shim …`) and, for the adoption test, an
//! agent that gets killed (`agent …`).

mod adoption;
mod exec;
mod isolation;
mod lifecycle;
mod parallel;
mod stand;

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Anything slower hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("shim") => return ExitCode::from(trireme_container::shim_main(&args[2..]) as u8),
        Some("agent") => return adoption::agent(&args[2..]),
        _ => {}
    }
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: real containers need root");
        return ExitCode::SUCCESS;
    }
    let filter = args.iter().skip(1).find(|a| !a.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("runtime");
    let mut failed = Vec::new();
    let cases = [
        lifecycle::cases(),
        exec::cases(),
        isolation::cases(),
        adoption::cases(),
        parallel::cases(),
    ];
    for (name, case) in cases.into_iter().flatten() {
        if filter.is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        let started = Instant::now();
        let outcome = runtime.block_on(async {
            match tokio::spawn(tokio::time::timeout(CASE_TIMEOUT, case())).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("timed out".to_string()),
                Err(e) => Err(e.to_string()),
            }
        });
        let took_ms = started.elapsed().as_millis();
        match outcome {
            Ok(()) => println!("test {name} ... ok ({took_ms} ms)"),
            Err(e) => {
                println!("test {name} ... FAILED ({took_ms} ms): {e}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed: {failed:?}");
        ExitCode::FAILURE
    }
}
