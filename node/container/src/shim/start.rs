//! From a specification to a running program.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};

use crate::bundle;
use crate::cgroup::Cgroup;
use crate::error::ContainerError;
use crate::overlay;
use crate::process::ProcessIdentity;
use crate::shim::diagnosis::Diagnosis;
use crate::shim::executor::ExecReport;
use crate::shim::signals;
use crate::spec::{ContainerSpec, MountSource, Propagation};
use crate::state::{RunningState, write_json};
use crate::{control, subpath};

/// libcontainer's name for the container, within our state directory.
pub(crate) const OCI_ID: &str = "oci";

/// A running program and our ends of its streams.
pub(crate) struct Running {
    pub state: RunningState,
    pub io: ContainerIo,
}

pub(crate) enum ContainerIo {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(OwnedFd),
}

/// Creates and starts. On an error no process of the container is left.
pub(crate) fn start(
    directory: &Path,
    spec: &ContainerSpec,
    shim: ProcessIdentity,
    diagnosis: &mut Diagnosis,
) -> Result<Running, ContainerError> {
    let cgroup = Cgroup::new(spec.cgroup_path());
    cgroup.create()?;
    cgroup.apply(&spec.limits)?;
    cgroup.end_together();
    if let Some(rules) = bundle::device_rules(spec)? {
        cgroup.restrict_devices(&rules)?;
    }
    let own_mounts = MountNamespace::enter(spec)?;
    let rootfs = directory.join("rootfs");
    overlay::mount(
        &spec.layers,
        &directory.join("upper"),
        &directory.join("work"),
        &rootfs,
    )?;
    let binds = prepare_binds(directory, spec)?;
    make_working_directory(spec, &rootfs)?;
    let mut config = bundle::config(spec, &rootfs, &binds)?;
    config["process"]["oomScoreAdj"] = allowed_oom_score(spec.oom_score_adj).into();
    write_json(&directory.join("config.json"), &config, false)?;

    let result = launch(directory, spec, &cgroup, diagnosis);
    own_mounts.leave()?;
    // libcontainer sets the container's score on this process first.
    protect_from_oom();
    let (pid, io) = match result {
        Ok(started) => started,
        Err(error) => {
            cgroup.kill();
            signals::end_children();
            return Err(error);
        }
    };
    let init = ProcessIdentity::of(pid)
        .ok_or_else(|| ContainerError::create("the container's process vanished as it started"))?;
    Ok(Running {
        state: RunningState {
            shim,
            init,
            started_at: Timestamp::now(),
        },
        io,
    })
}

/// The mounts of a start are made in a namespace of their own, which only the
/// container keeps: its end unmounts everything, and no mount of another pod
/// is held by it.
struct MountNamespace {
    outside: fs::File,
}

impl MountNamespace {
    fn enter(spec: &ContainerSpec) -> Result<Self, ContainerError> {
        let failed = |e: &dyn std::fmt::Display| {
            ContainerError::create(format!("cannot prepare a mount namespace: {e}"))
        };
        let outside = fs::File::open("/proc/self/ns/mnt").map_err(|e| failed(&e))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failed(&e))?;
        let follows = spec
            .mounts
            .iter()
            .any(|m| m.propagation == Propagation::HostToContainer);
        let propagation = if follows {
            MsFlags::MS_SLAVE
        } else {
            MsFlags::MS_PRIVATE
        };
        nix::mount::mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | propagation,
            None::<&str>,
        )
        .map_err(|e| failed(&e))?;
        Ok(MountNamespace { outside })
    }

    fn leave(self) -> Result<(), ContainerError> {
        setns(&self.outside, CloneFlags::CLONE_NEWNS)
            .and_then(|()| nix::unistd::chdir("/"))
            .map_err(|e| {
                ContainerError::create(format!("cannot return to the host's mount namespace: {e}"))
            })
    }
}

/// The sources of bind mounts, checked, with sub-paths resolved.
fn prepare_binds(
    directory: &Path,
    spec: &ContainerSpec,
) -> Result<Vec<Option<PathBuf>>, ContainerError> {
    let mut binds = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        if mount.propagation == Propagation::Bidirectional {
            return Err(ContainerError::InvalidSpec {
                field: "volumeMounts.mountPropagation".to_string(),
                message: "Bidirectional is not supported".to_string(),
            });
        }
        let MountSource::Bind { path, sub_path } = &mount.source else {
            binds.push(None);
            continue;
        };
        if let Err(e) = fs::metadata(path) {
            return Err(ContainerError::create(format!(
                "failed to mount {path:?} at {:?}: {}",
                mount.destination,
                crate::error::words(&e)
            )));
        }
        binds.push(match sub_path {
            Some(sub_path) => {
                let target = directory.join("subpaths").join(index.to_string());
                subpath::bind(path, sub_path, &target)?;
                Some(target)
            }
            None => Some(path.clone()),
        });
    }
    Ok(binds)
}

/// Images may name a working directory they do not have. Beneath a volume it
/// is the volume's business.
fn make_working_directory(spec: &ContainerSpec, rootfs: &Path) -> Result<(), ContainerError> {
    if spec.cwd.as_os_str().is_empty()
        || spec
            .mounts
            .iter()
            .any(|m| spec.cwd.starts_with(&m.destination))
    {
        return Ok(());
    }
    subpath::make_directories(rootfs, &spec.cwd)
        .map(drop)
        .map_err(|e| {
            ContainerError::create(format!(
                "cannot make working directory {:?}: {}",
                spec.cwd,
                crate::error::words(&e)
            ))
        })
}

fn launch(
    directory: &Path,
    spec: &ContainerSpec,
    cgroup: &Cgroup,
    diagnosis: &mut Diagnosis,
) -> Result<(u32, ContainerIo), ContainerError> {
    let failed = |e: std::io::Error| ContainerError::create(format!("cannot start: {e}"));
    let (report, executor) = ExecReport::new(None).map_err(failed)?;
    let mut builder =
        ContainerBuilder::new(OCI_ID.to_string(), SyscallType::default()).with_executor(executor);
    let mut pipes = None;
    let mut console = None;
    if spec.tty {
        let (listener, path) = listen_for_console(directory)?;
        builder = builder.with_console_socket(Some(path));
        console = Some(listener);
    } else {
        let (stdout, stdout_far) = std::io::pipe().map_err(failed)?;
        let (stderr, stderr_far) = std::io::pipe().map_err(failed)?;
        let (stdin_far, stdin) = if spec.stdin {
            let (reader, writer) = std::io::pipe().map_err(failed)?;
            (OwnedFd::from(reader), Some(OwnedFd::from(writer)))
        } else {
            let null = fs::File::open("/dev/null").map_err(failed)?;
            (OwnedFd::from(null), None)
        };
        builder = builder
            .with_stdin(stdin_far)
            .with_stdout(OwnedFd::from(stdout_far))
            .with_stderr(OwnedFd::from(stderr_far));
        pipes = Some(ContainerIo::Pipes {
            stdin,
            stdout: stdout.into(),
            stderr: stderr.into(),
        });
    }
    let created = builder
        .with_root_path(directory)
        .and_then(|b| b.as_init(directory).with_systemd(false).build());
    let mut container = match created {
        Ok(container) => container,
        Err(error) => return Err(explain(error, report, diagnosis)),
    };
    let pid = container
        .pid()
        .map(|p| p.as_raw())
        .ok_or_else(|| ContainerError::create("libcontainer created no process"))?;
    if let Err(error) = cgroup.join_uncontrolled(pid as u32) {
        // SAFETY: plain system call; the process is our unreaped child.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        return Err(error);
    }
    if let Err(error) = container.start() {
        // SAFETY: plain system call; the process is our unreaped child.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        return Err(explain(error, report, diagnosis));
    }
    if let Some(text) = report.outcome() {
        return Err(start_error(text));
    }
    let io = match (pipes, console) {
        (Some(pipes), _) => pipes,
        (None, Some(listener)) => ContainerIo::Terminal(receive_console(&listener)?),
        (None, None) => return Err(ContainerError::create("no streams were made")),
    };
    Ok((pid as u32, io))
}

/// A socket libcontainer sends the terminal's master to. Its path may be
/// longer than an address holds, so it is bound by way of the directory.
pub(crate) fn listen_for_console(
    directory: &Path,
) -> Result<(UnixListener, PathBuf), ContainerError> {
    let name = format!("console-{}.sock", std::process::id());
    let path = directory.join(&name);
    let listener = crate::shim::streams::bind_in(directory, &name)
        .map_err(|e| ContainerError::io("listen at", &path, e))?;
    Ok((listener, path))
}

pub(crate) fn receive_console(listener: &UnixListener) -> Result<OwnedFd, ContainerError> {
    let failed =
        |e: &dyn std::fmt::Display| ContainerError::create(format!("no terminal was opened: {e}"));
    let (connection, _) = listener.accept().map_err(|e| failed(&e))?;
    let received = control::receive(connection.as_raw_fd()).map_err(|e| failed(&e))?;
    received
        .and_then(|(_, mut descriptors)| descriptors.pop())
        .ok_or_else(|| failed(&"no descriptor came"))
}

pub(crate) fn start_error(text: String) -> ContainerError {
    ContainerError::Start {
        message: format!("unable to start container process: {text}"),
    }
}

/// The program's own error first, then libcontainer's log, then its error with
/// all its causes.
pub(crate) fn explain(
    error: LibcontainerError,
    report: ExecReport,
    diagnosis: &mut Diagnosis,
) -> ContainerError {
    if let Some(text) = report.outcome() {
        return start_error(text);
    }
    if let Some(words) = diagnosis.words() {
        return ContainerError::create(format!("unable to start container process: {words}"));
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    ContainerError::create(format!("unable to start container process: {text}"))
}

/// Just above what the kernel never kills: a dead shim costs an exit code.
/// Without CAP_SYS_RESOURCE, back to what an ordinary process has.
pub(crate) fn protect_from_oom() {
    if fs::write(OOM_SCORE_FILE, "-998").is_err() {
        let _ = fs::write(OOM_SCORE_FILE, "0");
    }
}

/// The score the container can be given: lowering it below our own takes
/// CAP_SYS_RESOURCE, which an agent in a container may lack.
pub(crate) fn allowed_oom_score(wanted: i32) -> i32 {
    if fs::write(OOM_SCORE_FILE, wanted.to_string()).is_ok() {
        return wanted;
    }
    fs::read_to_string(OOM_SCORE_FILE)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";
