//! Golden rows, as Kubernetes prints them.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn now() -> jiff::Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

/// The cells of one row, joined, the columns that only `-o wide` shows behind a bar.
fn show(kind: &Kind, object: &Value) -> String {
    let table = table(
        kind,
        std::slice::from_ref(object),
        IncludeObject::None,
        now(),
        json!({}),
    );
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    let columns = table["columnDefinitions"].as_array().unwrap();
    assert_eq!(cells.len(), columns.len());
    let pick = |priority: i64| {
        let shown: Vec<String> = cells
            .iter()
            .zip(columns)
            .filter(|(_, column)| column["priority"] == priority)
            .map(|(cell, _)| cell.as_str().map_or(cell.to_string(), String::from))
            .collect();
        shown.join(" ")
    };
    format!("{} | {}", pick(0), pick(1))
}

fn pod(spec: Value, status: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T23:55:00Z"},
        "spec": spec, "status": status})
}

fn status_of(object: &Value) -> String {
    let summary = summarize_pod(object);
    format!(
        "{}/{} {} {}",
        summary.ready, summary.total, summary.status, summary.restarts
    )
}

fn one() -> Value {
    json!({"containers": [{"name": "c"}]})
}

fn with_state(phase: &str, state: Value) -> Value {
    pod(
        one(),
        json!({"phase": phase, "containerStatuses": [
        {"name": "c", "restartCount": 0, "ready": state.get("running").is_some(), "state": state}]}),
    )
}

#[test]
fn durations() {
    for (seconds, want) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (176_400, "2d1h"),
        (691_200, "8d"),
        (86_400 * 729, "729d"),
        (86_400 * 730, "2y"),
        (86_400 * 770, "2y40d"),
        (86_400 * 365 * 8 + 86_400 * 5, "8y"),
    ] {
        assert_eq!(
            human_duration(jiff::SignedDuration::from_secs(seconds)),
            want,
            "{seconds}"
        );
    }
}

#[test]
fn a_running_pod() {
    let object = pod(
        json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1",
            "readinessGates": [{"conditionType": "x/y"}, {"conditionType": "x/z"}]}),
        json!({"phase": "Running", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}],
            "conditions": [{"type": "x/y", "status": "True"}],
            "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T23:59:50Z", "exitCode": 1}}},
                {"name": "b", "ready": false, "restartCount": 0, "state": {"running": {}}}]}),
    );
    assert_eq!(
        show(kinds::POD, &object),
        "p 1/2 Running 2 (10s ago) 5m | 10.42.0.5 n1 <none> 1/2"
    );
}

#[test]
fn pod_states() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let ended =
        |reason: &str, code: i64| json!({"terminated": {"reason": reason, "exitCode": code}});
    for (object, want) in [
        (pod(one(), json!({"phase": "Pending"})), "0/1 Pending 0"),
        (
            with_state("Pending", waiting("ContainerCreating")),
            "0/1 ContainerCreating 0",
        ),
        (
            with_state("Pending", waiting("ErrImagePull")),
            "0/1 ErrImagePull 0",
        ),
        (
            with_state("Pending", waiting("ImagePullBackOff")),
            "0/1 ImagePullBackOff 0",
        ),
        (
            with_state("Running", waiting("CrashLoopBackOff")),
            "0/1 CrashLoopBackOff 0",
        ),
        (
            with_state("Running", json!({"running": {}})),
            "1/1 Running 0",
        ),
        (
            with_state("Succeeded", ended("Completed", 0)),
            "0/1 Completed 0",
        ),
        (with_state("Failed", ended("Error", 1)), "0/1 Error 0"),
        (
            with_state("Failed", ended("OOMKilled", 137)),
            "0/1 OOMKilled 0",
        ),
        (
            with_state("Failed", json!({"terminated": {"exitCode": 3}})),
            "0/1 ExitCode:3 0",
        ),
        (
            with_state(
                "Failed",
                json!({"terminated": {"exitCode": 137, "signal": 9}}),
            ),
            "0/1 Signal:9 0",
        ),
        (
            pod(one(), json!({"phase": "Failed", "reason": "Evicted"})),
            "0/1 Evicted 0",
        ),
        (
            pod(
                one(),
                json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            ),
            "0/1 SchedulingGated 0",
        ),
    ] {
        assert_eq!(status_of(&object), want);
    }
}

#[test]
fn pods_that_are_going() {
    let mut object = with_state("Running", json!({"running": {}}));
    object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:30Z".into();
    assert_eq!(status_of(&object), "1/1 Terminating 0");
    object["status"]["reason"] = "NodeLost".into();
    assert_eq!(status_of(&object), "1/1 Unknown 0");
    let mut object = with_state(
        "Succeeded",
        json!({"terminated": {"reason": "Completed", "exitCode": 0}}),
    );
    object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:30Z".into();
    assert_eq!(status_of(&object), "0/1 Completed 0");
}

#[test]
fn init_containers() {
    let spec =
        json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let init = |state: Value| {
        pod(
            spec.clone(),
            json!({"phase": "Pending",
            "initContainerStatuses": [
                {"name": "i", "restartCount": 3, "state": state},
                {"name": "j", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}],
            "containerStatuses": [
                {"name": "c", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
        )
    };
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    for (state, want) in [
        (json!({"running": {}}), "0/1 Init:0/2 3"),
        (
            json!({"waiting": {"reason": "PodInitializing"}}),
            "0/1 Init:0/2 3",
        ),
        (
            json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            "0/1 Init:CrashLoopBackOff 3",
        ),
        (
            json!({"terminated": {"exitCode": 1, "reason": "Error"}}),
            "0/1 Init:Error 3",
        ),
        (
            json!({"terminated": {"exitCode": 4}}),
            "0/1 Init:ExitCode:4 3",
        ),
        (
            json!({"terminated": {"exitCode": 137, "signal": 9}}),
            "0/1 Init:Signal:9 3",
        ),
        (done.clone(), "0/1 Init:1/2 3"),
    ] {
        assert_eq!(status_of(&init(state)), want);
    }
    let mut all_done = init(done.clone());
    all_done["status"]["initContainerStatuses"][1]["state"] = done;
    assert_eq!(status_of(&all_done), "0/1 PodInitializing 0");
}

#[test]
fn sidecars_count_as_containers() {
    let object = pod(
        json!({"containers": [{"name": "c"}],
            "initContainers": [{"name": "s", "restartPolicy": "Always"}]}),
        json!({"phase": "Running",
            "initContainerStatuses": [{"name": "s", "restartCount": 1, "ready": true,
                "started": true, "state": {"running": {}}}],
            "containerStatuses": [{"name": "c", "restartCount": 2, "ready": true,
                "state": {"running": {}}}]}),
    );
    assert_eq!(status_of(&object), "2/2 Running 3");
}

#[test]
fn partly_completed_pods() {
    let object = |other: Value, ready: &str| {
        pod(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [
                    {"name": "a", "restartCount": 0, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}},
                    {"name": "b", "restartCount": 0, "ready": other.get("running").is_some(), "state": other}]}),
        )
    };
    assert_eq!(
        status_of(&object(json!({"running": {}}), "True")),
        "1/2 Running 0"
    );
    assert_eq!(
        status_of(&object(json!({"running": {}}), "False")),
        "1/2 NotReady 0"
    );
    let failed = json!({"terminated": {"reason": "Error", "exitCode": 2}});
    assert_eq!(status_of(&object(failed, "False")), "0/2 Error 0");
}

#[test]
fn services() {
    let service = |spec: Value, status: Value| {
        json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": status})
    };
    for (spec, status, want) in [
        (
            json!({"type": "ClusterIP", "clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"],
            "ports": [{"port": 443, "protocol": "TCP"}]}),
            json!({}),
            "s ClusterIP 10.43.0.1 <none> 443/TCP 24h | <none>",
        ),
        (
            json!({"type": "NodePort", "clusterIPs": ["10.43.0.2"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            json!({}),
            "s NodePort 10.43.0.2 <none> 80:30080/TCP,53/UDP 24h | a=1,b=2",
        ),
        (
            json!({"type": "LoadBalancer", "clusterIPs": ["10.43.0.3"], "ports": [{"port": 80, "protocol": "TCP"}]}),
            json!({}),
            "s LoadBalancer 10.43.0.3 <pending> 80/TCP 24h | <none>",
        ),
        (
            json!({"type": "LoadBalancer", "clusterIPs": ["10.43.0.3"], "externalIPs": ["9.9.9.9"],
            "ports": [{"port": 80, "protocol": "TCP"}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
            "s LoadBalancer 10.43.0.3 1.2.3.4,9.9.9.9 80/TCP 24h | <none>",
        ),
        (
            json!({"type": "ExternalName", "externalName": "example.com"}),
            json!({}),
            "s ExternalName <none> example.com <none> 24h | <none>",
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
            json!({}),
            "s ClusterIP None <none> <none> 24h | <none>",
        ),
    ] {
        assert_eq!(show(kinds::SERVICE, &service(spec, status)), want);
    }
}

#[test]
fn nodes() {
    let node = json!({"metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "db"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.5"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian 12", "kernelVersion": "6.1"}}});
    assert_eq!(
        show(kinds::NODE, &node),
        "n1 Ready,SchedulingDisabled db,worker 24h v1.36.0 | 10.0.0.5 <none> Debian 12 6.1 <unknown>"
    );
    let lost = json!({"metadata": {"name": "n2", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    assert!(show(kinds::NODE, &lost).starts_with("n2 NotReady <none> 24h "));
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]}});
    let object = json!({"metadata": {"name": "d", "creationTimestamp": "2026-01-01T23:50:00Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": template},
        "status": {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}});
    assert_eq!(
        show(kinds::DEPLOYMENT, &object),
        "d 2/3 1 2 10m | a,b a:1,b:1 app=d"
    );
    assert_eq!(
        show(kinds::REPLICA_SET, &object),
        "d 3 3 2 10m | a,b a:1,b:1 app=d"
    );
}

#[test]
fn endpoints_of_services() {
    let addresses: Vec<Value> = (1..=5)
        .map(|i| json!({"ip": format!("10.0.0.{i}")}))
        .collect();
    let object = json!({"metadata": {"name": "e", "creationTimestamp": "2026-01-01T23:59:00Z"},
        "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    assert_eq!(
        show(kinds::ENDPOINTS, &object),
        "e 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more... 60s | "
    );
    let empty = json!({"metadata": {"name": "e"}});
    assert_eq!(show(kinds::ENDPOINTS, &empty), "e <none> <unknown> | ");
    let slice = json!({"metadata": {"name": "e-1", "creationTimestamp": "2026-01-01T23:59:00Z"},
        "addressType": "IPv4", "ports": [{"port": 80}, {"name": "web"}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
    assert_eq!(
        show(kinds::ENDPOINT_SLICE, &slice),
        "e-1 IPv4 80,web 10.0.0.1,10.0.0.2 60s | "
    );
    let empty = json!({"metadata": {"name": "e-1", "creationTimestamp": "2026-01-01T23:59:00Z"},
        "addressType": "IPv4"});
    assert_eq!(
        show(kinds::ENDPOINT_SLICE, &empty),
        "e-1 IPv4 <unset> <unset> 60s | "
    );
}

#[test]
fn events() {
    let core = json!({"metadata": {"name": "p.1"}, "type": "Warning", "reason": "BackOff",
        "message": " back-off \n", "count": 4, "firstTimestamp": "2026-01-01T23:50:00Z",
        "lastTimestamp": "2026-01-01T23:59:00Z", "source": {"component": "agent", "host": "n1"},
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"}});
    assert_eq!(
        show(kinds::EVENT, &core),
        "60s Warning BackOff pod/p back-off | spec.containers{c} agent, n1 10m 4 p.1"
    );
    let new = json!({"metadata": {"name": "p.2"}, "type": "Normal", "reason": "Scheduled",
        "note": "bound", "eventTime": "2026-01-01T23:59:58.000000Z",
        "reportingController": "scheduler", "regarding": {"kind": "Pod", "name": "p"}});
    assert_eq!(
        show(kinds::EVENTS_EVENT, &new),
        "2s Normal Scheduled pod/p bound |  scheduler 2s 1 p.2"
    );
}

#[test]
fn the_small_kinds() {
    let meta = json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"});
    for (kind, object, want) in [
        (
            kinds::NAMESPACE,
            json!({"metadata": meta, "status": {"phase": "Active"}}),
            "x Active 24h | ",
        ),
        (
            kinds::CONFIG_MAP,
            json!({"metadata": meta, "data": {"a": "1"}, "binaryData": {"b": ""}}),
            "x 2 24h | ",
        ),
        (
            kinds::SECRET,
            json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}}),
            "x Opaque 1 24h | ",
        ),
        (
            kinds::SERVICE_ACCOUNT,
            json!({"metadata": meta}),
            "x 24h | ",
        ),
        (
            kinds::LEASE,
            json!({"metadata": meta, "spec": {"holderIdentity": "n1"}}),
            "x n1 24h | ",
        ),
        (
            kinds::CLUSTER_ROLE,
            json!({"metadata": meta}),
            "x 2026-01-01T00:00:00Z | ",
        ),
        (
            kinds::ROLE_BINDING,
            json!({"metadata": meta, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "ann"}, {"kind": "User", "name": "bo"},
            {"kind": "ServiceAccount", "name": "sa", "namespace": "ns"}]}),
            "x Role/r 24h | ann, bo  ns/sa",
        ),
    ] {
        assert_eq!(show(kind, &object), want);
    }
}

#[test]
fn tables_carry_what_was_asked_for() {
    let object = with_state(
        "Succeeded",
        json!({"terminated": {"reason": "Completed", "exitCode": 0}}),
    );
    let items = [object.clone()];
    let list_meta = json!({"resourceVersion": "9"});
    let metadata = table(
        kinds::POD,
        &items,
        IncludeObject::Metadata,
        now(),
        list_meta.clone(),
    );
    assert_eq!(metadata["kind"], "Table");
    assert_eq!(metadata["metadata"], list_meta);
    assert_eq!(
        metadata["rows"][0]["object"]["kind"],
        "PartialObjectMetadata"
    );
    assert_eq!(metadata["rows"][0]["object"]["metadata"]["name"], "p");
    assert_eq!(metadata["rows"][0]["conditions"][0]["reason"], "Succeeded");
    let whole = table(
        kinds::POD,
        &items,
        IncludeObject::Object,
        now(),
        list_meta.clone(),
    );
    assert_eq!(whole["rows"][0]["object"], object);
    let none = table(kinds::POD, &items, IncludeObject::None, now(), list_meta);
    assert!(none["rows"][0].get("object").is_none());
    assert_eq!(IncludeObject::parse(""), Some(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("All"), None);
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in kinds::all() {
        let cells = cells::cells(kind, &json!({"metadata": {"name": "x"}}), now());
        assert_eq!(cells.len(), columns(kind).len(), "{}", kind.kind);
    }
}
