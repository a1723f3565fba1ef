//! A pod's shared surroundings: ipc and uts namespaces kept as bind-mounted
//! files, `/dev/shm`, the pod's cgroup, and where asked a shared pid
//! namespace. There is no pause process, except that a shared pid namespace
//! needs a first process to live.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Limits, Qos};
use crate::control;
use crate::error::ContainerError;
use crate::process::{self, ProcessIdentity};
use crate::runtime::Runtime;
use crate::spec::{Namespaces, PidNamespace, validate_id};
use crate::state::{read_json, write_json};

/// What a pod's sandbox is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub pod_uid: String,
    pub hostname: String,
    pub qos: Qos,
    /// Of the whole pod.
    pub limits: Limits,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    pub share_process_namespace: bool,
    /// Of the pod's ipc and uts namespaces (`kernel.shm*`, `kernel.msg*`,
    /// `kernel.sem`, `fs.mqueue.*`); `net.*` are set by each container.
    pub sysctls: BTreeMap<String, String>,
}

/// A pod's sandbox as it exists on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodSandbox {
    pub spec: SandboxSpec,
    /// For `ContainerSpec::cgroup_parent`.
    pub cgroup_parent: String,
    /// Bind this at `/dev/shm`.
    pub shm: PathBuf,
    ipc: Option<PathBuf>,
    uts: Option<PathBuf>,
    pid: PidNamespace,
    #[serde(default)]
    pub(crate) pid_init: Option<ProcessIdentity>,
    pub(crate) boot_id: String,
}

impl PodSandbox {
    /// For `ContainerSpec::namespaces`. `network` is the pod's network
    /// namespace as `trireme-network` made it; ignored under `hostNetwork`.
    pub fn namespaces(&self, network: Option<&Path>) -> Namespaces {
        Namespaces {
            network: network
                .filter(|_| !self.spec.host_network)
                .map(Path::to_path_buf),
            ipc: self.ipc.clone(),
            uts: self.uts.clone(),
            pid: self.pid.clone(),
        }
    }
}

const PODS_DIR: &str = "pods";
const SANDBOX_FILE: &str = "sandbox.json";
/// What container engines give `/dev/shm` by default.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

impl Runtime {
    fn pod_directory(&self, pod_uid: &str) -> PathBuf {
        self.config().state_dir.join(PODS_DIR).join(pod_uid)
    }

    fn pod_cgroup(&self, spec: &SandboxSpec) -> String {
        let root = self.config().cgroup_root.trim_end_matches('/');
        let class = match spec.qos {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        format!("{root}/pods{class}/pod{}", spec.pod_uid)
    }

    /// Makes a pod's sandbox; an existing one is returned as it is.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<PodSandbox, ContainerError> {
        let runtime = self.clone();
        let spec = spec.clone();
        let uid = spec.pod_uid.clone();
        tokio::task::spawn_blocking(move || runtime.create_sandbox_blocking(&spec))
            .await
            .unwrap_or_else(|e| Err(ContainerError::shim(uid, "creating its sandbox", e)))
    }

    /// Removes a pod's sandbox. Its containers must have been deleted.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), ContainerError> {
        let runtime = self.clone();
        let uid = pod_uid.to_string();
        tokio::task::spawn_blocking(move || runtime.remove_sandbox_blocking(&uid))
            .await
            .unwrap_or_else(|e| Err(ContainerError::shim(pod_uid, "removing its sandbox", e)))
    }

    /// Every sandbox recorded on this node. One whose `stands` is false is of
    /// before a reboot: remove it.
    pub fn sandboxes(&self) -> Result<Vec<PodSandbox>, ContainerError> {
        let root = self.config().state_dir.join(PODS_DIR);
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(ContainerError::io("list", &root, e)),
        };
        let mut list = Vec::new();
        for entry in entries.flatten() {
            if let Some(sandbox) = read_json::<PodSandbox>(&entry.path().join(SANDBOX_FILE))? {
                list.push(sandbox);
            } else if let Some(uid) = entry.file_name().to_str() {
                // Its creation was interrupted.
                self.remove_sandbox_blocking(uid)?;
            }
        }
        list.sort_by(|a, b| a.spec.pod_uid.cmp(&b.spec.pod_uid));
        Ok(list)
    }

    fn create_sandbox_blocking(&self, spec: &SandboxSpec) -> Result<PodSandbox, ContainerError> {
        validate_id(&spec.pod_uid)?;
        let directory = self.pod_directory(&spec.pod_uid);
        if let Some(sandbox) = read_json::<PodSandbox>(&directory.join(SANDBOX_FILE))? {
            if sandbox.stands() {
                return Ok(sandbox);
            }
            self.remove_sandbox_blocking(&spec.pod_uid)?;
        }
        fs::create_dir_all(&directory).map_err(|e| ContainerError::io("create", &directory, e))?;
        match self.build_sandbox(spec, &directory) {
            Ok(sandbox) => {
                write_json(&directory.join(SANDBOX_FILE), &sandbox, false)?;
                Ok(sandbox)
            }
            Err(error) => {
                if let Err(cleanup) = self.remove_sandbox_blocking(&spec.pod_uid) {
                    tracing::warn!(pod = spec.pod_uid, %cleanup, "a failed sandbox left remains");
                }
                Err(error)
            }
        }
    }

    fn build_sandbox(
        &self,
        spec: &SandboxSpec,
        directory: &Path,
    ) -> Result<PodSandbox, ContainerError> {
        let cgroup = Cgroup::new(self.pod_cgroup(spec));
        cgroup.create()?;
        cgroup.apply(&spec.limits)?;
        let ipc = (!spec.host_ipc).then(|| directory.join("ipc"));
        // The host's name is the pod's under hostNetwork, as in Kubernetes.
        let uts = (!spec.host_network).then(|| directory.join("uts"));
        pin_namespaces(ipc.as_deref(), uts.as_deref(), spec)?;
        let shm = if spec.host_ipc {
            PathBuf::from("/dev/shm")
        } else {
            let shm = directory.join("shm");
            fs::create_dir_all(&shm).map_err(|e| ContainerError::io("create", &shm, e))?;
            mount(
                Some("shm"),
                &shm,
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some(format!("mode=1777,size={SHM_BYTES}").as_str()),
            )
            .map_err(|e| ContainerError::io("mount a tmpfs at", &shm, e))?;
            shm
        };
        let mut pid_init = None;
        let pid = if spec.host_pid {
            PidNamespace::Host
        } else if spec.share_process_namespace {
            let first = self.start_pid_init(&cgroup)?;
            let path = directory.join("pid");
            pin(&PathBuf::from(format!("/proc/{}/ns/pid", first.pid)), &path)?;
            pid_init = Some(first);
            PidNamespace::Shared(path)
        } else {
            PidNamespace::Private
        };
        Ok(PodSandbox {
            spec: spec.clone(),
            cgroup_parent: cgroup.path().to_string(),
            shm,
            ipc,
            uts,
            pid,
            pid_init,
            boot_id: process::boot_id(),
        })
    }

    /// Starts process 1 of a shared pid namespace: it does nothing but reap.
    fn start_pid_init(&self, pod: &Cgroup) -> Result<ProcessIdentity, ContainerError> {
        let failed = |e: std::io::Error| {
            ContainerError::create(format!("cannot start the pod's pid namespace: {e}"))
        };
        let cgroup = Cgroup::new(format!("{}/init", pod.path()));
        cgroup.create()?;
        let (near, far) = control::pair().map_err(failed)?;
        let mut child = Command::new(&self.config().shim_binary)
            .args(&self.config().shim_args)
            .args(["pid-init", cgroup.path()])
            .env_clear()
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let reply = control::receive(near.as_raw_fd()).map_err(failed)?;
        // It has forked: the namespace's first process lives on.
        child.wait().map_err(failed)?;
        reply
            .and_then(|(packet, _)| serde_json::from_slice::<ProcessIdentity>(&packet).ok())
            .ok_or_else(|| failed(std::io::Error::other("no answer from its first process")))
    }

    fn remove_sandbox_blocking(&self, pod_uid: &str) -> Result<(), ContainerError> {
        validate_id(pod_uid)?;
        let directory = self.pod_directory(pod_uid);
        let sandbox = read_json::<PodSandbox>(&directory.join(SANDBOX_FILE))?;
        if let Some(pidfd) = sandbox
            .as_ref()
            .and_then(|s| s.pid_init)
            .and_then(|p| p.open())
        {
            // Takes the whole pid namespace with it.
            let _ = process::pidfd_send_signal(&pidfd, libc::SIGKILL);
        }
        for name in ["ipc", "uts", "pid", "shm"] {
            // Not mounted, or not there: nothing to undo.
            let _ = umount2(&directory.join(name), MntFlags::MNT_DETACH);
        }
        let root = self.config().cgroup_root.trim_end_matches('/');
        for class in ["", "/burstable", "/besteffort"] {
            let cgroup = Cgroup::new(format!("{root}/pods{class}/pod{pod_uid}"));
            if cgroup.exists() {
                cgroup.kill();
                cgroup.remove()?;
            }
        }
        match fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(ContainerError::io("remove", &directory, e))
            }
            _ => Ok(()),
        }
    }

    /// Removes this node's cgroups, when no container is left: the last step
    /// of taking a node down.
    pub fn remove_cgroups(&self) -> Result<(), ContainerError> {
        Cgroup::new(self.config().cgroup_root.clone()).remove()
    }
}

impl PodSandbox {
    /// Whether its namespaces and mounts still exist.
    pub fn stands(&self) -> bool {
        self.boot_id == process::boot_id() && self.pid_init.is_none_or(|p| p.is_alive())
    }
}

/// Unshares on a throwaway thread and keeps the new namespaces by bind mounts.
fn pin_namespaces(
    ipc: Option<&Path>,
    uts: Option<&Path>,
    spec: &SandboxSpec,
) -> Result<(), ContainerError> {
    let mut flags = CloneFlags::empty();
    if ipc.is_some() {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    if uts.is_some() {
        flags |= CloneFlags::CLONE_NEWUTS;
    }
    if flags.is_empty() {
        return Ok(());
    }
    let work = || -> Result<(), ContainerError> {
        unshare(flags).map_err(|e| {
            ContainerError::create(format!("cannot create the pod's namespaces: {e}"))
        })?;
        if uts.is_some() {
            nix::unistd::sethostname(&spec.hostname).map_err(|e| {
                ContainerError::create(format!("cannot set hostname {:?}: {e}", spec.hostname))
            })?;
        }
        for (name, value) in &spec.sysctls {
            if name.starts_with("net.") {
                continue;
            }
            let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
            fs::write(&path, value)
                .map_err(|e| ContainerError::create(format!("cannot set sysctl {name}: {e}")))?;
        }
        for (kind, target) in [("ipc", ipc), ("uts", uts)] {
            if let Some(target) = target {
                pin(
                    &PathBuf::from(format!("/proc/thread-self/ns/{kind}")),
                    target,
                )?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| {
            Err(ContainerError::create(
                "creating the pod's namespaces panicked",
            ))
        })
    })
}

fn pin(namespace: &Path, target: &Path) -> Result<(), ContainerError> {
    fs::File::create(target).map_err(|e| ContainerError::io("create", target, e))?;
    mount(
        Some(namespace),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|e| ContainerError::io("bind a namespace at", target, e))
}
