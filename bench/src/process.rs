//! What is measured runs as processes; what they cost is read from the kernel.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// A process that ends with us.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub fn start(mut command: Command, name: &str) -> anyhow::Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Process {
            child,
            name: name.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// The process and those it started (nginx's worker).
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.id()];
        let children = format!("/proc/{0}/task/{0}/children", self.id());
        if let Ok(text) = std::fs::read_to_string(children) {
            family.extend(
                text.split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        family
    }

    /// Time on a core so far, nanoseconds; also that of threads which have ended.
    pub fn cpu_nanos(&self) -> anyhow::Result<u64> {
        self.family()
            .into_iter()
            .map(cpu_nanos)
            .sum::<std::io::Result<u64>>()
            .with_context(|| format!("the clock of {}", self.name))
    }

    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.family().into_iter().map(resident_bytes).sum()
    }

    /// Resident memory of which shared pages count by share.
    pub fn proportional_bytes(&self) -> anyhow::Result<u64> {
        let family = self.family();
        let each = family
            .into_iter()
            .map(|id| kibibytes(id, "smaps_rollup", "Pss:"));
        Ok(each.sum::<anyhow::Result<u64>>()? * 1024)
    }
}

/// Resident memory of a process.
///
/// # Errors
/// When the kernel does not tell.
pub fn resident_bytes(id: u32) -> anyhow::Result<u64> {
    Ok(kibibytes(id, "status", "VmRSS:")? * 1024)
}

/// One line of a file of /proc about memory.
fn kibibytes(id: u32, file: &str, field: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let line = line.with_context(|| format!("no {field} in /proc/{id}/{file}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// This process's own time on a core so far, nanoseconds.
///
/// # Errors
/// When the kernel does not tell.
pub fn own_cpu_nanos() -> std::io::Result<u64> {
    cpu_nanos(std::process::id())
}

/// The processor time of a process, by its clock.
///
/// # Errors
/// When the kernel does not tell.
pub fn cpu_nanos(id: u32) -> std::io::Result<u64> {
    let id = libc::pid_t::try_from(id).map_err(std::io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls only write where they are shown, to values of the right types.
    let refused = unsafe { libc::clock_getcpuclockid(id, &raw mut clock) };
    if refused != 0 {
        return Err(std::io::Error::from_raw_os_error(refused));
    }
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(std::io::Error::other)?;
    let nanos = u64::try_from(time.tv_nsec).map_err(std::io::Error::other)?;
    Ok(seconds * 1_000_000_000 + nanos)
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's master first: it would replace its worker. Some may have ended by themselves.
        for id in self.family() {
            let _ = Command::new("kill")
                .arg("-9")
                .arg(id.to_string())
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.wait();
    }
}
