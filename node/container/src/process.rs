//! Processes named safely: a pid with its start time, held by a pidfd.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub pid: u32,
    /// Clock ticks since boot (field 22 of `/proc/pid/stat`).
    pub start_ticks: u64,
    /// Of which boot: after another, both numbers may meet again.
    pub boot: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(ProcessIdentity {
            pid,
            start_ticks: start_ticks(pid)?,
            boot: boot_number(),
        })
    }

    /// A descriptor of exactly this process; `None` when it has ended.
    pub fn open(&self) -> Option<OwnedFd> {
        if self.boot != boot_number() {
            return None;
        }
        let descriptor = pidfd_open(self.pid)?;
        // The pid was bound to the descriptor first, so a start time that
        // matches now belongs to the process the descriptor holds.
        (start_ticks(self.pid)? == self.start_ticks).then_some(descriptor)
    }

    /// Whether it has neither ended nor become a zombie.
    pub fn is_alive(&self) -> bool {
        match stat_fields(self.pid) {
            Some((state, ticks)) => {
                ticks == self.start_ticks
                    && state != 'Z'
                    && state != 'X'
                    && self.boot == boot_number()
            }
            None => false,
        }
    }
}

/// Names this boot: pids and mounts of another mean nothing.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_string()
}

/// The boot id's first half: enough to tell two boots apart.
fn boot_number() -> u64 {
    let id = boot_id().replace('-', "");
    id.get(..16)
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or(0)
}

/// Signals the process behind a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

pub(crate) fn pidfd_open(pid: u32) -> Option<OwnedFd> {
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    // SAFETY: the kernel has just returned this descriptor to us alone.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn start_ticks(pid: u32) -> Option<u64> {
    stat_fields(pid).map(|(_, ticks)| ticks)
}

fn stat_fields(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in field 2 may hold spaces and parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((state, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_found_and_a_wrong_start_time_is_not() {
        let me = ProcessIdentity::of(std::process::id()).expect("own process");
        assert!(me.is_alive());
        assert!(me.open().is_some());
        let impostor = ProcessIdentity {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!impostor.is_alive());
        assert!(impostor.open().is_none());
    }
}
