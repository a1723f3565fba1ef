//! A real registry (Debian's docker-registry) on a port of its own, and images
//! made by umoci.

#![allow(dead_code)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Of `user:s3cret`, for the registry's htpasswd file.
pub const PASSWORD_LINE: &str =
    "user:$2b$04$bdMrPfXRaiTMgOqDAkiUvONl80C9Eq6sbBkSjWziQiL8qUt4BOaj6\n";

pub struct Registry {
    pub address: String,
    process: Child,
    pub directory: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub fn plain() -> Self {
        Self::start(false)
    }

    /// TLS by an authority of its own (`ca.pem`), basic authentication.
    pub fn secured() -> Self {
        Self::start(true)
    }

    fn start(secured: bool) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let root = directory.path();
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let address = format!("127.0.0.1:{port}");
        let data = root.join("data").display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {data}}}}}\n\
             http:\n  addr: {address}\n"
        );
        if secured {
            make_certificates(root);
            std::fs::write(root.join("htpasswd"), PASSWORD_LINE).expect("htpasswd");
            config.push_str(&format!(
                "  tls: {{certificate: {0}/server.pem, key: {0}/server.key}}\n\
                 auth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}\n",
                root.display()
            ));
        }
        let file = root.join("config.yml");
        std::fs::write(&file, config).expect("config");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        while TcpStream::connect(&address).is_err() {
            std::thread::yield_now();
        }
        Registry {
            address,
            process,
            directory,
        }
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Pushes from an OCI layout.
    pub fn push(&self, layout: &Path, tag: &str, name: &str, extra: &[&str]) {
        run(Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args(extra)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address)));
    }
}

fn make_certificates(root: &Path) {
    let key = rcgen::KeyPair::generate().expect("key");
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&key).expect("authority");
    let issuer = rcgen::Issuer::new(parameters, key);
    let server_key = rcgen::KeyPair::generate().expect("key");
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()])
        .expect("parameters")
        .signed_by(&server_key, &issuer)
        .expect("certificate");
    std::fs::write(root.join("ca.pem"), authority.pem()).expect("write");
    std::fs::write(root.join("server.pem"), server.pem()).expect("write");
    std::fs::write(root.join("server.key"), server_key.serialize_pem()).expect("write");
}

/// An image of two layers: the second hides a file and empties a directory of
/// the first.
pub fn make_layout(root: &Path) -> PathBuf {
    let layout = root.join("layout");
    let image = format!("{}:v1", layout.display());
    let files = root.join("files");
    std::fs::create_dir_all(files.join("etc/conf.d")).expect("files");
    std::fs::create_dir_all(files.join("bin")).expect("files");
    std::fs::copy("/bin/busybox", files.join("bin/busybox")).expect("busybox");
    std::fs::write(files.join("etc/passwd"), "web:x:33:34::/srv:/bin/sh\n").expect("files");
    std::fs::write(files.join("etc/old"), "old").expect("files");
    std::fs::write(files.join("etc/conf.d/a"), "a").expect("files");
    let replacement = root.join("replacement");
    std::fs::create_dir_all(&replacement).expect("files");
    std::fs::write(replacement.join("b"), "b").expect("files");
    let umoci = |args: &[&str]| run(Command::new("umoci").args(args));
    umoci(&["init", "--layout", &layout.display().to_string()]);
    umoci(&["new", "--image", &image]);
    umoci(&[
        "insert",
        "--image",
        &image,
        &files.display().to_string(),
        "/",
    ]);
    umoci(&["insert", "--image", &image, "--whiteout", "/etc/old"]);
    umoci(&[
        "insert",
        "--image",
        &image,
        "--opaque",
        &replacement.display().to_string(),
        "/etc/conf.d",
    ]);
    umoci(&[
        "config",
        "--image",
        &image,
        "--config.entrypoint",
        "/bin/busybox",
        "--config.cmd",
        "sh",
        "--config.env",
        "A=1",
        "--config.user",
        "web",
        "--config.workingdir",
        "/srv",
        "--config.exposedports",
        "8080/tcp",
        "--config.stopsignal",
        "SIGQUIT",
        "--config.label",
        "who=test",
    ]);
    layout
}

pub fn run(command: &mut Command) {
    let output = command.output().expect("the tool is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
