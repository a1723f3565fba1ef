//! A node of its own: namespaces, directory, certificates, a stand-in API, and the agent as a
//! process that can be killed.

use crate::api::Api;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use trireme_container::{Runtime, RuntimeConfig};
use trireme_model::kinds;
use trireme_node::{AgentConfig, BuiltinImage};

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const NODE: &str = "node-1";

pub struct Stand {
    pub api: Api,
    pub directory: tempfile::TempDir,
    pub client: reqwestless::Client,
    agent: Option<Child>,
    serving: tokio::task::JoinHandle<()>,
}

fn issue(issuer: &CertifiedIssuer<'_, KeyPair>, name: &str, group: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, group);
    params.subject_alt_names = vec![
        SanType::IpAddress(NODE_IP.into()),
        SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
    ];
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A tar archive with busybox under the names that the cases use.
fn layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is needed");
    let mut archive = Vec::new();
    let mut add = |name: &str, kind: u8, mode: u32, link: &str, content: &[u8]| {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        header[263..265].copy_from_slice(b"00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().div_ceil(512) * 512, 0);
    };
    for name in ["bin/", "etc/", "proc/", "sys/", "dev/"] {
        add(name, b'5', 0o755, "", b"");
    }
    add("tmp/", b'5', 0o1777, "", b"");
    add(
        "etc/passwd",
        b'0',
        0o644,
        "",
        b"root:x:0:0:root:/root:/bin/sh\n",
    );
    add("etc/group", b'0', 0o644, "", b"root:x:0:\n");
    add("bin/busybox", b'0', 0o755, "", &busybox);
    for name in [
        "sh", "sleep", "cat", "echo", "httpd", "env", "hostname", "test", "true", "false",
        "nslookup",
    ] {
        add(&format!("bin/{name}"), b'2', 0o777, "busybox", b"");
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// The agent, in a process of its own.
pub fn agent(directory: &Path) {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    let mut config = AgentConfig::new(NODE, directory.join("data"), NODE_IP.into());
    config.servers = vec![read("server")];
    config.ca_pem = read("ca.pem");
    config.client_cert_pem = read("node.pem");
    config.client_key_pem = read("node.key");
    config.serving_cert_pem = read("node.pem");
    config.serving_key_pem = read("node.key");
    config.cgroup_root = read("cgroup");
    config.builtin_images = vec![BuiltinImage {
        reference: "trireme.local/busybox:latest".to_owned(),
        config: br#"{"config":{"Env":["PATH=/bin"],"Cmd":["sleep","1000"]}}"#.to_vec(),
        layer: layer(),
    }];
    config.shim_binary = std::env::current_exe().unwrap();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(trireme_node::run(config, CancellationToken::new()))
        .unwrap();
}

impl Stand {
    pub async fn new() -> Stand {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test-ca");
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let ca_pem = issuer.pem();
        let (node, node_key) = issue(&issuer, &format!("system:node:{NODE}"), "system:nodes");
        let (admin, admin_key) = issue(&issuer, "admin", "system:masters");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("ca.pem", &ca_pem);
        write("node.pem", &node);
        write("node.key", &node_key);
        write("server", &server);
        write(
            "cgroup",
            &format!("/trireme-test-agent-{}", std::process::id()),
        );
        let tls = reqwestless::server_config(&node, &node_key);
        let api = Api::new();
        let serving = tokio::spawn(api.clone().serve(listener, tls));
        api.put(
            kinds::NODE,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
                   "spec": {"podCIDR": "10.42.5.0/24"}}),
        );
        api.put(
            kinds::SERVICE,
            json!({"apiVersion": "v1", "kind": "Service",
                   "metadata": {"name": "kubernetes", "namespace": "default"},
                   "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}}),
        );
        let client = reqwestless::Client::new(&ca_pem, &admin, &admin_key);
        let mut stand = Stand {
            api,
            directory,
            client,
            agent: None,
            serving,
        };
        stand.start();
        stand
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("agent.log"))
            .unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("agent")
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.agent.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Creates a pod bound to this node.
    pub fn pod(&self, name: &str, spec: Value) -> Value {
        let mut spec = spec;
        spec["nodeName"] = NODE.into();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container.get("image").is_none() {
                    container["image"] = "trireme.local/busybox:latest".into();
                }
                container["imagePullPolicy"] = "IfNotPresent".into();
            }
        }
        self.api.put(
            kinds::POD,
            json!({"apiVersion": "v1", "kind": "Pod",
                   "metadata": {"name": name, "namespace": "default", "generation": 1, "labels": {"app": name}},
                   "spec": spec}),
        )
    }

    pub async fn wait(&self, what: &str, name: &str, done: impl Fn(&Value) -> bool) -> Value {
        self.api
            .wait(what, kinds::POD, "default", name, |pod| {
                pod.is_some_and(&done)
            })
            .await
    }

    pub async fn running(&self, name: &str) -> Value {
        self.wait("running and ready", name, |pod| {
            condition(pod, "Ready") == "True"
        })
        .await
    }

    /// Deletes a pod and waits until its object is gone.
    pub async fn delete(&self, name: &str) {
        self.api.delete(kinds::POD, "default", name, 1);
        self.api
            .wait("deleted", kinds::POD, "default", name, |pod| pod.is_none())
            .await;
    }

    pub async fn logs(&self, name: &str, container: &str, query: &str) -> String {
        let path = format!("/containerLogs/default/{name}/{container}?{query}");
        self.client.get(NODE_IP, &path).await
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends everything and proves that nothing is left of it.
    pub async fn finish(mut self) {
        for pod in self.api.list(kinds::POD) {
            self.delete(trireme_model::meta::name(&pod)).await;
        }
        self.wait_for_empty_pods().await;
        self.kill();
        self.serving.abort();
        let cgroup = std::fs::read_to_string(self.directory.path().join("cgroup")).unwrap();
        let runtime = Runtime::open(RuntimeConfig {
            state_dir: self.data().join("runtime"),
            cgroup_root: cgroup,
            shim_binary: std::env::current_exe().unwrap(),
            shim_args: vec!["shim".to_owned()],
        })
        .await
        .unwrap();
        assert_eq!(runtime.list().unwrap(), [], "containers left");
        assert_eq!(runtime.sandboxes().unwrap(), [], "sandboxes left");
        runtime.remove_cgroups().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data().display().to_string();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&data)).collect();
        assert!(left.is_empty(), "mounts left: {left:#?}");
    }

    async fn wait_for_empty_pods(&self) {
        let pods = self.data().join("pods");
        let gone = async {
            while std::fs::read_dir(&pods).unwrap().next().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .expect("pod directories are left");
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("agent.log"))
                .unwrap_or_default();
            let lines: Vec<&str> = log
                .lines()
                .filter(|l| !l.contains("h2::") && !l.contains("hyper"))
                .collect();
            eprintln!(
                "agent log:\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        self.kill();
    }
}

pub fn condition<'a>(pod: &'a Value, name: &str) -> &'a str {
    let all = pod["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == name);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"];
    lists
        .iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
        .find(|c| c["name"] == name)
        .unwrap_or(&Value::Null)
}

/// An HTTPS client of twenty lines.
pub mod reqwestless {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    pub fn server_config(certificate: &str, key: &str) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    pub struct Client(tokio_rustls::TlsConnector);

    impl Client {
        pub fn new(ca: &str, certificate: &str, key: &str) -> Client {
            let mut config = trireme_client::client_config(ca, Some((certificate, key))).unwrap();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Client(tokio_rustls::TlsConnector::from(Arc::new(config)))
        }

        pub async fn get(&self, ip: Ipv4Addr, path: &str) -> String {
            let stream = tokio::net::TcpStream::connect((ip, 10250)).await.unwrap();
            let name = ServerName::from(std::net::IpAddr::from(ip));
            let stream = self.0.connect(name, stream).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = http::Request::builder()
                .uri(path)
                .header("host", "node")
                .body(Empty::<Bytes>::new())
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8_lossy(&body).into_owned()
        }
    }
}
