//! `trireme down`: ends what `trireme up` started and removes exactly that.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::mount::{MntFlags, umount2};

use crate::up::network;
use crate::up::process::ProcessId;
use crate::up::state::State;

/// Servers hand their leadership over and close their store; nodes leave their containers to us.
const GRACE: Duration = Duration::from_secs(3);
/// Mounts may lie on mounts; each pass removes a layer.
const UNMOUNT_PASSES: usize = 10;
/// Where this program keeps what it is not told to keep elsewhere.
const HOME: &str = "/var/lib/trireme";

#[derive(Args, Debug)]
pub struct Options {
    /// The directory that `trireme up` was given
    #[arg(long, default_value = "/var/lib/trireme/up")]
    data: PathBuf,
}

pub fn run(options: Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("removing network namespaces and mounts needs root: sudo trireme down");
    }
    let Ok(data) = options.data.canonicalize() else {
        println!(
            "nothing runs in {}: it does not exist",
            options.data.display()
        );
        return Ok(());
    };
    if State::load(&data)?.is_none() {
        println!("nothing runs in {}: it holds no up.json", data.display());
        return Ok(());
    }
    remove(&data)?;
    println!(
        "removed: processes, namespaces, mounts, cgroups, links, rules and {}",
        data.display()
    );
    Ok(())
}

/// Ends and removes the cluster in `data`. Can be run again after it was interrupted.
pub fn remove(data: &Path) -> Result<()> {
    let Some(state) = State::load(data)? else {
        return Ok(());
    };
    let processes = state
        .machines
        .iter()
        .filter_map(|machine| machine.process)
        .chain(state.balancer);
    end_all(processes.collect());
    for node in state.nodes() {
        trireme_container::Cgroup::new(cgroup_root(&state, &node.name)).kill();
    }
    // Shims, and whatever else was left running inside a machine.
    for machine in &state.machines {
        end_all(inside(&machine.namespace));
    }
    for node in state.nodes() {
        trireme_container::Cgroup::new(cgroup_root(&state, &node.name))
            .remove()
            .with_context(|| format!("removing the cgroups of {}", node.name))?;
    }
    unmount_below(data)?;
    network::remove(&state)?;
    for machine in &state.machines {
        remove_tree(&machine.data)?;
    }
    remove_empty_parents();
    remove_tree(&data.join("logs"))?;
    for file in ["kubeconfig", "up.json"] {
        match std::fs::remove_file(data.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(format!("removing {}", data.join(file).display()));
            }
            _ => {}
        }
    }
    // Files that are not ours stay, and then so does the directory.
    let _ = std::fs::remove_dir(data);
    // `up` makes it; a server or another cluster may have its own in there.
    let _ = std::fs::remove_dir(HOME);
    Ok(())
}

/// Parent of the cgroups of every node of this program.
const CGROUP_PARENT: &str = "/trireme";

/// Of one machine: part of the cluster's id, so that two clusters on one machine do not meet.
pub fn cgroup_root(state: &State, node: &str) -> String {
    format!("{CGROUP_PARENT}/{}-{node}", state.id)
}

/// The parent in every hierarchy, unless another cluster's nodes are in it.
fn remove_empty_parents() {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else {
        return;
    };
    let name = CGROUP_PARENT.trim_start_matches('/');
    // On cgroup v2 the hierarchy is the directory itself.
    let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(name));
    for hierarchy in hierarchies.flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join(name));
    }
}

/// All at once: politely, then not.
fn end_all(processes: Vec<ProcessId>) {
    for process in &processes {
        process.signal(nix::sys::signal::Signal::SIGTERM);
    }
    for process in &processes {
        process.end(GRACE);
    }
}

/// Processes whose network namespace is the one mounted at `namespace`.
fn inside(namespace: &Path) -> Vec<ProcessId> {
    if !trireme_network::namespace::exists(namespace) {
        return Vec::new();
    }
    let Ok(wanted) = std::fs::metadata(namespace).map(|metadata| metadata.ino()) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|metadata| metadata.ino() == wanted)
        })
        .filter_map(ProcessId::of)
        .collect()
}

/// Unmounts everything below `directory`, the newest first.
fn unmount_below(directory: &Path) -> Result<()> {
    for _ in 0..UNMOUNT_PASSES {
        let points = mounts_below(directory)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            // Gone with its parent already, or to be seen again in the next pass.
            let _ = umount2(point.as_path(), MntFlags::MNT_DETACH);
        }
    }
    let left: BTreeSet<PathBuf> = mounts_below(directory)?.into_iter().collect();
    if let Some(point) = left.first() {
        bail!(
            "{} mounts are left below {}, among them {}; is something using them?",
            left.len(),
            directory.display(),
            point.display()
        );
    }
    Ok(())
}

fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(directory) && point != directory)
        .collect())
}

fn remove_tree(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}
