//! Signal dispositions, and the children a shim must reap.

use std::os::fd::{FromRawFd, OwnedFd};

/// What a process left behind when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub exit_code: i32,
    pub signal: Option<i32>,
}

/// Every signal as a freshly started program expects it: dispositions and mask
/// are inherited through `exec`, and Rust ignores SIGPIPE.
pub(crate) fn reset() {
    // SAFETY: plain system calls with valid, local arguments.
    unsafe {
        // By system call: glibc ignores its two internal signals when it spawns
        // and then refuses to let anybody touch them. The kernel's structure
        // (handler, flags, restorer, mask) all zero is the default action.
        let default = [0u64; 4];
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                size_of::<u64>(),
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// From here on this process is only ended by SIGKILL, and hears of its
/// children through the returned descriptor.
pub(crate) fn take_over() -> std::io::Result<OwnedFd> {
    // SAFETY: plain system calls with valid, local arguments.
    unsafe {
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGPIPE,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut children: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut children);
        libc::sigaddset(&mut children, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &children, std::ptr::null_mut());
        let descriptor = libc::signalfd(-1, &children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Forgets the signals received: `reap` looks at every child anyway.
pub(crate) fn drain(descriptor: i32) {
    let mut buffer = [0u8; 1024];
    // SAFETY: the buffer is valid for its length; the descriptor is
    // non-blocking.
    while unsafe { libc::read(descriptor, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// Reaps every child that has ended; says how `watched` ended.
pub(crate) fn reap(watched: i32) -> Option<Ended> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return found;
        }
        if pid == watched {
            found = Some(decode(status));
        }
    }
}

/// Kills and reaps every child: after a failed start. A zombie left to the
/// host's init would hold the container's pid namespace, and with it the end of
/// the container's first process, until that init cares to reap it.
pub(crate) fn end_children() {
    let own = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/self/task/{own}/children"));
    for pid in list
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|p| p.parse::<i32>().ok())
    {
        // SAFETY: plain system call on a child not yet reaped.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    // SAFETY: plain system call; ends with ECHILD.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
}

fn decode(status: i32) -> Ended {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        Ended {
            exit_code: 128 + signal,
            signal: Some(signal),
        }
    } else {
        Ended {
            exit_code: libc::WEXITSTATUS(status),
            signal: None,
        }
    }
}
