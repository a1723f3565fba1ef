//! A container's root: the image's layers below, a writable layer above.
//!
//! Mounted by `fsopen` with one `lowerdir+` a layer; `mount(2)` would cut its
//! options at a page and then report a misleading "not found".

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::error::ContainerError;

/// The kernel's own limit of layers in one overlay (OVL_MAX_STACK).
const LAYERS_MAX: usize = 500;

/// Mounts `layers` (the base first) with `upper` and `work` at `target`; all
/// three are made.
pub(crate) fn mount(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> Result<(), ContainerError> {
    if layers.len() > LAYERS_MAX {
        return Err(ContainerError::InvalidSpec {
            field: "image".to_string(),
            message: format!(
                "it has {} layers; the kernel mounts at most {LAYERS_MAX}",
                layers.len()
            ),
        });
    }
    for directory in [upper, work, target] {
        fs::create_dir_all(directory).map_err(|e| ContainerError::io("create", directory, e))?;
    }
    // The root directory's own mode and owner are those of the upper layer.
    copy_root_attributes(layers, upper)?;
    let mut lower = Vec::with_capacity(layers.len());
    // The kernel takes the first `lowerdir+` as the topmost.
    for layer in layers.iter().rev() {
        lower.push(File::open(layer).map_err(|e| ContainerError::io("open layer", layer, e))?);
    }
    let upper_handle = File::open(upper).map_err(|e| ContainerError::io("open", upper, e))?;
    let work_handle = File::open(work).map_err(|e| ContainerError::io("open", work, e))?;
    match by_fsopen(&lower, &upper_handle, &work_handle, target) {
        Ok(()) => Ok(()),
        // Kernels before 6.5 know no `lowerdir+`.
        Err(_) => by_mount(&lower, &upper_handle, &work_handle, target)
            .map_err(|e| ContainerError::io("mount the root file system at", target, e)),
    }
}

fn copy_root_attributes(layers: &[PathBuf], upper: &Path) -> Result<(), ContainerError> {
    use std::os::unix::fs::{MetadataExt, chown};
    if let Some(top) = layers.last() {
        let metadata = fs::metadata(top).map_err(|e| ContainerError::io("open layer", top, e))?;
        chown(upper, Some(metadata.uid()), Some(metadata.gid()))
            .and_then(|()| fs::set_permissions(upper, metadata.permissions()))
            .map_err(|e| ContainerError::io("set the mode of", upper, e))?;
    }
    Ok(())
}

fn by_fsopen(
    lower: &[File],
    upper: &File,
    work: &File,
    target: &Path,
) -> Result<(), rustix::io::Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", "overlay")?;
    for layer in lower {
        set_directory(&context, "lowerdir+", layer)?;
    }
    set_directory(&context, "upperdir", upper)?;
    set_directory(&context, "workdir", work)?;
    // The layer dies with the container, so syncing it is work for nothing.
    // Kernels before 5.10 do not know the option.
    let _ = rustix::mount::fsconfig_set_flag(context.as_fd(), "volatile");
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mounted = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    rustix::mount::move_mount(
        mounted.as_fd(),
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// By descriptor (6.13), else by its short path: a string option holds at most
/// 255 bytes.
fn set_directory(context: &OwnedFd, key: &str, directory: &File) -> Result<(), rustix::io::Errno> {
    match rustix::mount::fsconfig_set_fd(context.as_fd(), key, directory.as_fd()) {
        Ok(()) => Ok(()),
        Err(_) => rustix::mount::fsconfig_set_string(context.as_fd(), key, short_path(directory)),
    }
}

fn short_path(directory: &File) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn by_mount(lower: &[File], upper: &File, work: &File, target: &Path) -> std::io::Result<()> {
    let list: Vec<String> = lower.iter().map(short_path).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        list.join(":"),
        short_path(upper),
        short_path(work)
    );
    nix::mount::mount(
        Some("overlay"),
        target,
        Some("overlay"),
        nix::mount::MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(std::io::Error::from)
}
