//! The helper that starts a further process in a container, reports it, and
//! waits for it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bundle;
use crate::cgroup::Cgroup;
use crate::control::{self, HelperReply};
use crate::error::ContainerError;
use crate::exec::{ExecSpec, ExecStatus};
use crate::shim::diagnosis::Diagnosis;
use crate::shim::executor::ExecReport;
use crate::shim::start::{self, OCI_ID};
use crate::shim::{reply, signals};
use crate::spec::ContainerSpec;
use crate::state::{SPEC_FILE, read_json, write_json};

pub(crate) fn run(directory: &Path, order: &Path, cgroup_root: &str, control: OwnedFd) -> i32 {
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    signals::reset();
    // SAFETY: plain system call.
    unsafe { libc::umask(0o022) };
    let result = start_process(directory, order, cgroup_root, &control);
    let (pid, children) = match result {
        Ok(started) => started,
        Err(error) => {
            signals::end_children();
            reply(&control, &HelperReply::Failed(error), &[]);
            return 1;
        }
    };
    match wait(pid, &children, &control) {
        Some(status) => {
            reply(&control, &HelperReply::Exited(status), &[]);
            0
        }
        None => 1,
    }
}

fn start_process(
    directory: &Path,
    order: &Path,
    cgroup_root: &str,
    control: &OwnedFd,
) -> Result<(i32, OwnedFd), ContainerError> {
    let failed = |e: std::io::Error| ContainerError::create(format!("cannot start: {e}"));
    let (_, descriptors) = control::receive(control.as_raw_fd())
        .map_err(failed)?
        .ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))?;
    let missing = |path: &Path| ContainerError::io("read", path, "not found");
    let spec_path = directory.join(SPEC_FILE);
    let spec = read_json::<ContainerSpec>(&spec_path)?.ok_or_else(|| missing(&spec_path))?;
    let exec = read_json::<ExecSpec>(order)?.ok_or_else(|| missing(order))?;
    let process_path = order.with_extension("process");
    let mut env = spec.env.clone();
    env.retain(|(name, _)| !exec.env.iter().any(|(n, _)| n == name));
    env.extend(exec.env.iter().cloned());
    let user = exec.user.as_ref().unwrap_or(&spec.user);
    let mut process = bundle::process(&spec, &exec.args, &env, user, exec.tty)?;
    process["oomScoreAdj"] = start::allowed_oom_score(spec.oom_score_adj).into();
    write_json(&process_path, &process, false)?;

    let mut diagnosis = Diagnosis::install().map_err(failed)?;
    let (report, executor) = ExecReport::new(exec.size.filter(|_| exec.tty)).map_err(failed)?;
    let mut builder =
        ContainerBuilder::new(OCI_ID.to_string(), SyscallType::default()).with_executor(executor);
    let mut console = None;
    if exec.tty {
        let (listener, path) = start::listen_for_console(directory)?;
        builder = builder.with_console_socket(Some(path.clone()));
        console = Some((listener, path));
    } else {
        let mut streams = descriptors.into_iter();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (streams.next(), streams.next(), streams.next())
        else {
            return Err(ContainerError::create("the agent sent no streams"));
        };
        builder = builder
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr);
    }
    // libcontainer moves the new process into the controllers' cgroups; the
    // others it inherits from us.
    Cgroup::new(spec.cgroup_path()).join_uncontrolled(std::process::id())?;
    let built = builder.with_root_path(directory).and_then(|b| {
        b.as_tenant()
            .with_detach(true)
            .with_process(Some(&process_path))
            .build()
    });
    let _ = fs::remove_file(&process_path);
    let own = Cgroup::new(format!("{}/shims", cgroup_root.trim_end_matches('/')));
    own.join_uncontrolled(std::process::id())?;
    start::protect_from_oom();
    if let Some((_, path)) = &console {
        let _ = fs::remove_file(path);
    }
    let pid = match built {
        Ok(pid) => pid.as_raw(),
        Err(error) => return Err(start::explain(error, report, &mut diagnosis)),
    };
    if let Some(text) = report.outcome() {
        return Err(start::start_error(text));
    }
    let mut master = None;
    if let Some((listener, _)) = console {
        master = Some(start::receive_console(&listener)?);
    }
    let children = signals::take_over().map_err(failed)?;
    let started = HelperReply::Started { pid: pid as u32 };
    let raw: Vec<i32> = master.iter().map(|m| m.as_raw_fd()).collect();
    reply(control, &started, &raw);
    Ok((pid, children))
}

/// Until the process ends, or the agent closes the socket: then it is killed.
fn wait(pid: i32, children: &OwnedFd, control: &OwnedFd) -> Option<ExecStatus> {
    let mut watching = true;
    loop {
        if let Some(ended) = signals::reap(pid) {
            return Some(ExecStatus {
                exit_code: ended.exit_code,
                signal: ended.signal,
            });
        }
        let mut list = vec![PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        if watching {
            list.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut list, PollTimeout::NONE);
        let hung_up = list
            .get(1)
            .and_then(|p| p.revents())
            .is_some_and(|r| !r.is_empty());
        signals::drain(children.as_raw_fd());
        if hung_up {
            watching = false;
            // It leads a process group of its own.
            // SAFETY: plain system calls on a child not yet reaped.
            unsafe {
                libc::kill(-pid, libc::SIGKILL);
                libc::kill(pid, libc::SIGKILL);
            }
        }
    }
}
