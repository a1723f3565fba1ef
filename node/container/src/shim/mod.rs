//! The processes that carry libcontainer: a container's shim, the helper of an
//! exec, and the first process of a shared pid namespace. All are this binary,
//! started anew; none has a second thread before libcontainer is done.

mod diagnosis;
mod exec;
mod executor;
mod log;
mod pid_init;
mod signals;
mod start;
mod streams;
mod supervise;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::control;

/// Entry of the hidden subcommands, called by the binary's `main` before it
/// makes any thread or runtime: `run DIR CGROUP_ROOT`, `exec DIR ORDER
/// CGROUP_ROOT`, `pid-init CGROUP`. Standard input is the control socket.
/// Returns the process's exit code.
pub fn shim_main(args: &[String]) -> i32 {
    let control = match take_control_socket() {
        Ok(control) => control,
        Err(e) => {
            eprintln!("the control socket on standard input: {e}");
            return 2;
        }
    };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", directory, cgroup_root] => {
            supervise::run(Path::new(directory), cgroup_root, control)
        }
        ["exec", directory, order, cgroup_root] => {
            exec::run(Path::new(directory), Path::new(order), cgroup_root, control)
        }
        ["pid-init", cgroup] => pid_init::run(cgroup, control),
        _ => {
            eprintln!("unknown shim subcommand {words:?}");
            2
        }
    }
}

/// Takes descriptor 0 out of harm's way and puts `/dev/null` in its place.
fn take_control_socket() -> std::io::Result<OwnedFd> {
    // SAFETY: plain system calls; the new descriptor is owned at once.
    let control = unsafe {
        let descriptor = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: as above.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(control)
}

/// Sends one reply; an agent that has gone has no use for it.
fn reply<T: serde::Serialize>(control: &OwnedFd, value: &T, descriptors: &[i32]) {
    if let Ok(packet) = serde_json::to_vec(value) {
        let _ = control::send(control.as_raw_fd(), &packet, descriptors);
    }
}
