//! What every case stands on: a runtime on a directory of its own, a busybox
//! layer, and a look at what is left when the case is over.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use trireme_container::{
    ContainerSpec, LogSpec, PodSandbox, Qos, Runtime, RuntimeConfig, SandboxSpec,
};

pub type Case = (
    &'static str,
    fn() -> Pin<Box<dyn Future<Output = ()> + Send>>,
);

/// Lists async functions as cases.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub fn cases() -> Vec<$crate::stand::Case> {
            vec![$((stringify!($name), || Box::pin($name()))),*]
        }
    };
}

pub struct Stand {
    pub runtime: Runtime,
    pub directory: PathBuf,
    pub cgroup_root: String,
    sandbox: Option<PodSandbox>,
    finished: bool,
    /// Removed last.
    _temporary: tempfile::TempDir,
}

impl Stand {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
        let directory = temporary.path().to_path_buf();
        make_layer(&directory.join("layer"));
        let cgroup_root = format!("/trireme-test-{}-{number}", std::process::id());
        let runtime = Runtime::open(config(&directory, &cgroup_root))
            .await
            .expect("open the runtime");
        let mut stand = Stand {
            runtime,
            directory,
            cgroup_root,
            sandbox: None,
            finished: false,
            _temporary: temporary,
        };
        stand.sandbox = Some(stand.sandbox_with(|_| {}).await);
        stand
    }

    pub fn sandbox(&self) -> &PodSandbox {
        self.sandbox.as_ref().expect("the stand's sandbox")
    }

    pub async fn sandbox_with(&self, change: impl FnOnce(&mut SandboxSpec)) -> PodSandbox {
        let mut spec = SandboxSpec {
            pod_uid: "00000000-test".to_string(),
            hostname: "web-0".to_string(),
            qos: Qos::Burstable,
            limits: Default::default(),
            host_network: false,
            host_ipc: false,
            host_pid: false,
            share_process_namespace: false,
            sysctls: Default::default(),
        };
        change(&mut spec);
        self.runtime
            .create_sandbox(&spec)
            .await
            .expect("create the sandbox")
    }

    pub fn spec(&self, id: &str, script: &str) -> ContainerSpec {
        self.spec_in(self.sandbox(), id, &["/bin/sh", "-c", script])
    }

    pub fn spec_in(&self, sandbox: &PodSandbox, id: &str, args: &[&str]) -> ContainerSpec {
        ContainerSpec {
            id: id.to_string(),
            labels: Default::default(),
            layers: vec![self.directory.join("layer")],
            namespaces: sandbox.namespaces(None),
            cgroup_parent: sandbox.cgroup_parent.clone(),
            args: args.iter().map(|a| a.to_string()).collect(),
            env: vec![("GREETING".to_string(), "hello".to_string())],
            cwd: PathBuf::new(),
            user: Default::default(),
            capabilities: Default::default(),
            privileged: false,
            read_only_rootfs: false,
            no_new_privileges: false,
            mounts: vec![trireme_container::Mount {
                destination: "/dev/shm".into(),
                source: trireme_container::MountSource::Bind {
                    path: sandbox.shm.clone(),
                    sub_path: None,
                },
                read_only: false,
                propagation: Default::default(),
            }],
            devices: Vec::new(),
            limits: Default::default(),
            oom_score_adj: 500,
            tty: false,
            stdin: false,
            stdin_once: false,
            unmasked_proc: false,
            sysctls: Default::default(),
            log: LogSpec::at(self.log_path(id)),
        }
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{id}.log"))
    }

    /// The text of the log, without times: `stdout F hello`.
    pub fn log(&self, id: &str) -> Vec<String> {
        std::fs::read_to_string(self.log_path(id))
            .unwrap_or_default()
            .lines()
            .map(|line| {
                line.split_once(' ')
                    .map_or("", |(_, rest)| rest)
                    .to_string()
            })
            .collect()
    }

    /// Starts, waits and returns the exit code and the log's texts.
    pub async fn run(&self, spec: &ContainerSpec) -> (i32, Vec<String>) {
        self.runtime
            .create_and_start(spec)
            .await
            .unwrap_or_else(|e| panic!("start {}: {e}", spec.id));
        let exit = self.runtime.wait(&spec.id).await.expect("wait");
        let text = self
            .log(&spec.id)
            .iter()
            .map(|l| l.splitn(3, ' ').nth(2).unwrap_or("").to_string())
            .collect();
        (exit.exit_code, text)
    }

    /// Deletes everything and proves that nothing is left.
    pub async fn finish(mut self) {
        for container in self.runtime.list().expect("list") {
            self.runtime
                .delete(&container.id)
                .await
                .unwrap_or_else(|e| panic!("delete {}: {e}", container.id));
        }
        for sandbox in self.runtime.sandboxes().expect("sandboxes") {
            self.runtime
                .remove_sandbox(&sandbox.spec.pod_uid)
                .await
                .expect("remove the sandbox");
        }
        self.runtime.remove_cgroups().expect("remove the cgroups");
        let directory = self.directory.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let left: Vec<&str> = mounts.lines().filter(|l| l.contains(&directory)).collect();
        assert!(left.is_empty(), "mounts left: {left:#?}");
        assert_eq!(
            processes_naming(&directory),
            Vec::<String>::new(),
            "processes left"
        );
        let name = self.cgroup_root.trim_start_matches('/');
        for entry in std::fs::read_dir("/sys/fs/cgroup")
            .expect("cgroups")
            .flatten()
        {
            let path = entry.path().join(name);
            assert!(!path.exists(), "cgroup left: {}", path.display());
        }
        self.finished = true;
    }
}

/// A case that failed or hung did not `finish`: by its own names, take away what it
/// left, without a word about how it ought to have gone.
impl Drop for Stand {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let cgroup = trireme_container::Cgroup::new(self.cgroup_root.clone());
        cgroup.kill();
        let directory = self.directory.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
            if point.starts_with(&directory)
                && let Ok(point) = std::ffi::CString::new(point)
            {
                // SAFETY: plain system call with a string that outlives it.
                unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
            }
        }
        let _ = cgroup.remove();
    }
}

pub fn config(directory: &Path, cgroup_root: &str) -> RuntimeConfig {
    RuntimeConfig {
        state_dir: directory.join("state"),
        cgroup_root: cgroup_root.to_string(),
        shim_binary: std::env::current_exe().expect("own path"),
        shim_args: vec!["shim".to_string()],
    }
}

/// Command lines that mention `text`.
fn processes_naming(text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(format!("{name} {line}"));
        }
    }
    found
}

fn make_layer(layer: &Path) {
    let bin = layer.join("bin");
    std::fs::create_dir_all(&bin).expect("layer");
    for directory in ["etc", "tmp", "root", "srv"] {
        std::fs::create_dir_all(layer.join(directory)).expect("layer");
    }
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "echo", "cat", "sleep", "id", "ls", "hostname", "touch", "kill", "ps", "stty", "tty",
        "mount", "mknod", "dd", "true", "false", "head", "yes", "grep", "stat", "mkdir", "pwd",
        "tr", "env", "ip", "seq", "readlink", "wc", "printf", "ipcmk", "ipcs", "tail", "usleep",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("applet");
    }
    std::fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("layer");
    std::fs::write(layer.join("bin/data"), "no program").expect("layer");
    let script = layer.join("bin/broken");
    std::fs::write(&script, "#!/no/interpreter\n").expect("layer");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("layer");
}
