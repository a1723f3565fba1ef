//! Files of a ConfigMap, Secret or projection: replaced all at once.
//!
//! The layout is Kubernetes' own, which programs rely on: the files are in a directory named by
//! the time, `..data` points to it, and every visible name is a link through `..data`; so one
//! rename changes all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Files by relative path.
pub(crate) type Payload = BTreeMap<PathBuf, File>;

const DATA: &str = "..data";

/// Whether a path may be in a payload: relative, without `..`.
pub(crate) fn check_path(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let good = !path.as_os_str().is_empty()
        && path.components().all(|part| match part {
            Component::Normal(name) => !name.to_string_lossy().starts_with(".."),
            _ => false,
        });
    if good {
        Ok(path)
    } else {
        Err(format!(
            "invalid path {:?}: must be relative and not contain '..'",
            path
        ))
    }
}

/// Makes the directory show exactly these files; false if it did already.
pub(crate) fn write(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    std::fs::create_dir_all(directory)?;
    let data = directory.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&directory.join(old), payload)
    {
        return Ok(false);
    }
    let now = jiff::Timestamp::now();
    let name = format!(
        "..{}.{:09}",
        now.strftime("%Y_%m_%d_%H_%M_%S"),
        now.subsec_nanosecond()
    );
    let fresh = directory.join(&name);
    std::fs::create_dir(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, &file.bytes)?;
        let mut mode = file.mode & 0o777;
        if let Some(group) = group {
            chown(&target, None, Some(group))?;
            mode |= 0o440;
        }
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
    }
    let beside = directory.join("..data_tmp");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, &beside)?;
    std::fs::rename(&beside, &data)?;
    links(directory, payload)?;
    if let Some(old) = old {
        match std::fs::remove_dir_all(directory.join(old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

/// The visible names: one link for each first part of a path.
fn links(directory: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<PathBuf> = payload
        .keys()
        .filter_map(|path| path.components().next())
        .map(|first| PathBuf::from(first.as_os_str()))
        .collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let hidden = name.to_string_lossy().starts_with("..");
        if !hidden && !wanted.contains(&name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn same(directory: &Path, payload: &Payload) -> bool {
    let mut count = 0;
    let mut open = vec![directory.to_path_buf()];
    while let Some(current) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&current) else {
            return false;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            count += 1;
            let expected = path
                .strip_prefix(directory)
                .ok()
                .and_then(|p| payload.get(p));
            let Some(expected) = expected else {
                return false;
            };
            if std::fs::read(&path).ok().as_ref() != Some(&expected.bytes) {
                return false;
            }
        }
    }
    count == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
        };
        files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), file(text)))
            .collect()
    }

    #[test]
    fn files_change_together_and_old_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
        assert!(write(root, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(read("a").as_deref(), Some("1"));
        assert_eq!(read("d/b").as_deref(), Some("2"));
        let first = std::fs::read_link(root.join("..data")).unwrap();
        assert!(!write(root, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_link(root.join("..data")).unwrap(), first);
        assert!(write(root, &payload(&[("a", "9")]), None).unwrap());
        assert_eq!(read("a").as_deref(), Some("9"));
        assert_eq!(read("d/b"), None);
        assert!(!root.join("d").exists() && !root.join(&first).exists());
        let mode = std::fs::metadata(root.join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn paths_stay_inside() {
        assert!(check_path("a/b").is_ok());
        for bad in ["", "/a", "../a", "a/../b", "..a"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
