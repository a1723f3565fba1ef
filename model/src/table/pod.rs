//! A pod's state in a word: what READY, STATUS and RESTARTS show.

use serde_json::{Value, json};

use super::duration::since;

/// What `kubectl get pods` shows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSummary {
    pub ready: usize,
    pub total: usize,
    /// `Running`, `Init:0/1`, `CrashLoopBackOff`, `Terminating`…
    pub status: String,
    pub restarts: i64,
    /// When the last container that was restarted had ended; empty where none was.
    pub last_restart: String,
}

/// Reason that the node lifecycle gives to pods of a node that does not answer.
const NODE_LOST: &str = "NodeLost";

fn list<'a>(object: &'a Value, part: &str, field: &str) -> &'a [Value] {
    object[part][field].as_array().map_or(&[], Vec::as_slice)
}

fn string<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn number(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or_default()
}

fn condition<'a>(pod: &'a Value, condition_type: &str) -> Option<&'a Value> {
    list(pod, "status", "conditions")
        .iter()
        .find(|condition| condition["type"] == condition_type)
}

fn condition_is_true(pod: &Value, condition_type: &str) -> bool {
    condition(pod, condition_type).is_some_and(|condition| condition["status"] == "True")
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn termination(terminated: &Value) -> String {
    let reason = string(terminated, "reason");
    if !reason.is_empty() {
        reason.to_string()
    } else if number(terminated, "signal") != 0 {
        format!("Signal:{}", number(terminated, "signal"))
    } else {
        format!("ExitCode:{}", number(terminated, "exitCode"))
    }
}

/// Restarts of a group of containers.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: String,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "restartCount");
        let ended = string(&status["lastState"]["terminated"], "finishedAt");
        // Times of Kubernetes are all in UTC and of one length, so text order is time order.
        if ended > self.last.as_str() {
            self.last = ended.to_string();
        }
    }
}

/// Sums a pod up, as Kubernetes does.
pub fn summarize(pod: &Value) -> PodSummary {
    let phase = string(&pod["status"], "phase");
    let mut status = match string(&pod["status"], "reason") {
        "" => phase.to_string(),
        reason => reason.to_string(),
    };
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        status = "SchedulingGated".to_string();
    }
    let init_containers = list(pod, "spec", "initContainers");
    // Init containers that are restarted always run beside the others: sidecars.
    let is_sidecar = |name: &str| {
        init_containers
            .iter()
            .any(|c| c["name"] == name && c["restartPolicy"] == "Always")
    };
    let sidecars = init_containers
        .iter()
        .filter(|c| c["restartPolicy"] == "Always")
        .count();
    let mut ready = 0;
    let mut restarts = Restarts::default();
    let mut sidecar_restarts = Restarts::default();
    let mut initializing = false;
    for (index, container) in list(pod, "status", "initContainerStatuses")
        .iter()
        .enumerate()
    {
        restarts.add(container);
        let sidecar = is_sidecar(string(container, "name"));
        if sidecar {
            sidecar_restarts.add(container);
        }
        let state = &container["state"];
        let waiting = string(&state["waiting"], "reason");
        if state["terminated"].is_object() && number(&state["terminated"], "exitCode") == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            if container["ready"] == true {
                ready += 1;
            }
            continue;
        }
        status = if state["terminated"].is_object() {
            format!("Init:{}", termination(&state["terminated"]))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init_containers.len())
        };
        initializing = true;
        break;
    }
    if !initializing || condition_is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        let mut failure = String::new();
        for container in list(pod, "status", "containerStatuses").iter().rev() {
            restarts.add(container);
            let state = &container["state"];
            let waiting = string(&state["waiting"], "reason");
            if !waiting.is_empty() {
                status = waiting.to_string();
            } else if state["terminated"].is_object() {
                status = termination(&state["terminated"]);
                if number(&state["terminated"], "exitCode") != 0 {
                    failure.clone_from(&status);
                }
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                ready += 1;
            }
        }
        // Some containers completed while others still run, or failed.
        if status == "Completed" {
            if running && condition_is_true(pod, "Ready") {
                status = "Running".to_string();
            } else if !failure.is_empty() {
                status = failure;
            } else if running {
                status = "NotReady".to_string();
            }
        }
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        if string(&pod["status"], "reason") == NODE_LOST {
            status = "Unknown".to_string();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            status = "Terminating".to_string();
        }
    }
    PodSummary {
        ready,
        total: list(pod, "spec", "containers").len() + sidecars,
        status,
        restarts: restarts.count,
        last_restart: restarts.last,
    }
}

pub(super) fn cells(pod: &Value, name: &str, age: String, now: jiff::Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = if summary.restarts != 0 && !summary.last_restart.is_empty() {
        let ago = since(&summary.last_restart, now);
        format!("{} ({ago} ago)", summary.restarts)
    } else {
        summary.restarts.to_string()
    };
    let or_none = |text: &str| if text.is_empty() { "<none>" } else { text }.to_string();
    let address = match list(pod, "status", "podIPs").first() {
        Some(first) => string(first, "ip"),
        None => string(&pod["status"], "podIP"),
    };
    let gates = list(pod, "spec", "readinessGates");
    let met = gates
        .iter()
        .filter(|gate| condition_is_true(pod, string(gate, "conditionType")))
        .count();
    let gates = match gates.len() {
        0 => "<none>".to_string(),
        all => format!("{met}/{all}"),
    };
    vec![
        name.into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age.into(),
        or_none(address).into(),
        or_none(string(&pod["spec"], "nodeName")).into(),
        or_none(string(&pod["status"], "nominatedNodeName")).into(),
        gates.into(),
    ]
}

/// The row condition by which clients know pods that are done.
pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match string(&pod["status"], "phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{
        "type": "Completed", "status": "True", "reason": reason, "message": message,
    }]))
}
