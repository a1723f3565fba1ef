//! Process 1 of a pod's shared pid namespace: it reaps and waits to be killed.

use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork, setsid};

use crate::cgroup::Cgroup;
use crate::process::ProcessIdentity;
use crate::shim::{reply, signals};

pub(crate) fn run(cgroup: &str, control: OwnedFd) -> i32 {
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    if let Err(e) = Cgroup::new(cgroup).join(std::process::id()) {
        eprintln!("{e}");
        return 1;
    }
    if let Err(e) = unshare(CloneFlags::CLONE_NEWPID) {
        eprintln!("cannot create a pid namespace: {e}");
        return 1;
    }
    signals::reset();
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            match ProcessIdentity::of(child.as_raw() as u32) {
                Some(identity) => reply(&control, &identity, &[]),
                None => return 1,
            }
            0
        }
        Ok(ForkResult::Child) => {
            drop(control);
            let _ = setsid();
            reap_for_ever()
        }
        Err(e) => {
            eprintln!("cannot fork: {e}");
            1
        }
    }
}

fn reap_for_ever() -> i32 {
    let Ok(children) = signals::take_over() else {
        return 1;
    };
    let mut poll = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&children),
        nix::poll::PollFlags::POLLIN,
    )];
    loop {
        let _ = nix::poll::poll(&mut poll, nix::poll::PollTimeout::NONE);
        signals::drain(std::os::fd::AsRawFd::as_raw_fd(&children));
        signals::reap(-1);
    }
}
