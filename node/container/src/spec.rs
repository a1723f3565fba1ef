//! What a container is to be: the agent's order to the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::error::ContainerError;

/// A container's complete description. It is kept in the state directory, so
/// a restarted agent gets back exactly what it ordered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique among all containers of the node, ever: letters, digits, `-`,
    /// `_`, `.`, at most 120 bytes.
    pub id: String,
    /// Free text for the agent (pod uid, namespace, name, attempt, spec hash):
    /// returned unchanged by `list`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Layer directories, the base first, as `trireme-image` returns them.
    pub layers: Vec<PathBuf>,
    pub namespaces: Namespaces,
    /// The pod's cgroup, from `PodSandbox::cgroup_parent`; the container's is
    /// one below it.
    pub cgroup_parent: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Absolute; made when the image lacks it. Empty means `/`.
    #[serde(default)]
    pub cwd: PathBuf,
    #[serde(default)]
    pub user: User,
    #[serde(default)]
    pub capabilities: Capabilities,
    #[serde(default)]
    pub privileged: bool,
    #[serde(default)]
    pub read_only_rootfs: bool,
    #[serde(default)]
    pub no_new_privileges: bool,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub devices: Vec<Device>,
    #[serde(default)]
    pub limits: Limits,
    /// -1000..=1000, by the pod's QoS class.
    #[serde(default)]
    pub oom_score_adj: i32,
    #[serde(default)]
    pub tty: bool,
    #[serde(default)]
    pub stdin: bool,
    /// Close stdin for good when the first attached client closes its side.
    #[serde(default)]
    pub stdin_once: bool,
    /// `procMount: Unmasked` when true.
    #[serde(default)]
    pub unmasked_proc: bool,
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    pub log: LogSpec,
}

/// Paths of the namespaces to join; `None` is the host's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespaces {
    pub network: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    #[serde(default)]
    pub pid: PidNamespace,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// The container's process is process 1 of its own.
    #[default]
    Private,
    /// `hostPID`.
    Host,
    /// `shareProcessNamespace`: `PodSandbox::pid_namespace`.
    Shared(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub supplemental_gids: Vec<u32>,
}

/// Added to and dropped from [`DEFAULT_CAPABILITIES`]; names with or without
/// `CAP_`, in any case, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    #[serde(default)]
    pub add: Vec<String>,
    #[serde(default)]
    pub drop: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: PathBuf,
    pub source: MountSource,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub propagation: Propagation,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host. `sub_path` is resolved beneath it
    /// without ever leaving it, whatever symlinks the volume holds, and made
    /// as a directory when missing.
    Bind {
        path: PathBuf,
        sub_path: Option<PathBuf>,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// A device node of the host made available inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The current file; rotated ones are `path.1` (newest) … `path.N-1`.
    pub path: PathBuf,
    #[serde(default = "LogSpec::default_max_bytes")]
    pub max_bytes: u64,
    /// Including the current one.
    #[serde(default = "LogSpec::default_max_files")]
    pub max_files: u32,
}

/// The kubelet's defaults, containerLogMaxSize and containerLogMaxFiles.
pub const LOG_MAX_BYTES: u64 = 10 * 1024 * 1024;
pub const LOG_MAX_FILES: u32 = 5;

impl LogSpec {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        LogSpec {
            path: path.into(),
            max_bytes: LOG_MAX_BYTES,
            max_files: LOG_MAX_FILES,
        }
    }

    fn default_max_bytes() -> u64 {
        LOG_MAX_BYTES
    }

    fn default_max_files() -> u32 {
        LOG_MAX_FILES
    }
}

/// The set every container engine grants by default.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Every capability Linux knows, by its number's order.
const ALL_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The capabilities a container ends up with, as `CAP_…` names, sorted.
/// `drop: ALL` empties the default set before `add` applies, and a capability
/// that is both added and dropped by name is dropped.
pub fn capability_names(
    capabilities: &Capabilities,
    privileged: bool,
) -> Result<Vec<String>, ContainerError> {
    let normal = |field: &str, name: &str| -> Result<String, ContainerError> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" || ALL_CAPABILITIES.contains(&bare) {
            Ok(bare.to_string())
        } else {
            Err(ContainerError::InvalidSpec {
                field: format!("securityContext.capabilities.{field}"),
                message: format!("unknown capability {name:?}"),
            })
        }
    };
    if privileged {
        return Ok(sorted_names(ALL_CAPABILITIES.iter().map(|c| c.to_string())));
    }
    let add = capabilities
        .add
        .iter()
        .map(|n| normal("add", n))
        .collect::<Result<Vec<_>, _>>()?;
    let drop = capabilities
        .drop
        .iter()
        .map(|n| normal("drop", n))
        .collect::<Result<Vec<_>, _>>()?;
    let mut set: Vec<String> = if add.iter().any(|c| c == "ALL") {
        ALL_CAPABILITIES.iter().map(|c| c.to_string()).collect()
    } else if drop.iter().any(|c| c == "ALL") {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|c| c.to_string()).collect()
    };
    set.extend(add.into_iter().filter(|c| c != "ALL"));
    set.retain(|c| !drop.contains(c));
    Ok(sorted_names(set.into_iter()))
}

/// The kernel's number of a `CAP_…` name.
pub(crate) fn capability_number(name: &str) -> Option<usize> {
    let bare = name.strip_prefix("CAP_")?;
    ALL_CAPABILITIES.iter().position(|c| *c == bare)
}

fn sorted_names(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut list: Vec<String> = names.map(|n| format!("CAP_{n}")).collect();
    list.sort();
    list.dedup();
    list
}

/// Longest id: it names a directory and a cgroup, both with a suffix.
const ID_MAX_BYTES: usize = 120;

impl ContainerSpec {
    /// What can be refused before anything is made.
    pub fn validate(&self) -> Result<(), ContainerError> {
        let refuse = |field: &str, message: &str| {
            Err(ContainerError::InvalidSpec {
                field: field.to_string(),
                message: message.to_string(),
            })
        };
        validate_id(&self.id)?;
        if self.args.is_empty() || self.args[0].is_empty() {
            return refuse("command", "no command specified");
        }
        if self.args.iter().any(|a| a.contains('\0'))
            || self
                .env
                .iter()
                .any(|(k, v)| k.contains('\0') || v.contains('\0'))
        {
            return refuse("command", "a zero byte cannot be passed to a program");
        }
        if self.layers.is_empty() {
            return refuse("image", "the image has no layers");
        }
        if !self.cwd.as_os_str().is_empty() && !self.cwd.is_absolute() {
            return refuse("workingDir", "must be an absolute path");
        }
        if !self.cgroup_parent.starts_with('/') || self.cgroup_parent.contains("..") {
            return refuse("cgroupParent", "must be an absolute path without '..'");
        }
        if !(-1000..=1000).contains(&self.oom_score_adj) {
            return refuse("oomScoreAdj", "must be between -1000 and 1000");
        }
        for mount in &self.mounts {
            if !mount.destination.is_absolute() {
                return refuse("volumeMounts.mountPath", "must be an absolute path");
            }
            if mount
                .destination
                .components()
                .any(|c| c == std::path::Component::ParentDir)
            {
                return refuse("volumeMounts.mountPath", "must not contain '..'");
            }
        }
        if self.log.max_files == 0 || self.log.max_bytes == 0 {
            return refuse("log", "limits must be positive");
        }
        capability_names(&self.capabilities, self.privileged)?;
        Ok(())
    }

    /// The container's own cgroup path.
    pub fn cgroup_path(&self) -> String {
        format!("{}/{}", self.cgroup_parent.trim_end_matches('/'), self.id)
    }
}

pub(crate) fn validate_id(id: &str) -> Result<(), ContainerError> {
    let valid = !id.is_empty()
        && id.len() <= ID_MAX_BYTES
        && !id.starts_with('.')
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if valid {
        Ok(())
    } else {
        Err(ContainerError::InvalidSpec {
            field: "id".to_string(),
            message: format!("{id:?} is not a valid container id"),
        })
    }
}
