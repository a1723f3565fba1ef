//! The scheduler: its words, its choices, and that it never overcommits.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use trireme_decide::{Action, Change, ObjectKey, Plan, View, schedule};
use trireme_model::kinds;

use trireme_reference::cluster::World;
use trireme_reference::cluster::invariants::{bound_once, not_overcommitted};

fn node(name: &str, extra: Value) -> Value {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut node, extra);
    node
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "main", "image": "web:1"}]},
        "status": {"phase": "Pending"},
    });
    merge(&mut pod["spec"], spec);
    pod
}

fn merge(target: &mut Value, extra: Value) {
    match (target, extra) {
        (Value::Object(target), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, extra) => *target = extra,
    }
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "main", "image": "web:1",
        "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn view(nodes: Vec<Value>, pods: Vec<Value>) -> View {
    let mut view = View::new("2030-01-01T01:00:00Z".parse::<Timestamp>().unwrap());
    for node in nodes {
        view.update(kinds::NODE, Change::Upsert(node)).unwrap();
    }
    for pod in pods {
        view.update(kinds::POD, Change::Upsert(pod)).unwrap();
    }
    view
}

fn chosen(plan: &Plan) -> Vec<(String, String)> {
    plan.intents
        .iter()
        .filter_map(|intent| match &intent.action {
            Action::Bind { name, node, .. } => Some((name.clone(), node.clone())),
            _ => None,
        })
        .collect()
}

/// The message of the only pod's condition, which is the event's, too.
fn refusal(view: &View) -> String {
    let plan = schedule::plan(view, 7);
    assert_eq!(plan.intents.len(), 1, "{plan:?}");
    let event = plan.intents[0].event.as_ref().unwrap();
    assert_eq!(event.reason, "FailedScheduling");
    let Action::UpdateStatus { object, .. } = &plan.intents[0].action else {
        panic!("{plan:?}");
    };
    let condition = &object["status"]["conditions"][0];
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(condition["message"], event.message.as_str());
    event.message.clone()
}

#[test]
fn refusals_are_worded_as_kube_scheduler_does() {
    let tainted =
        json!({"spec": {"taints": [{"key": "node-role", "value": "x", "effect": "NoSchedule"}]}});
    let cases = [
        (vec![], json!({}), "no nodes available to schedule pods"),
        (
            vec![node("a", json!({})), node("b", tainted)],
            asks("3", "1Gi"),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint \
             {node-role: x}. preemption: 0/2 nodes are available: \
             2 Preemption is not helpful for scheduling.",
        ),
        (
            vec![
                node("a", json!({})),
                node("b", json!({"spec": {"unschedulable": true}})),
            ],
            json!({"nodeSelector": {"disk": "ssd"}}),
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
             1 node(s) were unschedulable. preemption: 0/2 nodes are available: \
             2 Preemption is not helpful for scheduling.",
        ),
        (
            vec![node("a", json!({"status": {"allocatable": {"pods": "0"}}}))],
            asks("3", "5Gi"),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![node("a", json!({}))],
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}),
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints \
             (missing required label). preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![node("a", json!({}))],
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}),
            "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![node("a", json!({}))],
            json!({"preemptionPolicy": "Never", "nodeSelector": {"a": "b"}}),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
             preemption: not eligible due to preemptionPolicy=Never.",
        ),
    ];
    for (nodes, spec, expected) in cases {
        assert_eq!(refusal(&view(nodes, vec![pod("p", spec)])), expected);
    }
}

fn placed(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    pod["status"]["phase"] = json!("Running");
    pod
}

#[test]
fn refusals_that_other_pods_cause_are_told_apart() {
    let first = placed(pod("first", asks("1500m", "1Gi")), "a");
    let cluster = view(
        vec![node("a", json!({}))],
        vec![first, pod("p", asks("1", "1Gi"))],
    );
    assert_eq!(
        refusal(&cluster),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 No preemption victims found for incoming pod."
    );
    let port = json!({"containers": [{"name": "main", "image": "web:1",
        "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let first = placed(pod("first", port.clone()), "a");
    let cluster = view(vec![node("a", json!({}))], vec![first, pod("p", port)]);
    assert_eq!(
        refusal(&cluster),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let alone = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let first = placed(pod("first", alone.clone()), "a");
    let cluster = view(
        vec![node("a", json!({}))],
        vec![first.clone(), pod("p", json!({}))],
    );
    assert!(
        refusal(&cluster).contains("1 node(s) didn't satisfy existing pods anti-affinity rules")
    );
    let cluster = view(
        vec![node("a", json!({}))],
        vec![placed(pod("first", json!({})), "a"), pod("p", alone)],
    );
    assert!(refusal(&cluster).contains("1 node(s) didn't match pod anti-affinity rules"));
}

#[test]
fn a_reason_that_stands_already_is_not_written_again() {
    let mut cluster = view(vec![], vec![pod("p", json!({}))]);
    let plan = schedule::plan(&cluster, 1);
    let Action::UpdateStatus { object, .. } = &plan.intents[0].action else {
        panic!("{plan:?}");
    };
    cluster
        .update(kinds::POD, Change::Upsert(object.clone()))
        .unwrap();
    assert!(schedule::plan(&cluster, 2).is_empty());
}

#[test]
fn gated_pods_wait_and_foreign_ones_are_left_alone() {
    let gated = pod("gated", json!({"schedulingGates": [{"name": "quota"}]}));
    let foreign = pod("foreign", json!({"schedulerName": "other"}));
    let plan = schedule::plan(&view(vec![node("a", json!({}))], vec![gated, foreign]), 1);
    assert_eq!(plan.intents.len(), 1);
    let Action::UpdateStatus { object, .. } = &plan.intents[0].action else {
        panic!("{plan:?}");
    };
    assert_eq!(
        object["status"]["conditions"][0]["reason"],
        "SchedulingGated"
    );
}

#[test]
fn priority_then_age_decides_who_gets_the_last_room() {
    let mut old = pod("old", asks("2", "1Gi"));
    old["metadata"]["creationTimestamp"] = json!("2029-01-01T00:00:00Z");
    let mut important = pod("important", asks("2", "1Gi"));
    important["spec"]["priority"] = json!(10);
    let young = pod("young", asks("2", "1Gi"));
    let one = vec![node("a", json!({}))];
    let plan = schedule::plan(&view(one, vec![old.clone(), important, young.clone()]), 1);
    assert_eq!(chosen(&plan), [("important".to_owned(), "a".to_owned())]);
    let plan = schedule::plan(&view(vec![node("a", json!({}))], vec![young, old]), 1);
    assert_eq!(chosen(&plan), [("old".to_owned(), "a".to_owned())]);
}

#[test]
fn pods_of_one_service_are_spread_over_nodes_and_zones() {
    let zone = |name: &str, zone: &str| {
        node(
            name,
            json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}),
        )
    };
    let nodes = vec![
        zone("a1", "a"),
        zone("a2", "a"),
        zone("a3", "a"),
        zone("b1", "b"),
    ];
    let pods = (0..4).map(|i| pod(&format!("p{i}"), json!({}))).collect();
    let mut cluster = view(nodes, pods);
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "web"},
        "spec": {"selector": {"app": "web"}}});
    cluster
        .update(kinds::SERVICE, Change::Upsert(service))
        .unwrap();
    for seed in 0..20 {
        let plan = schedule::plan(&cluster, seed);
        let mut nodes: Vec<String> = chosen(&plan).into_iter().map(|(_, node)| node).collect();
        nodes.sort();
        nodes.dedup();
        assert!(nodes.len() >= 3, "seed {seed}: {nodes:?}");
        assert!(nodes.contains(&"b1".to_owned()), "seed {seed}: {nodes:?}");
    }
}

#[test]
fn hard_spread_keeps_the_skew() {
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let nodes = vec![
        node("a", json!({})),
        node("b", json!({})),
        node("c", json!({})),
    ];
    let pods = (0..7)
        .map(|i| pod(&format!("p{i}"), spread.clone()))
        .collect();
    let plan = schedule::plan(&view(nodes, pods), 3);
    let mut counts = std::collections::BTreeMap::new();
    for (_, node) in chosen(&plan) {
        *counts.entry(node).or_insert(0) += 1;
    }
    let mut counts: Vec<i32> = counts.into_values().collect();
    counts.sort();
    assert_eq!(counts, [2, 2, 3]);
}

#[test]
fn affinity_places_the_first_anywhere_and_the_rest_beside_it() {
    let together = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let nodes = || {
        vec![
            node("a", json!({})),
            node("b", json!({})),
            node("c", json!({})),
        ]
    };
    let pods = (0..4)
        .map(|i| pod(&format!("p{i}"), together.clone()))
        .collect();
    let plan = schedule::plan(&view(nodes(), pods), 3);
    let mut used: Vec<String> = chosen(&plan).into_iter().map(|(_, node)| node).collect();
    assert_eq!(used.len(), 4);
    used.dedup();
    assert_eq!(used.len(), 1);
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let pods = (0..4)
        .map(|i| pod(&format!("p{i}"), apart.clone()))
        .collect();
    let plan = schedule::plan(&view(nodes(), pods), 3);
    let mut used: Vec<String> = chosen(&plan).into_iter().map(|(_, node)| node).collect();
    used.sort();
    assert_eq!(used, ["a", "b", "c"]);
}

#[test]
fn preferences_weigh_in() {
    let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    let fast = node("fast", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let cluster = view(
        vec![node("a", json!({})), fast, node("z", json!({}))],
        vec![pod("p", prefer)],
    );
    for seed in 0..10 {
        assert_eq!(chosen(&schedule::plan(&cluster, seed))[0].1, "fast");
    }
    let discouraged = json!({"spec": {"taints": [{"key": "old", "effect": "PreferNoSchedule"}]}});
    let cluster = view(
        vec![node("a", discouraged), node("b", json!({}))],
        vec![pod("p", json!({}))],
    );
    for seed in 0..10 {
        assert_eq!(chosen(&schedule::plan(&cluster, seed))[0].1, "b");
    }
    let image = json!({"status": {"images": [{"names": ["web:1"], "sizeBytes": 900_000_000}]}});
    let cluster = view(
        vec![node("a", json!({})), node("b", image)],
        vec![pod("p", json!({}))],
    );
    for seed in 0..10 {
        assert_eq!(chosen(&schedule::plan(&cluster, seed))[0].1, "b");
    }
}

#[test]
fn pods_are_drawn_to_those_that_like_them() {
    let likes = |field: &str| {
        let mut affinity = json!({});
        affinity[field] = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app": "web"}}}}]});
        json!({"affinity": affinity})
    };
    let mut friend = pod("friend", likes("podAffinity"));
    friend["metadata"]["labels"] = json!({"app": "db"});
    let nodes = || vec![node("a", json!({})), node("b", json!({}))];
    let cluster = view(nodes(), vec![placed(friend, "b"), pod("p", json!({}))]);
    for seed in 0..10 {
        assert_eq!(chosen(&schedule::plan(&cluster, seed))[0].1, "b");
    }
    let mut shy = pod("shy", likes("podAntiAffinity"));
    shy["metadata"]["labels"] = json!({"app": "db"});
    let cluster = view(
        nodes(),
        vec![placed(shy, "b"), pod("p", likes("podAffinity"))],
    );
    for seed in 0..10 {
        assert_eq!(chosen(&schedule::plan(&cluster, seed))[0].1, "a");
    }
}

#[test]
fn the_seed_breaks_ties_and_nothing_else() {
    let nodes: Vec<Value> = (0..8).map(|i| node(&format!("n{i}"), json!({}))).collect();
    let cluster = view(nodes, vec![pod("p", json!({}))]);
    let choices: std::collections::BTreeSet<String> = (0..64)
        .map(|seed| chosen(&schedule::plan(&cluster, seed))[0].1.clone())
        .collect();
    assert!(choices.len() > 4, "{choices:?}");
    let again = |seed| chosen(&schedule::plan(&cluster, seed));
    assert_eq!(again(5), again(5));
}

#[test]
fn an_explanation_gives_every_node_its_reason_or_score() {
    let tainted =
        json!({"spec": {"taints": [{"key": "role", "value": "x", "effect": "NoSchedule"}]}});
    let cluster = view(
        vec![
            node("a", json!({})),
            node("b", tainted),
            node("c", json!({})),
        ],
        vec![
            placed(pod("other", asks("1", "1Gi")), "c"),
            pod("p", asks("1", "1Gi")),
        ],
    );
    let explanation = schedule::explain(&cluster, &ObjectKey::new("default", "p")).unwrap();
    assert_eq!(explanation.message, None);
    let names: Vec<&str> = explanation
        .nodes
        .iter()
        .map(|it| it.node.as_str())
        .collect();
    assert_eq!(names, ["a", "c", "b"]);
    assert!(explanation.nodes[0].total > explanation.nodes[1].total);
    let score = |node: usize, plugin: &str| {
        let scores = &explanation.nodes[node].scores;
        scores.iter().find(|it| it.plugin == plugin).unwrap().score
    };
    // (2 - 1) / 2 of the cpu and (4 - 1) / 4 of the memory are left on a.
    assert_eq!(score(0, "NodeResourcesFit"), (50 + 75) / 2);
    assert_eq!(score(1, "NodeResourcesFit"), 25, "(0 + 50) / 2");
    assert_eq!(explanation.nodes[2].refused_by, Some("TaintToleration"));
    assert_eq!(
        explanation.nodes[2].reasons,
        ["node(s) had untolerated taint {role: x}"]
    );
}

#[test]
fn assumed_pods_take_room_until_the_watch_or_a_refusal_says_otherwise() {
    let key = ObjectKey::new("default", "first");
    let mut cluster = view(
        vec![node("a", json!({}))],
        vec![pod("first", asks("2", "1Gi"))],
    );
    cluster.assume(&key, "first", "a");
    assert!(schedule::plan(&cluster, 1).is_empty());
    cluster
        .update(kinds::POD, Change::Upsert(pod("second", asks("1", "1Gi"))))
        .unwrap();
    assert!(refusal(&cluster).contains("1 Insufficient cpu"));
    // A change of the pod from before the binding does not undo the assumption.
    cluster
        .update(kinds::POD, Change::Upsert(pod("first", asks("2", "1Gi"))))
        .unwrap();
    assert!(refusal(&cluster).contains("1 Insufficient cpu"));
    // After a refusal the room is free again; the pod itself waits a little longer each time.
    cluster.forget(&key);
    assert_eq!(
        chosen(&schedule::plan(&cluster, 1)),
        [("second".to_owned(), "a".to_owned())]
    );
    cluster
        .update(
            kinds::POD,
            Change::Delete(ObjectKey::new("default", "second")),
        )
        .unwrap();
    let plan = schedule::plan(&cluster, 1);
    assert!(plan.is_empty());
    assert_eq!(plan.requeue_after, Some(SignedDuration::from_secs(1)));
    cluster.set_now(cluster.now() + SignedDuration::from_secs(1));
    assert_eq!(chosen(&schedule::plan(&cluster, 1)).len(), 1);
    cluster.assume(&key, "first", "a");
    cluster.forget(&key);
    assert_eq!(
        schedule::plan(&cluster, 1).requeue_after,
        Some(SignedDuration::from_secs(2))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever the view has missed, no node is given more than it has and no pod two nodes.
    #[test]
    fn nothing_is_overcommitted(
        seed in any::<u64>(),
        nodes in 1usize..6,
        pods in 1usize..40,
        crashes in 0usize..3,
    ) {
        let mut world = World::new(seed);
        world.add_namespace("default");
        for number in 0..nodes {
            let cpu = 1 + world.random(3);
            world.add_node(&format!("n{number}"), &format!("{cpu}"), "4Gi");
        }
        for number in 0..pods {
            let cpu = format!("{}m", 100 * (1 + world.random(8)));
            let mut object = pod(&format!("p{number}"), asks(&cpu, "64Mi"));
            object["metadata"].as_object_mut().unwrap().remove("uid");
            world.create(kinds::POD, object).unwrap();
            for _ in 0..world.random(6) {
                world.step();
            }
            if number < crashes {
                world.crash();
            }
        }
        world.settle();
        prop_assert_eq!(bound_once(&world), Ok(()));
        prop_assert_eq!(not_overcommitted(&world), Ok(()));
        world.assert_fixpoint();
    }
}
