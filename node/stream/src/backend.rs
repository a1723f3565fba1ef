//! What a session needs of the node.

use std::future::Future;
use std::pin::Pin;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A terminal's size in characters, as clients send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    #[serde(rename = "Width")]
    pub width: u16,
    #[serde(rename = "Height")]
    pub height: u16,
}

/// Which streams the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl StreamOptions {
    /// From the query of the API (`stdin`, `stdout`, `stderr`, `tty`) or of the
    /// kubelet (`input`, `output`, `error`, `tty`). With a terminal there is no
    /// separate error stream. Errors in Kubernetes' words.
    pub fn from_query(query: &str) -> Result<StreamOptions, String> {
        let mut options = StreamOptions::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let on = matches!(value.as_ref(), "1" | "true" | "True" | "TRUE" | "t" | "T");
            match name.as_ref() {
                "stdin" | "input" => options.stdin |= on,
                "stdout" | "output" => options.stdout |= on,
                "stderr" | "error" => options.stderr |= on,
                "tty" => options.tty |= on,
                _ => {}
            }
        }
        if options.tty {
            options.stderr = false;
        }
        if !options.stdin && !options.stdout && !options.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(options)
    }
}

/// Why the backend could not do it, for the client to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// A process, or an attachment to one. Dropping it means that nobody is
/// interested any more.
pub struct Process {
    /// Shut down when the client closes its standard input.
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// Where new terminal sizes go; sizes are dropped when it is full.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code. It may come before the output has been read: the
    /// session reads what is left.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, BackendError>> + Send>>,
}

/// Starts the process of an exec, or attaches.
pub trait ExecBackend: Send + 'static {
    /// Called once the client's streams are there. The process's streams need
    /// not be more than `streams` asks for.
    fn start(
        self,
        streams: StreamOptions,
    ) -> impl Future<Output = Result<Process, BackendError>> + Send;
}

/// Opens connections to a pod's ports.
pub trait PortForwardBackend: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    fn connect(&self, port: u16)
    -> impl Future<Output = Result<Self::Stream, BackendError>> + Send;
}
