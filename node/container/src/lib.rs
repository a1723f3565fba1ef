//! Containers: one single-threaded shim process per container, libcontainer
//! inside it, and a tokio-side [`Runtime`] that starts shims and finds them
//! again.
//!
//! **In:** a [`ContainerSpec`] (layers, process, mounts, limits, namespaces)
//! and a pod's [`PodSandbox`]. **Out:** a running container, its CRI-format log
//! file, its [`Exit`] (code, signal, out-of-memory, times), exec and attach
//! streams, and its resource use.
//!
//! Invariants kept here:
//! - A container outlives the agent: its shim has its own session, its own
//!   cgroup and no descriptor of the agent's; the exit code waits in
//!   `exit.json` until somebody reads it.
//! - libcontainer never runs inside the agent: it forks, changes directory and
//!   alters the process's attributes, which a threaded runtime does not survive.
//! - A pid is only trusted together with the start time of its process.
//! - Whatever a container made (mounts, cgroups, processes) is gone after
//!   [`Runtime::delete`]; its log stays.
//!
//! Deliberately not here: images (see `trireme-image`), networks (the network
//! namespace's path is given), and every decision about restarts and probes.

mod attach;
mod bundle;
mod cgroup;
mod control;
mod devices;
mod error;
mod exec;
mod hierarchy;
mod overlay;
mod pipes;
mod process;
mod runtime;
mod sandbox;
mod shim;
mod spec;
mod state;
mod subpath;
mod terminal;
mod watch;

pub use attach::AttachHandle;
pub use cgroup::{Cgroup, Limits, Qos, Stats};
pub use error::ContainerError;
pub use exec::{
    ExecHandle, ExecOutput, ExecSpec, ExecStatus, Reader, Terminal, TerminalSize, Writer,
};
pub use hierarchy::missing_controllers;
pub use runtime::{ContainerExit, Runtime, RuntimeConfig, Started};
pub use sandbox::{PodSandbox, SandboxSpec};
pub use shim::shim_main;
pub use spec::{
    Capabilities, ContainerSpec, DEFAULT_CAPABILITIES, Device, LogSpec, Mount, MountSource,
    Namespaces, PidNamespace, Propagation, User, capability_names,
};
pub use state::{ContainerState, ContainerStatus, Exit};
