//! The pipes between the agent and an exec'd process.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::net::unix::pipe;
use tokio::process::Child;

use crate::control::ControlSocket;
use crate::exec::{ExecHandle, ExecSpec, Reader};

/// The pipes of an exec without a terminal: our ends.
pub(crate) struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    /// Makes them and hands the other ends to the helper. Under a terminal
    /// nothing but the order goes.
    pub fn send(control: &ControlSocket, exec: &ExecSpec) -> std::io::Result<Self> {
        if exec.tty {
            control.send_descriptors(&[])?;
            return Ok(Pipes {
                stdin: None,
                stdout: None,
                stderr: None,
            });
        }
        let (stdin_far, stdin) = if exec.stdin {
            let (reader, writer) = std::io::pipe()?;
            (OwnedFd::from(reader), Some(OwnedFd::from(writer)))
        } else {
            (OwnedFd::from(fs::File::open("/dev/null")?), None)
        };
        let (stdout, stdout_far) = std::io::pipe()?;
        let (stderr, stderr_far) = std::io::pipe()?;
        control.send_descriptors(&[
            stdin_far.as_raw_fd(),
            stdout_far.as_raw_fd(),
            stderr_far.as_raw_fd(),
        ])?;
        Ok(Pipes {
            stdin,
            stdout: Some(stdout.into()),
            stderr: Some(stderr.into()),
        })
    }

    pub fn into_handle(
        self,
        pid: u32,
        control: ControlSocket,
        helper: Child,
        container: &str,
    ) -> std::io::Result<ExecHandle> {
        let reader = |end: Option<OwnedFd>| -> std::io::Result<Option<Reader>> {
            Ok(match end {
                Some(end) => Some(Box::new(pipe::Receiver::from_owned_fd(end)?)),
                None => None,
            })
        };
        Ok(ExecHandle {
            stdin: match self.stdin {
                Some(end) => Some(Box::new(pipe::Sender::from_owned_fd(end)?)),
                None => None,
            },
            stdout: reader(self.stdout)?,
            stderr: reader(self.stderr)?,
            terminal: None,
            pid,
            control,
            helper,
            container: container.to_string(),
        })
    }
}
