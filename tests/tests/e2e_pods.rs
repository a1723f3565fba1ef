//! Pods from a real registry: pulls, secrets, volumes, probes, restarts, limits, exec, DNS.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, Kubectl, Registry, eventually};

const PATIENCE: Duration = Duration::from_secs(90);
const KUBECTL: &str = "1.37";
const USER: (&str, &str) = ("rower", "three banks");

#[test]
fn pods_do_what_their_manifests_say() -> Result<()> {
    let open = Registry::start(41, None)?;
    let closed = Registry::start(42, Some(USER))?;
    let image = open.push_busybox("busybox", "v1", None)?;
    let private = closed.push_busybox("private", "v1", Some(USER))?;
    let registries = open.scratch_file(
        "both.yaml",
        &format!(
            "mirrors:\n  \"{0}\":\n    endpoint: [\"http://{0}\"]\n  \"{1}\":\n    endpoint: [\"http://{1}\"]\n  \"mirrored.example\":\n    endpoint: [\"http://{0}\"]\n",
            open.host(),
            closed.host()
        ),
    )?;
    let registries = registries.to_str().context("a path that is text")?;
    let cluster = Cluster::up(&["--servers", "1", "--nodes", "2", "--registries", registries])?;
    let kubectl = cluster.kubectl(KUBECTL)?;
    let all = || -> Result<()> {
        pulls(&kubectl, &image, &private, &closed.host())?;
        shares(&kubectl, &image)?;
        restarts_and_limits(&kubectl, &image)?;
        probes(&kubectl, &image)?;
        config_volumes(&kubectl, &image)?;
        for version in e2e::kubectl::VERSIONS {
            exec(&cluster.kubectl(version)?, &image)
                .with_context(|| format!("kubectl {version}"))?;
        }
        names_and_services(&kubectl, &image)?;
        grace(&kubectl, &image)?;
        python(&kubectl)
    };
    all().with_context(|| cluster.logs())?;
    cluster.down()
}

fn running(kubectl: &Kubectl, pod: &str) -> Result<()> {
    eventually(&format!("{pod} is ready"), PATIENCE, || {
        let object = kubectl.json(&["get", "pod", pod])?;
        let ready = object["status"]["conditions"]
            .as_array()
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|one| one["type"] == "Ready" && one["status"] == "True")
            });
        ensure!(ready, "status {}", object["status"]);
        Ok(())
    })?;
    Ok(())
}

/// What `kubectl get pod` shows in its STATUS column.
fn shown(kubectl: &Kubectl, pod: &str) -> Result<String> {
    let line = kubectl.ok(&["get", "pod", pod, "--no-headers"])?;
    Ok(line
        .split_whitespace()
        .nth(2)
        .context("a status")?
        .to_owned())
}

fn pulls(kubectl: &Kubectl, image: &str, private: &str, host: &str) -> Result<()> {
    // Through a mirror, under a name that no DNS knows.
    let (_, path) = image.split_once('/').context("host/path")?;
    kubectl.apply(&pod(
        "mirrored",
        &format!("mirrored.example/{path}"),
        "sleep 1000",
        "",
    ))?;
    running(kubectl, "mirrored")?;

    // Without the secret: the registry's words. With it: it runs.
    kubectl.apply(&pod("denied", private, "sleep 1000", ""))?;
    eventually("an unpullable image is shown", PATIENCE, || {
        let status = shown(kubectl, "denied")?;
        ensure!(
            status == "ErrImagePull" || status == "ImagePullBackOff",
            "{status}"
        );
        let events = kubectl.ok(&["describe", "pod", "denied"])?;
        ensure!(
            events.to_lowercase().contains("unauthorized")
                || events.to_lowercase().contains("authentication required"),
            "the registry's words: {events}"
        );
        Ok(())
    })?;
    kubectl.ok(&[
        "create",
        "secret",
        "docker-registry",
        "puller",
        &format!("--docker-server={host}"),
        &format!("--docker-username={}", USER.0),
        &format!("--docker-password={}", USER.1),
    ])?;
    kubectl.apply(&pod(
        "admitted",
        private,
        "sleep 1000",
        "  imagePullSecrets: [{name: puller}]\n",
    ))?;
    running(kubectl, "admitted")?;

    let missing = image.replace("busybox:v1", "absent:v9");
    kubectl.apply(&pod("absent", &missing, "sleep 1000", ""))?;
    eventually("a missing image is shown", PATIENCE, || {
        let events = kubectl.ok(&["describe", "pod", "absent"])?;
        ensure!(
            events.contains("ImagePullBackOff") || events.contains("ErrImagePull"),
            "{events}"
        );
        ensure!(
            events.contains("unknown")
                || events.contains("not found")
                || events.contains("NAME_UNKNOWN"),
            "the registry's words: {events}"
        );
        Ok(())
    })?;
    kubectl.ok(&[
        "delete", "pod", "mirrored", "denied", "admitted", "absent", "--now",
    ])?;
    Ok(())
}

/// Two containers share network, IPC, host name and a volume; an init container goes first.
fn shares(kubectl: &Kubectl, image: &str) -> Result<()> {
    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: shares}}
spec:
  volumes:
  - {{name: scratch, emptyDir: {{}}}}
  initContainers:
  - name: first
    image: {image}
    command: [sh, -c, 'echo made by init > /scratch/index.html']
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  containers:
  - name: server
    image: {image}
    command: [httpd, -f, -p, '8000', -h, /scratch]
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  - name: client
    image: {image}
    command: [sleep, '1000']
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
"
    ))?;
    running(kubectl, "shares")?;
    let page = kubectl.ok(&[
        "exec",
        "shares",
        "-c",
        "client",
        "--",
        "wget",
        "-qO-",
        "http://127.0.0.1:8000/",
    ])?;
    ensure!(
        page == "made by init\n",
        "over the shared loopback: {page:?}"
    );
    let names = ["server", "client"]
        .map(|container| kubectl.ok(&["exec", "shares", "-c", container, "--", "hostname"]));
    for name in names {
        ensure!(name?.trim() == "shares", "the host name is the pod's");
    }
    let file = kubectl.ok(&[
        "exec",
        "shares",
        "-c",
        "server",
        "--",
        "cat",
        "/scratch/index.html",
    ])?;
    ensure!(file == "made by init\n", "{file:?}");
    kubectl.ok(&["delete", "pod", "shares", "--now"])?;
    Ok(())
}

fn restarts_and_limits(kubectl: &Kubectl, image: &str) -> Result<()> {
    kubectl.apply(&pod("crashes", image, "echo last words; exit 3", ""))?;
    eventually("a crashing container backs off", PATIENCE, || {
        let status = shown(kubectl, "crashes")?;
        ensure!(status == "CrashLoopBackOff", "{status}");
        let object = kubectl.json(&["get", "pod", "crashes"])?;
        let container = &object["status"]["containerStatuses"][0];
        ensure!(container["restartCount"].as_u64() >= Some(1), "{container}");
        ensure!(
            container["lastState"]["terminated"]["exitCode"] == 3,
            "{container}"
        );
        Ok(())
    })?;
    let previous = kubectl.ok(&["logs", "crashes", "--previous"])?;
    ensure!(previous == "last words\n", "{previous:?}");

    kubectl.apply(&pod("once", image, "exit 0", "  restartPolicy: Never\n"))?;
    eventually("a finished pod is Completed", PATIENCE, || {
        let status = shown(kubectl, "once")?;
        ensure!(status == "Completed", "{status}");
        Ok(())
    })?;

    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: hungry}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {image}
    command: [dd, if=/dev/zero, of=/dev/shm/fill, bs=1M, count=60]
    resources: {{limits: {{memory: 32Mi, cpu: 500m}}}}
"
    ))?;
    eventually(
        "a container beyond its limit is OOMKilled",
        PATIENCE,
        || {
            let status = shown(kubectl, "hungry")?;
            ensure!(status == "OOMKilled", "{status}");
            Ok(())
        },
    )?;
    kubectl.ok(&["delete", "pod", "crashes", "once", "hungry", "--now"])?;
    Ok(())
}

fn probes(kubectl: &Kubectl, image: &str) -> Result<()> {
    kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: probed}}
spec:
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'echo ok > /tmp/alive; exec httpd -f -p 8000 -h /tmp']
    startupProbe: {{httpGet: {{path: /alive, port: 8000}}, periodSeconds: 1, failureThreshold: 30}}
    readinessProbe: {{exec: {{command: [cat, /tmp/ready]}}, periodSeconds: 1}}
    livenessProbe: {{exec: {{command: [cat, /tmp/alive]}}, periodSeconds: 1, failureThreshold: 2}}
  terminationGracePeriodSeconds: 1
"
    ))?;
    eventually("it runs and is not ready", PATIENCE, || {
        let line = kubectl.ok(&["get", "pod", "probed", "--no-headers"])?;
        ensure!(line.contains("0/1") && line.contains("Running"), "{line}");
        Ok(())
    })?;
    kubectl.ok(&["exec", "probed", "--", "sh", "-c", "echo > /tmp/ready"])?;
    running(kubectl, "probed")?;
    kubectl.ok(&["exec", "probed", "--", "sh", "-c", "busybox rm /tmp/alive"])?;
    eventually("a failing liveness probe restarts it", PATIENCE, || {
        let object = kubectl.json(&["get", "pod", "probed"])?;
        let restarts = object["status"]["containerStatuses"][0]["restartCount"].as_u64();
        ensure!(restarts >= Some(1), "{restarts:?}");
        let events = kubectl.ok(&["describe", "pod", "probed"])?;
        ensure!(events.contains("Liveness probe failed"), "{events}");
        Ok(())
    })?;
    kubectl.ok(&["delete", "pod", "probed", "--now"])?;
    Ok(())
}

fn config_volumes(kubectl: &Kubectl, image: &str) -> Result<()> {
    kubectl.apply(&format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: blue}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hidden}}
stringData: {{word: sesame}}
---
apiVersion: v1
kind: Pod
metadata: {{name: configured, labels: {{tier: front}}}}
spec:
  volumes:
  - name: all
    projected:
      sources:
      - configMap: {{name: settings}}
      - secret: {{name: hidden}}
      - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
  containers:
  - name: main
    image: {image}
    command: [sleep, '1000']
    env:
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: WORD, valueFrom: {{secretKeyRef: {{name: hidden, key: word}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: BOTH, value: '$(COLOUR) $(WORD)'}}
    volumeMounts: [{{name: all, mountPath: /etc/all}}]
"
    ))?;
    running(kubectl, "configured")?;
    let environment = kubectl.ok(&["exec", "configured", "--", "env"])?;
    for wanted in [
        "COLOUR=blue",
        "WORD=sesame",
        "BOTH=blue sesame",
        "NODE=node-",
        "KUBERNETES_SERVICE_HOST=",
    ] {
        ensure!(environment.contains(wanted), "{wanted} in {environment}");
    }
    let read = |file: &str| {
        kubectl.ok(&[
            "exec",
            "configured",
            "--",
            "cat",
            &format!("/etc/all/{file}"),
        ])
    };
    ensure!(read("colour")? == "blue", "the ConfigMap's file");
    ensure!(read("word")? == "sesame", "the Secret's file");
    ensure!(
        read("labels")?.contains("tier=\"front\""),
        "the downward API's file"
    );
    kubectl.ok(&[
        "patch",
        "configmap",
        "settings",
        "-p",
        "{\"data\":{\"colour\":\"green\"}}",
    ])?;
    eventually("a changed ConfigMap reaches the volume", PATIENCE, || {
        let colour = read("colour")?;
        ensure!(colour == "green", "{colour}");
        Ok(())
    })?;

    kubectl.apply(&pod("unresolved", image, "sleep 1000", "").replace(
        "    image:",
        "    envFrom: [{configMapRef: {name: nowhere}}]\n    image:",
    ))?;
    eventually("a missing ConfigMap is named", PATIENCE, || {
        let status = shown(kubectl, "unresolved")?;
        ensure!(status == "CreateContainerConfigError", "{status}");
        let described = kubectl.ok(&["describe", "pod", "unresolved"])?;
        ensure!(
            described.contains("configmap \"nowhere\" not found"),
            "{described}"
        );
        Ok(())
    })?;
    kubectl.ok(&["delete", "pod", "configured", "unresolved", "--now"])?;
    Ok(())
}

fn exec(kubectl: &Kubectl, image: &str) -> Result<()> {
    kubectl.apply(&pod("shell", image, "sleep 1000", ""))?;
    running(kubectl, "shell")?;
    let output = kubectl.run(&[
        "exec",
        "shell",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ])?;
    ensure!(output.stdout == b"out\n", "standard output: {output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stderr).starts_with("err\n"),
        "standard error: {output:?}"
    );
    ensure!(output.status.code() == Some(7), "the exit code: {output:?}");
    let echoed = kubectl.with_input(&["exec", "-i", "shell", "--", "cat"], "through and back")?;
    ensure!(echoed.stdout == b"through and back", "{echoed:?}");
    // With a terminal: script(1) gives kubectl one.
    let program = kubectl.command(&[
        "exec",
        "-it",
        "shell",
        "--",
        "sh",
        "-c",
        "stty size; tty=yes; echo $tty",
    ]);
    let words: Vec<String> = std::iter::once(program.get_program())
        .chain(program.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let output = std::process::Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .context("script(1), of util-linux")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        text.contains("yes\r\n"),
        "a terminal ends lines with CR LF: {text:?}"
    );
    kubectl.ok(&["delete", "pod", "shell", "--now"])?;
    Ok(())
}

/// ClusterIP, headless, ExternalName and search paths, between pods on both nodes.
fn names_and_services(kubectl: &Kubectl, image: &str) -> Result<()> {
    let mut manifest = String::new();
    for node in ["node-1", "node-2"] {
        manifest.push_str(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{app: pages}}}}
spec:
  nodeName: {node}
  containers:
  - name: main
    image: {image}
    command: [sh, -c, 'hostname > /tmp/index.html; exec httpd -f -p 8000 -h /tmp']
    ports: [{{name: http, containerPort: 8000}}]
    readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
---
"
        ));
    }
    manifest.push_str(
        "apiVersion: v1
kind: Service
metadata: {name: pages}
spec: {selector: {app: pages}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: heads}
spec: {clusterIP: None, selector: {app: pages}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: pages.default.svc.cluster.local}
---
",
    );
    manifest.push_str(&pod("asks", image, "sleep 1000", ""));
    kubectl.apply(&manifest)?;
    for name in ["web-node-1", "web-node-2", "asks"] {
        running(kubectl, name)?;
    }
    // getent resolves by the pod's resolv.conf, search path and all; a static wget would ask glibc for
    // names too, and crash.
    let fetch = |name: &str| {
        let script = format!(
            "a=$(getent ahostsv4 {name} | head -n 1 | cut -d ' ' -f 1); [ -n \"$a\" ] && printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 $a 80"
        );
        kubectl.run(&["exec", "asks", "--", "sh", "-c", &script])
    };
    let get = |name: &str| -> Result<String> {
        let output = fetch(name)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        ensure!(text.starts_with("HTTP/1."), "answered {text:?}");
        Ok(text.lines().last().unwrap_or("").to_owned())
    };
    for name in [
        "pages",
        "pages.default",
        "pages.default.svc",
        "pages.default.svc.cluster.local",
        "elsewhere",
    ] {
        eventually(&format!("http://{name}/ answers"), PATIENCE, || get(name))?;
    }
    let mut seen = std::collections::BTreeSet::new();
    eventually("both pods serve the service", PATIENCE, || {
        seen.insert(get("pages")?.trim().to_owned());
        ensure!(seen.len() == 2, "only {seen:?}");
        Ok(())
    })?;
    let addresses = kubectl.ok(&[
        "exec",
        "asks",
        "--",
        "nslookup",
        "heads.default.svc.cluster.local",
    ])?;
    ensure!(
        addresses.matches("10.42.").count() >= 2,
        "a headless service is its pods: {addresses}"
    );
    kubectl.ok(&["delete", "pod", "web-node-1", "web-node-2", "--now"])?;
    eventually("a service without endpoints refuses", PATIENCE, || {
        let output = fetch("pages")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("refused"), "{text}");
        Ok(())
    })?;
    kubectl.ok(&["delete", "service", "pages", "heads", "elsewhere"])?;
    kubectl.ok(&["delete", "pod", "asks", "--now"])?;
    Ok(())
}

/// SIGTERM, the grace period, then SIGKILL.
fn grace(kubectl: &Kubectl, image: &str) -> Result<()> {
    kubectl.apply(&pod(
        "polite",
        image,
        "trap \"echo goodbye; exit 0\" TERM; while true; do sleep 0.1; done",
        "",
    ))?;
    running(kubectl, "polite")?;
    let mut follow = kubectl
        .command(&["logs", "-f", "polite"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = follow.stdout.take().context("piped")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut { stdout }, &mut text).map(|_| text)
    });
    kubectl.ok(&["delete", "pod", "polite"])?;
    follow.wait()?;
    let text = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(
        text.contains("goodbye"),
        "it was asked to end and said so: {text:?}"
    );

    kubectl.apply(&pod(
        "deaf",
        image,
        "trap \"\" TERM; while true; do sleep 0.1; done",
        "  terminationGracePeriodSeconds: 2\n",
    ))?;
    running(kubectl, "deaf")?;
    let begin = std::time::Instant::now();
    kubectl.ok(&["delete", "pod", "deaf"])?;
    let took = begin.elapsed();
    ensure!(
        took >= Duration::from_secs(2),
        "not before the grace period: {took:?}"
    );
    ensure!(
        took < Duration::from_secs(20),
        "and soon after it: {took:?}"
    );
    Ok(())
}

/// The Python client creates, watches and deletes a pod.
fn python(kubectl: &Kubectl) -> Result<()> {
    let output = std::process::Command::new(e2e::kubectl::peers().join("python/bin/python"))
        .args(["-c", include_str!("pods.py")])
        .env("KUBECONFIG", kubectl.kubeconfig())
        .output()
        .context("the Python client (scripts/peers.sh fetches it)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    ensure!(
        words == ["created", "running", "deleted", "then"] && text.contains("then 404 Not Found"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A pod of one container that runs a shell command; `more` is added to its spec.
fn pod(name: &str, image: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
{more}  containers:
  - name: main
    image: {image}
    command: [sh, -c, '{command}']
"
    )
}
