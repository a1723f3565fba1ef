//! Running a further process inside a container: the agent's side.
//!
//! A helper process of our own binary carries libcontainer; the pipes go
//! straight from the agent to the new process, and a terminal's master comes
//! back over the control socket. Dropping the handle closes that socket, and
//! the helper then kills the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;

use crate::control::{ControlSocket, HelperReply};
use crate::error::ContainerError;
use crate::spec::User;
use crate::terminal::PtyStream;

/// A process to run in a running container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// Added to the container's own environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The container's own user when `None`.
    #[serde(default)]
    pub user: Option<User>,
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub tty: bool,
    /// The terminal's first size.
    #[serde(default)]
    pub size: Option<TerminalSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// How an exec'd process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// The program's own code, or 128 + signal.
    pub exit_code: i32,
    pub signal: Option<i32>,
}

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Changes the size of an exec's or a container's terminal.
#[derive(Clone)]
pub struct Terminal(pub(crate) TerminalKind);

#[derive(Clone)]
pub(crate) enum TerminalKind {
    Local(Arc<OwnedFd>),
    /// The shim holds it: sizes travel over the attach socket.
    Attached(mpsc::Sender<TerminalSize>),
}

impl Terminal {
    pub async fn resize(&self, size: TerminalSize) {
        match &self.0 {
            TerminalKind::Local(master) => crate::terminal::set_size(master, size),
            TerminalKind::Attached(sender) => {
                // The shim has closed the connection: nothing left to resize.
                let _ = sender.send(size).await;
            }
        }
    }
}

/// A running exec. Its streams may be taken out and moved elsewhere; the
/// handle itself must live until `wait` returns, or the process is killed.
pub struct ExecHandle {
    /// `None` where the spec asked for no stdin. Dropping it closes it.
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    /// `None` under a terminal.
    pub stderr: Option<Reader>,
    pub terminal: Option<Terminal>,
    /// In the host's pid namespace.
    pub pid: u32,
    pub(crate) control: ControlSocket,
    pub(crate) helper: tokio::process::Child,
    pub(crate) container: String,
}

impl ExecHandle {
    /// Waits for the process to end. Read the streams meanwhile: a process
    /// blocked on a full pipe never ends.
    pub async fn wait(&mut self) -> Result<ExecStatus, ContainerError> {
        let reply = self.control.receive().await;
        let _ = self.helper.wait().await;
        match reply {
            Ok(Some((HelperReply::Exited(status), _))) => Ok(status),
            Ok(Some((HelperReply::Failed(error), _))) => Err(error),
            Ok(Some((HelperReply::Started { .. }, _))) => Err(ContainerError::shim(
                &self.container,
                "waiting for an exec",
                "the helper answered out of turn",
            )),
            Ok(None) => Err(ContainerError::shim(
                &self.container,
                "waiting for an exec",
                "the helper ended without an answer",
            )),
            Err(e) => Err(ContainerError::shim(
                &self.container,
                "waiting for an exec",
                e,
            )),
        }
    }

    pub(crate) fn from_pty(
        master: OwnedFd,
        pid: u32,
        want_stdin: bool,
        control: ControlSocket,
        helper: tokio::process::Child,
        container: String,
    ) -> Result<Self, ContainerError> {
        let master = Arc::new(master);
        let failed =
            |e: std::io::Error| ContainerError::shim(&container, "opening an exec's terminal", e);
        let stream = PtyStream::new(&master).map_err(failed)?;
        let writer: Option<Writer> = if want_stdin {
            Some(Box::new(PtyStream::new(&master).map_err(failed)?))
        } else {
            None
        };
        Ok(ExecHandle {
            stdin: writer,
            stdout: Some(Box::new(stream)),
            stderr: None,
            terminal: Some(Terminal(TerminalKind::Local(master))),
            pid,
            control,
            helper,
            container,
        })
    }
}

/// A finished exec with what it wrote: exec probes and lifecycle hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub status: ExecStatus,
    /// stdout and stderr together, at most the limit asked for.
    pub output: Vec<u8>,
}

/// Runs to the end, keeping at most `output_limit_bytes` of what it writes
/// (the rest is read and dropped), or kills it when `timeout` has passed.
pub(crate) async fn collect(
    mut handle: ExecHandle,
    timeout: Duration,
    output_limit_bytes: usize,
) -> Result<ExecOutput, ContainerError> {
    handle.stdin = None;
    let stdout = handle.stdout.take();
    let stderr = handle.stderr.take();
    let run = async {
        // Each stream may use the whole limit; the sum is cut below.
        let (first, second, status) = tokio::join!(
            read_limited(stdout, output_limit_bytes),
            read_limited(stderr, output_limit_bytes),
            handle.wait()
        );
        let mut output = first;
        output.extend_from_slice(&second);
        output.truncate(output_limit_bytes);
        status.map(|status| ExecOutput { status, output })
    };
    match tokio::time::timeout(timeout, run).await {
        Ok(result) => result,
        // The handle is dropped on return: the helper kills the process.
        Err(_) => Err(ContainerError::Timeout {
            operation: "command".to_string(),
            timeout_ms: timeout.as_millis() as u64,
        }),
    }
}

async fn read_limited(stream: Option<Reader>, limit: usize) -> Vec<u8> {
    let Some(mut stream) = stream else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = limit.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}
