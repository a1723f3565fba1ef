//! Volumes of a pod as directories of this node: `pods/<uid>/volumes/<plugin>/<name>`.

pub(crate) mod atomic;
pub(crate) mod payload;

use crate::store::PodDirectory;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use payload::Sources;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use trireme_model::quantity::Quantity;

/// Where the volume is on this node.
pub(crate) fn host_path(directory: &PodDirectory, volume: &Volume) -> PathBuf {
    if let Some(source) = &volume.host_path {
        return PathBuf::from(&source.path);
    }
    let plugin = if volume.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io~secret"
    } else if volume.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else if volume.projected.is_some() {
        "kubernetes.io~projected"
    } else {
        "kubernetes.io~empty-dir"
    };
    directory.volumes().join(plugin).join(&volume.name)
}

/// The group that owns the pod's volumes.
fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.fs_group)
        .and_then(|group| u32::try_from(group).ok())
}

/// Sets up every volume of the pod; otherwise one sentence for each that could not be.
pub(crate) async fn prepare(
    directory: &PodDirectory,
    sources: &Sources<'_>,
) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for volume in volumes(sources.pod) {
        if let Err(cause) = one(directory, volume, sources).await {
            problems.push(format!(
                "MountVolume.SetUp failed for volume {:?} : {cause}",
                volume.name
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Brings the volumes whose contents come from the API up to date.
pub(crate) async fn refresh(
    directory: &PodDirectory,
    sources: &Sources<'_>,
) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for volume in volumes(sources.pod).filter(|volume| payload::is_api_volume(volume)) {
        if let Err(cause) = one(directory, volume, sources).await {
            problems.push(format!(
                "MountVolume.SetUp failed for volume {:?} : {cause}",
                volume.name
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

pub(crate) fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
}

async fn one(
    directory: &PodDirectory,
    volume: &Volume,
    sources: &Sources<'_>,
) -> Result<(), String> {
    let path = host_path(directory, volume);
    if let Some(source) = &volume.host_path {
        return check_host_path(source)
            .map_err(|error| format!("hostPath type check failed: {error}"));
    }
    if payload::is_api_volume(volume) {
        let files = payload::payload(volume, sources).await?;
        let secret = payload::is_secret(volume);
        let group = fs_group(sources.pod);
        return blocking(move || {
            std::fs::create_dir_all(&path)?;
            if secret {
                mount_memory(&path, None)?;
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
            atomic::write(&path, &files, group).map(|_| ())
        })
        .await;
    }
    if let Some(source) = &volume.empty_dir {
        let memory = source.medium.as_deref() == Some("Memory");
        let limit = match &source.size_limit {
            Some(quantity) => {
                let parsed = Quantity::parse(&quantity.0).map_err(|error| error.to_string())?;
                u64::try_from(parsed.value())
                    .ok()
                    .filter(|bytes| *bytes > 0)
            }
            None => None,
        };
        let group = fs_group(sources.pod);
        return blocking(move || {
            std::fs::create_dir_all(&path)?;
            if memory {
                mount_memory(&path, limit)?;
            }
            let mut mode = 0o777;
            if let Some(group) = group {
                chown(&path, None, Some(group))?;
                mode |= 0o2000;
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
        })
        .await;
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return Err(format!(
            "persistentvolumeclaim {:?}: persistent volumes are not supported by this node",
            claim.claim_name
        ));
    }
    Err("no volume plugin of this node supports it".to_owned())
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A tmpfs at the path, unless there is one.
fn mount_memory(path: &Path, limit_bytes: Option<u64>) -> io::Result<()> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let options = match limit_bytes {
        Some(bytes) => format!("size={bytes},mode=0777"),
        None => "mode=0777".to_owned(),
    };
    nix::mount::mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(io::Error::from)
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let here = std::fs::metadata(path)?;
    let above = std::fs::metadata(path.parent().unwrap_or(path))?;
    Ok(here.dev() != above.dev())
}

/// Checks a hostPath's type, and makes what it asks to be made.
pub(crate) fn check_host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = std::fs::metadata(path);
    let missing = matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let refuse = |what: &str| Err(format!("{} is not {what}", source.path));
    let is = |test: &dyn Fn(std::fs::FileType) -> bool| {
        found
            .as_ref()
            .is_ok_and(|metadata| test(metadata.file_type()))
    };
    let text = |error: io::Error| format!("{}: {error}", source.path);
    match kind {
        "" => {
            // Nothing is checked; what is missing is made when it is mounted, as a directory.
            if missing {
                std::fs::create_dir_all(path).map_err(text)?;
            }
            Ok(())
        }
        "DirectoryOrCreate" => {
            if missing {
                std::fs::create_dir_all(path).map_err(text)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
                    .map_err(text)?;
                return Ok(());
            }
            if is(&|t| t.is_dir()) {
                Ok(())
            } else {
                refuse("a directory")
            }
        }
        "FileOrCreate" => {
            if missing {
                std::fs::File::create(path).map_err(text)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
                    .map_err(text)?;
                return Ok(());
            }
            if is(&|t| t.is_file()) {
                Ok(())
            } else {
                refuse("a file")
            }
        }
        "Directory" if is(&|t| t.is_dir()) => Ok(()),
        "Directory" => refuse("a directory"),
        "File" if is(&|t| t.is_file()) => Ok(()),
        "File" => refuse("a file"),
        "Socket" if is(&|t| t.is_socket()) => Ok(()),
        "Socket" => refuse("a socket"),
        "CharDevice" if is(&|t| t.is_char_device()) => Ok(()),
        "CharDevice" => refuse("a character device"),
        "BlockDevice" if is(&|t| t.is_block_device()) => Ok(()),
        "BlockDevice" => refuse("a block device"),
        other => Err(format!("{other:?} is an invalid volume type")),
    }
}

/// Removes every volume of a pod. A hostPath is the host's and stays.
pub(crate) fn remove(directory: &PodDirectory) -> io::Result<()> {
    let root = directory.volumes();
    let plugins = match std::fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for plugin in plugins.flatten() {
        for volume in std::fs::read_dir(plugin.path())?.flatten() {
            let path = volume.path();
            // Something that is still mounted must not be emptied through the mount.
            while is_mount_point(&path)? {
                nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)
                    .map_err(io::Error::from)?;
            }
        }
    }
    std::fs::remove_dir_all(&root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn check(path: &Path, kind: &str) -> Result<(), String> {
        check_host_path(&HostPathVolumeSource {
            path: path.display().to_string(),
            type_: Some(kind.to_owned()),
        })
    }

    #[test]
    fn host_paths_are_what_they_say() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let file = root.join("file");
        std::fs::write(&file, "").unwrap();
        let socket = root.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(check(root, "Directory"), Ok(()));
        assert_eq!(check(&file, "File"), Ok(()));
        assert_eq!(check(&socket, "Socket"), Ok(()));
        assert_eq!(check(Path::new("/dev/null"), "CharDevice"), Ok(()));
        let error = check(&file, "Directory").unwrap_err();
        assert_eq!(error, format!("{} is not a directory", file.display()));
        assert!(check(&root.join("none"), "File").is_err());
        assert_eq!(check(&root.join("made"), "DirectoryOrCreate"), Ok(()));
        assert!(root.join("made").is_dir());
        assert_eq!(check(&root.join("made-file"), "FileOrCreate"), Ok(()));
        assert!(root.join("made-file").is_file());
        assert!(check(root, "Nonsense").is_err());
    }
}
