//! The real source: whatever happens to the cluster's objects, both protocols bring a client to
//! what a mesh that is made from the objects alone would give, and our own reader accepts it.

#[allow(dead_code)]
mod client;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Client;
use proptest::prelude::*;
use serde_json::{Value, json};
use trireme_mesh::{Change, Mesh, ObjectKey, Subscription};
use trireme_model::kinds;
use trireme_proxy_decide::config::{ClusterKind, Filter, RouteSource};
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::{Kind, parse};
use trireme_xds_server::session::Protocol;
use trireme_xds_server::{MeshSource, Resource, Source, Workload};

fn kind(name: &str) -> &'static kinds::Kind {
    let mut known = Mesh::watched().into_iter();
    known.find(|kind| kind.kind == name).expect("a kind")
}

fn node() -> Node {
    Node {
        id: "sidecar~10.42.0.9~caller.shop~shop.svc.cluster.local".into(),
        ..Node::default()
    }
}

fn key(object: &Value) -> (String, ObjectKey) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let key = ObjectKey::new(text(&metadata["namespace"]), text(&metadata["name"]));
    (text(&object["kind"]), key)
}

/// Objects of a service: itself and its endpoints.
fn service(number: u8, addresses: u8) -> Vec<Value> {
    let name = format!("s{number}");
    let endpoints: Vec<Value> = (0..addresses)
        .map(|index| {
            json!({
                "addresses": [format!("10.42.{number}.{}", index + 1)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
            })
        })
        .collect();
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": {
                "clusterIP": format!("10.43.0.{}", number + 10),
                "clusterIPs": [format!("10.43.0.{}", number + 10)],
                "selector": { "app": name },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{name}-x"), "namespace": "shop",
                "labels": { "kubernetes.io/service-name": name },
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }),
    ]
}

fn virtual_service(from: u8, to: u8, weight: u8) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": format!("v{from}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:01Z" },
        "spec": {
            "hosts": [format!("s{from}")],
            "http": [{ "route": [
                { "destination": { "host": format!("s{from}") }, "weight": 100 - u32::from(weight) },
                { "destination": { "host": format!("s{to}") }, "weight": weight },
            ]}],
        },
    })
}

fn destination_rule(of: u8, connections: u8) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": format!("d{of}"), "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:01Z" },
        "spec": {
            "host": format!("s{of}"),
            "trafficPolicy": { "connectionPool": { "tcp": { "maxConnections": connections } } },
        },
    })
}

/// The cluster's objects, and the source that was told of each change.
struct Objects {
    objects: BTreeMap<(String, ObjectKey), Value>,
    source: MeshSource,
}

impl Objects {
    fn new() -> Objects {
        let source = MeshSource::new();
        source.complete();
        Objects {
            objects: BTreeMap::new(),
            source,
        }
    }

    fn put(&mut self, object: Value) {
        let (name, at) = key(&object);
        self.objects.insert((name.clone(), at), object.clone());
        self.source.apply([(kind(&name), Change::Upsert(object))]);
    }

    fn remove(&mut self, name: &str, object: &str) {
        let at = ObjectKey::new("shop", object);
        if self
            .objects
            .remove(&(name.to_owned(), at.clone()))
            .is_some()
        {
            self.source.apply([(kind(name), Change::Delete(at))]);
        }
    }

    /// What a mesh that never saw anything else gives, of what the client follows.
    fn made_anew(&self, kind_of: Kind, client: &Client) -> BTreeMap<String, u64> {
        let mut mesh = Mesh::new();
        for ((name, _), object) in &self.objects {
            let told = mesh.update(kind(name), Change::Upsert(object.clone()));
            told.expect("our own objects are understood");
        }
        let workload = mesh.workload(&node()).expect("a sidecar");
        let names = match kind_of {
            Kind::Cluster | Kind::Listener => Subscription::All,
            other => Subscription::Names(client.asked(other)),
        };
        let made = mesh.generate(&workload, kind_of, &names).into_iter();
        made.map(|one| (one.name, one.version)).collect()
    }
}

/// Names that a cluster or listener refers to, as our proxy reads it.
fn refers(resource: &Resource) -> Vec<String> {
    match parse::resource(&resource.body).expect("our own reader accepts what our mesh makes") {
        parse::Parsed::Cluster(cluster) if cluster.kind == ClusterKind::Eds => {
            vec![cluster.endpoints_name().to_string()]
        }
        parse::Parsed::Listener(listener) => {
            let chains = listener
                .filter_chains
                .iter()
                .chain(&listener.default_filter_chain);
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

fn drain(client: &mut Client, workload: &Arc<dyn Workload>) -> usize {
    let mut sent = 0;
    workload.look(&mut |view| {
        for response in client.drain(view) {
            sent += response.resources.len();
            for resource in &response.resources {
                parse::resource(&resource.body).expect("our own reader accepts it");
            }
        }
    });
    sent
}

#[derive(Clone, Debug)]
enum Event {
    Service { number: u8, addresses: u8 },
    RemoveService(u8),
    Virtual { from: u8, to: u8, weight: u8 },
    RemoveVirtual(u8),
    Rule { of: u8, connections: u8 },
    RemoveRule(u8),
    Exchange,
    Reconnect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4_u8, 0..4_u8).prop_map(|(number, addresses)| Event::Service { number, addresses }),
        1 => (0..4_u8).prop_map(Event::RemoveService),
        3 => (0..4_u8, 0..4_u8, 0..=100_u8)
            .prop_map(|(from, to, weight)| Event::Virtual { from, to, weight }),
        1 => (0..4_u8).prop_map(Event::RemoveVirtual),
        2 => (0..4_u8, 1..4_u8).prop_map(|(of, connections)| Event::Rule { of, connections }),
        1 => (0..4_u8).prop_map(Event::RemoveRule),
        3 => Just(Event::Exchange),
        1 => Just(Event::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn both_protocols_end_where_a_mesh_from_scratch_begins(events in prop::collection::vec(event(), 1..25)) {
        let mut objects = Objects::new();
        let workload = objects.source.workload(&node()).expect("a workload");
        let mut clients = [Protocol::Delta, Protocol::StateOfTheWorld]
            .map(|protocol| Client::reading(protocol, refers));
        for client in &mut clients {
            client.connect();
        }
        for event in events {
            match event {
                Event::Service { number, addresses } => {
                    for object in service(number, addresses) {
                        objects.put(object);
                    }
                }
                Event::RemoveService(number) => {
                    objects.remove("EndpointSlice", &format!("s{number}-x"));
                    objects.remove("Service", &format!("s{number}"));
                }
                Event::Virtual { from, to, weight } => objects.put(virtual_service(from, to, weight)),
                Event::RemoveVirtual(from) => objects.remove("VirtualService", &format!("v{from}")),
                Event::Rule { of, connections } => objects.put(destination_rule(of, connections)),
                Event::RemoveRule(of) => objects.remove("DestinationRule", &format!("d{of}")),
                Event::Exchange => {
                    for client in &mut clients {
                        drain(client, &workload);
                    }
                }
                Event::Reconnect => clients.iter_mut().for_each(Client::reconnect),
            }
        }
        for client in &mut clients {
            drain(client, &workload);
            for kind in [Kind::Cluster, Kind::Listener, Kind::Route, Kind::Endpoint] {
                prop_assert_eq!(client.held(kind), objects.made_anew(kind, client), "{}", kind);
            }
        }
    }
}

#[test]
fn one_services_endpoints_are_all_that_its_change_sends() {
    let mut objects = Objects::new();
    for number in 0..4 {
        for object in service(number, 2) {
            objects.put(object);
        }
    }
    let workload = objects.source.workload(&node()).expect("a workload");
    let mut client = Client::reading(Protocol::Delta, refers);
    client.connect();
    drain(&mut client, &workload);
    for object in service(2, 3) {
        objects.put(object);
    }
    assert_eq!(drain(&mut client, &workload), 1);
    // What is the same again is no change at all.
    for object in service(2, 3) {
        objects.put(object);
    }
    assert_eq!(drain(&mut client, &workload), 0);
}

#[test]
fn nobody_is_answered_before_the_objects_are_read() {
    let source = MeshSource::new();
    assert!(source.workload(&node()).is_err());
    source.complete();
    assert!(source.workload(&node()).is_ok());
    let bad = Node {
        id: "me".into(),
        ..Node::default()
    };
    assert!(source.workload(&bad).is_err());
}
