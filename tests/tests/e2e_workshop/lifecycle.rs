//! The proxy's life beside the application's.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use e2e::eventually;
use serde_json::Value;

use crate::workshop::{HOST, PATIENCE, Pod, Workshop};

fn status<'a>(pod: &'a Value, list: &str, container: &str) -> Option<&'a Value> {
    let mut all = pod["status"][list].as_array()?.iter();
    all.find(|status| status["name"] == container)
}

/// Pods in a labelled namespace get a proxy, which is ready before the application starts; others and
/// those that ask for none do not.
pub fn injection(all: &Workshop) -> Result<()> {
    let pod = all.pod("app=service-a")?;
    let line = all.kubectl.ok(&["get", "pod", &pod.name, "--no-headers"])?;
    ensure!(line.split_whitespace().nth(1) == Some("2/2"), "{line}");
    let object = all.kubectl.json(&["get", "pod", &pod.name])?;
    let started = |list: &str, name: &str| -> Result<String> {
        let status =
            status(&object, list, name).with_context(|| format!("{}", object["status"]))?;
        let at = &status["state"]["running"]["startedAt"];
        Ok(at.as_str().context("it runs")?.to_owned())
    };
    let proxy = started("initContainerStatuses", "istio-proxy")?;
    ensure!(proxy <= started("containerStatuses", "service-a")?);
    let plain = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: plain\n  labels: {app: plain, sidecar.istio.io/inject: \"false\"}\nspec:\n  containers: [{name: plain, image: trireme.local/hello, imagePullPolicy: IfNotPresent}]\n";
    all.kubectl.apply(plain)?;
    eventually("a pod that wants no proxy has none", PATIENCE, || {
        let line = all.kubectl.ok(&["get", "pod", "plain", "--no-headers"])?;
        ensure!(line.split_whitespace().nth(1) == Some("1/1"), "{line}");
        Ok(())
    })?;
    all.kubectl.ok(&["delete", "pod", "plain", "--now"])?;
    Ok(())
}

/// A pod that ends by itself is complete although its proxy would go on.
pub fn job(all: &Workshop, busybox: &str) -> Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workshop/job.yaml");
    let text = std::fs::read_to_string(path)?.replace("IMAGE", busybox);
    all.kubectl.apply(&text)?;
    eventually("the job is complete", PATIENCE, || {
        let line = all.kubectl.ok(&["get", "pod", "batch", "--no-headers"])?;
        ensure!(
            line.split_whitespace().nth(2) == Some("Completed"),
            "{line}{}",
            all.kubectl
                .ok(&["logs", "batch", "-c", "batch"])
                .unwrap_or_default()
        );
        Ok(())
    })?;
    let log = all.kubectl.ok(&["logs", "batch", "-c", "batch"])?;
    ensure!(log.contains("hello from"), "it could call: {log}");
    let object = all.kubectl.json(&["get", "pod", "batch"])?;
    ensure!(
        object["status"]["phase"] == "Succeeded",
        "{}",
        object["status"]
    );
    let proxy = status(&object, "initContainerStatuses", "istio-proxy").context("a proxy")?;
    ensure!(proxy["state"]["terminated"].is_object(), "{proxy}");
    all.kubectl.ok(&["delete", "pod", "batch"])?;
    Ok(())
}

/// The process of the pod's proxy: in the pod's network namespace, by its name.
fn proxy_process(all: &Workshop, pod: &Pod) -> Result<i32> {
    let file = all
        .cluster
        .data()
        .join(&pod.node)
        .join("netns")
        .join(&pod.uid);
    let namespace = format!("net:[{}]", std::fs::metadata(&file)?.ino());
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let is_there = std::fs::read_link(entry.path().join("ns/net"))
            .is_ok_and(|link| link.to_string_lossy() == namespace);
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if is_there && (command.contains(" proxy") || command.contains("trireme-proxy")) {
            return Ok(number);
        }
    }
    bail!("no proxy runs in {}", file.display())
}

/// A killed proxy is started again; the application does not notice but for the moment.
pub fn proxy_crash(all: &Workshop) -> Result<()> {
    all.reset()?;
    let pod = all.pod("app=hello,version=v1")?;
    let process = nix::unistd::Pid::from_raw(proxy_process(all, &pod)?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL)?;
    eventually("the proxy is back", PATIENCE, || {
        let object = all.kubectl.json(&["get", "pod", &pod.name])?;
        let proxy = status(&object, "initContainerStatuses", "istio-proxy").context("a proxy")?;
        ensure!(
            proxy["restartCount"] == 1 && proxy["ready"] == true && proxy["started"] == true,
            "{proxy}"
        );
        let app = status(&object, "containerStatuses", "hello").context("the application")?;
        ensure!(app["restartCount"] == 0 && app["ready"] == true, "{app}");
        Ok(())
    })?;
    let versions = all.versions(40)?;
    ensure!(versions.contains_key("v1"), "{versions:?}");
    Ok(())
}

/// Routes and subsets change twenty times under load, and every request is answered. No change takes a
/// subset away that a route still leads to: that would be the author's own gap.
pub fn swap_under_load(all: &Workshop) -> Result<()> {
    all.reset()?;
    let done = AtomicBool::new(false);
    let (mut requests, mut failures) = (0, Vec::new());
    thread::scope(|scope| -> Result<()> {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut count, mut failed) = (0, Vec::new());
                    while !done.load(Ordering::SeqCst) {
                        count += 1;
                        match all.enter(HOST, "/", &[]) {
                            Ok(response) if response.status == 200 => {}
                            Ok(response) => failed.push(format!("{response:?}")),
                            Err(error) => failed.push(format!("{error:#}")),
                        }
                    }
                    (count, failed)
                })
            })
            .collect();
        let change = || -> Result<()> {
            for name in ["split-98-2", "split-30-70", "subsets", "destination-rule"] {
                for _ in 0..2 {
                    all.apply(name)?;
                }
            }
            for name in ["split-98-2", "split-30-70"].iter().cycle().take(12) {
                all.apply(name)?;
            }
            Ok(())
        };
        let changed = change();
        done.store(true, Ordering::SeqCst);
        for caller in callers {
            let Ok((count, failed)) = caller.join() else {
                bail!("a caller panicked");
            };
            requests += count;
            failures.extend(failed);
        }
        changed
    })?;
    println!(
        "workshop: swap under load: {requests} requests, {} failed",
        failures.len()
    );
    ensure!(
        failures.is_empty() && requests > 100,
        "{} of {requests} failed, first: {:?}",
        failures.len(),
        failures.first()
    );
    Ok(())
}

/// With every server killed, traffic goes on as it was; it does so after they are back.
pub fn control_plane_loss(all: &mut Workshop, arguments: &[&str]) -> Result<()> {
    all.reset()?;
    all.apply("split-30-70")?;
    let in_force = |all: &Workshop| {
        eventually("the split is in force", PATIENCE, || {
            let counts = all.versions(40)?;
            ensure!(
                !counts.contains_key("v3") && counts.len() == 2,
                "{counts:?}"
            );
            Ok(())
        })
    };
    in_force(all)?;
    let server = nix::unistd::Pid::from_raw(all.cluster.pid_of("server-1")?);
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL)?;
    let counts = all.versions(200)?;
    ensure!(
        !counts.contains_key("v3") && counts.values().sum::<usize>() == 200,
        "{counts:?}"
    );
    let entered = all.many(100, || Ok(all.enter(HOST, "/", &[])?.status))?;
    ensure!(entered.iter().all(|status| *status == 200), "{entered:?}");
    all.cluster.start(arguments)?;
    // What changes afterwards comes into force again.
    all.apply("subsets")?;
    eventually("a change after the loss is in force", PATIENCE, || {
        let version = all.version(&[("end-user", "peterj")])?;
        ensure!(version == "v3", "{version}");
        Ok(())
    })?;
    Ok(())
}
