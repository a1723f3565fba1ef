//! A container's shim from its first line to the container's exit.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;

use crate::cgroup::Cgroup;
use crate::control::ShimReply;
use crate::error::ContainerError;
use crate::process::ProcessIdentity;
use crate::shim::diagnosis::Diagnosis;
use crate::shim::log::LogFile;
use crate::shim::reply;
use crate::shim::signals::{self, Ended};
use crate::shim::start::{self, ContainerIo, Running};
use crate::shim::streams::{self, Client, Input, Output};
use crate::spec::ContainerSpec;
use crate::state::{
    ATTACH_SOCKET, EXIT_FILE, Exit, SHIM_FILE, SPEC_FILE, STATE_FILE, read_json, write_json,
};
use crate::terminal;

/// How long the last output may take to come once the program has ended: it is
/// in the pipe already, unless a process outside the cgroup holds the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Exit code of a program that never ran, as container engines give it.
const START_ERROR_EXIT_CODE: i32 = 128;

pub(crate) fn run(directory: &Path, cgroup_root: &str, control: OwnedFd) -> i32 {
    let error = match serve(directory, cgroup_root, &control) {
        Ok(()) => return 0,
        Err(error) => error,
    };
    let exit = Exit {
        exit_code: START_ERROR_EXIT_CODE,
        signal: None,
        oom_killed: false,
        started_at: None,
        finished_at: Timestamp::now(),
        error: Some(error.clone()),
    };
    if let Err(e) = write_json(&directory.join(EXIT_FILE), &exit, false) {
        eprintln!("{e}");
    }
    eprintln!("{error}");
    reply(&control, &ShimReply::Failed(error), &[]);
    1
}

fn serve(directory: &Path, cgroup_root: &str, control: &OwnedFd) -> Result<(), ContainerError> {
    leave_the_agent(cgroup_root)?;
    let shim = ProcessIdentity::of(std::process::id())
        .ok_or_else(|| ContainerError::create("the shim cannot find itself in /proc"))?;
    write_json(&directory.join(SHIM_FILE), &shim, false)?;
    let spec_path = directory.join(SPEC_FILE);
    let spec = read_json::<ContainerSpec>(&spec_path)?
        .ok_or_else(|| ContainerError::io("read", &spec_path, "not found"))?;
    let log = LogFile::open(spec.log.clone())
        .map_err(|e| ContainerError::io("open the log", &spec.log.path, e))?;
    let listener = streams::bind_in(directory, ATTACH_SOCKET)
        .and_then(|l| l.set_nonblocking(true).map(|()| l))
        .map_err(|e| ContainerError::io("listen at", directory.join(ATTACH_SOCKET), e))?;
    let mut diagnosis = Diagnosis::install()
        .map_err(|e| ContainerError::create(format!("cannot make a pipe: {e}")))?;

    let running = start::start(directory, &spec, shim, &mut diagnosis)?;
    let children = signals::take_over()
        .map_err(|e| ContainerError::create(format!("cannot watch for the exit: {e}")))?;
    write_json(&directory.join(STATE_FILE), &running.state, false)?;
    reply(control, &ShimReply::Started(running.state.clone()), &[]);

    supervise(directory, &spec, running, &children, &listener, log);
    Ok(())
}

/// Own session, own cgroup, default signals, and orphans of the container come
/// to us.
fn leave_the_agent(cgroup_root: &str) -> Result<(), ContainerError> {
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    signals::reset();
    // SAFETY: plain system call.
    unsafe { libc::umask(0o022) };
    prctl::set_child_subreaper(true)
        .map_err(|e| ContainerError::create(format!("cannot become a subreaper: {e}")))?;
    let _ = prctl::set_name(c"trireme-shim");
    start::protect_from_oom();
    let own = Cgroup::new(format!("{}/shims", cgroup_root.trim_end_matches('/')));
    own.create()?;
    own.join(std::process::id())
}

fn supervise(
    directory: &Path,
    spec: &ContainerSpec,
    running: Running,
    children: &OwnedFd,
    listener: &UnixListener,
    mut log: LogFile,
) {
    let Running { state, io } = running;
    let init = state.init.pid as i32;
    let (mut outputs, mut input) = open_streams(io, spec);
    let mut clients: Vec<Client> = Vec::new();
    // It may have ended before SIGCHLD was blocked.
    let mut ended = signals::reap(init);
    while ended.is_none() {
        turn(
            PollTimeout::NONE,
            children,
            Some(listener),
            &mut outputs,
            &mut input,
            &mut clients,
            &mut log,
        );
        signals::drain(children.as_raw_fd());
        ended = signals::reap(init);
    }
    let finished_at = Timestamp::now();
    let cgroup = Cgroup::new(spec.cgroup_path());
    // Whatever it left behind, with a shared pid namespace or without.
    cgroup.kill();

    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while !outputs.is_empty() || clients.iter().any(|c| c.wants_write()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        turn(
            timeout,
            children,
            None,
            &mut outputs,
            &mut input,
            &mut clients,
            &mut log,
        );
        signals::drain(children.as_raw_fd());
        signals::reap(init);
    }
    for output in &mut outputs {
        output.finish(&mut log);
    }
    let Ended { exit_code, signal } = ended.unwrap_or(Ended {
        exit_code: crate::watch::LOST_EXIT_CODE,
        signal: None,
    });
    let exit = Exit {
        exit_code,
        signal,
        oom_killed: cgroup.oom_kills() > 0,
        started_at: Some(state.started_at),
        finished_at,
        error: None,
    };
    if let Err(e) = write_json(&directory.join(EXIT_FILE), &exit, false) {
        eprintln!("{e}");
    }
}

fn open_streams(io: ContainerIo, spec: &ContainerSpec) -> (Vec<Output>, Input) {
    match io {
        ContainerIo::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            for end in [Some(&stdout), Some(&stderr), stdin.as_ref()]
                .into_iter()
                .flatten()
            {
                let _ = terminal::set_nonblocking(end.as_raw_fd());
            }
            (
                vec![Output::stdout(stdout), Output::stderr(stderr)],
                Input::new(stdin, spec.stdin_once, false),
            )
        }
        ContainerIo::Terminal(master) => {
            let _ = terminal::set_nonblocking(master.as_raw_fd());
            // Without `stdin: true` nobody may type, yet sizes still apply.
            let input = master.try_clone().ok();
            (
                vec![Output::stdout(master)],
                Input::new(input, spec.stdin_once, true),
            )
        }
    }
}

/// Waits for something to happen and deals with it.
fn turn(
    timeout: PollTimeout,
    children: &OwnedFd,
    listener: Option<&UnixListener>,
    outputs: &mut Vec<Output>,
    input: &mut Input,
    clients: &mut Vec<Client>,
    log: &mut LogFile,
) {
    let input_full = input.is_full();
    let input_descriptor = input.wants_write();
    let mut list: Vec<PollFd<'_>> = vec![PollFd::new(children.as_fd(), PollFlags::POLLIN)];
    let first_output = list.len();
    list.extend(
        outputs
            .iter()
            .map(|o| PollFd::new(o.descriptor.as_fd(), PollFlags::POLLIN)),
    );
    let first_client = list.len();
    for client in clients.iter() {
        let mut flags = PollFlags::empty();
        if !input_full {
            flags |= PollFlags::POLLIN;
        }
        if client.wants_write() {
            flags |= PollFlags::POLLOUT;
        }
        list.push(PollFd::new(client.stream.as_fd(), flags));
    }
    let after_clients = list.len();
    if let Some(listener) = listener {
        list.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
    }
    let after_listener = list.len();
    if let Some(descriptor) = input_descriptor {
        // SAFETY: `input` keeps the descriptor open beyond this call.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
        list.push(PollFd::new(borrowed, PollFlags::POLLOUT));
    }
    if poll(&mut list, timeout).is_err() {
        // Interrupted: the caller looks again.
        return;
    }
    let happened: Vec<bool> = list
        .iter()
        .map(|p| p.revents().is_some_and(|r| !r.is_empty()))
        .collect();
    drop(list);

    let mut kept = Vec::with_capacity(outputs.len());
    for (index, mut output) in outputs.drain(..).enumerate() {
        if !happened[first_output + index] || output.pump(log, clients) {
            kept.push(output);
        }
    }
    *outputs = kept;
    for (index, client) in clients.iter_mut().enumerate() {
        if happened[first_client + index] {
            client.flush();
            if !input_full {
                client.receive(input);
            }
        }
    }
    clients.retain(|c| !c.gone);
    if listener.is_some()
        && happened[after_clients]
        && let Some(listener) = listener
    {
        streams::accept(listener, clients);
    }
    if happened.get(after_listener).copied().unwrap_or(false) {
        input.flush();
    }
}
