//! A full disk: writes are refused with a clear error, reads go on, and it recovers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const SERVERS: usize = 3;
/// Room for a small store and the reserve.
const DISK: &str = "size=256m";
const PATIENCE: Duration = Duration::from_secs(60);

/// File systems mounted for a test, unmounted with it where `trireme down` did not.
struct Disks(Vec<PathBuf>);

impl Drop for Disks {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = umount2(path.as_path(), MntFlags::MNT_DETACH);
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("trireme-e2e-")
        .tempdir_in("/var/tmp")?;
    let mut disks = Disks(Vec::new());
    for number in 1..=SERVERS {
        let path = scratch
            .path()
            .join("cluster")
            .join(format!("server-{number}"));
        std::fs::create_dir_all(&path)?;
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(DISK),
        )
        .with_context(|| format!("mounting {}", path.display()))?;
        disks.0.push(path);
    }
    let cluster = Cluster::up_in(scratch, &["--servers", "3", "--nodes", "0"])?;
    let kubectl = cluster.kubectl("1.37")?;
    kubectl.ok(&["create", "configmap", "before", "--from-literal=a=b"])?;

    let fillers: Vec<PathBuf> = disks.0.iter().map(|disk| disk.join("filler")).collect();
    for filler in &fillers {
        fill(filler)?;
    }
    let (text, _) = eventually("writes are refused", PATIENCE, || {
        let output = kubectl.run(&["create", "configmap", "during", "--request-timeout=5s"])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        // A write that was let through before the servers looked at their disks is taken back.
        if output.status.success() {
            kubectl.run(&["delete", "configmap", "during", "--request-timeout=5s"])?;
        }
        ensure!(text.to_lowercase().contains("disk"), "{text}");
        Ok(text)
    })?;
    println!("refused with: {text}");
    let read = kubectl.ok(&["get", "configmap", "before", "-o", "jsonpath={.data.a}"])?;
    ensure!(read == "b", "reads go on: {read:?}");

    for filler in &fillers {
        std::fs::remove_file(filler)?;
    }
    let (_, took) = eventually("writes are taken again", PATIENCE, || {
        kubectl.ok(&["create", "configmap", "after", "--request-timeout=5s"])
    })?;
    println!("taken again {took:?} after space returned");
    let names = kubectl.ok(&["get", "configmaps", "-o", "name"])?;
    ensure!(
        names.contains("configmap/before") && names.contains("configmap/after"),
        "nothing is lost: {names}"
    );
    cluster.down()
}

/// Writes until the file system is full.
fn fill(path: &Path) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let block = vec![1_u8; 64 * 1024];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
