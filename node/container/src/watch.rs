//! A shim's end, and what it means for its container.

use std::os::fd::OwnedFd;
use std::path::Path;

use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use crate::cgroup::Cgroup;
use crate::error::ContainerError;
use crate::spec::ContainerSpec;
use crate::state::{EXIT_FILE, Exit, RunningState, STATE_FILE, read_json, write_json};

/// The exit code where nobody saw the program end.
pub(crate) const LOST_EXIT_CODE: i32 = 255;

pub(crate) enum ShimProcess {
    Child(Child),
    /// Of an earlier agent; `None` when it has ended already.
    Adopted(Option<OwnedFd>),
}

impl ShimProcess {
    pub async fn ended(mut self) {
        self.wait().await;
    }

    async fn wait(&mut self) {
        match self {
            ShimProcess::Child(child) => {
                let _ = child.wait().await;
            }
            ShimProcess::Adopted(None) => {}
            ShimProcess::Adopted(slot @ Some(_)) => {
                let Some(pidfd) = slot.take() else { return };
                // SAFETY: an `OwnedFd` keeps its descriptor open and the same.
                if let Ok(pidfd) = unsafe { AsyncFd::register(pidfd) } {
                    let _ = pidfd.readable().await;
                }
            }
        }
    }

    pub async fn kill(&mut self) {
        if let ShimProcess::Child(child) = self {
            let _ = child.start_kill();
        }
        self.wait().await;
    }
}

/// The exit a shim left, or, where it left none, the end of what it left.
pub(crate) fn read_exit(directory: &Path, spec: &ContainerSpec) -> Exit {
    let path = directory.join(EXIT_FILE);
    match read_json::<Exit>(&path) {
        Ok(Some(exit)) => return exit,
        Ok(None) => {}
        Err(e) => return lost(&spec.id, &e.to_string(), None),
    }
    let started_at = read_json::<RunningState>(&directory.join(STATE_FILE))
        .ok()
        .flatten()
        .map(|s| s.started_at);
    Cgroup::new(spec.cgroup_path()).kill();
    let exit = lost(
        &spec.id,
        "it ended before the container did; the container was killed",
        started_at,
    );
    if let Err(error) = write_json(&path, &exit, true) {
        tracing::warn!(container = spec.id, %error, "could not record a lost container");
    }
    exit
}

pub(crate) fn lost(id: &str, cause: &str, started_at: Option<Timestamp>) -> Exit {
    Exit {
        exit_code: LOST_EXIT_CODE,
        signal: None,
        oom_killed: false,
        started_at,
        finished_at: Timestamp::now(),
        error: Some(ContainerError::shim(id, "watching it", cause)),
    }
}
