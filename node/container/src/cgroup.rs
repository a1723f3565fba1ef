//! Control groups: the pod's and the container's, on pure v2 hosts and on the
//! hybrid layout (v1 controllers, v2 beside them without controllers).
//!
//! A cgroup is named by its absolute path, the same in every hierarchy. On the
//! hybrid layout it exists in all of them, because the v2 one carries
//! `cgroup.kill` while v1 carries the limits.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::devices::{self, DeviceRule};
use crate::error::ContainerError;
use crate::hierarchy::{Layout, is_unified, layout};

/// Limits of a container or a pod; `None` is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// v1 scale: 1024 is one core's request. Never less than 2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota_us: Option<u64>,
    /// 100,000 when not given.
    pub cpu_period_us: Option<u64>,
    pub pids: Option<u64>,
}

/// The pod's quality-of-service class: which parent its cgroup gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// Use at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Since the cgroup was made.
    pub cpu_usage_ns: u64,
    pub memory_usage_bytes: u64,
    /// Usage less the inactive page cache: what the kubelet reports.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub processes: u64,
}

/// The scheduler period the kernel uses by default.
const CPU_PERIOD_US: u64 = 100_000;
/// A dying process holds its cgroup for a moment after its parent reaped it;
/// observed under 20 ms, so 200 tries of 5 ms tell a leak from a delay.
const REMOVE_TRIES: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);
/// Depth below which we follow cgroups a container made for itself.
const TREE_DEPTH: u32 = 16;

/// One cgroup in all hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// `path` is absolute and the same in every hierarchy.
    pub fn new(path: impl Into<String>) -> Self {
        Cgroup { path: path.into() }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn error(&self, operation: &str, cause: impl std::fmt::Display) -> ContainerError {
        ContainerError::Cgroup {
            path: self.path.clone(),
            operation: operation.to_string(),
            cause: cause.to_string(),
        }
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.path.trim_start_matches('/'))
    }

    /// The directories of this cgroup, one per hierarchy.
    fn directories(&self) -> Vec<PathBuf> {
        match layout() {
            Layout::Unified(root) => vec![self.below(root)],
            Layout::Split {
                mounts, unified, ..
            } => mounts
                .iter()
                .chain(unified.iter())
                .map(|m| self.below(m))
                .collect(),
        }
    }

    fn controller(&self, name: &str) -> Option<PathBuf> {
        match layout() {
            Layout::Unified(root) => Some(self.below(root)),
            Layout::Split { controllers, .. } => controllers.get(name).map(|m| self.below(m)),
        }
    }

    fn unified(&self) -> Option<PathBuf> {
        match layout() {
            Layout::Unified(root) => Some(self.below(root)),
            Layout::Split { unified, .. } => unified.as_ref().map(|m| self.below(m)),
        }
    }

    /// Makes it, and its parents, everywhere. Existing ones are kept.
    pub fn create(&self) -> Result<(), ContainerError> {
        match layout() {
            Layout::Unified(root) => self.create_unified(root),
            Layout::Split {
                controllers,
                mounts,
                unified,
            } => {
                for mount in mounts {
                    if controllers.get("cpuset") == Some(mount) {
                        self.create_cpuset(mount)?;
                    } else {
                        let directory = self.below(mount);
                        fs::create_dir_all(&directory).map_err(|e| self.error("create", e))?;
                    }
                }
                if let Some(mount) = unified {
                    fs::create_dir_all(self.below(mount)).map_err(|e| self.error("create", e))?;
                }
                Ok(())
            }
        }
    }

    /// On v2 each ancestor must hand its controllers down.
    fn create_unified(&self, root: &Path) -> Result<(), ContainerError> {
        let mut directory = root.to_path_buf();
        for part in self.path.split('/').filter(|p| !p.is_empty()) {
            let available =
                fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
            for name in ["cpu", "memory", "pids", "cpuset", "io"] {
                if available.split_whitespace().any(|c| c == name) {
                    // Refused where processes sit in the parent itself; the
                    // limits then fail with their own message.
                    let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{name}"));
                }
            }
            directory.push(part);
            make_directory(&directory).map_err(|e| self.error("create", e))?;
        }
        Ok(())
    }

    /// A v1 cpuset takes no process before its cpus and mems are set.
    fn create_cpuset(&self, mount: &Path) -> Result<(), ContainerError> {
        let mut directory = mount.to_path_buf();
        for part in self.path.split('/').filter(|p| !p.is_empty()) {
            let parent = directory.clone();
            directory.push(part);
            make_directory(&directory).map_err(|e| self.error("create", e))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = fs::read_to_string(directory.join(file)).unwrap_or_default();
                if own.trim().is_empty() {
                    let inherited = fs::read_to_string(parent.join(file))
                        .map_err(|e| self.error("read the parent's cpuset", e))?;
                    fs::write(directory.join(file), inherited.trim())
                        .map_err(|e| self.error("initialise the cpuset", e))?;
                }
            }
        }
        Ok(())
    }

    /// Sets what `limits` names; what it leaves out is left as it is.
    pub fn apply(&self, limits: &Limits) -> Result<(), ContainerError> {
        if is_unified() {
            self.apply_unified(limits)
        } else {
            self.apply_split(limits)
        }
    }

    /// On v2, when memory is short, the kernel kills all of it or nothing: for a container, whose
    /// parent process may not notice a child's end. Not for a pod, where the kernel would take the
    /// containers that have room with the one that has none.
    pub(crate) fn end_together(&self) {
        if is_unified() {
            // Absent before Linux 4.19, and where this host has no memory controller.
            let _ = self.write("memory", "memory.oom.group", "1");
        }
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), ContainerError> {
        let directory = self.controller(controller).ok_or_else(|| {
            self.error(
                &format!("set {file}"),
                format!("this host has no {controller} controller"),
            )
        })?;
        fs::write(directory.join(file), value)
            .map_err(|e| self.error(&format!("set {file} to {value}"), e))
    }

    fn apply_unified(&self, limits: &Limits) -> Result<(), ContainerError> {
        if let Some(bytes) = limits.memory_bytes {
            self.write("memory", "memory.max", &bytes.to_string())?;
            // Absent where the kernel has no swap accounting.
            let _ = self.write("memory", "memory.swap.max", "0");
        }
        if let Some(shares) = limits.cpu_shares {
            self.write("cpu", "cpu.weight", &shares_to_weight(shares).to_string())?;
        }
        if let Some(quota) = limits.cpu_quota_us {
            let period = limits.cpu_period_us.unwrap_or(CPU_PERIOD_US);
            self.write("cpu", "cpu.max", &format!("{quota} {period}"))?;
        }
        if let Some(pids) = limits.pids {
            self.write("pids", "pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    fn apply_split(&self, limits: &Limits) -> Result<(), ContainerError> {
        if let Some(bytes) = limits.memory_bytes {
            self.write("memory", "memory.limit_in_bytes", &bytes.to_string())?;
            // Absent where the kernel has no swap accounting.
            let _ = self.write("memory", "memory.memsw.limit_in_bytes", &bytes.to_string());
        }
        if let Some(shares) = limits.cpu_shares {
            self.write("cpu", "cpu.shares", &shares.max(2).to_string())?;
        }
        if let Some(quota) = limits.cpu_quota_us {
            let period = limits.cpu_period_us.unwrap_or(CPU_PERIOD_US);
            self.write("cpu", "cpu.cfs_period_us", &period.to_string())?;
            self.write("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        }
        if let Some(pids) = limits.pids {
            self.write("pids", "pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    /// On v2, confines it to the devices of `rules`; elsewhere libcontainer
    /// does.
    pub(crate) fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<(), ContainerError> {
        match layout() {
            Layout::Unified(root) => devices::restrict(&self.below(root), rules)
                .map_err(|e| self.error("restrict its devices", e)),
            Layout::Split { .. } => Ok(()),
        }
    }

    /// Moves a process in, in every hierarchy.
    pub fn join(&self, pid: u32) -> Result<(), ContainerError> {
        for directory in self.directories() {
            fs::write(directory.join("cgroup.procs"), pid.to_string())
                .map_err(|e| self.error(&format!("move process {pid} in"), e))?;
        }
        Ok(())
    }

    /// Moves a process in those hierarchies libcontainer does not see to: on
    /// the hybrid layout, v2's and the named ones.
    pub fn join_uncontrolled(&self, pid: u32) -> Result<(), ContainerError> {
        let Layout::Split {
            controllers,
            mounts,
            unified,
        } = layout()
        else {
            return Ok(());
        };
        let controlled = |mount: &PathBuf| controllers.values().any(|c| c == mount);
        for mount in mounts.iter().filter(|m| !controlled(m)).chain(unified) {
            fs::write(self.below(mount).join("cgroup.procs"), pid.to_string())
                .map_err(|e| self.error(&format!("move process {pid} in"), e))?;
        }
        Ok(())
    }

    pub fn exists(&self) -> bool {
        self.directories().iter().any(|d| d.exists())
    }

    /// Every process in it and in the cgroups below it.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for directory in self.directories() {
            collect_processes(&directory, TREE_DEPTH, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// SIGKILL to everything in it.
    pub fn kill(&self) {
        if let Some(directory) = self.unified()
            && fs::write(directory.join("cgroup.kill"), "1").is_ok()
            && is_unified()
        {
            return;
        }
        // v1, or a kernel before 5.14: repeated, since a process may fork
        // between the listing and the signal.
        for _ in 0..KILL_ROUNDS {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                // SAFETY: plain system call.
                unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
            }
        }
    }

    /// Removes it and all below it from every hierarchy, waiting a bounded
    /// time for dying processes to leave.
    pub fn remove(&self) -> Result<(), ContainerError> {
        for directory in self.directories() {
            let mut tries = 0;
            loop {
                match remove_tree(&directory, TREE_DEPTH) {
                    Ok(()) => break,
                    Err(e) if tries >= REMOVE_TRIES => return Err(self.error("remove", e)),
                    Err(_) => {
                        tries += 1;
                        std::thread::sleep(REMOVE_PAUSE);
                    }
                }
            }
        }
        Ok(())
    }

    /// How many processes the kernel killed here for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(directory) = self.controller("memory") else {
            return 0;
        };
        let file = if is_unified() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        key_value(&text, "oom_kill").unwrap_or(0)
    }

    pub fn stats(&self) -> Result<Stats, ContainerError> {
        let number = |controller: &str, file: &str| -> Result<u64, ContainerError> {
            let directory = self
                .controller(controller)
                .ok_or_else(|| self.error(&format!("read {file}"), "no such controller"))?;
            let text = fs::read_to_string(directory.join(file))
                .map_err(|e| self.error(&format!("read {file}"), e))?;
            Ok(text.trim().parse().unwrap_or(0))
        };
        let text = |controller: &str, file: &str| -> String {
            self.controller(controller)
                .and_then(|d| fs::read_to_string(d.join(file)).ok())
                .unwrap_or_default()
        };
        let memory_stat = text("memory", "memory.stat");
        let (cpu_usage_ns, memory_usage_bytes, inactive, memory_rss_bytes) = if is_unified() {
            (
                key_value(&text("cpu", "cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
                number("memory", "memory.current")?,
                key_value(&memory_stat, "inactive_file").unwrap_or(0),
                key_value(&memory_stat, "anon").unwrap_or(0),
            )
        } else {
            (
                number("cpuacct", "cpuacct.usage")?,
                number("memory", "memory.usage_in_bytes")?,
                key_value(&memory_stat, "total_inactive_file").unwrap_or(0),
                key_value(&memory_stat, "total_rss").unwrap_or(0),
            )
        };
        Ok(Stats {
            cpu_usage_ns,
            memory_usage_bytes,
            memory_working_set_bytes: memory_usage_bytes.saturating_sub(inactive),
            memory_rss_bytes,
            processes: number("pids", "pids.current").unwrap_or(0),
        })
    }
}

/// Enough for a fork bomb under a pids limit to run out of parents.
const KILL_ROUNDS: u32 = 20;

fn make_directory(directory: &Path) -> std::io::Result<()> {
    match fs::create_dir(directory) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn collect_processes(directory: &Path, depth: u32, found: &mut Vec<u32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
    }
    if depth > 0 {
        for child in children(directory) {
            collect_processes(&child, depth - 1, found);
        }
    }
}

fn remove_tree(directory: &Path, depth: u32) -> std::io::Result<()> {
    if depth > 0 {
        for child in children(directory) {
            remove_tree(&child, depth - 1)?;
        }
    }
    match fs::remove_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn key_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// The kernel's own mapping of v1 shares (2..=262144) to v2 weights
/// (1..=10000), as every container runtime applies it.
fn shares_to_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_ends_of_the_scale() {
        assert_eq!(shares_to_weight(0), 1);
        assert_eq!(shares_to_weight(2), 1);
        assert_eq!(shares_to_weight(1024), 39);
        assert_eq!(shares_to_weight(262_144), 10_000);
    }
}
