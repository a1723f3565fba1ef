//! What a change costs where there are many services and many workloads. Prints figures; asserts
//! only what does not depend on the machine: shapes, as ratios within one run.

#[allow(dead_code)]
mod client;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use serde_json::{Value, json};
use trireme_mesh::{Change, Mesh};
use trireme_model::kinds;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::{Kind, parse};
use trireme_xds_server::session::Protocol;
use trireme_xds_server::{MeshSource, Resource, Source, Workload};

fn kind(name: &str) -> &'static kinds::Kind {
    let mut known = Mesh::watched().into_iter();
    known.find(|kind| kind.kind == name).expect("a kind")
}

fn put(source: &MeshSource, objects: Vec<Value>) {
    source.apply(objects.into_iter().map(|object| {
        let name = object["kind"].as_str().unwrap_or_default().to_owned();
        (kind(&name), Change::Upsert(object))
    }));
}

fn slice(number: usize, last: usize) -> Value {
    let endpoints: Vec<Value> = (0..10)
        .map(|index| {
            let host = if index == 9 { last } else { index + 1 };
            json!({
                "addresses": [format!("10.{}.{}.{host}", 100 + number / 250, number % 250)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s{number}-x"), "namespace": "shop",
            "labels": { "kubernetes.io/service-name": format!("s{number}") },
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}

fn cluster_of(services: usize) -> MeshSource {
    let source = MeshSource::new();
    let mut objects = Vec::new();
    for number in 0..services {
        let address = format!("10.43.{}.{}", number / 250, number % 250 + 1);
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("s{number}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": {
                "clusterIP": address, "clusterIPs": [address],
                "selector": { "app": format!("s{number}") },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
            },
        }));
        objects.push(slice(number, 10));
    }
    put(&source, objects);
    source.complete();
    source
}

fn virtual_service(weight: u32) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "v", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:01Z" },
        "spec": {
            "hosts": ["s1"],
            "http": [{ "route": [
                { "destination": { "host": "s1" }, "weight": 100 - weight },
                { "destination": { "host": "s2" }, "weight": weight },
            ]}],
        },
    })
}

fn refers(resource: &Resource) -> Vec<String> {
    use trireme_proxy_decide::config::{ClusterKind, Filter, RouteSource};
    match parse::resource(&resource.body).expect("valid") {
        parse::Parsed::Cluster(cluster) if cluster.kind == ClusterKind::Eds => {
            vec![cluster.endpoints_name().to_string()]
        }
        parse::Parsed::Listener(listener) => {
            let chains = listener.filter_chains.iter();
            let chains = chains.chain(&listener.default_filter_chain);
            let names = chains.filter_map(|chain| match &chain.filter {
                Filter::Http(manager) => match &manager.routes {
                    RouteSource::Rds(name) => Some(name.to_string()),
                    RouteSource::Inline(_) => None,
                },
                _ => None,
            });
            names.collect()
        }
        _ => Vec::new(),
    }
}

struct Member {
    client: Client,
    workload: Arc<dyn Workload>,
}

fn members(source: &MeshSource, count: usize) -> Vec<Member> {
    let all = 0..count;
    all.map(|number| {
        let node = Node {
            id: format!("sidecar~10.42.0.{number}~caller-{number}.shop~shop.svc.cluster.local"),
            ..Node::default()
        };
        let mut member = Member {
            client: Client::reading(Protocol::Delta, refers),
            workload: source.workload(&node).expect("a workload"),
        };
        member.client.connect();
        member.drain();
        member
    })
    .collect()
}

impl Member {
    /// Kinds of what came.
    fn drain(&mut self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        let client = &mut self.client;
        self.workload.look(&mut |view| {
            kinds.extend(client.drain(view).iter().map(|response| response.kind));
        });
        kinds
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// From an endpoint's change to the workload's acknowledgement, without the network.
fn endpoint_change(services: usize) -> Duration {
    let source = cluster_of(services);
    let mut member = members(&source, 1).remove(0);
    let mut times = Vec::new();
    for round in 0..60 {
        let changed = slice(1, 20 + round);
        let begin = Instant::now();
        put(&source, vec![changed]);
        let kinds = member.drain();
        times.push(begin.elapsed());
        assert_eq!(kinds, [Kind::Endpoint]);
    }
    median(times)
}

#[test]
fn an_endpoints_change_costs_the_same_however_many_services_there_are() {
    let (few, many) = (endpoint_change(100), endpoint_change(2000));
    println!(
        "one endpoint's change, to one workload that knows all: {few:?} at 100 services, {many:?} at 2,000 ({:.2}x)",
        many.as_secs_f64() / few.as_secs_f64()
    );
    // Trees are twice as deep and caches colder; twenty times the services would be twenty times.
    assert!(many < few * 6, "{few:?} at 100 services, {many:?} at 2,000");
}

fn sidecar() -> Value {
    let hosts: Vec<String> = (0..5)
        .map(|number| format!("./s{number}.shop.svc.cluster.local"))
        .collect();
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": { "name": "default", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "egress": [{ "hosts": hosts }] },
    })
}

#[test]
fn a_routes_change_reaches_a_hundred_workloads() {
    routes_change("that know all", &[]);
    routes_change("that know five services", &[sidecar()]);
}

fn routes_change(who: &str, beside: &[Value]) {
    let source = cluster_of(1000);
    put(&source, vec![virtual_service(0)]);
    put(&source, beside.to_vec());
    let mut members = members(&source, 100);
    let mut times = Vec::new();
    for round in 0..10 {
        let begin = Instant::now();
        put(&source, vec![virtual_service(1 + round)]);
        for member in &mut members {
            assert!(member.drain().contains(&Kind::Route));
        }
        times.push(begin.elapsed());
    }
    println!(
        "a VirtualService's change at 1,000 services: {:?} of one core until the last of 100 workloads {who} has it (median of 10)",
        median(times)
    );
}
