//! Network namespaces as bind-mounted files: they live as long as the file is
//! mounted, whoever else is in them or not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};

use crate::NetworkError;

/// `NSFS_MAGIC` of linux/magic.h: the file system of namespace files.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Namespace {
        path,
        operation,
        source,
    }
}

/// Whether a namespace is mounted at `path`.
pub fn exists(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes a new network namespace, with nothing but a loopback interface that
/// is down, and mounts it at `path`. Fails where one is mounted already.
pub fn create(path: &Path) -> Result<(), NetworkError> {
    if exists(path) {
        return Err(failed(path, "create")(io::Error::from(
            io::ErrorKind::AlreadyExists,
        )));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed(path, "create the directory of"))?;
    }
    // A plain file may be left from a crash between the two steps.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed(path, "create the file of"))?;
    // A thread of its own is moved, so the process stays where it is; the
    // mount table is shared by all threads.
    let made = thread::scope(|scope| {
        scope
            .spawn(|| -> io::Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(
                    Some("/proc/thread-self/ns/net"),
                    path,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
                Ok(())
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    });
    made.map_err(|source| {
        let _ = fs::remove_file(path);
        failed(path, "create")(source)
    })
}

/// Unmounts and removes the file; the namespace itself ends with its last
/// process. Succeeds when there is nothing.
pub fn delete(path: &Path) -> Result<(), NetworkError> {
    while exists(path) {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .map_err(failed(path, "unmount"))?;
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, "remove the file of")(source))
        }
        _ => Ok(()),
    }
}

/// Opens the namespace file.
pub fn open(path: &Path) -> Result<File, NetworkError> {
    if !exists(path) {
        return Err(failed(path, "open")(io::Error::new(
            io::ErrorKind::NotFound,
            "no network namespace there",
        )));
    }
    File::open(path).map_err(failed(path, "open"))
}

/// Runs a closure on a thread inside the namespace and returns its result.
/// Sockets opened there stay in that namespace wherever they are used later.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    let namespace = open(path)?;
    thread::scope(|scope| {
        let entered = scope.spawn(move || -> io::Result<T> {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        match entered.join() {
            Ok(result) => result.map_err(failed(path, "enter")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Starts a process inside the namespace.
pub fn spawn_in_netns(command: &mut Command, path: &Path) -> Result<Child, NetworkError> {
    enter_before_exec(command, path)?;
    command.spawn().map_err(failed(path, "start a process in"))
}

/// Makes `command` enter the namespace between fork and exec. The namespace
/// is opened now: one that is replaced at `path` later is not entered.
pub fn enter_before_exec(command: &mut Command, path: &Path) -> Result<(), NetworkError> {
    let namespace = open(path)?;
    // SAFETY: setns is a plain system call, safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
        });
    }
    Ok(())
}

/// Writes a setting below /proc/sys of the calling thread's namespace.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from("/proc/sys").join(name);
    // Writing what is there already would fail where /proc/sys is read-only.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Setting {
        path,
        value: value.to_owned(),
        source,
    })
}
