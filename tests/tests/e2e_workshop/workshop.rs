//! The cluster with the two services, and how its parts are called.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::http::{self, Response};
use e2e::{Cluster, Kubectl, eventually};
use serde_json::Value;

/// How long anything may take to come into force.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long pods may take to come and go.
const PODS_PATIENCE: Duration = Duration::from_secs(90);
/// Requests under way at once where only their number matters.
const WORKERS: usize = 4;
/// The gateway's virtual host.
pub const HOST: &str = "hello.example.com";
const KUBECTL: &str = "1.37";

pub struct Pod {
    pub name: String,
    pub uid: String,
    pub ip: IpAddr,
    pub node: String,
}

pub struct Workshop {
    pub cluster: Cluster,
    pub kubectl: Kubectl,
    /// A node's network namespace: from there pods have their own addresses.
    node: PathBuf,
    gateway: SocketAddr,
    service_a: Option<SocketAddr>,
}

impl Workshop {
    pub fn open(cluster: Cluster) -> Result<Self> {
        let kubectl = cluster.kubectl(KUBECTL)?;
        let node = cluster.machine("node-1")?;
        let node = node["namespace"].as_str().context("the node's namespace")?;
        let service = [
            "-n",
            "istio-system",
            "get",
            "service",
            "istio-ingressgateway",
        ];
        let service = kubectl.json(&service)?;
        let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        let address = address
            .as_str()
            .with_context(|| format!("the gateway's address: {}", service["status"]))?;
        ensure!(
            cluster.up_printed.contains(&format!("http://{address}/")),
            "trireme up says where the gateway is: {}",
            cluster.up_printed
        );
        Ok(Workshop {
            gateway: SocketAddr::new(address.parse()?, 80),
            node: node.into(),
            service_a: None,
            kubectl,
            cluster,
        })
    }

    /// Turns on injection, access logs, and starts the services.
    pub fn prepare(&mut self) -> Result<()> {
        let label = ["label", "namespace", "default", "istio-injection=enabled"];
        self.kubectl.ok(&label)?;
        self.apply("allow-any")?;
        self.apply("services")?;
        for name in [
            "service-a",
            "deployment-v1",
            "deployment-v2",
            "deployment-v3",
        ] {
            self.rolled_out("default", name)?;
        }
        let pods = self.pods("default", "app=service-a")?;
        let pod = pods.first().context("a pod of service-a")?;
        self.service_a = Some(SocketAddr::new(pod.ip, 8080));
        Ok(())
    }

    /// Applies one of the workshop's manifests; answers what kubectl said on both outputs.
    pub fn apply(&self, name: &str) -> Result<String> {
        let path = manifest(name);
        let path = path.to_str().context("a path that is text")?;
        let output = self.kubectl.run(&["apply", "-f", path])?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(output.status.success(), "kubectl apply of {name}: {text}");
        Ok(text)
    }

    /// Back to three versions that are all alike, with the slides' subsets.
    pub fn reset(&self) -> Result<()> {
        let delete = [
            "delete",
            "virtualservice",
            "service-b",
            "--ignore-not-found",
        ];
        self.kubectl.ok(&delete)?;
        self.apply("destination-rule")?;
        Ok(())
    }

    pub fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<()> {
        let get = ["-n", namespace, "get", "deployment", deployment];
        eventually(&format!("{deployment} is available"), PODS_PATIENCE, || {
            let object = self.kubectl.json(&get)?;
            let (spec, status) = (&object["spec"], &object["status"]);
            let number = |value: &Value| value.as_u64().unwrap_or(0);
            let wanted = number(&spec["replicas"]);
            ensure!(
                status["observedGeneration"] == object["metadata"]["generation"]
                    && number(&status["availableReplicas"]) == wanted
                    && number(&status["replicas"]) == wanted,
                "{status}{}",
                self.describe(namespace)
            );
            Ok(())
        })?;
        Ok(())
    }

    fn describe(&self, namespace: &str) -> String {
        let get = ["-n", namespace, "get", "pods,events"];
        self.kubectl.ok(&get).unwrap_or_default()
    }

    pub fn scale(&self, deployment: &str, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.kubectl
            .ok(&["scale", "deployment", deployment, &replicas])?;
        self.rolled_out("default", deployment)
    }

    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self
            .kubectl
            .json(&["-n", namespace, "get", "pods", "-l", selector])?;
        let mut pods = Vec::new();
        for item in list["items"].as_array().context("a list")? {
            if item["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            pods.push(Pod {
                name: text(&item["metadata"]["name"]),
                uid: text(&item["metadata"]["uid"]),
                ip: text(&item["status"]["podIP"])
                    .parse()
                    .context("a pod's address")?,
                node: text(&item["spec"]["nodeName"]),
            });
        }
        Ok(pods)
    }

    pub fn pod(&self, selector: &str) -> Result<Pod> {
        let mut pods = self.pods("default", selector)?;
        ensure!(pods.len() == 1, "{} pods of {selector}", pods.len());
        Ok(pods.remove(0))
    }

    /// From outside, through the ingress gateway.
    pub fn enter(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        http::get(self.gateway, host, path, headers)
    }

    /// From a node to a pod's port, in no mesh.
    pub fn direct(
        &self,
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response> {
        let host = address.to_string();
        trireme_network::run_in(&self.node, || http::get(address, &host, path, headers))?
    }

    /// Asks service-a's pod; at `/` it calls service-b, at `/call/HOST/PATH` whom it is told.
    pub fn a(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let address = self.service_a.context("service-a runs")?;
        self.direct(address, path, headers)
    }

    /// The version of service-b that answers service-a.
    pub fn version(&self, headers: &[(&str, &str)]) -> Result<String> {
        let response = self.a("/", headers)?;
        ensure!(response.status == 200, "{response:?}");
        version_in(&response.body)
    }

    /// How often each version answers.
    pub fn versions(&self, requests: usize) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for version in self.many(requests, || self.version(&[]))? {
            *counts.entry(version).or_insert(0) += 1;
        }
        Ok(counts)
    }

    /// Calls `call` so many times, a few at once.
    pub fn many<T: Send>(
        &self,
        times: usize,
        call: impl Fn() -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.at_once(WORKERS, times.div_ceil(WORKERS), call)
    }

    /// Calls `call` in `workers` threads, each `times` times.
    pub fn at_once<T: Send>(
        &self,
        workers: usize,
        times: usize,
        call: impl Fn() -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let call = &call;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| {
                    scope.spawn(move || (0..times).map(|_| call()).collect::<Result<Vec<T>>>())
                })
                .collect();
            let mut all = Vec::new();
            for thread in threads {
                match thread.join() {
                    Ok(results) => all.extend(results?),
                    Err(_) => bail!("a caller panicked"),
                }
            }
            Ok(all)
        })
    }

    pub fn log(&self, pod: &Pod, container: &str) -> Result<String> {
        self.kubectl.ok(&["logs", &pod.name, "-c", container])
    }

    /// An access log line of the pod's proxy that has all the words.
    pub fn logged(&self, pod: &Pod, words: &[&str]) -> Result<String> {
        let what = format!("{}'s proxy logs {words:?}", pod.name);
        let (line, _) = eventually(&what, PATIENCE, || {
            let log = self.log(pod, "istio-proxy")?;
            let mut lines = log.lines();
            let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned).with_context(|| {
                let all: Vec<&str> = log.lines().collect();
                format!("its end: {}", all[all.len().saturating_sub(5)..].join("\n"))
            })
        })?;
        Ok(line)
    }

    pub fn metrics(&self, pod: &Pod) -> Result<String> {
        let address = SocketAddr::new(pod.ip, 15090);
        Ok(self.direct(address, "/stats/prometheus", &[])?.body)
    }

    /// Runs the product's own command on this cluster.
    pub fn trireme(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(e2e::cluster::trireme()?)
            .args(words)
            .arg("--data")
            .arg(self.cluster.data())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "trireme {}: {text}{}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("workshop")
        .join(format!("{name}.yaml"))
}

/// The version that the last greeting in a body tells.
pub fn version_in(body: &str) -> Result<String> {
    let (_, version) = body
        .trim()
        .rsplit_once("version ")
        .with_context(|| format!("no version in {body:?}"))?;
    Ok(version.to_owned())
}

/// Pearson's chi-squared of counts against expected shares.
pub fn chi_squared(counts: &[(usize, f64)]) -> f64 {
    let total: usize = counts.iter().map(|(count, _)| count).sum();
    counts
        .iter()
        .map(|(count, share)| {
            let expected = share * total as f64;
            (*count as f64 - expected).powi(2) / expected
        })
        .sum()
}

/// With one degree of freedom, what a fair draw exceeds once in 10,000 times.
pub const CHI_SQUARED_BOUND: f64 = 15.14;
