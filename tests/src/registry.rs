//! A real registry (Debian's docker-registry) in a network namespace of its own, and images for it.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use trireme_network::{Cidr, topology};

use crate::wait::eventually;

const PORT: u16 = 5000;

pub struct Registry {
    process: Child,
    namespace: PathBuf,
    bridge: String,
    pub address: Ipv4Addr,
    scratch: tempfile::TempDir,
}

impl Registry {
    /// Starts one over plain HTTP at 10.88.`number`.2, or with basic authentication when a user and
    /// password are given.
    pub fn start(number: u8, user: Option<(&str, &str)>) -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("trireme-registry-")
            .tempdir_in("/var/tmp")?;
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 0.0.0.0:{PORT}\n",
            scratch.path().join("storage").display()
        );
        if let Some((name, password)) = user {
            let file = scratch.path().join("htpasswd");
            std::fs::write(&file, htpasswd(name, password)?)?;
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: trireme-test\n    path: {}\n",
                file.display()
            ));
        }
        let config_path = scratch.path().join("config.yml");
        std::fs::write(&config_path, config)?;
        let bridge = format!("trmreg{number}");
        let namespace = PathBuf::from(format!("/run/netns/trireme-registry-{number}"));
        let address = Ipv4Addr::new(10, 88, number, 2);
        let gateway = Ipv4Addr::new(10, 88, number, 1);
        // A run that was killed may have left them.
        topology::delete_link(&bridge)?;
        topology::delete_namespace(&namespace)?;
        topology::create_bridge(&bridge, cidr(gateway)?)?;
        topology::create_namespace(&namespace)?;
        topology::connect(
            &bridge,
            &namespace,
            &format!("{bridge}v"),
            "eth0",
            cidr(address)?,
            Some(gateway),
        )?;
        let log = std::fs::File::create(scratch.path().join("log"))?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = trireme_network::spawn_in_netns(&mut command, &namespace)?;
        let registry = Self {
            process,
            namespace,
            bridge,
            address,
            scratch,
        };
        eventually("the registry answers", Duration::from_secs(20), || {
            std::net::TcpStream::connect_timeout(
                &(address, PORT).into(),
                Duration::from_millis(500),
            )
            .context("connecting")
        })?;
        Ok(registry)
    }

    /// `host:port` as images name it.
    pub fn host(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    /// Writes a file that lives as long as the registry.
    pub fn scratch_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Makes an image of busybox with one file that tells its version, and pushes it.
    pub fn push_busybox(
        &self,
        repository: &str,
        tag: &str,
        user: Option<(&str, &str)>,
    ) -> Result<String> {
        let layout = self.scratch.path().join(format!("{repository}-{tag}"));
        let root = self.scratch.path().join(format!("{repository}-{tag}-root"));
        std::fs::create_dir_all(root.join("bin"))?;
        std::fs::create_dir_all(root.join("tmp"))?;
        std::fs::create_dir_all(root.join("etc"))?;
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        std::fs::set_permissions(
            root.join("bin/busybox"),
            std::fs::Permissions::from_mode(0o755),
        )?;
        for applet in [
            "sh", "sleep", "cat", "echo", "httpd", "wget", "nslookup", "env", "ls", "id", "nc",
            "stty", "true", "false", "hostname", "kill", "dd", "head", "cut",
        ] {
            let link = root.join("bin").join(applet);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link)?;
            }
        }
        // A static program cannot use glibc's resolver (it crashes); getent can, and is small.
        for file in [
            "/usr/bin/getent",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ] {
            let target = root.join(file.trim_start_matches('/'));
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(file, &target).with_context(|| format!("copying {file}"))?;
        }
        std::fs::write(root.join("etc/version"), format!("{tag}\n"))?;
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
        let image = format!("{}:{tag}", layout.display());
        run("umoci", &["init", "--layout", path(&layout)?])?;
        run("umoci", &["new", "--image", &image])?;
        run("umoci", &["insert", "--image", &image, path(&root)?, "/"])?;
        run(
            "umoci",
            &[
                "config",
                "--image",
                &image,
                "--config.cmd",
                "/bin/sh",
                "--config.env",
                "PATH=/bin:/usr/bin",
                "--config.env",
                &format!("VERSION={tag}"),
            ],
        )?;
        let target = format!("docker://{}/{repository}:{tag}", self.host());
        let source = format!("oci:{image}");
        let mut arguments = vec!["copy", "--insecure-policy", "--dest-tls-verify=false"];
        let credentials = user.map(|(name, password)| format!("{name}:{password}"));
        if let Some(credentials) = &credentials {
            arguments.extend(["--dest-creds", credentials]);
        }
        arguments.extend([source.as_str(), target.as_str()]);
        run("skopeo", &arguments)?;
        Ok(format!("{}/{repository}:{tag}", self.host()))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Ended already, or ended here.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = topology::delete_namespace(&self.namespace);
        let _ = topology::delete_link(&self.bridge);
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program} (scripts/setup.sh test installs it)"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A bcrypt entry, which is the only kind that the registry takes.
fn htpasswd(user: &str, password: &str) -> Result<String> {
    let output = Command::new("htpasswd")
        .args(["-nbB", user, password])
        .output()
        .context("running htpasswd (apache2-utils; scripts/setup.sh test installs it)")?;
    ensure!(output.status.success(), "htpasswd failed");
    Ok(String::from_utf8(output.stdout)?)
}

fn cidr(address: Ipv4Addr) -> Result<Cidr> {
    Cidr::new(address, 24).context("24 is a prefix length")
}
