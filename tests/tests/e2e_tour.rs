//! The first tour, with two stock kubectls seventeen releases apart, on one cluster.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::VERSIONS;
use e2e::{Cluster, Kubectl, eventually};

/// A rollout of a handful of small pods on a loaded machine.
const ROLLOUT: Duration = Duration::from_secs(90);

#[test]
fn a_stranger_takes_the_first_tour() -> Result<()> {
    let cluster = Cluster::up(&["--servers", "3", "--nodes", "2"])?;
    println!(
        "trireme up: {:.1} s\n{}",
        cluster.up_took.as_secs_f64(),
        cluster.up_printed
    );
    for version in VERSIONS {
        let kubectl = cluster.kubectl(version)?;
        let namespace = format!("tour-{}", version.replace('.', "-"));
        tour(&kubectl, &namespace)
            .with_context(|| format!("kubectl {version}{}", cluster.logs()))?;
    }
    cluster.down()
}

fn tour(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let nodes = kubectl.ok(&["get", "nodes"])?;
    ensure!(
        nodes.matches(" Ready ").count() == 2,
        "two nodes are Ready: {nodes}"
    );
    kubectl.ok(&["create", "namespace", namespace])?;
    let n = |arguments: &[&str]| -> Result<String> {
        let mut all = vec!["-n", namespace];
        all.extend(arguments);
        kubectl.ok(&all)
    };
    // Every namespace gets its account before pods are admitted into it.
    eventually("the default service account", ROLLOUT, || {
        n(&["get", "serviceaccount", "default"])
    })?;

    n(&["create", "deployment", "web", "--image=trireme.local/hello"])?;
    rolled_out(kubectl, namespace, "web")?;
    n(&[
        "expose",
        "deployment",
        "web",
        "--port=80",
        "--target-port=8080",
    ])?;
    n(&["scale", "deployment", "web", "--replicas=4"])?;
    rolled_out(kubectl, namespace, "web")?;
    let pods = n(&["get", "pods", "-o", "wide", "-l", "app=web"])?;
    ensure!(
        pods.matches("1/1").count() == 4,
        "four pods are ready: {pods}"
    );
    ensure!(
        pods.contains("node-1") && pods.contains("node-2"),
        "pods are spread over both nodes: {pods}"
    );

    // A rolling update, and back.
    n(&["set", "env", "deployment/web", "VERSION=v2"])?;
    rolled_out(kubectl, namespace, "web")?;
    serves(kubectl, namespace, "v2")?;
    n(&["rollout", "undo", "deployment/web"])?;
    rolled_out(kubectl, namespace, "web")?;
    serves(kubectl, namespace, "v1")?;
    n(&[
        "set",
        "image",
        "deployment/web",
        "hello=trireme.local/hello:latest",
    ])?;
    rolled_out(kubectl, namespace, "web")?;
    let described = n(&["describe", "deployment", "web"])?;
    for wanted in [
        "4 desired",
        "RollingUpdate",
        "NewReplicaSetAvailable",
        "ScalingReplicaSet",
    ] {
        ensure!(
            described.contains(wanted),
            "describe shows {wanted}: {described}"
        );
    }
    let pod = first_pod(kubectl, namespace)?;
    let described = n(&["describe", "pod", &pod])?;
    for wanted in [
        "Scheduled",
        "Pulled",
        "Started",
        "Ready",
        "True",
        "trireme.local/hello",
    ] {
        ensure!(
            described.contains(wanted),
            "describe shows {wanted}: {described}"
        );
    }

    logs_follow(kubectl, namespace, &pod)?;
    port_forward(kubectl, namespace)?;
    apply_directory(kubectl, namespace)?;

    n(&["delete", "deployment", "web"])?;
    n(&["delete", "service", "web"])?;
    eventually("the pods are gone", ROLLOUT, || {
        let pods = n(&["get", "pods", "-l", "app=web", "-o", "name"])?;
        ensure!(pods.is_empty(), "left: {pods}");
        Ok(())
    })?;
    n(&["delete", "namespace", namespace])?;
    Ok(())
}

fn rolled_out(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<()> {
    let deployment = format!("deployment/{name}");
    let limit = format!("--timeout={}s", ROLLOUT.as_secs());
    kubectl.ok(&["-n", namespace, "rollout", "status", &deployment, &limit])?;
    Ok(())
}

fn first_pod(kubectl: &Kubectl, namespace: &str) -> Result<String> {
    let pods = kubectl.json(&["-n", namespace, "get", "pods", "-l", "app=web"])?;
    pods["items"]
        .as_array()
        .context("a list")?
        .iter()
        .find(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .and_then(|pod| pod["metadata"]["name"].as_str())
        .map(str::to_owned)
        .context("a pod that stays")
}

/// The service comes to answer with this version; pods that end may still answer for a moment.
fn serves(kubectl: &Kubectl, namespace: &str, version: &str) -> Result<()> {
    eventually(&format!("{version} serves"), ROLLOUT, || {
        let text = forwarded(kubectl, namespace, "service/web", ":80", "/")?;
        ensure!(
            text.trim_end().ends_with(&format!("version {version}")),
            "{text}"
        );
        Ok(())
    })?;
    Ok(())
}

fn port_forward(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let text = forwarded(kubectl, namespace, "service/web", ":80", "/")?;
    ensure!(
        text.contains("hello from web-"),
        "port-forward serves: {text}"
    );
    Ok(())
}

/// One request through `kubectl port-forward` on a port of its choice.
fn forwarded(
    kubectl: &Kubectl,
    namespace: &str,
    target: &str,
    port: &str,
    path: &str,
) -> Result<String> {
    let mut child = kubectl
        .command(&["-n", namespace, "port-forward", target, port])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let result = (|| {
        // Held to the end: kubectl goes on writing, and a closed pipe would end it.
        let mut printed = BufReader::new(child.stdout.take().context("piped")?);
        let mut line = String::new();
        printed.read_line(&mut line)?;
        let port: u16 = line
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|port| port.parse().ok())
            .with_context(|| format!("port-forward printed {line:?}"))?;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "answered {text:?}");
        Ok(text)
    })();
    child.kill()?;
    let output = child.wait_with_output()?;
    result.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `logs -f` shows what is written after it began.
fn logs_follow(kubectl: &Kubectl, namespace: &str, pod: &str) -> Result<()> {
    let mut child = kubectl
        .command(&["-n", namespace, "logs", "-f", pod])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("piped")?;
    let reader = std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        lines.find(|line| {
            line.as_ref()
                .is_ok_and(|line| line.contains("GET /marker-of-the-tour"))
        })
    });
    let target = format!("pod/{pod}");
    let asked = eventually("a request is served", ROLLOUT, || {
        forwarded(kubectl, namespace, &target, ":8080", "/marker-of-the-tour")
    });
    let seen = asked.and_then(|_| {
        eventually("logs -f shows the request", ROLLOUT, || {
            ensure!(reader.is_finished(), "not seen yet");
            Ok(())
        })
    });
    child.kill()?;
    child.wait()?;
    seen?;
    let found = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    ensure!(found.is_some(), "logs -f ended without the request");
    let tail = kubectl.ok(&["-n", namespace, "logs", pod, "--tail=1"])?;
    ensure!(
        tail.lines().count() == 1,
        "--tail=1 shows one line: {tail:?}"
    );
    Ok(())
}

/// A directory with a ConfigMap, a Secret, a Deployment and a Service; applied again it is unchanged.
fn apply_directory(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let files = [
        ("config.yaml", CONFIG_MAP),
        ("secret.yaml", SECRET),
        ("deployment.yaml", DEPLOYMENT),
        ("service.yaml", SERVICE),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    let path = folder.path().to_str().context("a path that is text")?;
    let first = kubectl.ok(&["-n", namespace, "apply", "-f", path])?;
    ensure!(
        first.matches(" created").count() == 4,
        "four are created: {first}"
    );
    rolled_out(kubectl, namespace, "shop")?;
    let again = kubectl.ok(&["-n", namespace, "apply", "-f", path])?;
    ensure!(
        again.matches(" unchanged").count() == 4,
        "four are unchanged: {again}"
    );
    // A typo is refused with its path.
    let typo = DEPLOYMENT.replace("replicas:", "replcias:");
    let wrong = folder.path().join("typo.yaml");
    std::fs::write(&wrong, typo)?;
    let wrong = wrong.to_str().context("a path that is text")?;
    let refused = kubectl.fails(&["-n", namespace, "apply", "-f", wrong])?;
    ensure!(
        refused.contains("replcias"),
        "the misspelt field is named: {refused}"
    );
    std::fs::remove_file(wrong)?;
    kubectl.ok(&["-n", namespace, "delete", "-f", path])?;
    Ok(())
}

const CONFIG_MAP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: shop
data:
  VERSION: from-the-config-map
  greeting: good day
";

const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata:
  name: shop
data:
  password: b3BlbiBzZXNhbWU=
";

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  labels:
    app: shop
spec:
  replicas: 2
  selector:
    matchLabels:
      app: shop
  template:
    metadata:
      labels:
        app: shop
    spec:
      containers:
      - name: shop
        image: trireme.local/hello
        ports:
        - name: http
          containerPort: 8080
        envFrom:
        - configMapRef:
            name: shop
        env:
        - name: PASSWORD
          valueFrom:
            secretKeyRef:
              name: shop
              key: password
        volumeMounts:
        - name: config
          mountPath: /etc/shop
        readinessProbe:
          httpGet:
            path: /healthz
            port: http
      volumes:
      - name: config
        configMap:
          name: shop
";

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: shop
spec:
  selector:
    app: shop
  ports:
  - port: 80
    name: http
    targetPort: http
";
