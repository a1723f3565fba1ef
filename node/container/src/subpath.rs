//! `subPath` of a volume: resolved so that no symlink in the volume, which the
//! container may have written, leads outside it (CVE-2017-1002101).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::error::ContainerError;

/// Finds `sub_path` beneath `volume`, making missing directories, and mounts
/// it at `target`, which is made as a file or directory to match.
pub(crate) fn bind(volume: &Path, sub_path: &Path, target: &Path) -> Result<(), ContainerError> {
    let refuse = |cause: &dyn std::fmt::Display| {
        ContainerError::create(format!(
            "failed to prepare subPath {:?} of volume {:?}: {cause}",
            sub_path, volume
        ))
    };
    let found = resolve(volume, sub_path).map_err(|e| refuse(&e))?;
    let status = rustix::fs::fstat(&found).map_err(|e| refuse(&e))?;
    let is_directory =
        rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Directory;
    let made = if is_directory {
        std::fs::create_dir_all(target)
    } else {
        target
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::File::create(target).map(drop))
    };
    made.map_err(|e| ContainerError::io("create", target, e))?;
    // The tree of exactly the file we resolved: its path is not used again.
    let tree = rustix::mount::open_tree(
        found.as_fd(),
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .map_err(|e| refuse(&e))?;
    rustix::mount::move_mount(
        tree.as_fd(),
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|e| refuse(&e))
}

/// Makes directories beneath `root` as `mkdir -p` would inside a chroot.
pub(crate) fn make_directories(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    resolve(root, path)
}

fn resolve(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(io::Error::other("must not contain '..'"));
    }
    let root = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match beneath(&root, path) {
        Err(e) if e == rustix::io::Errno::NOENT => {}
        other => return Ok(other?),
    }
    let mut made = std::path::PathBuf::new();
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        let parent = if made.as_os_str().is_empty() {
            root.try_clone()?
        } else {
            beneath(&root, &made)?
        };
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        made.push(name);
    }
    Ok(beneath(&root, path)?)
}

fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    rustix::fs::openat2(
        root,
        relative,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_inside(volume: &Path, sub_path: &str) -> bool {
        use std::os::fd::AsRawFd;
        let found = resolve(volume, Path::new(sub_path)).expect("resolve");
        std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
            .expect("link")
            .starts_with(volume)
    }

    #[test]
    fn symlinks_never_lead_outside() {
        let volume = tempfile::tempdir().expect("directory");
        let root = volume.path().canonicalize().expect("path");
        std::os::unix::fs::symlink("/etc", root.join("absolute")).expect("link");
        std::os::unix::fs::symlink("../../../../etc", root.join("relative")).expect("link");
        // `/etc` of the volume is made, not the host's taken.
        std::fs::create_dir(root.join("etc")).expect("directory");
        assert!(is_inside(&root, "absolute"));
        assert!(is_inside(&root, "relative"));
        assert!(is_inside(&root, "absolute/made/here"));
        assert!(root.join("etc/made/here").is_dir());
        assert!(!Path::new("/etc/made").exists());
        assert!(resolve(&root, Path::new("../x")).is_err());
    }

    #[test]
    fn files_are_taken_as_they_are() {
        let volume = tempfile::tempdir().expect("directory");
        let root = volume.path().canonicalize().expect("path");
        std::fs::write(root.join("file"), "x").expect("write");
        assert!(is_inside(&root, "file"));
        assert!(resolve(&root, Path::new("file/below")).is_err());
    }
}
