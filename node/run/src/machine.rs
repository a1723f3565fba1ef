//! What this machine is and has.

use std::path::Path;

/// A machine as a Node object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub cpus: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    pub architecture: &'static str,
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// `PRETTY_NAME` of an os-release file.
pub(crate) fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// A field of /proc/meminfo, in bytes.
pub(crate) fn meminfo_bytes(meminfo: &str, field: &str) -> Option<u64> {
    let rest = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Free and total bytes of the file system that holds a path.
pub(crate) fn disk_bytes(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let size = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some((size(stat.f_bavail), size(stat.f_blocks)))
}

/// Free and total inodes likewise.
pub(crate) fn inodes(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_favail, stat.f_files))
}

/// Bytes of memory that programs could still have, and the total.
pub(crate) fn memory_bytes() -> Option<(u64, u64)> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some((
        meminfo_bytes(&meminfo, "MemAvailable")?,
        meminfo_bytes(&meminfo, "MemTotal")?,
    ))
}

/// Processes that exist, and the most there may be.
pub(crate) fn processes() -> Option<(u64, u64)> {
    let most: u64 = line("/proc/sys/kernel/pid_max").parse().ok()?;
    let load = line("/proc/loadavg");
    let tasks = load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((tasks, most))
}

impl Machine {
    pub fn read(data: &Path) -> Machine {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Machine {
            cpus,
            memory_bytes: memory_bytes().map_or(0, |(_, total)| total),
            storage_bytes: disk_bytes(data).map_or(0, |(_, total)| total),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: pretty_name(&os_release).unwrap_or_else(|| "Linux".to_owned()),
            architecture,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_files_are_read() {
        let meminfo = "MemTotal:       24576000 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemTotal"), Some(24_576_000 * 1024));
        assert_eq!(meminfo_bytes(meminfo, "MemFree"), None);
        let release = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(
            pretty_name(release).as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
    }
}
