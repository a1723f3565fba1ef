//! Members of the mesh that are not ours: a stock Envoy and proxyless gRPC get their configuration
//! from real servers and route by a VirtualService to real upstreams.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::peers;
use e2e::{Cluster, Kubectl, eventually, http};
use serde_json::Value;

/// Pods on a loaded machine, and Envoy's start.
const PATIENCE: Duration = Duration::from_secs(90);
const NAMESPACE: &str = "members";
/// Where the gateway that Envoy is listens, inside the node's namespace.
const GATEWAY_PORT: u16 = 18080;
const ADMIN_PORT: u16 = 15900;
/// The gRPC upstreams' ports there, of version v1 and v2.
const GRPC_PORTS: [u16; 2] = [19001, 19002];
/// Requests that a split is measured over. At 75 % the standard deviation is 2.2 %.
const DRAWS: u32 = 400;
/// Five standard deviations.
const TOLERANCE: f64 = 0.11;

const SERVICES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: members}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: members}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

const ROUTING: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gate, namespace: members}
spec:
  selector: {istio: members-gate}
  servers:
  - port: {number: 18080, name: http, protocol: HTTP}
    hosts: [web.example]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: members}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo, namespace: members}
spec:
  hosts: [echo.members.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: grpc, protocol: GRPC}]
  endpoints:
  - {address: ADDRESS, ports: {grpc: 19001}, labels: {version: v1}}
  - {address: ADDRESS, ports: {grpc: 19002}, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: members}
spec:
  host: echo.members.svc.cluster.local
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

/// Most go to v1; one user, and whatever `to_v2` says, to v2.
fn virtual_service(name: &str, hosts: &str, to: &str, gateways: &str, to_v2: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: members}}
spec:
  hosts: [{hosts}]
  gateways: [{gateways}]
  http:
  - match: [{{headers: {{end-user: {{exact: jason}}}}}}]
    route: [{{destination: {{host: {to}, subset: v2}}}}]
  - route:
    - {{destination: {{host: {to}, subset: v1}}, weight: {}}}
    - {{destination: {{host: {to}, subset: v2}}, weight: {to_v2}}}
",
        100 - to_v2
    )
}

fn deployment(version: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{version}, namespace: members}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web, version: {version}}}}}
  template:
    metadata: {{labels: {{app: web, version: {version}}}}}
    spec:
      containers:
      - name: hello
        image: trireme.local/hello
        imagePullPolicy: IfNotPresent
        env: [{{name: VERSION, value: {version}}}]
        ports: [{{containerPort: 8080}}]
"
    )
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Members {
    cluster: Cluster,
    kubectl: Kubectl,
    node: PathBuf,
    address: Ipv4Addr,
    token: PathBuf,
}

#[test]
fn a_stock_envoy_and_a_grpc_program_are_members() -> Result<()> {
    let mut members = Members::up()?;
    let result = members
        .envoy("delta", "server-1")
        .and_then(|()| members.envoy("state-of-the-world", ""))
        .and_then(|()| members.grpc())
        .with_context(|| members.cluster.logs());
    result?;
    members.cluster.down()
}

impl Members {
    fn up() -> Result<Self> {
        let cluster = Cluster::up(&["--servers", "3", "--nodes", "1"])?;
        let kubectl = cluster.kubectl("1.37")?;
        let node = cluster.machine("node-1")?;
        let text = |field: &str| node[field].as_str().map(str::to_owned).context("a machine");
        let address: Ipv4Addr = text("address")?.parse()?;
        let mut manifest = SERVICES.to_owned();
        for version in ["v1", "v2"] {
            manifest.push_str("---");
            manifest.push_str(&deployment(version));
        }
        kubectl.apply(&manifest)?;
        kubectl.apply(&ROUTING.replace("ADDRESS", &address.to_string()))?;
        kubectl.apply(&virtual_service("web", "web.example", "web", "gate", 25))?;
        let echo = "echo.members.svc.cluster.local";
        kubectl.apply(&virtual_service("echo", echo, echo, "mesh", 25))?;
        let token = cluster.scratch().join("token");
        let (made, _) = eventually("a token", PATIENCE, || {
            kubectl.ok(&[
                "-n",
                NAMESPACE,
                "create",
                "token",
                "default",
                "--duration=1h",
            ])
        })?;
        std::fs::write(&token, made.trim())?;
        Ok(Self {
            node: PathBuf::from(text("namespace")?),
            cluster,
            kubectl,
            address,
            token,
        })
    }

    fn trireme(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(e2e::cluster::trireme()?)
            .args(arguments)
            .arg("--data")
            .arg(self.cluster.data())
            .output()?;
        ensure!(
            output.status.success(),
            "trireme {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a program in the node's network, where pods can be reached.
    fn spawn(&self, program: &Path, arguments: &[&str], log: &str) -> Result<Running> {
        let log = std::fs::File::create(self.cluster.scratch().join(log))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = trireme_network::spawn_in_netns(&mut command, &self.node)?;
        Ok(Running(child))
    }

    /// States of a workload by kind, once it is connected.
    fn states(&self, workload: &str) -> Result<(String, BTreeMap<String, String>)> {
        let status: Value =
            serde_json::from_str(&self.trireme(&["mesh", "status", "-o", "json"])?)?;
        let all = status["workloads"].as_array().context("workloads")?;
        let found = all.iter().find(|one| one["name"] == workload);
        let found = found.with_context(|| format!("{workload} is not connected: {status}"))?;
        let kinds = found["kinds"].as_array().context("kinds")?.iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let states = kinds.map(|kind| (text(&kind["service"]), text(&kind["state"])));
        Ok((text(&found["server"]), states.collect()))
    }

    /// An Envoy as gateway. `lost` is a server that is killed on the way.
    fn envoy(&mut self, protocol: &str, lost: &str) -> Result<()> {
        let token = self.token.display().to_string();
        let admin = ADMIN_PORT.to_string();
        let bootstrap = self.trireme(&[
            "mesh",
            "bootstrap",
            "--envoy",
            "--namespace",
            NAMESPACE,
            "--workload",
            "gate",
            "--label",
            "istio=members-gate",
            "--router",
            "--address",
            &self.address.to_string(),
            "--token-file",
            &token,
            "--admin-port",
            &admin,
            "--protocol",
            protocol,
        ])?;
        let file = self.cluster.scratch().join("envoy.yaml");
        std::fs::write(&file, bootstrap)?;
        let program = peers().join("envoy/bin/envoy");
        ensure!(
            program.exists(),
            "scripts/peers.sh fetches {}",
            program.display()
        );
        let file = file.display().to_string();
        let arguments = ["-c", &file, "--concurrency", "1", "--use-dynamic-base-id"];
        let _envoy = self.spawn(&program, &arguments, &format!("envoy-{protocol}.log"))?;
        let log = || {
            let path = self.cluster.scratch().join(format!("envoy-{protocol}.log"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        let (_, took) = eventually("Envoy serves", PATIENCE, || self.who(&[])).with_context(log)?;
        println!(
            "envoy, {protocol}: serving after {:.2} s",
            took.as_secs_f64()
        );
        self.splits(0.25).with_context(log)?;
        let (server, states) = self.all_synced("gate.members")?;
        println!("envoy, {protocol}: connected to {server}: {states:?}");
        for kind in ["CDS", "EDS", "LDS", "RDS"] {
            ensure!(states.contains_key(kind), "{kind} is not in {states:?}");
        }

        let changed = std::time::Instant::now();
        self.kubectl
            .apply(&virtual_service("web", "web.example", "web", "gate", 100))?;
        eventually("all go to v2", PATIENCE, || {
            ensure!(self.who(&[])? == "v2");
            Ok(())
        })?;
        println!(
            "envoy, {protocol}: another route after {:.2} s, kubectl and all",
            changed.elapsed().as_secs_f64()
        );
        for _ in 0..50 {
            ensure!(self.who(&[])? == "v2", "some still go to v1");
        }
        if !lost.is_empty() {
            self.survives_the_loss_of(&server)?;
        }
        self.kubectl
            .apply(&virtual_service("web", "web.example", "web", "gate", 25))?;
        eventually("v1 is back", PATIENCE, || {
            let mut some = (0..20).map(|_| self.who(&[])).collect::<Result<Vec<_>>>()?;
            some.sort();
            ensure!(some[0] == "v1");
            Ok(())
        })?;
        Ok(())
    }

    /// The server that Envoy is connected to is killed: requests go on, and another server tells the
    /// news.
    fn survives_the_loss_of(&self, server: &str) -> Result<()> {
        let pid = self.cluster.pid_of(server)?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        for _ in 0..50 {
            self.who(&[]).context("while its server is gone")?;
        }
        let (elsewhere, took) = eventually("Envoy connects to another server", PATIENCE, || {
            let (elsewhere, states) = self.all_synced("gate.members")?;
            ensure!(elsewhere != server, "still {server}: {states:?}");
            Ok(elsewhere)
        })?;
        println!(
            "envoy: {server} killed, connected to {elsewhere} after {:.1} s",
            took.as_secs_f64()
        );
        Ok(())
    }

    fn all_synced(&self, workload: &str) -> Result<(String, BTreeMap<String, String>)> {
        let (found, _) = eventually("it has acknowledged everything", PATIENCE, || {
            let (server, states) = self.states(workload)?;
            let synced = states
                .values()
                .all(|state| state == "SYNCED" || state == "NOT SENT");
            ensure!(synced, "{states:?}");
            Ok((server, states))
        })?;
        Ok(found)
    }

    /// Which version answers through Envoy.
    fn who(&self, headers: &[(&str, &str)]) -> Result<String> {
        let gateway = SocketAddr::from((self.address, GATEWAY_PORT));
        let answer = http::get(gateway, "web.example", "/", headers)?;
        ensure!(answer.status == 200, "{answer:?}");
        let found = ["v1", "v2"]
            .into_iter()
            .find(|version| answer.body.contains(version));
        Ok(found.with_context(|| format!("{answer:?}"))?.to_owned())
    }

    fn splits(&self, share: f64) -> Result<()> {
        for _ in 0..20 {
            let who = self.who(&[("end-user", "jason")])?;
            ensure!(who == "v2", "jason is answered by {who}");
        }
        let mut second = 0;
        for _ in 0..DRAWS {
            second += u32::from(self.who(&[])? == "v2");
        }
        within(second, share)
    }

    fn grpc(&self) -> Result<()> {
        let python = peers().join("grpc/bin/python");
        ensure!(
            python.exists(),
            "scripts/peers.sh fetches {}",
            python.display()
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc_member.py");
        let script = script.display().to_string();
        let mut upstreams = Vec::new();
        for (port, version) in GRPC_PORTS.into_iter().zip(["v1", "v2"]) {
            let port = port.to_string();
            let arguments = [&script, "serve", &port, version];
            upstreams.push(self.spawn(&python, &arguments, &format!("grpc-{version}.log"))?);
        }
        let ca = self.cluster.scratch().join("ca.crt");
        let kubeconfig = std::fs::read_to_string(self.kubectl.kubeconfig())?;
        let kubeconfig: Value = serde_yaml_ng::from_str(&kubeconfig)?;
        let encoded = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
        let encoded = encoded.context("a CA")?;
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded)?;
        std::fs::write(&ca, decoded)?;
        let bootstrap = self.trireme(&[
            "mesh",
            "bootstrap",
            "--grpc",
            "--namespace",
            NAMESPACE,
            "--workload",
            "caller",
            "--token-file",
            &self.token.display().to_string(),
            "--ca-file",
            &ca.display().to_string(),
        ])?;
        let file = self.cluster.scratch().join("grpc.json");
        std::fs::write(&file, bootstrap)?;
        let call = |count: u32, metadata: &[&str]| -> Result<BTreeMap<String, u32>> {
            let mut command = Command::new(&python);
            command
                .args([
                    &script,
                    "call",
                    "xds:///echo.members.svc.cluster.local:9000",
                ])
                .arg(count.to_string())
                .args(metadata)
                .env("GRPC_XDS_BOOTSTRAP", &file)
                .env("GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS", "true")
                .env("GRPC_VERBOSITY", "ERROR")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let child = trireme_network::spawn_in_netns(&mut command, &self.node)?;
            let output = child.wait_with_output()?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        let (_, took) = eventually("gRPC serves", PATIENCE, || call(1, &[]))?;
        println!("grpc: answered after {:.2} s", took.as_secs_f64());
        let jason = call(20, &["end-user=jason"])?;
        ensure!(
            jason == BTreeMap::from([("v2".to_owned(), 20)]),
            "jason: {jason:?}"
        );
        let all = call(DRAWS, &[])?;
        println!("grpc: {all:?} of {DRAWS}");
        within(all.get("v2").copied().unwrap_or(0), 0.25)
    }
}

fn within(second: u32, share: f64) -> Result<()> {
    let found = f64::from(second) / f64::from(DRAWS);
    ensure!(
        (found - share).abs() < TOLERANCE,
        "{second} of {DRAWS} go to v2 where {share} should"
    );
    Ok(())
}
