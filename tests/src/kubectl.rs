//! A stock kubectl with a kubeconfig.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The versions that `scripts/peers.sh` fetches.
pub const VERSIONS: [&str; 2] = ["1.20", "1.37"];

#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Caches of discovery, apart from the user's.
    cache: PathBuf,
}

/// Where `scripts/peers.sh` puts what it fetches.
pub fn peers() -> PathBuf {
    std::env::var_os("TRIREME_PEERS").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
            PathBuf::from(home).join(".cache/trireme/peers")
        },
        PathBuf::from,
    )
}

impl Kubectl {
    pub fn new(version: &str, kubeconfig: &Path, scratch: &Path) -> Result<Self> {
        let program = peers().join(format!("kubectl-{version}")).join("kubectl");
        if !program.exists() {
            bail!(
                "{} is missing; scripts/peers.sh fetches it",
                program.display()
            );
        }
        Ok(Self {
            program,
            kubeconfig: kubeconfig.to_owned(),
            cache: scratch.join(format!("cache-{version}")),
        })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(arguments)
            .env_remove("KUBECONFIG");
        command
    }

    /// Runs it with an empty standard input, whatever it answers.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running kubectl {}", arguments.join(" ")))
    }

    /// Its standard output; an error with both outputs when it failed.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        text_of(output, arguments)
    }

    /// Its standard error, which it must have failed with.
    pub fn fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        if output.status.success() {
            bail!(
                "kubectl {} was to fail and printed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs it with a document on its standard input.
    pub fn with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("running kubectl {}", arguments.join(" ")))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    pub fn apply(&self, manifest: &str) -> Result<String> {
        let arguments = ["apply", "-f", "-"];
        text_of(self.with_input(&arguments, manifest)?, &arguments)
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.ok(&all)?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {} printed: {text}", all.join(" ")))
    }
}

fn text_of(output: Output, arguments: &[&str]) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "kubectl {} failed ({}): {}{text}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}
