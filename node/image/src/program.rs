//! An image of one program of this machine, with the libraries that it needs: for built-in images,
//! which need no registry and no static build.

use std::collections::BTreeSet;
use std::path::Path;

use crate::elf;
use crate::error::ImageError;

/// Libraries that the C library opens by name when it looks up hosts, where they exist.
const NAME_SERVICES: [&str; 3] = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];
/// Where distributions keep the authorities that the public trusts, in one file.
const AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
/// Where programs look for them.
const AUTHORITIES_TARGET: &str = "etc/ssl/certs/ca-certificates.crt";

/// One layer, and what the image's environment has to say for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramLayer {
    /// An uncompressed tar archive; the same bytes for the same program and libraries.
    pub tar: Vec<u8>,
    /// Directories of the libraries, for `LD_LIBRARY_PATH`; empty for a static program.
    pub library_path: String,
}

/// A layer that holds the program at `target` (an absolute path), its interpreter and libraries,
/// `/tmp`, the public's certificate authorities, and a user of the given name and number.
///
/// # Errors
/// The program cannot be read or is none, or one of its libraries is missing.
pub fn program_layer(
    program: &Path,
    target: &str,
    user: (&str, u32),
) -> Result<ProgramLayer, ImageError> {
    let (bytes, needed) = elf::closure(program)?;
    let failed = |e: std::io::Error| ImageError::io("pack", program, e);
    let mut archive = tar::Builder::new(Vec::with_capacity(bytes.len()));
    let mut put = |path: &str, mode: u32, bytes: &[u8]| -> Result<(), ImageError> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        let path = path.trim_start_matches('/');
        archive
            .append_data(&mut header, path, bytes)
            .map_err(failed)
    };
    put(target, 0o755, &bytes)?;
    let mut directories = BTreeSet::new();
    for file in &needed {
        put(&file.path.to_string_lossy(), 0o755, &file.bytes)?;
        if let Some(directory) = file.path.parent() {
            directories.insert(directory.to_owned());
        }
    }
    for directory in &directories {
        for name in NAME_SERVICES {
            let path = directory.join(name);
            if needed.iter().any(|file| file.path == path) {
                continue;
            }
            if let Ok(bytes) = std::fs::read(&path) {
                put(&path.to_string_lossy(), 0o755, &bytes)?;
            }
        }
    }
    let (name, number) = user;
    let passwd = format!("root:x:0:0:root:/:/\n{name}:x:{number}:{number}:{name}:/:/\n");
    put("etc/passwd", 0o644, passwd.as_bytes())?;
    let group = format!("root:x:0:\n{name}:x:{number}:\n");
    put("etc/group", 0o644, group.as_bytes())?;
    put("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    if let Some(authorities) = AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()) {
        put(AUTHORITIES_TARGET, 0o644, &authorities)?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    archive
        .append_data(&mut header, "tmp/", std::io::empty())
        .map_err(failed)?;
    let tar = archive.into_inner().map_err(failed)?;
    let shown: Vec<String> = directories
        .iter()
        .filter(|directory| directory.as_path() != Path::new("/"))
        .map(|directory| directory.display().to_string())
        .collect();
    Ok(ProgramLayer {
        tar,
        library_path: shown.join(":"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_the_same_each_time_and_runs_alone() {
        let program = Path::new("/bin/true");
        let layer = program_layer(program, "/usr/local/bin/true", ("row", 1337)).unwrap();
        assert_eq!(
            layer,
            program_layer(program, "/usr/local/bin/true", ("row", 1337)).unwrap()
        );
        let names: Vec<String> = tar::Archive::new(layer.tar.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names[0], "usr/local/bin/true");
        assert!(names.contains(&"etc/passwd".to_owned()), "{names:?}");
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // In a root of its own, with nothing else in it.
        let root = tempfile::tempdir().unwrap();
        tar::Archive::new(layer.tar.as_slice())
            .unpack(root.path())
            .unwrap();
        let status = std::process::Command::new("chroot")
            .arg(root.path())
            .arg("/usr/local/bin/true")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LD_LIBRARY_PATH", &layer.library_path)
            .status()
            .unwrap();
        assert!(status.success());
    }
}
