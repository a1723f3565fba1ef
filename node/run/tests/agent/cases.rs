//! What a node promises, seen from the API.

use crate::stand::{Stand, condition, container};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};
use trireme_model::{kinds, meta};

pub type Case = (
    &'static str,
    fn() -> Pin<Box<dyn Future<Output = ()> + Send>>,
);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub fn cases() -> Vec<Case> {
            vec![$((stringify!($name), || Box::pin($name()))),*]
        }
    };
}

cases![
    a_pod_runs_and_goes,
    containers_share_and_see_their_environment,
    configuration_arrives_late_and_changes,
    crashes_are_counted_and_previous_logs_kept,
    init_containers_and_probes,
    a_killed_agent_changes_nothing,
    a_killed_agent_catches_up,
    what_cannot_work_says_so,
    starting_is_quick,
];

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "command": ["sh", "-c", script]})
}

async fn a_pod_runs_and_goes() {
    let stand = Stand::new().await;
    stand.pod("web", json!({"terminationGracePeriodSeconds": 1, "containers": [shell("app", "echo hello; sleep 1000")]}));
    let pod = stand.running("web").await;
    assert_eq!(pod["status"]["phase"], "Running");
    let ip = pod["status"]["podIP"].as_str().unwrap();
    assert!(ip.starts_with("10.42.5."), "{ip}");
    assert_eq!(pod["status"]["hostIP"], "10.77.0.1");
    let app = container(&pod, "app");
    assert_eq!(app["ready"], true);
    assert!(
        app["containerID"]
            .as_str()
            .unwrap()
            .starts_with("trireme://")
    );
    assert_eq!(stand.logs("web", "app", "").await, "hello\n");
    // Events are written beside the status, so they may come a moment later.
    let told = async {
        for reason in ["Pulled", "Created", "Started"] {
            let about = |e: &Value| e["reason"] == reason && e["involvedObject"]["name"] == "web";
            while !stand.api.list(kinds::EVENT).iter().any(about) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("events");
    let node = stand
        .api
        .wait("node ready", kinds::NODE, "", "node-1", |node| {
            node.is_some_and(|node| condition(node, "Ready") == "True")
        })
        .await;
    assert!(node["status"]["allocatable"]["cpu"].as_str().is_some());
    stand
        .api
        .wait(
            "lease",
            kinds::LEASE,
            "kube-node-lease",
            "node-1",
            |lease| lease.is_some(),
        )
        .await;
    stand.delete("web").await;
    stand.finish().await;
}

async fn containers_share_and_see_their_environment() {
    let stand = Stand::new().await;
    stand.api.put(
        kinds::CONFIG_MAP,
        json!({"metadata": {"name": "c", "namespace": "default"}, "data": {"k": "v1", "j": "x"}}),
    );
    stand.api.put(
        kinds::SECRET,
        json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"p": "c2VjcmV0"}}),
    );
    let script = "echo A=$A B=$B C=$C POD=$POD CPU=$CPU X=$j HOST=$KUBERNETES_SERVICE_HOST; \
        cat /shared/file /cfg/k /sec/p /pod/labels /one /var/run/secrets/token; echo; hostname; cat /etc/resolv.conf; sleep 1000";
    stand.pod(
        "web",
        json!({
            "terminationGracePeriodSeconds": 1, "hostname": "web-host", "serviceAccountName": "robot",
            "initContainers": [{"name": "init", "command": ["sh", "-c", "echo shared > /shared/file"],
                                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
            "containers": [{
                "name": "app", "command": ["sh", "-c", script],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "envFrom": [{"configMapRef": {"name": "c"}}],
                "env": [
                    {"name": "A", "value": "a"}, {"name": "B", "value": "$(A)b"},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}
                ],
                "volumeMounts": [
                    {"name": "shared", "mountPath": "/shared"}, {"name": "cfg", "mountPath": "/cfg"},
                    {"name": "sec", "mountPath": "/sec"}, {"name": "pod", "mountPath": "/pod"},
                    {"name": "cfg", "mountPath": "/one", "subPath": "k"},
                    {"name": "token", "mountPath": "/var/run/secrets"}
                ]
            }],
            "volumes": [
                {"name": "shared", "emptyDir": {"medium": "Memory"}},
                {"name": "cfg", "configMap": {"name": "c"}},
                {"name": "sec", "secret": {"secretName": "s", "defaultMode": 256}},
                {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
            ]
        }),
    );
    let pod = stand.running("web").await;
    let log = stand.logs("web", "app", "").await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(
        lines[0],
        "A=a B=ab C=secret POD=web CPU=500 X=x HOST=10.43.0.1"
    );
    assert_eq!(lines[1], "shared");
    assert_eq!(lines[2], "v1secretapp=\"web\"v1token-of-robot");
    assert_eq!(lines[3], "web-host");
    assert!(
        log.contains("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{log}"
    );
    assert!(log.contains("nameserver 169.254.20.10"), "{log}");
    let init = container(&pod, "init");
    assert_eq!(init["state"]["terminated"]["reason"], "Completed");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    stand.finish().await;
}

async fn configuration_arrives_late_and_changes() {
    let stand = Stand::new().await;
    stand.pod(
        "late",
        json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app",
                "command": ["sh", "-c", "while true; do cat /cfg/k; sleep 0.1; done"],
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "env", "key": "a"}}}],
                "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]
            }],
            "volumes": [{"name": "cfg", "configMap": {"name": "files"}}]
        }),
    );
    // Containers wait for volumes; the user is told why.
    let mounts = |event: &Value| event["reason"] == "FailedMount";
    let told = async {
        while !stand.api.list(kinds::EVENT).iter().any(mounts) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("FailedMount");
    let event = stand
        .api
        .list(kinds::EVENT)
        .into_iter()
        .find(mounts)
        .unwrap();
    assert_eq!(
        event["message"],
        "MountVolume.SetUp failed for volume \"cfg\" : configmap \"files\" not found"
    );
    stand.api.put(
        kinds::CONFIG_MAP,
        json!({"metadata": {"name": "files", "namespace": "default"}, "data": {"k": "one\n"}}),
    );
    let pod = stand
        .wait("configuration error", "late", |pod| {
            container(pod, "app")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(
        container(&pod, "app")["state"]["waiting"]["message"],
        "configmap \"env\" not found"
    );
    stand.api.put(
        kinds::CONFIG_MAP,
        json!({"metadata": {"name": "env", "namespace": "default"}, "data": {"b": "1"}}),
    );
    stand
        .wait("missing key", "late", |pod| {
            container(pod, "app")["state"]["waiting"]["message"]
                == "couldn't find key a in ConfigMap default/env"
        })
        .await;
    stand.api.put(
        kinds::CONFIG_MAP,
        json!({"metadata": {"name": "env", "namespace": "default"}, "data": {"a": "1"}}),
    );
    let pod = stand.running("late").await;
    assert_eq!(container(&pod, "app")["restartCount"], 0);
    stand.api.put(
        kinds::CONFIG_MAP,
        json!({"metadata": {"name": "files", "namespace": "default"}, "data": {"k": "two\n"}}),
    );
    let changed = async {
        while !stand
            .logs("late", "app", "tailLines=1")
            .await
            .contains("two")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed)
        .await
        .expect("live update");
    stand.finish().await;
}

async fn crashes_are_counted_and_previous_logs_kept() {
    let stand = Stand::new().await;
    let script = "echo run; echo words > /dev/termination-log; sleep 0.2; exit 3";
    stand.pod("crash", json!({"containers": [shell("app", script)]}));
    let pod = stand
        .wait("back-off", "crash", |pod| {
            container(pod, "app")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let app = container(&pod, "app");
    assert_eq!(app["restartCount"], 1);
    let last = &app["lastState"]["terminated"];
    assert_eq!(
        (last["exitCode"].as_i64(), last["reason"].as_str()),
        (Some(3), Some("Error"))
    );
    assert_eq!(last["message"], "words\n");
    assert_eq!(stand.logs("crash", "app", "previous=true").await, "run\n");
    stand.pod(
        "never",
        json!({"restartPolicy": "Never", "containers": [shell("app", "exit 0")]}),
    );
    let pod = stand
        .wait("done", "never", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    assert_eq!(
        container(&pod, "app")["state"]["terminated"]["reason"],
        "Completed"
    );
    stand.pod(
        "oom",
        json!({"restartPolicy": "Never", "containers": [{
        "name": "app", "command": ["sh", "-c", "x=a; while true; do x=$x$x; done"],
        "resources": {"limits": {"memory": "16Mi"}}}]}),
    );
    let pod = stand
        .wait("failed", "oom", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(
        container(&pod, "app")["state"]["terminated"]["reason"],
        "OOMKilled"
    );
    stand.finish().await;
}

async fn init_containers_and_probes() {
    let stand = Stand::new().await;
    stand.pod(
        "probed",
        json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app",
                "command": ["sh", "-c", "mkdir /tmp/w; echo ok > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; sleep 1; touch /tmp/ready; sleep 1000"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
                "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
            }]
        }),
    );
    stand
        .wait("started, not ready", "probed", |pod| {
            container(pod, "app")["started"] == true && container(pod, "app")["ready"] == false
        })
        .await;
    let pod = stand.running("probed").await;
    assert_eq!(container(&pod, "app")["restartCount"], 0);
    stand.pod(
        "sick",
        json!({"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "app", "command": ["sleep", "1000"],
            "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    stand
        .wait("restarted", "sick", |pod| {
            container(pod, "app")["restartCount"].as_i64() >= Some(1)
        })
        .await;
    let events = stand.api.list(kinds::EVENT);
    let told = |reason: &str, text: &str| {
        events
            .iter()
            .any(|e| e["reason"] == reason && e["message"].as_str().unwrap().contains(text))
    };
    assert!(
        told("Unhealthy", "Liveness probe failed: Get"),
        "{events:#?}"
    );
    assert!(
        told("Killing", "failed liveness probe, will be restarted"),
        "{events:#?}"
    );
    stand.finish().await;
}

async fn a_killed_agent_changes_nothing() {
    let mut stand = Stand::new().await;
    stand.pod(
        "stay",
        json!({"terminationGracePeriodSeconds": 1,
        "containers": [shell("app", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done")]}),
    );
    let before = stand.running("stay").await;
    stand.kill();
    let at = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stand.start();
    // The node is registered anew once its agent is there; then the log goes on.
    let lines = async {
        loop {
            if tokio::net::TcpStream::connect((crate::stand::NODE_IP, 10250))
                .await
                .is_ok()
            {
                let log = stand.logs("stay", "app", "").await;
                let count = log.lines().count();
                let numbers: Vec<usize> = log.lines().filter_map(|l| l.parse().ok()).collect();
                if count > 10 && at.elapsed() > Duration::from_secs(2) {
                    assert_eq!(
                        numbers,
                        (1..=count).collect::<Vec<_>>(),
                        "one run, unbroken"
                    );
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), lines)
        .await
        .expect("the log goes on");
    let after = stand.api.get(kinds::POD, "default", "stay").unwrap();
    let key = |pod: &Value| {
        let app = container(pod, "app");
        (
            app["containerID"].clone(),
            app["restartCount"].clone(),
            app["state"].clone(),
            pod["status"]["podIP"].clone(),
        )
    };
    assert_eq!(key(&after), key(&before));
    assert_eq!(condition(&after, "Ready"), "True");
    stand.finish().await;
}

async fn a_killed_agent_catches_up() {
    let mut stand = Stand::new().await;
    stand.pod(
        "ends",
        json!({"restartPolicy": "Never", "containers": [shell("app", "sleep 1; exit 7")]}),
    );
    stand.pod(
        "gone",
        json!({"terminationGracePeriodSeconds": 1, "containers": [shell("app", "sleep 1000")]}),
    );
    stand.running("ends").await;
    stand.running("gone").await;
    stand.kill();
    stand.api.delete(kinds::POD, "default", "gone", 0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stand.start();
    let pod = stand
        .wait("the exit is not lost", "ends", |pod| {
            pod["status"]["phase"] == "Failed"
        })
        .await;
    assert_eq!(container(&pod, "app")["state"]["terminated"]["exitCode"], 7);
    // `finish` proves that nothing is left of the pod whose object went.
    stand.finish().await;
}

async fn what_cannot_work_says_so() {
    let stand = Stand::new().await;
    let reason = |pod: &Value| container(pod, "app")["state"]["waiting"]["reason"].clone();
    stand.pod(
        "noimage",
        json!({"containers": [{"name": "app", "image": "127.0.0.1:1/nosuch:1"}]}),
    );
    let pod = stand
        .wait("pull error", "noimage", |pod| reason(pod) == "ErrImagePull")
        .await;
    assert!(
        container(&pod, "app")["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1:1")
    );
    stand
        .wait("pull back-off", "noimage", |pod| {
            reason(pod) == "ImagePullBackOff"
        })
        .await;
    stand.pod(
        "nocommand",
        json!({"containers": [{"name": "app", "command": ["/nosuch"]}]}),
    );
    let pod = stand
        .wait("start error", "nocommand", |pod| {
            container(pod, "app")["lastState"]["terminated"]["reason"] == "StartError"
        })
        .await;
    assert_eq!(
        container(&pod, "app")["lastState"]["terminated"]["exitCode"],
        128
    );
    stand.pod(
        "picky",
        json!({"nodeSelector": {"no": "such"}, "containers": [{"name": "app"}]}),
    );
    let pod = stand
        .wait("refused", "picky", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(pod["status"]["reason"], "NodeAffinity");
    stand.pod(
        "root",
        json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "app"}]}),
    );
    stand
        .wait("non-root", "root", |pod| {
            reason(pod) == "CreateContainerConfigError"
        })
        .await;
    stand.finish().await;
}

async fn starting_is_quick() {
    let stand = Stand::new().await;
    stand.pod(
        "first",
        json!({"terminationGracePeriodSeconds": 1, "containers": [shell("app", "sleep 1000")]}),
    );
    stand.running("first").await;
    let mut times = Vec::new();
    for number in 0..15 {
        let name = format!("quick-{number}");
        let began = Instant::now();
        stand.pod(
            &name,
            json!({"terminationGracePeriodSeconds": 1, "containers": [shell("app", "sleep 1000")]}),
        );
        stand.running(&name).await;
        times.push(began.elapsed().as_millis());
        assert!(!meta::uid(&stand.api.get(kinds::POD, "default", &name).unwrap()).is_empty());
    }
    times.sort_unstable();
    println!(
        "pod created to ready: median {} ms, worst {} ms of {}",
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
    stand.finish().await;
}
