//! What holds for any cluster and any order of changes.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use support::{apply, delete, everything, workload};
use trireme_mesh::{Kind, Mesh, Workload};
use trireme_xds::pb::envoy::config::cluster::v3::Cluster;
use trireme_xds::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use trireme_xds::pb::envoy::config::route::v3 as route;
use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use trireme_xds::{parse, unpack};

const NAMESPACES: [&str; 2] = ["default", "other"];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const VERSIONS: [&str; 2] = ["v1", "v2"];

fn metadata(name: &str, namespace: &str, age: u32) -> Value {
    json!({"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}-{age}"), "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")})
}

fn service(name: &str, namespace: &str, age: u32, variant: u32) -> Value {
    let ports = match variant % 4 {
        0 => json!([{"name": "http", "port": 80, "targetPort": 8080}]),
        1 => json!([{"name": "web", "port": 8000}, {"name": "grpc", "port": 9000}]),
        2 => json!([{"name": "tcp", "port": 5432}, {"name": "http-x", "port": 80}]),
        _ => json!([{"name": "tls", "port": 443}, {"name": "auto", "port": 80}]),
    };
    let place = NAMES.iter().position(|it| *it == name).unwrap_or(0) as u32
        + if namespace == "other" { 10 } else { 0 };
    let address = if variant % 5 == 4 {
        "None".to_owned()
    } else {
        format!("10.96.0.{}", place + 1)
    };
    json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata(name, namespace, age), "spec": {"clusterIP": address, "selector": {"app": name}, "ports": ports}})
}

fn pod(name: &str, namespace: &str, version: &str, address: u32) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("{name}-{version}-{address}"), "namespace": namespace, "labels": {"app": name, "version": version}},
        "spec": {"nodeName": format!("node-{}", address % 2), "containers": []},
        "status": {"podIP": format!("10.42.0.{}", address + 1), "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.cluster.local")
}

fn virtual_service(
    name: &str,
    namespace: &str,
    age: u32,
    to: &str,
    share: u32,
    variant: u32,
) -> Value {
    let first =
        json!({"destination": {"host": host(name, namespace), "subset": "v1"}, "weight": share});
    let second = json!({"destination": {"host": host(to, namespace), "subset": "v2"}, "weight": 100 - share});
    let split = json!({"route": [first, second]});
    let http = match variant % 4 {
        0 => json!([split]),
        1 => {
            json!([{"match": [{"headers": {"x": {"exact": "y"}}}], "route": [{"destination": {"host": to}}]}, split])
        }
        2 => {
            json!([{"match": [{"sourceLabels": {"app": "a"}}], "route": [{"destination": {"host": to}}]}, split])
        }
        _ => {
            json!([{"match": [{"uri": {"prefix": "/x"}}], "delegate": {"name": "leaf", "namespace": namespace}}, split])
        }
    };
    let hosts = if variant % 6 == 5 {
        json!(["*.svc.cluster.local"])
    } else {
        json!([name])
    };
    json!({"kind": "VirtualService", "metadata": metadata(name, namespace, age), "spec": {"hosts": hosts, "http": http}})
}

fn destination_rule(name: &str, namespace: &str, age: u32, of: &str, variant: u32) -> Value {
    let subsets: Vec<Value> = VERSIONS
        .iter()
        .take(1 + variant as usize % 2)
        .map(|it| json!({"name": it, "labels": {"version": it}}))
        .collect();
    let policy = match variant % 3 {
        0 => json!({"outlierDetection": {"consecutive5xxErrors": 2}}),
        1 => json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}),
        _ => json!({"connectionPool": {"tcp": {"maxConnections": 3}}}),
    };
    json!({"kind": "DestinationRule", "metadata": metadata(name, namespace, age), "spec": {"host": of, "subsets": subsets, "trafficPolicy": policy}})
}

fn other(index: u32, namespace: &str, age: u32, name: &str) -> Value {
    match index % 6 {
        0 => {
            json!({"kind": "ServiceEntry", "metadata": metadata("entry", namespace, age), "spec": {"hosts": ["x.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 443, "name": "tls", "protocol": "TLS"}], "resolution": "DNS"}})
        }
        1 => {
            json!({"kind": "Sidecar", "metadata": metadata("default", namespace, age), "spec": {"egress": [{"hosts": [format!("./*"), format!("other/{}", host(name, "other"))]}]}})
        }
        2 => {
            json!({"kind": "Gateway", "metadata": metadata("gate", namespace, age), "spec": {"selector": {"app": "gate"}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}})
        }
        3 => {
            json!({"kind": "VirtualService", "metadata": metadata("edge", namespace, age), "spec": {"hosts": ["edge.example.com"], "gateways": ["gate"], "http": [{"route": [{"destination": {"host": name}}]}]}})
        }
        4 => {
            json!({"kind": "ServiceEntry", "metadata": metadata("picked", namespace, age), "spec": {"hosts": ["picked.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": "STATIC", "workloadSelector": {"labels": {"app": name}}}})
        }
        _ => {
            json!({"kind": "VirtualService", "metadata": metadata("leaf", namespace, age), "spec": {"http": [{"route": [{"destination": {"host": name}}]}]}})
        }
    }
}

fn object() -> impl Strategy<Value = Value> {
    let base = (
        0..9u32,
        0..4usize,
        0..2usize,
        0..60u32,
        0..60u32,
        0..4usize,
        0..101u32,
    );
    base.prop_map(|(kind, name, namespace, age, variant, to, share)| {
        let (name, namespace, to) = (NAMES[name], NAMESPACES[namespace], NAMES[to]);
        match kind {
            0 | 1 => service(name, namespace, age, variant),
            2 => pod(name, namespace, VERSIONS[variant as usize % 2], variant),
            3 => {
                let pods: Vec<Value> = (0..variant % 4).map(|it| pod(name, namespace, VERSIONS[it as usize % 2], it)).collect();
                support::slice(&service(name, namespace, 0, variant), &pods).expect("a slice")
            }
            4 | 5 => virtual_service(name, namespace, age, to, share, variant),
            6 => destination_rule(name, namespace, age, to, variant),
            7 => json!({"kind": "Node", "metadata": {"name": format!("node-{}", variant % 2), "labels": {"topology.kubernetes.io/region": to, "topology.kubernetes.io/zone": name}}}),
            _ => other(variant, namespace, age, name),
        }
    })
}

fn workloads() -> Vec<Workload> {
    [
        "sidecar default app=a",
        "sidecar default app=b @a/b",
        "sidecar other app=a",
        "router default app=gate",
        "grpc default app=c",
    ]
    .map(workload)
    .into()
}

fn identity(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    (
        text(&object["kind"]),
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
    )
}

/// Names and versions of everything that every workload gets.
fn state(mesh: &Mesh) -> Vec<(Kind, String, u64)> {
    let all = workloads()
        .into_iter()
        .flat_map(|who| everything(mesh, &who));
    all.map(|(kind, it)| (kind, it.name, it.version)).collect()
}

/// Clusters that routes name.
fn named(routes: &route::RouteConfiguration) -> Vec<String> {
    use route::route_action::ClusterSpecifier;
    let routes = routes.virtual_hosts.iter().flat_map(|it| &it.routes);
    let actions = routes.filter_map(|it| match &it.action {
        Some(route::route::Action::Route(action)) => action.cluster_specifier.as_ref(),
        _ => None,
    });
    actions
        .flat_map(|it| match it {
            ClusterSpecifier::Cluster(name) => vec![name.clone()],
            ClusterSpecifier::WeightedClusters(many) => {
                many.clusters.iter().map(|it| it.name.clone()).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

/// Whether the objects leave open where a cluster's name leads: no such service, port or subset.
fn left_open(objects: &BTreeMap<(String, String, String), Value>, cluster: &str) -> bool {
    let parts: Vec<&str> = cluster.split('|').collect();
    let (port, subset, host) = (parts[1], parts[2], parts[3]);
    let Some((name, rest)) = host.split_once('.') else {
        return true;
    };
    let namespace = rest.split('.').next().unwrap_or("");
    let service = objects.get(&("Service".to_owned(), namespace.to_owned(), name.to_owned()));
    let entry = objects
        .values()
        .any(|it| it["kind"] == "ServiceEntry" && it["spec"]["hosts"][0] == host);
    let serves = service.is_some_and(|it| {
        let ports = it["spec"]["ports"].as_array().expect("ports");
        ports
            .iter()
            .any(|it| it["port"].as_u64() == port.parse().ok())
    });
    // Subsets may be anybody's whose rule counts; that they are found is golden files' business.
    !(serves || entry) || !subset.is_empty()
}

fn check(mesh: &Mesh, objects: &BTreeMap<(String, String, String), Value>) {
    let narrowed = objects.values().any(|it| it["kind"] == "Sidecar");
    for who in workloads() {
        let mut clusters = BTreeSet::new();
        let mut discovered = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        let mut routes = BTreeMap::new();
        for (kind, resource) in everything(mesh, &who) {
            if let Err(error) = parse::resource(&resource.body) {
                panic!("{who:?} would refuse {kind} {}: {error}", resource.name);
            }
            match kind {
                Kind::Cluster => {
                    let cluster: Cluster = unpack(&resource.body).expect("a cluster");
                    discovered.extend(cluster.eds_cluster_config.map(|it| it.service_name));
                    assert!(
                        clusters.insert(resource.name.clone()),
                        "cluster {} is there twice",
                        resource.name
                    );
                }
                Kind::Endpoint => drop(endpoints.insert(resource.name.clone())),
                Kind::Listener => {
                    let listener: Listener = unpack(&resource.body).expect("a listener");
                    let chains = listener
                        .filter_chains
                        .iter()
                        .chain(&listener.default_filter_chain);
                    for filter in chains.flat_map(|it| &it.filters) {
                        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
                            continue;
                        };
                        let Ok(manager) = unpack::<hcm::HttpConnectionManager>(any) else {
                            continue;
                        };
                        if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) =
                            manager.route_specifier
                        {
                            wanted.insert(rds.route_config_name);
                        }
                    }
                }
                Kind::Route => {
                    let configuration: route::RouteConfiguration =
                        unpack(&resource.body).expect("routes");
                    routes.insert(resource.name.clone(), configuration);
                }
                Kind::Secret => {}
            }
        }
        for name in &discovered {
            assert!(
                endpoints.contains(name),
                "{who:?}: cluster {name} has no endpoints to wait for"
            );
        }
        for name in &wanted {
            assert!(
                routes.contains_key(name),
                "{who:?}: routes {name} are not there"
            );
        }
        for (name, configuration) in &routes {
            for cluster in named(configuration) {
                let there = clusters.contains(&cluster);
                assert!(
                    there || narrowed || left_open(objects, &cluster),
                    "{who:?}: routes {name} name cluster {cluster}"
                );
            }
            for host in &configuration.virtual_hosts {
                for one in &host.routes {
                    if let Some(route::route::Action::Route(action)) = &one.action
                        && let Some(route::route_action::ClusterSpecifier::WeightedClusters(many)) =
                            &action.cluster_specifier
                    {
                        let sum: u32 = many
                            .clusters
                            .iter()
                            .filter_map(|it| it.weight)
                            .map(|it| it.value)
                            .sum();
                        assert_eq!(sum, 100, "{who:?}: {name} {}", host.name);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bit_by_bit_is_the_same_as_made_at_once(changes in proptest::collection::vec((object(), any::<bool>()), 1..40)) {
        let mut mesh = Mesh::new();
        let mut objects: BTreeMap<(String, String, String), Value> = BTreeMap::new();
        for (index, (object, gone)) in changes.iter().enumerate() {
            if *gone && index % 3 == 0 {
                delete(&mut mesh, object);
                objects.remove(&identity(object));
            } else {
                apply(&mut mesh, object);
                objects.insert(identity(object), object.clone());
            }
            // What is asked for in between is kept, and must not outlive what it was made from.
            if index % 2 == 0 {
                state(&mesh);
            }
        }
        let mut whole = Mesh::new();
        for object in objects.values().rev() {
            apply(&mut whole, object);
        }
        prop_assert_eq!(state(&mesh), state(&whole));
        check(&whole, &objects);
    }

    #[test]
    fn what_is_stale_is_all_that_changes(changes in proptest::collection::vec(object(), 2..25)) {
        let mut mesh = Mesh::new();
        for object in &changes {
            let before: Vec<_> = workloads().iter().map(|who| everything(&mesh, who)).collect();
            let sights: Vec<_> = workloads().iter().map(|who| mesh.scope(who).sight).collect();
            let stale = apply(&mut mesh, object);
            for ((who, before), sight) in workloads().iter().zip(before).zip(sights) {
                let affected = mesh.affected(&stale, who, sight);
                let known: BTreeMap<_, _> = before.into_iter().map(|(kind, it)| ((kind, it.name), it.version)).collect();
                for (kind, resource) in everything(&mesh, who) {
                    let same = known.get(&(kind, resource.name.clone())) == Some(&resource.version);
                    let told = affected.types.contains(trireme_mesh::Types::of(kind))
                        || (kind == Kind::Endpoint && affected.endpoints.contains(&resource.name));
                    prop_assert!(same || told, "{} {} changed by {} and nobody said so: {:?}", kind, resource.name, object, affected);
                }
            }
            // The same again is no change.
            prop_assert!(apply(&mut mesh, object).is_empty());
        }
    }
}
