//! Why pods do not serve yet: what their own status and the nodes' say of it, and what is to be done.

use serde_json::Value;

use crate::status::is_ready;

/// Of a container that is on its way.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Conditions of a node that keep pods away while they hold.
const PRESSURES: [&str; 4] = [
    "DiskPressure",
    "MemoryPressure",
    "PIDPressure",
    "NetworkUnavailable",
];
/// Said at most: the others are the same mostly.
const MAX_REASONS: usize = 6;

/// Each thing that keeps a pod from serving, or keeps pods from a node: its name, reason and message, and what to do.
/// `data` is where the nodes of this machine keep what they need.
pub fn reasons(pods: &[Value], nodes: &[Value], data: &str) -> Vec<String> {
    let waiting = pods
        .iter()
        .filter(|pod| !is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
    let mut all: Vec<String> = nodes.iter().flat_map(|node| of_node(node, data)).collect();
    all.extend(waiting.flat_map(of_pod));
    let more = all.len().saturating_sub(MAX_REASONS);
    all.truncate(MAX_REASONS);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    list(&object["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == name)
}

/// `what: reason: message; advice`, without what is not there.
fn line(what: &str, reason: &str, message: &str, advice: &str) -> String {
    let words: Vec<&str> = [what, reason, message]
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect();
    format!("{}; {advice}", words.join(": "))
}

fn of_node(node: &Value, data: &str) -> Vec<String> {
    let name = text(&node["metadata"]["name"]);
    let what = format!("node {name}");
    let mut all = Vec::new();
    for pressure in PRESSURES {
        let Some(found) = condition(node, pressure).filter(|found| found["status"] == "True")
        else {
            continue;
        };
        let disk = format!("free space or inodes on the disk of {data}");
        let advice = match pressure {
            "DiskPressure" => &*disk,
            "MemoryPressure" => "free memory on this machine, or take fewer nodes",
            "PIDPressure" => "end processes, or raise kernel.pid_max and kernel.threads-max",
            _ => "the node's log says what its network lacks",
        };
        all.push(line(&what, pressure, text(&found["message"]), advice));
    }
    if !is_ready(node) {
        let ready = condition(node, "Ready").unwrap_or(&Value::Null);
        let advice = "the node's log says why";
        all.push(line(&what, "not Ready", text(&ready["message"]), advice));
    }
    if node["spec"]["unschedulable"] == true {
        let advice = format!("`kubectl uncordon {name}` lets pods onto it");
        all.push(line(&what, "cordoned", "", &advice));
    }
    all
}

fn of_pod(pod: &Value) -> Vec<String> {
    let metadata = &pod["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let what = format!("pod {namespace}/{name}");
    let describe = format!("`kubectl describe pod -n {namespace} {name}` shows its events");
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && scheduled["status"] == "False"
    {
        let (reason, message) = (text(&scheduled["reason"]), text(&scheduled["message"]));
        return vec![line(&what, reason, message, unschedulable(message))];
    }
    let status = &pod["status"];
    if status["phase"] == "Failed" {
        let (reason, message) = (text(&status["reason"]), text(&status["message"]));
        let reason = if reason.is_empty() { "Failed" } else { reason };
        return vec![line(&what, reason, message, &describe)];
    }
    let containers = list(&status["initContainerStatuses"])
        .iter()
        .chain(list(&status["containerStatuses"]));
    let mut all = Vec::new();
    for container in containers {
        let of = text(&container["name"]);
        let what = format!("{what}, container {of}");
        let logs = format!("kubectl logs -n {namespace} {name} -c {of}");
        let (state, last) = (&container["state"], &container["lastState"]["terminated"]);
        let (waiting, ended) = (&state["waiting"], &state["terminated"]);
        let (reason, message) = (text(&waiting["reason"]), text(&waiting["message"]));
        if reason == "CrashLoopBackOff" {
            let message = with_exit(message, last);
            let advice = format!("`{logs} --previous` shows what it wrote");
            all.push(line(&what, reason, &message, &advice));
        } else if !reason.is_empty() && !ON_ITS_WAY.contains(&reason) {
            let advice = pulling(reason).unwrap_or(&describe);
            all.push(line(&what, reason, message, advice));
        } else if ended.is_object() && ended["exitCode"] != 0 {
            let advice = format!("`{logs}` shows what it wrote");
            let message = with_exit(text(&ended["message"]), ended);
            all.push(line(&what, text(&ended["reason"]), &message, &advice));
        } else if state["running"].is_object() && container["ready"] == false {
            let advice = format!("`{logs}` shows what it writes, {describe}");
            let message = "it runs, and its probes have not passed";
            all.push(line(&what, "not ready", message, &advice));
        }
    }
    all
}

/// A message with how the container ended.
fn with_exit(message: &str, terminated: &Value) -> String {
    let code = terminated["exitCode"]
        .as_i64()
        .map_or_else(String::new, |code| format!(" (exit code {code})"));
    format!("{message}{code}").trim_start().to_owned()
}

/// What helps where a pod finds no node, by the scheduler's words.
fn unschedulable(message: &str) -> &'static str {
    if message.contains("no nodes available") || message.contains("0/0 nodes") {
        "the cluster has no node yet: `trireme up --nodes 1`"
    } else if message.contains("-pressure") {
        "free what the nodes lack"
    } else if message.contains("not-ready") || message.contains("unreachable") {
        "the nodes' logs say why they are not ready"
    } else if message.contains("Insufficient") || message.contains("Too many pods") {
        "delete pods, lower their requests, or take more nodes"
    } else if message.contains("were unschedulable") {
        "`kubectl uncordon NODE` lets pods onto it"
    } else {
        "the nodes do not have what the pod asks for (labels, taints, ports): `kubectl describe nodes`"
    }
}

/// What helps where an image is missing.
fn pulling(reason: &str) -> Option<&'static str> {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => Some(
            "check the image's name and that its registry can be reached; mirrors and credentials are given by --registries FILE",
        ),
        "InvalidImageName" => Some("correct the image's name"),
        "ErrImageNeverPull" => Some("imagePullPolicy is Never and the node does not have it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DATA: &str = "/data";

    fn pod(status: &Value) -> Value {
        json!({"metadata": {"namespace": "default", "name": "hello-1"}, "status": status})
    }

    fn one(status: &Value) -> String {
        let all = reasons(&[pod(status)], &[], DATA);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn in_state(state: &Value, ready: bool) -> Value {
        json!({"containerStatuses": [{"name": "hello", "ready": ready, "state": state}]})
    }

    #[test]
    fn an_unscheduled_pod_gives_the_schedulers_words() {
        let unscheduled = |message: &str| {
            one(&json!({"phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            }]}))
        };
        let full = "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.";
        assert_eq!(
            unscheduled(full),
            format!("pod default/hello-1: Unschedulable: {full}; free what the nodes lack")
        );
        for (message, advice) in [
            (
                "0/1 nodes are available: 1 Insufficient memory.",
                "delete pods",
            ),
            ("0/1 nodes are available: 1 Too many pods.", "delete pods"),
            (
                "0/1 nodes are available: 1 node(s) were unschedulable.",
                "uncordon",
            ),
            (
                "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
                "logs",
            ),
            ("no nodes available to schedule pods", "--nodes"),
            (
                "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
                "labels",
            ),
        ] {
            assert!(unscheduled(message).contains(advice), "{message}");
        }
    }

    #[test]
    fn a_waiting_container_gives_its_reason_and_message() {
        let pull = json!({"waiting": {"reason": "ErrImagePull", "message": "no such host: registry.example"}});
        let said = one(&in_state(&pull, false));
        assert!(
            said.starts_with(
                "pod default/hello-1, container hello: ErrImagePull: no such host: registry.example; check"
            ),
            "{said}"
        );
        let other = json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}});
        let said = one(&in_state(&other, false));
        assert!(said.contains("secret \"x\" not found; `kubectl describe pod -n default hello-1`"));
        let init = json!({"initContainerStatuses": [{"name": "istio-proxy", "ready": false, "state": {
            "waiting": {"reason": "ErrImageNeverPull", "message": "absent"}}}],
            "containerStatuses": [{"name": "hello", "ready": false,
                "state": {"waiting": {"reason": "PodInitializing"}}}]});
        assert!(one(&init).contains("container istio-proxy: ErrImageNeverPull: absent; "));
    }

    #[test]
    fn a_container_that_ends_gives_its_exit_code_and_where_its_words_are() {
        let status = json!({"containerStatuses": [{"name": "hello", "ready": false,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
        assert_eq!(
            one(&status),
            "pod default/hello-1, container hello: CrashLoopBackOff: back-off 10s restarting (exit code 137); \
             `kubectl logs -n default hello-1 -c hello --previous` shows what it wrote"
        );
        let ended = json!({"terminated": {"exitCode": 2, "reason": "Error"}});
        let said = one(&in_state(&ended, false));
        assert!(said.contains("Error: (exit code 2); `kubectl logs -n default hello-1 -c hello`"));
    }

    #[test]
    fn what_runs_or_is_on_its_way_is_no_trouble() {
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let starting = in_state(&json!({"waiting": {"reason": "ContainerCreating"}}), false);
        let done = in_state(
            &json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            false,
        );
        let mut leaving = pod(&json!({"phase": "Failed"}));
        leaving["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        let pods = [pod(&ready), pod(&starting), pod(&done), leaving];
        assert!(reasons(&pods, &[], DATA).is_empty());
        let unready = one(&in_state(&json!({"running": {}}), false));
        assert!(unready.contains("probes have not passed"), "{unready}");
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on disk"});
        assert!(one(&evicted).contains("Evicted: low on disk; "));
    }

    #[test]
    fn a_nodes_pressure_comes_first_and_says_where() {
        let node = |conditions: Value| json!({"metadata": {"name": "node-1"}, "status": {"conditions": conditions}});
        let pressed = node(json!([
            {"type": "Ready", "status": "True"},
            {"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"},
            {"type": "MemoryPressure", "status": "False"},
        ]));
        let waiting = pod(&json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}]}));
        let all = reasons(std::slice::from_ref(&waiting), &[pressed], DATA);
        assert_eq!(
            all[0],
            "node node-1: DiskPressure: kubelet has disk pressure; free space or inodes on the disk of /data"
        );
        assert!(all[1].starts_with("pod default/hello-1: Unschedulable: full; "));
        let silent =
            node(json!([{"type": "Ready", "status": "Unknown", "message": "stopped posting"}]));
        let mut cordoned = node(json!([{"type": "Ready", "status": "True"}]));
        cordoned["spec"]["unschedulable"] = json!(true);
        assert_eq!(
            reasons(&[], &[silent, cordoned], DATA),
            [
                "node node-1: not Ready: stopped posting; the node's log says why",
                "node node-1: cordoned; `kubectl uncordon node-1` lets pods onto it",
            ]
        );
        let many = vec![waiting; MAX_REASONS + 2];
        assert_eq!(
            reasons(&many, &[], DATA).last().map(String::as_str),
            Some("and 2 more")
        );
    }
}
