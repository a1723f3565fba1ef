//! What fails while a cluster works: its leader, a node's agent, a whole node.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, Kubectl, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LEADER_KILLS: usize = 10;
/// Writes go on after a killed leader within this, in the median.
const FAILOVER_MEDIAN: Duration = Duration::from_secs(1);
/// Pods of a lost node run elsewhere within this.
const NODE_LOSS: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);
const KUBECTL: &str = "1.37";

#[test]
fn nothing_is_lost_when_leaders_agents_and_nodes_are_killed() -> Result<()> {
    let mut cluster = Cluster::up(&["--servers", "3", "--nodes", "2"])?;
    let kubectl = cluster.kubectl(KUBECTL)?;
    agent_kill(&mut cluster, &kubectl).with_context(|| cluster.logs())?;
    leader_kills(&mut cluster, &kubectl).with_context(|| cluster.logs())?;
    node_loss(&cluster, &kubectl).with_context(|| cluster.logs())?;
    cluster.down()
}

/// Kill -9 the leader ten times under a stream of writes.
fn leader_kills(cluster: &mut Cluster, kubectl: &Kubectl) -> Result<()> {
    kubectl.ok(&["create", "namespace", "stream"])?;
    let watch = Watch::start(kubectl)?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (kubectl, stop) = (kubectl.clone(), stop.clone());
        move || write_until(&kubectl, &stop)
    });
    let mut outages = Vec::new();
    for round in 0..LEADER_KILLS {
        let leader = eventually("a leader is known", PATIENCE, || cluster.leader())?.0;
        let pid = cluster.pid_of(&leader)?;
        let killed = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        // A write of our own measures: sent at once, answered when the cluster is writable again.
        eventually("a write after the kill", PATIENCE, || {
            let name = format!("after-{round}");
            let output = kubectl.run(&[
                "-n",
                "stream",
                "create",
                "configmap",
                &name,
                "--request-timeout=2s",
            ])?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.success() || text.contains("AlreadyExists"),
                "{text}"
            );
            Ok(())
        })?;
        outages.push(killed.elapsed());
        cluster.start(&["--servers", "3", "--nodes", "2"])?;
    }
    stop.store(true, Ordering::SeqCst);
    let acknowledged = writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    outages.sort();
    let median = outages[outages.len() / 2];
    println!(
        "leader killed {LEADER_KILLS} times: next acknowledged write after {outages:?}, median {median:?}; {} writes acknowledged",
        acknowledged.len()
    );
    ensure!(
        median <= FAILOVER_MEDIAN,
        "median {median:?} of {outages:?}"
    );

    let listed = kubectl.json(&["-n", "stream", "get", "configmaps"])?;
    let present: BTreeMap<&str, &Value> = listed["items"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|object| Some((object["metadata"]["name"].as_str()?, object)))
        .collect();
    for name in &acknowledged {
        ensure!(
            present.contains_key(&**name),
            "{name} was acknowledged and is lost"
        );
    }
    watch.finish(&acknowledged)
}

/// Creates ConfigMaps one after the other; answers the names that were acknowledged.
fn write_until(kubectl: &Kubectl, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("write-{number}");
        let created = kubectl.run(&[
            "-n",
            "stream",
            "create",
            "configmap",
            &name,
            "--request-timeout=5s",
        ]);
        if created.is_ok_and(|output| output.status.success()) {
            acknowledged.push(name);
        }
    }
    acknowledged
}

/// The Python client watches through all of it and resumes; no name may come twice or be missing.
struct Watch {
    child: std::process::Child,
    seen: Arc<Mutex<Vec<String>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start(kubectl: &Kubectl) -> Result<Self> {
        let script = include_str!("watch.py");
        let python = e2e::kubectl::peers().join("python/bin/python");
        let mut child = std::process::Command::new(python)
            .args(["-c", script])
            .env("KUBECONFIG", kubectl.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the Python client (scripts/peers.sh fetches it)")?;
        let stdout = child.stdout.take().context("piped")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let seen = seen.clone();
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Ok(mut names) = seen.lock() {
                        names.push(line);
                    }
                }
            }
        });
        let watch = Self {
            child,
            seen,
            reader,
        };
        eventually("the watch has begun", PATIENCE, || {
            let names = watch
                .seen
                .lock()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
            ensure!(!names.is_empty(), "not yet");
            Ok(())
        })?;
        Ok(watch)
    }

    fn finish(mut self, acknowledged: &[String]) -> Result<()> {
        let last = acknowledged.last().context("nothing was acknowledged")?;
        let seen = self.seen.clone();
        let waited = eventually("the watch has seen the last write", PATIENCE, || {
            let names = seen
                .lock()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
            ensure!(names.contains(last), "{} names, not {last}", names.len());
            Ok(())
        });
        self.child.kill()?;
        self.child.wait()?;
        self.reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        waited?;
        let names = self
            .seen
            .lock()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names.iter().filter(|name| name.starts_with("write-")) {
            *counts.entry(name).or_default() += 1;
        }
        for (name, count) in &counts {
            ensure!(*count == 1, "the watch delivered {name} {count} times");
        }
        for name in acknowledged {
            ensure!(
                counts.contains_key(&**name),
                "the watch never delivered {name}"
            );
        }
        println!("watch through all kills: {} names, each once", names.len());
        Ok(())
    }
}

/// Kill -9 an agent: its containers serve on; restarted, it adopts them and no count moves.
fn agent_kill(cluster: &mut Cluster, kubectl: &Kubectl) -> Result<()> {
    let before = pods_of(kubectl, "app=hello")?;
    ensure!(before.len() == 2, "the sample runs twice: {before:?}");
    let pid = cluster.pid_of("node-1")?;
    let address = cluster.machine("node-1")?["address"]
        .as_str()
        .context("an address")?
        .to_owned();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    for _ in 0..20 {
        ensure!(
            answers(&address, 30080)?.contains("hello from"),
            "the node port serves without the agent"
        );
    }
    cluster.start(&["--servers", "3", "--nodes", "2"])?;
    let after = pods_of(kubectl, "app=hello")?;
    ensure!(
        before == after,
        "names, uids, container ids and restart counts before and after: {before:?} {after:?}"
    );
    // Exec works again, which needs the agent to know its containers.
    for pod in after.keys() {
        let logs = kubectl.ok(&["logs", pod, "--tail=1"])?;
        ensure!(!logs.is_empty(), "logs of {pod}");
    }
    Ok(())
}

/// A whole node goes: every process in its namespace and the namespace.
fn node_loss(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let machine = cluster.machine("node-2")?;
    let namespace = machine["namespace"]
        .as_str()
        .context("a namespace")?
        .to_owned();
    let pids = std::process::Command::new("ip")
        .args(["netns", "pids"])
        .arg(namespace.rsplit('/').next().context("a name")?)
        .output()?;
    let link = machine["link"].as_str().context("a link")?;
    trireme_network::topology::delete_link(link)?;
    for pid in String::from_utf8_lossy(&pids.stdout).lines() {
        // It may have ended since it was listed.
        let _ = kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL);
    }
    let lost = Instant::now();
    let (_, took) = eventually("pods run elsewhere", NODE_LOSS, || {
        let pods = kubectl.json(&["get", "pods", "-l", "app=hello"])?;
        let running = pods["items"]
            .as_array()
            .context("a list")?
            .iter()
            .filter(|pod| {
                pod["spec"]["nodeName"] == "node-1"
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && ready(pod)
            })
            .count();
        ensure!(running == 2, "{running} of 2 run on node-1");
        Ok(())
    })?;
    println!("node lost: its pods were replaced after {took:?}");
    ensure!(
        lost.elapsed() <= NODE_LOSS + Duration::from_secs(1),
        "in time"
    );
    let node = kubectl.json(&["get", "node", "node-2"])?;
    let taints = node["spec"]["taints"].to_string();
    ensure!(
        taints.contains("node.kubernetes.io/unreachable"),
        "tainted: {taints}"
    );
    Ok(())
}

fn ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
}

/// By name: uid, container ids and restart counts.
fn pods_of(kubectl: &Kubectl, selector: &str) -> Result<BTreeMap<String, String>> {
    let pods = kubectl.json(&["get", "pods", "-l", selector])?;
    pods["items"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|pod| {
            let name = pod["metadata"]["name"]
                .as_str()
                .context("a name")?
                .to_owned();
            let containers: Vec<String> = pod["status"]["containerStatuses"]
                .as_array()
                .context("container statuses")?
                .iter()
                .map(|status| {
                    format!(
                        "{} restarts {}",
                        status["containerID"], status["restartCount"]
                    )
                })
                .collect();
            Ok((name, format!("{} {containers:?}", pod["metadata"]["uid"])))
        })
        .collect()
}

fn answers(address: &str, port: u16) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
