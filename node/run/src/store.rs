//! What the agent keeps on disk of each pod, so that the next agent continues.
//!
//! ```text
//! pods/<uid>/pod.json        the pod as last seen in the API
//! pods/<uid>/runtime.json    what was begun and what came of it
//! pods/<uid>/volumes/…       see `volumes`
//! pods/<uid>/logs/<container>/<attempt>.log
//! pods/<uid>/containers/<container>/<attempt>/termination-log
//! pods/<uid>/etc/{hosts,hostname,resolv.conf}
//! ```

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use trireme_node_decide::PodRuntime;

/// The directories of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodDirectory {
    root: PathBuf,
}

impl PodDirectory {
    pub fn new(data: &Path, uid: &str) -> Self {
        PodDirectory {
            root: data.join("pods").join(uid),
        }
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    /// The current log file of an instance.
    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.root
            .join("logs")
            .join(container)
            .join(format!("{attempt}.log"))
    }

    /// The file that the container sees at its terminationMessagePath.
    pub fn termination_log(&self, container: &str, attempt: u32) -> PathBuf {
        self.root
            .join("containers")
            .join(container)
            .join(attempt.to_string())
            .join("termination-log")
    }

    /// Removes what instances before the given one left: only the one before is kept, for
    /// `logs --previous`.
    pub fn prune(&self, container: &str, attempt: u32) {
        let Some(old) = attempt.checked_sub(2) else {
            return;
        };
        let log = self.log(container, old);
        let _ = std::fs::remove_file(&log);
        for rotated in 1..trireme_log_files() {
            let mut name = log.clone().into_os_string();
            name.push(format!(".{rotated}"));
            let _ = std::fs::remove_file(PathBuf::from(name));
        }
        if let Some(directory) = self.termination_log(container, old).parent() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    pub fn save_pod(&self, pod: &Pod) -> io::Result<()> {
        write_json(&self.root.join("pod.json"), pod)
    }

    pub fn save_runtime(&self, runtime: &PodRuntime) -> io::Result<()> {
        write_json(&self.root.join("runtime.json"), runtime)
    }

    /// The pod and its state; none where either is missing or unreadable.
    pub fn load(&self) -> Option<(Pod, PodRuntime)> {
        let pod = read_json(&self.root.join("pod.json"))?;
        let runtime = read_json(&self.root.join("runtime.json"))?;
        Some((pod, runtime))
    }

    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn trireme_log_files() -> u32 {
    trireme_container::LogSpec::at("").max_files
}

/// Uids of all pods with a directory here.
pub(crate) fn pod_uids(data: &Path) -> io::Result<Vec<String>> {
    let root = data.join("pods");
    std::fs::create_dir_all(&root)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&root)? {
        if let Ok(name) = entry?.file_name().into_string() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Writes beside and renames: a reader finds the old or the new content.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    write_whole(path, &bytes)
}

/// The same for bytes.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = std::fs::read(path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an unreadable state file is ignored");
            None
        }
    }
}
