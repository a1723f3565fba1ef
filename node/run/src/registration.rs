//! The Node object and its lease: this node as the cluster sees it.

use crate::agent::Agent;
use crate::machine::{self, Machine};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trireme_client::{Change, Informer, InformerOptions, PatchType};
use trireme_model::{kinds, meta};
use trireme_node_decide::EventType;

/// The namespace of nodes' leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the lease is renewed: a node is given up after 10 s of silence, so that four lost
/// renewals are forgiven.
const LEASE_PERIOD: Duration = Duration::from_secs(2);
/// What the lease says of itself.
const LEASE_DURATION_S: u64 = 10;
/// How often the machine is looked at.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// How often the status is written though nothing changed: the kubelet's nodeStatusReportFrequency.
const STATUS_REPORT_S: i64 = 300;
/// Pause after a failed registration.
const RETRY: Duration = Duration::from_millis(500);
/// Less free memory than this is pressure: the kubelet's default eviction threshold.
const MEMORY_PRESSURE_BYTES: u64 = 100 * 1024 * 1024;
/// Less than this part of the disk, in percent, likewise.
const DISK_PRESSURE_PERCENT: u64 = 10;
/// Less than this part of the inodes, likewise.
const INODE_PRESSURE_PERCENT: u64 = 5;
/// Images listed in the status: the kubelet's nodeStatusMaxImages.
const IMAGES_MAX: usize = 50;
/// Kubernetes level that this node speaks, and that it is us.
const KUBELET_VERSION: &str = concat!("v1.36.0-trireme", env!("CARGO_PKG_VERSION"));
const RUNTIME_VERSION: &str = "youki://0.7.0";

struct Pressures {
    memory: bool,
    disk: bool,
    pid: bool,
}

fn pressures(agent: &Agent) -> Pressures {
    let memory = machine::memory_bytes().is_some_and(|(free, _)| free < MEMORY_PRESSURE_BYTES);
    let scarce = |pair: Option<(u64, u64)>, percent: u64| {
        pair.is_some_and(|(free, total)| {
            total > 0 && free.saturating_mul(100) < total.saturating_mul(percent)
        })
    };
    let data = &agent.config.data;
    let disk = scarce(machine::disk_bytes(data), DISK_PRESSURE_PERCENT)
        || scarce(machine::inodes(data), INODE_PRESSURE_PERCENT);
    let pid = machine::processes().is_some_and(|(used, most)| used.saturating_mul(10) > most * 9);
    Pressures { memory, disk, pid }
}

fn quantities(machine: &Machine, agent: &Agent) -> Value {
    json!({
        "cpu": machine.cpus.to_string(),
        "memory": format!("{}Ki", machine.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", machine.storage_bytes / 1024),
        "hugepages-2Mi": "0",
        "pods": agent.config.max_pods.to_string(),
    })
}

fn condition(
    old: Option<&Value>,
    name: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Value {
    let status = if holds { "True" } else { "False" };
    let before = old
        .and_then(|node| node.pointer("/status/conditions"))
        .and_then(Value::as_array)
        .and_then(|list| list.iter().find(|c| c["type"] == name))
        .filter(|c| c["status"] == status)
        .and_then(|c| c["lastTransitionTime"].as_str().map(str::to_owned));
    json!({
        "type": name,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": meta::timestamp(now),
        "lastTransitionTime": before.unwrap_or_else(|| meta::timestamp(now)),
    })
}

fn images(agent: &Agent) -> Vec<Value> {
    let mut images = agent.images.store().list().unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| {
            let mut names = vec![image.digest_reference.clone()];
            names.extend(image.references.iter().cloned());
            names.dedup();
            json!({"names": names, "sizeBytes": image.size_bytes})
        })
        .collect()
}

fn status(agent: &Agent, machine: &Machine, old: Option<&Value>, now: Timestamp) -> Value {
    let pressure = pressures(agent);
    let ready = agent.network_problem();
    let conditions = [
        if pressure.memory {
            condition(
                old,
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
                now,
            )
        } else {
            condition(
                old,
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
                now,
            )
        },
        if pressure.disk {
            condition(
                old,
                "DiskPressure",
                true,
                "KubeletHasDiskPressure",
                "kubelet has disk pressure",
                now,
            )
        } else {
            condition(
                old,
                "DiskPressure",
                false,
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
                now,
            )
        },
        if pressure.pid {
            condition(
                old,
                "PIDPressure",
                true,
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
                now,
            )
        } else {
            condition(
                old,
                "PIDPressure",
                false,
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
                now,
            )
        },
        match &ready {
            None => condition(
                old,
                "Ready",
                true,
                "KubeletReady",
                "kubelet is posting ready status",
                now,
            ),
            Some(problem) => condition(old, "Ready", false, "KubeletNotReady", problem, now),
        },
    ];
    json!({
        "addresses": [
            {"type": "InternalIP", "address": agent.config.internal_ip.to_string()},
            {"type": "Hostname", "address": agent.config.name},
        ],
        "capacity": quantities(machine, agent),
        "allocatable": quantities(machine, agent),
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent.config.listen.port()}},
        "images": images(agent),
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": RUNTIME_VERSION,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
    })
}

fn labels(agent: &Agent, machine: &Machine) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": agent.config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine.architecture,
    });
    for (key, value) in &agent.config.labels {
        labels[key] = value.as_str().into();
    }
    labels
}

/// `key=value:Effect` or `key:Effect` as a taint.
pub(crate) fn parse_taint(text: &str) -> Option<Value> {
    let (pair, effect) = text.rsplit_once(':')?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return None;
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if key.is_empty() {
        return None;
    }
    let mut taint = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint["value"] = value.into();
    }
    Some(taint)
}

/// Creates the Node, or brings an existing one up to date; tries until it succeeds.
async fn register(agent: &Agent, machine: &Machine) -> Value {
    let name = &agent.config.name;
    loop {
        let result = match agent.client.get(kinds::NODE, "", name).await {
            Ok(node) => {
                let patch = json!({"metadata": {"labels": labels(agent, machine)}});
                match agent
                    .client
                    .patch(kinds::NODE, "", name, "", PatchType::StrategicMerge, &patch)
                    .await
                {
                    Ok(node) => Ok(node),
                    // The labels may be protected; the status below is not.
                    Err(error) if error.is_forbidden() => {
                        tracing::warn!(%error, "the node's labels were not updated");
                        Ok(node)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) if error.is_not_found() => {
                let taints: Vec<Value> = agent
                    .config
                    .taints
                    .iter()
                    .filter_map(|text| parse_taint(text))
                    .collect();
                let mut node = json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name, "labels": labels(agent, machine)},
                    "spec": {},
                });
                if !taints.is_empty() {
                    node["spec"]["taints"] = taints.into();
                }
                agent.client.create(kinds::NODE, "", &node).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(node) => return node,
            Err(error) => {
                tracing::warn!(node = name, %error, "the node could not be registered, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The status without what changes by itself.
fn substance(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(list) = status["conditions"].as_array_mut() {
        for condition in list {
            condition["lastHeartbeatTime"] = Value::Null;
        }
    }
    status
}

/// Registers the node and keeps its status up to date, until `shutdown`.
pub(crate) async fn keep_status(agent: Arc<Agent>, shutdown: CancellationToken) {
    let machine = Machine::read(&agent.config.data);
    let mut node = tokio::select! {
        node = register(&agent, &machine) => node,
        () = shutdown.cancelled() => return,
    };
    agent.events.node(
        &agent.config.name,
        EventType::Normal,
        "Starting",
        "Starting kubelet.".to_owned(),
    );
    let mut written: Option<(Value, Timestamp)> = None;
    loop {
        let now = Timestamp::now();
        let seen = agent.node.borrow().clone();
        let overruled = seen.as_deref().is_some_and(is_overruled);
        if overruled && let Ok(object) = serde_json::to_value(&seen) {
            // Transition times follow what the API shows, not what was last written.
            node = object;
        }
        let status = status(&agent, &machine, Some(&node), now);
        let due = overruled
            || seen.is_none()
            || written.as_ref().is_none_or(|(old, at)| {
                *old != substance(&status) || now.duration_since(*at).as_secs() >= STATUS_REPORT_S
            });
        if due {
            let patch = json!({"status": status});
            let patched = agent
                .client
                .patch(
                    kinds::NODE,
                    "",
                    &agent.config.name,
                    "status",
                    PatchType::StrategicMerge,
                    &patch,
                )
                .await;
            match patched {
                Ok(object) => {
                    node = object;
                    written = Some((substance(&status), now));
                }
                Err(error) if error.is_not_found() => {
                    tokio::select! {
                        made = register(&agent, &machine) => node = made,
                        () = shutdown.cancelled() => return,
                    }
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the node's status was not written");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(STATUS_PERIOD) => {}
            () = agent.node_changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Renews the node's lease until `shutdown`.
pub(crate) async fn keep_lease(agent: Arc<Agent>, shutdown: CancellationToken) {
    let name = agent.config.name.clone();
    let mut ticker = tokio::time::interval(LEASE_PERIOD);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let renewed = meta::micro_timestamp(Timestamp::now());
        let patch = json!({"spec": {
            "holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": renewed,
        }});
        let patched = agent
            .client
            .patch(
                kinds::LEASE,
                LEASE_NAMESPACE,
                &name,
                "",
                PatchType::Merge,
                &patch,
            )
            .await;
        let result = match patched {
            Err(error) if error.is_not_found() => {
                let mut lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
                    "spec": patch["spec"],
                });
                let uid = agent
                    .node
                    .borrow()
                    .as_ref()
                    .and_then(|n| n.metadata.uid.clone());
                if let Some(uid) = uid {
                    lease["metadata"]["ownerReferences"] =
                        json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
                }
                agent
                    .client
                    .create(kinds::LEASE, LEASE_NAMESPACE, &lease)
                    .await
            }
            other => other,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the node's lease was not renewed");
        }
    }
}

/// The control plane heard nothing from this node for a while and says so in its conditions: they are to
/// be written anew at once, not when the next report is due.
fn is_overruled(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
    })
}

/// Follows this node's own object.
pub(crate) async fn follow_node(
    agent: Arc<Agent>,
    sender: watch::Sender<Option<Arc<Node>>>,
    shutdown: CancellationToken,
) {
    let options = InformerOptions {
        field_selector: format!("metadata.name={}", agent.config.name),
        ..InformerOptions::default()
    };
    let (_informer, mut changes) = Informer::start(agent.client.clone(), kinds::NODE, options);
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = shutdown.cancelled() => return,
        };
        match change {
            Some(Change::Upsert(object)) => match serde_json::from_value::<Node>(object) {
                Ok(node) => {
                    let overruled = is_overruled(&node);
                    sender.send_replace(Some(Arc::new(node)));
                    if overruled {
                        agent.node_changed.notify_one();
                    }
                }
                Err(error) => tracing::warn!(%error, "this node's own object cannot be read"),
            },
            // The status task makes it anew.
            Some(Change::Delete(_)) => {
                sender.send_replace(None);
                agent.node_changed.notify_one();
            }
            Some(Change::Progress { .. }) => {}
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_read_as_kubectl_writes_them() {
        assert_eq!(
            parse_taint("dedicated=gpu:NoSchedule"),
            Some(json!({"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}))
        );
        assert_eq!(
            parse_taint("dedicated:NoExecute"),
            Some(json!({"key": "dedicated", "effect": "NoExecute"}))
        );
        assert_eq!(parse_taint("dedicated:Sometimes"), None);
        assert_eq!(parse_taint("dedicated"), None);
    }
}
