//! Which control-group hierarchies this host has, and where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) enum Layout {
    Unified(PathBuf),
    Split {
        /// Controller name to the mount of its hierarchy.
        controllers: BTreeMap<String, PathBuf>,
        /// Each v1 hierarchy once, named ones too.
        mounts: Vec<PathBuf>,
        unified: Option<PathBuf>,
    },
}

pub(crate) fn layout() -> &'static Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        parse_layout(&mounts, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        })
    })
}

/// v2 only where it carries cpu, memory and pids; hybrid otherwise.
fn parse_layout(mounts: &str, controllers_of: impl Fn(&Path) -> String) -> Layout {
    let mut controllers = BTreeMap::new();
    let mut list: Vec<PathBuf> = Vec::new();
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let point = PathBuf::from(point);
        match kind {
            "cgroup2" if unified.is_none() => unified = Some(point),
            "cgroup" => {
                for option in options.split(',') {
                    if KNOWN_CONTROLLERS.contains(&option) {
                        controllers
                            .entry(option.to_string())
                            .or_insert_with(|| point.clone());
                    }
                }
                if !list.contains(&point) {
                    list.push(point);
                }
            }
            _ => {}
        }
    }
    if let Some(root) = &unified {
        let carried = controllers_of(root);
        let carried: Vec<&str> = carried.split_whitespace().collect();
        if NEEDED_CONTROLLERS.iter().all(|c| carried.contains(c)) {
            return Layout::Unified(root.clone());
        }
    }
    Layout::Split {
        controllers,
        mounts: list,
        unified,
    }
}

const KNOWN_CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "perf_event",
    "net_cls",
    "net_prio",
];

/// Without these no container gets its limits, and its processes cannot be told from others.
const NEEDED_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers that containers need and no mounted hierarchy of this host has.
pub fn missing_controllers() -> Vec<&'static str> {
    missing(layout())
}

fn missing(layout: &Layout) -> Vec<&'static str> {
    match layout {
        Layout::Unified(_) => Vec::new(),
        Layout::Split { controllers, .. } => NEEDED_CONTROLLERS
            .into_iter()
            .filter(|name| !controllers.contains_key(*name))
            .collect(),
    }
}

/// Whether the host is on pure v2.
pub(crate) fn is_unified() -> bool {
    matches!(layout(), Layout::Unified(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_are_not_taken_for_v2() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let Layout::Split {
            controllers,
            mounts,
            unified,
        } = parse_layout(mounts, |_| String::new())
        else {
            panic!("a hybrid host was taken for v2");
        };
        assert_eq!(
            controllers["cpuacct"],
            Path::new("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert_eq!(mounts.len(), 3);
        assert_eq!(unified, Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn a_host_without_control_groups_says_what_is_missing() {
        let nothing = parse_layout("sysfs /sys sysfs rw 0 0\n", |_| String::new());
        assert_eq!(missing(&nothing), ["cpu", "memory", "pids"]);
        let unified = parse_layout("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", |_| {
            "cpu memory pids".to_string()
        });
        assert!(missing(&unified).is_empty());
    }

    #[test]
    fn pure_v2_needs_the_three_controllers() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert!(matches!(
            parse_layout(mounts, |_| "cpuset cpu io memory pids".to_string()),
            Layout::Unified(_)
        ));
        assert!(matches!(
            parse_layout(mounts, |_| "cpu pids".to_string()),
            Layout::Split { .. }
        ));
    }
}
