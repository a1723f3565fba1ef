//! The agent's side: starts shims, finds them again, hears of exits.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::process::Command;
use tokio::sync::{broadcast, watch};

use crate::attach::{self, AttachHandle};
use crate::cgroup::{Cgroup, Stats};
use crate::control::{self, ControlSocket, HelperReply, ShimReply};
use crate::error::ContainerError;
use crate::exec::{self, ExecHandle, ExecOutput, ExecSpec};
use crate::pipes::Pipes;
use crate::process::{self, ProcessIdentity};
use crate::spec::{ContainerSpec, validate_id};
use crate::state::{
    ContainerState, ContainerStatus, EXIT_FILE, Exit, RunningState, SHIM_FILE, SPEC_FILE,
    STATE_FILE, read_json, write_json,
};
use crate::watch::{ShimProcess, lost, read_exit};

/// Where the runtime keeps its state and how it starts shims.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// On a real file system (containers' writable layers live here).
    pub state_dir: PathBuf,
    /// Parent of every cgroup of this node, absolute: `/trireme` or, with
    /// several nodes on one machine, `/trireme/node-1`.
    pub cgroup_root: String,
    /// The binary that has [`crate::shim_main`]: normally `/proc/self/exe`.
    pub shim_binary: PathBuf,
    /// Arguments before ours: `["shim"]`.
    pub shim_args: Vec<String>,
}

/// A container that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerExit {
    pub id: String,
    pub exit: Exit,
}

/// A container whose program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// In the host's pid namespace.
    pub pid: u32,
    pub started_at: Timestamp,
}

/// A start slower than this is a hung mount or a hung disk.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// An exec'd process that has not begun by then never will.
const EXEC_START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a killed container may take to be reaped: longer only when its
/// processes hang in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Exits a slow subscriber may fall behind before it must call `list`.
const EXIT_QUEUE: usize = 1024;
pub(crate) const CONTAINERS_DIR: &str = "containers";

/// Cheap to clone; must live inside a tokio runtime.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    config: RuntimeConfig,
    exits: broadcast::Sender<ContainerExit>,
    /// Containers not yet deleted whose exit this process has seen or awaits.
    known: Mutex<BTreeMap<String, watch::Receiver<Option<Exit>>>>,
}

impl Runtime {
    /// Opens the state directory and takes over every container found there:
    /// running ones are watched, ended ones wait for `list`.
    pub async fn open(config: RuntimeConfig) -> Result<Self, ContainerError> {
        let containers = config.state_dir.join(CONTAINERS_DIR);
        fs::create_dir_all(&containers)
            .map_err(|e| ContainerError::io("create", &containers, e))?;
        let (exits, _) = broadcast::channel(EXIT_QUEUE);
        let runtime = Runtime {
            inner: Arc::new(Inner {
                config,
                exits,
                known: Mutex::new(BTreeMap::new()),
            }),
        };
        for id in runtime.ids()? {
            runtime.adopt(&id)?;
        }
        Ok(runtime)
    }

    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    /// Containers that end from now on. After `Lagged`, call `list`.
    pub fn exits(&self) -> broadcast::Receiver<ContainerExit> {
        self.inner.exits.subscribe()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, watch::Receiver<Option<Exit>>>> {
        // A panic while holding it leaves the map as it was.
        self.inner.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn directory(&self, id: &str) -> PathBuf {
        self.inner.config.state_dir.join(CONTAINERS_DIR).join(id)
    }

    fn ids(&self) -> Result<Vec<String>, ContainerError> {
        let root = self.inner.config.state_dir.join(CONTAINERS_DIR);
        let entries = fs::read_dir(&root).map_err(|e| ContainerError::io("list", &root, e))?;
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|id| validate_id(id).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    fn adopt(&self, id: &str) -> Result<(), ContainerError> {
        let directory = self.directory(id);
        let Some(spec) = read_json::<ContainerSpec>(&directory.join(SPEC_FILE))? else {
            // Its creation was interrupted before anything was started.
            return fs::remove_dir_all(&directory)
                .map_err(|e| ContainerError::io("remove", &directory, e));
        };
        if let Some(exit) = read_json::<Exit>(&directory.join(EXIT_FILE))? {
            let (_, receiver) = watch::channel(Some(exit));
            self.known().insert(id.to_string(), receiver);
            return Ok(());
        }
        let shim = read_json::<ProcessIdentity>(&directory.join(SHIM_FILE))?;
        let pidfd = shim.and_then(|s| s.open());
        let sender = self.expect_exit(id);
        self.watch(spec, ShimProcess::Adopted(pidfd), sender);
        Ok(())
    }

    /// From now on its end can be waited for.
    fn expect_exit(&self, id: &str) -> watch::Sender<Option<Exit>> {
        let (sender, receiver) = watch::channel(None);
        self.known().insert(id.to_string(), receiver);
        sender
    }

    fn watch(&self, spec: ContainerSpec, shim: ShimProcess, sender: watch::Sender<Option<Exit>>) {
        let directory = self.directory(&spec.id);
        let exits = self.inner.exits.clone();
        tokio::spawn(async move {
            shim.ended().await;
            let id = spec.id.clone();
            let exit = tokio::task::spawn_blocking(move || read_exit(&directory, &spec))
                .await
                .unwrap_or_else(|e| lost(&id, &e.to_string(), None));
            // Nobody listening is fine: the exit is on disk.
            let _ = sender.send(Some(exit.clone()));
            let _ = exits.send(ContainerExit { id, exit });
        });
    }

    fn shim_command(&self, arguments: &[&str], control: OwnedFd, log: Stdio) -> Command {
        let mut command = Command::new(&self.inner.config.shim_binary);
        command
            .args(&self.inner.config.shim_args)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::from(control))
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// Makes the container and starts its program. On an error nothing is left
    /// behind but the log file. Cancelling does not stop it: the container then
    /// turns up in `list`, watched like any other.
    pub async fn create_and_start(&self, spec: &ContainerSpec) -> Result<Started, ContainerError> {
        let (runtime, spec) = (self.clone(), spec.clone());
        let id = spec.id.clone();
        tokio::spawn(async move { runtime.create(&spec).await })
            .await
            .unwrap_or_else(|e| Err(ContainerError::shim(id, "starting it", e)))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Started, ContainerError> {
        spec.validate()?;
        let directory = self.directory(&spec.id);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(ContainerError::Exists {
                    id: spec.id.clone(),
                });
            }
            Err(e) => return Err(ContainerError::io("create", &directory, e)),
        }
        match self.start_shim(spec, &directory).await {
            Ok(started) => Ok(started),
            Err(error) => {
                self.forget(spec).await?;
                Err(error)
            }
        }
    }

    async fn start_shim(
        &self,
        spec: &ContainerSpec,
        directory: &Path,
    ) -> Result<Started, ContainerError> {
        let failed = |e: std::io::Error| ContainerError::shim(&spec.id, "starting it", e);
        write_json(&directory.join(SPEC_FILE), spec, false)?;
        let (near, far) = control::pair().map_err(failed)?;
        let log_path = directory.join("shim.log");
        let log =
            fs::File::create(&log_path).map_err(|e| ContainerError::io("create", &log_path, e))?;
        let path = directory.display().to_string();
        // The shim writes that it runs before we hear of it: whoever reads that may wait for its end, or kill it.
        let sender = self.expect_exit(&spec.id);
        let child = self
            .shim_command(
                &["run", &path, &self.inner.config.cgroup_root],
                far,
                Stdio::from(log),
            )
            .spawn()
            .map_err(failed)?;
        let mut shim = ShimProcess::Child(child);
        let control = ControlSocket::new(near).map_err(failed)?;
        let reply = tokio::time::timeout(START_TIMEOUT, control.receive::<ShimReply>()).await;
        match reply {
            Ok(Ok(Some((ShimReply::Started(state), _)))) => {
                self.watch(spec.clone(), shim, sender);
                Ok(Started {
                    pid: state.init.pid,
                    started_at: state.started_at,
                })
            }
            Ok(Ok(Some((ShimReply::Failed(error), _)))) => {
                shim.ended().await;
                Err(error)
            }
            Ok(Ok(None)) => {
                shim.ended().await;
                let words = fs::read_to_string(&log_path).unwrap_or_default();
                let cause = words.lines().last().unwrap_or("it ended without an answer");
                Err(ContainerError::shim(&spec.id, "starting it", cause))
            }
            Ok(Err(e)) => {
                shim.kill().await;
                Err(failed(e))
            }
            Err(_) => {
                shim.kill().await;
                Err(ContainerError::Timeout {
                    operation: format!("starting container {}", spec.id),
                    timeout_ms: START_TIMEOUT.as_millis() as u64,
                })
            }
        }
    }

    fn spec(&self, id: &str) -> Result<ContainerSpec, ContainerError> {
        validate_id(id)?;
        read_json(&self.directory(id).join(SPEC_FILE))?
            .ok_or_else(|| ContainerError::NotFound { id: id.to_string() })
    }

    fn running(&self, id: &str) -> Result<RunningState, ContainerError> {
        self.spec(id)?;
        let directory = self.directory(id);
        let state = read_json::<RunningState>(&directory.join(STATE_FILE))?;
        match state {
            Some(state) if !directory.join(EXIT_FILE).exists() => Ok(state),
            _ => Err(ContainerError::NotRunning { id: id.to_string() }),
        }
    }

    /// Every container with a state directory, by id.
    pub fn list(&self) -> Result<Vec<ContainerStatus>, ContainerError> {
        let mut list = Vec::new();
        for id in self.ids()? {
            if let Some(status) = self.status(&id)? {
                list.push(status);
            }
        }
        Ok(list)
    }

    /// One container; `None` when there is none of this id.
    pub fn status(&self, id: &str) -> Result<Option<ContainerStatus>, ContainerError> {
        let directory = self.directory(id);
        let Some(spec) = read_json::<ContainerSpec>(&directory.join(SPEC_FILE))? else {
            return Ok(None);
        };
        let state = if let Some(exit) = read_json::<Exit>(&directory.join(EXIT_FILE))? {
            ContainerState::Exited(exit)
        } else if let Some(state) = read_json::<RunningState>(&directory.join(STATE_FILE))? {
            ContainerState::Running {
                pid: state.init.pid,
                started_at: state.started_at,
            }
        } else {
            ContainerState::Creating
        };
        Ok(Some(ContainerStatus {
            id: id.to_string(),
            spec,
            state,
        }))
    }

    /// Waits for the container's end; at once where it has ended. May be
    /// cancelled and called again.
    pub async fn wait(&self, id: &str) -> Result<Exit, ContainerError> {
        let receiver = self.known().get(id).cloned();
        let Some(mut receiver) = receiver else {
            return Err(ContainerError::NotFound { id: id.to_string() });
        };
        let result = match receiver.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            Err(_) => None,
        };
        match result {
            Some(exit) => Ok(exit),
            None => read_json(&self.directory(id).join(EXIT_FILE))?
                .ok_or_else(|| ContainerError::NotFound { id: id.to_string() }),
        }
    }

    /// Signals the container's first process. Ended already is `NotRunning`.
    pub fn signal(&self, id: &str, signal: i32) -> Result<(), ContainerError> {
        let state = self.running(id)?;
        let not_running = || ContainerError::NotRunning { id: id.to_string() };
        let pidfd = state.init.open().ok_or_else(not_running)?;
        match process::pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
            Err(e) => Err(ContainerError::shim(
                id,
                format!("sending signal {signal}"),
                e,
            )),
        }
    }

    /// SIGKILL to the first process and everything in the container's cgroup;
    /// returns its exit.
    pub async fn kill(&self, id: &str) -> Result<Exit, ContainerError> {
        let spec = self.spec(id)?;
        match self.signal(id, libc::SIGKILL) {
            Ok(()) | Err(ContainerError::NotRunning { .. }) => {}
            Err(e) => return Err(e),
        }
        let cgroup = Cgroup::new(spec.cgroup_path());
        let _ = tokio::task::spawn_blocking(move || cgroup.kill()).await;
        tokio::time::timeout(KILL_TIMEOUT, self.wait(id))
            .await
            .unwrap_or_else(|_| {
                Err(ContainerError::Timeout {
                    operation: format!("killing container {id}"),
                    timeout_ms: KILL_TIMEOUT.as_millis() as u64,
                })
            })
    }

    /// Kills it if need be and removes everything but its log. Deleting what
    /// does not exist is no error.
    pub async fn delete(&self, id: &str) -> Result<(), ContainerError> {
        let spec = match self.spec(id) {
            Ok(spec) => spec,
            Err(ContainerError::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let ended = self
            .known()
            .get(id)
            .is_some_and(|receiver| receiver.borrow().is_some());
        if !ended {
            match self.kill(id).await {
                Ok(_) | Err(ContainerError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.forget(&spec).await
    }

    /// Removes cgroup and state directory; the shim has ended.
    async fn forget(&self, spec: &ContainerSpec) -> Result<(), ContainerError> {
        let directory = self.directory(&spec.id);
        let cgroup = Cgroup::new(spec.cgroup_path());
        self.known().remove(&spec.id);
        tokio::task::spawn_blocking(move || {
            cgroup.kill();
            cgroup.remove()?;
            match fs::remove_dir_all(&directory) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(ContainerError::io("remove", &directory, e))
                }
                _ => Ok(()),
            }
        })
        .await
        .unwrap_or_else(|e| Err(ContainerError::shim(&spec.id, "deleting it", e)))
    }

    /// Resource use now.
    pub fn stats(&self, id: &str) -> Result<Stats, ContainerError> {
        let spec = self.spec(id)?;
        Cgroup::new(spec.cgroup_path()).stats()
    }

    /// Joins the container's standard streams. Several clients may.
    pub async fn attach(&self, id: &str) -> Result<AttachHandle, ContainerError> {
        let spec = self.spec(id)?;
        self.running(id)?;
        attach::attach(&self.directory(id), spec.stdin, spec.tty).await
    }

    /// Starts a further process in a running container.
    pub async fn exec(&self, id: &str, exec: &ExecSpec) -> Result<ExecHandle, ContainerError> {
        if exec.args.first().is_none_or(|a| a.is_empty()) {
            return Err(ContainerError::InvalidSpec {
                field: "command".to_string(),
                message: "no command specified".to_string(),
            });
        }
        self.running(id)?;
        let failed = |e: std::io::Error| ContainerError::shim(id, "starting an exec", e);
        let directory = self.directory(id);
        let order = directory.join(format!("exec-{}.json", unique()));
        write_json(&order, exec, false)?;
        let (near, far) = control::pair().map_err(failed)?;
        let log_path = directory.join("exec.log");
        let log =
            fs::File::create(&log_path).map_err(|e| ContainerError::io("create", &log_path, e))?;
        let mut helper = self
            .shim_command(
                &[
                    "exec",
                    &directory.display().to_string(),
                    &order.display().to_string(),
                    &self.inner.config.cgroup_root,
                ],
                far,
                Stdio::from(log),
            )
            .spawn()
            .map_err(failed)?;
        let control = ControlSocket::new(near).map_err(failed)?;
        let pipes = Pipes::send(&control, exec).map_err(failed)?;
        let reply =
            tokio::time::timeout(EXEC_START_TIMEOUT, control.receive::<HelperReply>()).await;
        // The helper removes it once read; it may have died before.
        let _ = fs::remove_file(&order);
        match reply {
            Ok(Ok(Some((HelperReply::Started { pid }, mut descriptors)))) => {
                match (exec.tty, descriptors.pop()) {
                    (true, Some(master)) => {
                        ExecHandle::from_pty(master, pid, exec.stdin, control, helper, id.into())
                    }
                    (true, None) => Err(ContainerError::shim(
                        id,
                        "starting an exec",
                        "no terminal came back",
                    )),
                    (false, _) => pipes.into_handle(pid, control, helper, id).map_err(failed),
                }
            }
            Ok(Ok(Some((HelperReply::Failed(error), _)))) => {
                let _ = helper.wait().await;
                Err(error)
            }
            Ok(Ok(_)) => {
                let _ = helper.wait().await;
                let words = fs::read_to_string(&log_path).unwrap_or_default();
                let cause = words.lines().last().unwrap_or("it ended without an answer");
                Err(ContainerError::shim(id, "starting an exec", cause))
            }
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => {
                // Also closes the socket, upon which the helper gives up.
                let _ = helper.start_kill();
                Err(ContainerError::Timeout {
                    operation: "starting a command".to_string(),
                    timeout_ms: EXEC_START_TIMEOUT.as_millis() as u64,
                })
            }
        }
    }

    /// Runs a command to its end, for exec probes and lifecycle hooks: at most
    /// `output_limit_bytes` of its output are kept; when `timeout` has passed
    /// it is killed and the error is `Timeout`.
    pub async fn exec_collect(
        &self,
        id: &str,
        args: &[String],
        timeout: Duration,
        output_limit_bytes: usize,
    ) -> Result<ExecOutput, ContainerError> {
        let started = tokio::time::Instant::now();
        let spec = ExecSpec {
            args: args.to_vec(),
            ..ExecSpec::default()
        };
        let timed_out = || ContainerError::Timeout {
            operation: "command".to_string(),
            timeout_ms: timeout.as_millis() as u64,
        };
        let handle = tokio::time::timeout(timeout, self.exec(id, &spec))
            .await
            .map_err(|_| timed_out())??;
        let left = timeout.saturating_sub(started.elapsed());
        exec::collect(handle, left, output_limit_bytes)
            .await
            .map_err(|e| match e {
                ContainerError::Timeout { .. } => timed_out(),
                other => other,
            })
    }
}

/// Unique within this process and among its successors on one state directory.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
