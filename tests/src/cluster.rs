//! A cluster of real processes, by the product's own `trireme up` and `trireme down`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::kubectl::Kubectl;

pub struct Cluster {
    /// On a real file system: overlay mounts want one.
    scratch: TempDir,
    /// How long `trireme up` took.
    pub up_took: Duration,
    /// What it printed.
    pub up_printed: String,
    /// What `trireme up` and the machines that it starts find in their environment.
    environment: Vec<(String, String)>,
    ended: bool,
}

/// The binary under test, beside this test's own, or where `TRIREME_BINARY` says.
pub fn trireme() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRIREME_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let path = own
        .parent()
        .and_then(Path::parent)
        .context("a test binary lies in target/PROFILE/deps")?
        .join("trireme");
    ensure!(
        path.exists(),
        "{} is missing; build it first (scripts/build.sh)",
        path.display()
    );
    Ok(path)
}

impl Cluster {
    /// Starts a cluster; `arguments` follow `trireme up --data ...`.
    pub fn up(arguments: &[&str]) -> Result<Self> {
        Self::up_with(arguments, &[])
    }

    /// The same with additions to the environment.
    pub fn up_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("trireme-e2e-")
            .tempdir_in("/var/tmp")?;
        let mut cluster = Self::unstarted(scratch);
        cluster.environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        cluster.start(arguments)?;
        Ok(cluster)
    }

    /// The same in a directory that the test has prepared (`cluster` inside it is the data).
    pub fn up_in(scratch: TempDir, arguments: &[&str]) -> Result<Self> {
        let mut cluster = Self::unstarted(scratch);
        cluster.start(arguments)?;
        Ok(cluster)
    }

    fn unstarted(scratch: TempDir) -> Self {
        Self {
            scratch,
            up_took: Duration::ZERO,
            up_printed: String::new(),
            environment: Vec::new(),
            ended: false,
        }
    }

    /// Runs `trireme up` (again).
    pub fn start(&mut self, arguments: &[&str]) -> Result<()> {
        let begin = Instant::now();
        let output = Command::new(trireme()?)
            .args(["up", "--data"])
            .arg(self.data())
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()?;
        self.up_took = begin.elapsed();
        self.up_printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "trireme up failed: {}{}{}",
                self.up_printed,
                String::from_utf8_lossy(&output.stderr),
                self.logs()
            );
        }
        Ok(())
    }

    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("cluster")
    }

    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn kubectl(&self, version: &str) -> Result<Kubectl> {
        Kubectl::new(
            version,
            &self.data().join("kubeconfig"),
            self.scratch.path(),
        )
    }

    /// `trireme status --output json`.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new(trireme()?)
            .args(["status", "--output", "json", "--data"])
            .arg(self.data())
            .output()?;
        ensure!(
            output.status.success(),
            "trireme status failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What `trireme up` wrote down of its machines.
    pub fn state(&self) -> Result<Value> {
        let path = self.data().join("up.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// One machine's entry of [`Cluster::state`].
    pub fn machine(&self, name: &str) -> Result<Value> {
        self.state()?["machines"]
            .as_array()
            .and_then(|machines| machines.iter().find(|machine| machine["name"] == name))
            .cloned()
            .with_context(|| format!("no machine {name}"))
    }

    pub fn pid_of(&self, machine: &str) -> Result<i32> {
        let pid = self.machine(machine)?["process"]["pid"].as_i64();
        Ok(i32::try_from(pid.context("no process")?)?)
    }

    /// The leader's name, by `trireme status`.
    pub fn leader(&self) -> Result<String> {
        let status = self.status()?;
        status["servers"]
            .as_array()
            .and_then(|servers| servers.iter().find(|server| server["role"] == "leader"))
            .and_then(|server| server["name"].as_str())
            .map(str::to_owned)
            .context("no server says that it leads")
    }

    /// The ends of all logs, for a failure's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let Ok(entries) = std::fs::read_dir(self.data().join("logs")) else {
            return text;
        };
        for entry in entries.flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text.push_str(&format!("\n--- {}\n", entry.path().display()));
            text.push_str(&lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        text
    }

    /// Runs `trireme down` and makes sure that nothing is left.
    pub fn down(mut self) -> Result<()> {
        let state = self.state()?;
        self.ended = true;
        let output = Command::new(trireme()?)
            .args(["down", "--data"])
            .arg(self.data())
            .output()?;
        ensure!(
            output.status.success(),
            "trireme down failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let left = self.left(&state)?;
        ensure!(left.is_empty(), "trireme down left: {}", left.join("; "));
        Ok(())
    }

    /// What is still there of a cluster.
    fn left(&self, state: &Value) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let data = self.data().display().to_string();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(command) = std::fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            if String::from_utf8_lossy(&command).contains(&data) {
                left.push(format!("process {}", entry.file_name().to_string_lossy()));
            }
        }
        for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines() {
            if line.contains(&data) {
                left.push(format!("mount {line}"));
            }
        }
        let id = state["id"].as_str().context("the state has an id")?;
        for entry in std::fs::read_dir("/run/netns")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("trireme-{id}-")) {
                left.push(format!("namespace {name}"));
            }
        }
        let bridge = state["bridge"].as_str().context("the state has a bridge")?;
        for entry in std::fs::read_dir("/sys/class/net")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let cable = state["machines"]
                .as_array()
                .is_some_and(|machines| machines.iter().any(|machine| machine["link"] == name));
            if name == bridge || cable {
                left.push(format!("link {name}"));
            }
        }
        let tables = Command::new("nft").args(["list", "tables"]).output()?;
        let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
        if tables
            .lines()
            .any(|table| table.ends_with(&format!("trireme_{id}")))
        {
            left.push(format!("nft tables {tables}"));
        }
        // On cgroup v2 the directory is the only hierarchy, otherwise it holds one each.
        let cgroups = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(cgroups)?.flatten().map(|h| h.path());
        for hierarchy in hierarchies.chain([cgroups.to_path_buf()]) {
            let Ok(entries) = std::fs::read_dir(hierarchy.join("trireme")) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(&format!("{id}-")) {
                    left.push(format!("cgroup {}", entry.path().display()));
                }
            }
        }
        if self.data().exists() {
            left.push(format!("directory {data}"));
        }
        Ok(left)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() || std::env::var_os("TRIREME_E2E_LOGS").is_some() {
            eprintln!("{}", self.logs());
        }
        let Ok(trireme) = trireme() else { return };
        let down = Command::new(trireme)
            .args(["down", "--data"])
            .arg(self.data())
            .output();
        if let Ok(output) = down
            && !output.status.success()
        {
            eprintln!("trireme down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
