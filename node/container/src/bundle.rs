//! The OCI bundle libcontainer reads: our specification in its words.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::devices::{self, DeviceKind, DeviceRule};
use crate::error::ContainerError;
use crate::hierarchy;
use crate::spec::{
    ContainerSpec, Device, Mount, MountSource, PidNamespace, User, capability_names,
    capability_number,
};

/// What container engines give a program whose image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// `config.json`. `binds` are the sources of the bind mounts of `spec.mounts`,
/// in order, with sub-paths resolved.
pub(crate) fn config(
    spec: &ContainerSpec,
    rootfs: &Path,
    binds: &[Option<PathBuf>],
) -> Result<Value, ContainerError> {
    let devices = devices(spec)?;
    let mut mounts = standard_mounts(spec.privileged);
    for (mount, bind) in spec.mounts.iter().zip(binds) {
        // A later mount at the same place replaces ours.
        mounts.retain(|m| m["destination"] != json!(mount.destination));
        mounts.push(mount_entry(mount, bind.as_deref()));
    }
    let device_rules: Vec<Value> = if spec.privileged {
        vec![json!({"allow": true, "type": "a", "access": "rwm"})]
    } else {
        let mut rules = vec![json!({"allow": false, "type": "a", "access": "rwm"})];
        rules.extend(devices.iter().map(|(node, access)| {
            json!({"allow": true, "type": node["type"], "major": node["major"],
                   "minor": node["minor"], "access": access})
        }));
        rules
    };
    let masked = !spec.privileged && !spec.unmasked_proc;
    let paths = |list: &[&str]| -> Value { if masked { json!(list) } else { json!([]) } };
    Ok(json!({
        "ociVersion": "1.2.0",
        "root": {"path": rootfs, "readonly": spec.read_only_rootfs},
        "process": process(spec, &spec.args, &spec.env, &spec.user, spec.tty)?,
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces(spec),
            "cgroupsPath": spec.cgroup_path(),
            "resources": {"devices": device_rules},
            "devices": devices.iter().map(|(node, _)| node).collect::<Vec<_>>(),
            "sysctl": spec.sysctls,
            "maskedPaths": paths(MASKED_PATHS),
            "readonlyPaths": paths(READONLY_PATHS),
        },
    }))
}

/// The `process` section, also for an exec.
pub(crate) fn process(
    spec: &ContainerSpec,
    args: &[String],
    env: &[(String, String)],
    user: &User,
    tty: bool,
) -> Result<Value, ContainerError> {
    // What this host cannot give (itself in a container, perhaps) is left out,
    // as every engine does.
    let bounding = bounding_set();
    let mut capabilities = capability_names(&spec.capabilities, spec.privileged)?;
    capabilities
        .retain(|name| capability_number(name).is_some_and(|number| bounding & (1 << number) != 0));
    let mut variables: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !env.iter().any(|(name, _)| name == "PATH") {
        variables.insert(0, format!("PATH={DEFAULT_PATH}"));
    }
    if tty && !env.iter().any(|(name, _)| name == "TERM") {
        variables.push("TERM=xterm".to_string());
    }
    Ok(json!({
        "terminal": tty,
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "umask": 0o022,
            "additionalGids": user.supplemental_gids,
        },
        "args": args,
        "env": variables,
        "cwd": if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd },
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": spec.no_new_privileges,
        "oomScoreAdj": spec.oom_score_adj,
    }))
}

/// The capabilities this very process could pass on, as a bit set.
fn bounding_set() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn namespaces(spec: &ContainerSpec) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"})];
    let joined = [
        ("network", &spec.namespaces.network),
        ("ipc", &spec.namespaces.ipc),
        ("uts", &spec.namespaces.uts),
    ];
    for (kind, path) in joined {
        if let Some(path) = path {
            list.push(json!({"type": kind, "path": path}));
        }
    }
    match &spec.namespaces.pid {
        PidNamespace::Private => list.push(json!({"type": "pid"})),
        PidNamespace::Shared(path) => list.push(json!({"type": "pid", "path": path})),
        PidNamespace::Host => {}
    }
    if hierarchy::is_unified() && !spec.privileged {
        list.push(json!({"type": "cgroup"}));
    }
    list
}

fn standard_mounts(privileged: bool) -> Vec<Value> {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
    ];
    let mut system = vec!["nosuid", "noexec", "nodev"];
    if !privileged {
        system.push("ro");
    }
    mounts.push(
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                       "options": system}),
    );
    // Never on v1: libcontainer ignores `ro` there.
    if hierarchy::is_unified() {
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                           "source": "cgroup", "options": system}));
    }
    mounts
}

fn mount_entry(mount: &Mount, bind: Option<&Path>) -> Value {
    let mode = if mount.read_only { "ro" } else { "rw" };
    match (&mount.source, bind) {
        (
            MountSource::Tmpfs {
                size_bytes,
                mode: permissions,
            },
            _,
        ) => {
            let mut options = vec![
                "nosuid".to_string(),
                "nodev".to_string(),
                mode.to_string(),
                format!("mode={permissions:o}"),
            ];
            if let Some(size) = size_bytes {
                options.push(format!("size={size}"));
            }
            json!({"destination": mount.destination, "type": "tmpfs", "source": "tmpfs",
                   "options": options})
        }
        (MountSource::Bind { path, .. }, bind) => {
            json!({"destination": mount.destination, "type": "bind",
                   "source": bind.unwrap_or(path), "options": ["rbind", mode]})
        }
    }
}

/// Device nodes with the access allowed.
fn devices(spec: &ContainerSpec) -> Result<Vec<(Value, String)>, ContainerError> {
    let mut list = Vec::new();
    if spec.privileged {
        for path in host_devices(Path::new("/dev"), HOST_DEVICE_DEPTH) {
            let device = Device {
                container_path: path.clone(),
                host_path: path,
                permissions: "rwm".to_string(),
            };
            // One that vanished meanwhile is left out.
            if let Ok(node) = device_node(&device) {
                list.push((node, device.permissions));
            }
        }
    }
    for device in &spec.devices {
        list.push((device_node(device)?, device.permissions.clone()));
    }
    Ok(list)
}

/// The devices of the specification as rules for a v2 cgroup; `None` where
/// everything is allowed.
pub(crate) fn device_rules(
    spec: &ContainerSpec,
) -> Result<Option<Vec<DeviceRule>>, ContainerError> {
    if spec.privileged {
        return Ok(None);
    }
    let mut rules = devices::default_rules();
    for (node, access) in devices(spec)? {
        let kind = match node["type"].as_str() {
            Some("b") => DeviceKind::Block,
            _ => DeviceKind::Character,
        };
        let number = |name: &str| node[name].as_u64().map(|n| n as u32);
        rules.push(DeviceRule::new(
            kind,
            number("major"),
            number("minor"),
            &access,
        ));
    }
    Ok(Some(rules))
}

/// `/dev/bus/usb/001/002` and the like.
const HOST_DEVICE_DEPTH: u32 = 5;
/// What libcontainer makes by itself, or what belongs to one namespace.
const HOST_DEVICES_SKIPPED: &[&str] = &[
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/fd",
    "/dev/console",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/.lxc",
];

fn host_devices(directory: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if HOST_DEVICES_SKIPPED.iter().any(|s| Path::new(s) == path) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => found.push(path),
            Ok(kind) if kind.is_dir() && depth > 0 => found.extend(host_devices(&path, depth - 1)),
            _ => {}
        }
    }
    found
}

fn device_node(device: &Device) -> Result<Value, ContainerError> {
    let metadata = std::fs::metadata(&device.host_path).map_err(|e| {
        ContainerError::create(format!("device {}: {e}", device.host_path.display()))
    })?;
    let kind = if metadata.file_type().is_block_device() {
        "b"
    } else if metadata.file_type().is_char_device() {
        "c"
    } else {
        return Err(ContainerError::create(format!(
            "device {}: not a device node",
            device.host_path.display()
        )));
    };
    let number = metadata.rdev();
    Ok(json!({
        "path": device.container_path,
        "type": kind,
        "major": libc::major(number),
        "minor": libc::minor(number),
        "fileMode": metadata.mode() & 0o7777,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
    }))
}
