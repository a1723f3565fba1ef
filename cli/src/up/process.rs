//! Processes that outlive the command that started them, and how to find and end exactly those.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process by number and start time, so that a reused number is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks after boot: field 22 of /proc/PID/stat.
    pub start_ticks: u64,
}

/// What a running process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub resident_bytes: u64,
    /// Processor time since its start.
    pub cpu: Duration,
}

impl ProcessId {
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: stat_field(pid, 22)?,
        })
    }

    pub fn is_alive(self) -> bool {
        let zombie = stat_text(self.pid).is_some_and(|stat| stat.starts_with('Z'));
        !zombie && stat_field(self.pid, 22) == Some(self.start_ticks)
    }

    /// Asks it to end, and after `grace` makes it. Returns once it is gone.
    pub fn end(self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if !self.wait_gone(grace) {
            self.signal(Signal::SIGKILL);
            // The kernel needs a moment, never more than this.
            self.wait_gone(Duration::from_secs(5));
        }
    }

    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may have ended since: then there is nothing left to do.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    fn wait_gone(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            // Reap it where it is our own child; it is not where an earlier command started it.
            let _ = nix::sys::wait::waitpid(
                Pid::from_raw(self.pid),
                Some(nix::sys::wait::WaitPidFlag::WNOHANG),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    pub fn usage(self) -> Option<Usage> {
        if !self.is_alive() {
            return None;
        }
        let ticks = stat_field(self.pid, 14)? + stat_field(self.pid, 15)?;
        let pages = stat_field(self.pid, 24)?;
        let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .ok()
            .flatten()
            .and_then(|value| u64::try_from(value).ok())
            .unwrap_or(100);
        Some(Usage {
            resident_bytes: pages * 4096,
            cpu: Duration::from_millis(ticks * 1000 / ticks_per_second),
        })
    }
}

/// Starts this same program with `arguments` inside a network namespace, in a session of its own,
/// with its output appended to `log`.
pub fn start(arguments: &[String], namespace: Option<&Path>, log: &Path) -> Result<ProcessId> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("creating {}", parent.display()))?;
    }
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening the log {}", log.display()))?;
    let errors = output.try_clone().context("duplicating the log's handle")?;
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .current_dir("/");
    // SAFETY: setsid is a plain system call, safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid().map_err(std::io::Error::from)?;
            Ok(())
        });
    }
    let child = match namespace {
        Some(path) => trireme_network::spawn_in_netns(&mut command, path)?,
        None => command
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?,
    };
    let pid = i32::try_from(child.id()).context("a process number beyond i32")?;
    ProcessId::of(pid).with_context(|| {
        format!(
            "`trireme {}` ended at once; its last words are in {}",
            arguments.join(" "),
            log.display()
        )
    })
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Everything after the command's name, which may itself contain spaces and parentheses.
fn stat_text(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.to_owned())
}

/// A numeric field of /proc/PID/stat by proc(5)'s numbering; the first after the name is 3.
fn stat_field(pid: i32, number: usize) -> Option<u64> {
    stat_text(pid)?.split(' ').nth(number - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_and_no_process_that_took_its_number() {
        let own = ProcessId::of(i32::try_from(std::process::id()).expect("fits")).expect("alive");
        assert!(own.is_alive());
        assert!(own.usage().expect("alive").resident_bytes > 0);
        let other = ProcessId {
            start_ticks: own.start_ticks + 1,
            ..own
        };
        assert!(!other.is_alive());
    }

    #[test]
    fn ends_a_process_that_ignores_the_polite_signal() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "trap '' TERM; echo; while :; do sleep 0.05; done"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        // The trap is set once the shell has spoken.
        let mut line = [0_u8; 1];
        std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut line)
            .expect("a line");
        let process = ProcessId::of(i32::try_from(child.id()).expect("fits")).expect("alive");
        process.end(Duration::from_millis(50));
        assert!(!process.is_alive());
        // `end` may have reaped it already: then there is nothing to wait for.
        let _ = child.wait();
    }
}
