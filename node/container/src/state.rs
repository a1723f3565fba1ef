//! What is written in a container's state directory, and read back by whoever
//! asks later.
//!
//! `spec.json` (the order), `state.json` (shim and init, once running),
//! `exit.json` (once it ended). Each is written whole and renamed into place.

use std::fs;
use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::ContainerError;
use crate::process::ProcessIdentity;
use crate::spec::ContainerSpec;

pub(crate) const SPEC_FILE: &str = "spec.json";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
pub(crate) const SHIM_FILE: &str = "shim.json";
pub(crate) const ATTACH_SOCKET: &str = "attach.sock";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The program's own code, or 128 + signal.
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// Set when the program never ran (`StartError`, …) or its shim was lost.
    #[serde(default)]
    pub error: Option<ContainerError>,
}

/// Written by the shim when the container's program runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunningState {
    pub shim: ProcessIdentity,
    pub init: ProcessIdentity,
    pub started_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ContainerState {
    /// The shim is at work, the program not yet started.
    Creating,
    Running {
        pid: u32,
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// One container as found in the state directories.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    pub id: String,
    pub spec: ContainerSpec,
    pub state: ContainerState,
}

impl PartialEq for ContainerError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for ContainerError {}

/// Writes `value` beside `path` and renames it over; `durable` also syncs it.
pub(crate) fn write_json<T: Serialize>(
    path: &Path,
    value: &T,
    durable: bool,
) -> Result<(), ContainerError> {
    let bytes = serde_json::to_vec(value).map_err(|e| ContainerError::io("encode", path, e))?;
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(&temporary, path)
    };
    write().map_err(|e| ContainerError::io("write", path, e))
}

/// `None` where the file does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ContainerError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ContainerError::io("read", path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| ContainerError::io("decode", path, e))
}
