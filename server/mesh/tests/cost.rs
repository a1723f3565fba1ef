//! What one endpoint's change costs, beside how many services there are.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{apply, slice, workload};
use trireme_mesh::{Kind, Mesh, Subscription, Types, Workload};

const ENDPOINTS: usize = 10;
/// Changes that are measured; the median counts, so that a busy machine does not.
const ROUNDS: usize = 201;
/// A map's depth grows with its size, and so do cache misses; a walk over all services would be 50 times as much.
const MOST: f64 = 4.0;

fn service(index: usize) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": format!("s{index}"), "namespace": "default"},
        "spec": {"clusterIP": format!("10.96.{}.{}", index / 250, index % 250 + 1), "selector": {"app": format!("s{index}")}, "ports": [{"name": "http", "port": 80}]},
    })
}

fn pods(index: usize, changed: usize) -> Vec<Value> {
    (0..ENDPOINTS)
        .map(|it| {
            let number = index * ENDPOINTS + it + if it == 0 { changed % 2 * 60_000 } else { 0 };
            json!({
                "metadata": {"name": format!("p{number}"), "namespace": "default", "labels": {"app": format!("s{index}")}},
                "spec": {"nodeName": "n"}, "status": {"podIP": format!("10.{}.{}.{}", 42 + number / 65_536, number / 256 % 256, number % 256)},
            })
        })
        .collect()
}

fn built(services: usize) -> (Mesh, Vec<Workload>) {
    let mut mesh = Mesh::new();
    for index in 0..services {
        let service = service(index);
        apply(&mut mesh, &service);
        apply(
            &mut mesh,
            &slice(&service, &pods(index, 0)).expect("a slice"),
        );
    }
    let workloads: Vec<Workload> = (0..100)
        .map(|index| workload(&format!("sidecar default app=c{index}")))
        .collect();
    // Everybody has what there is.
    for who in &workloads {
        mesh.generate(
            who,
            Kind::Endpoint,
            &Subscription::Names(["outbound|80||s7.default.svc.cluster.local".to_owned()].into()),
        );
    }
    (mesh, workloads)
}

fn one(mesh: &mut Mesh, workloads: &[Workload], round: usize) -> Duration {
    let change = slice(&service(7), &pods(7, round)).expect("a slice");
    let sight = mesh.scope(&workloads[0]).sight;
    let begun = Instant::now();
    let stale = apply(mesh, &change);
    for who in workloads {
        let affected = mesh.affected(&stale, who, sight);
        assert!(affected.types.is_empty());
        assert_eq!(affected.endpoints.len(), 1);
        assert_eq!(
            mesh.generate(
                who,
                Kind::Endpoint,
                &Subscription::Names(affected.endpoints)
            )
            .len(),
            1
        );
    }
    begun.elapsed()
}

#[test]
fn an_endpoints_change_costs_the_same_with_fifty_times_as_many_services() {
    let (mut few, workloads) = built(100);
    let (mut many, others) = built(5_000);
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        small.push(one(&mut few, &workloads, round));
        large.push(one(&mut many, &others, round));
    }
    small.sort();
    large.sort();
    let (small, large) = (small[ROUNDS / 2], large[ROUNDS / 2]);
    let ratio = large.as_secs_f64() / small.as_secs_f64();
    println!(
        "one endpoint's change for 100 proxies: {small:?} with 100 services, {large:?} with 5,000, {ratio:.2} times"
    );
    assert!(ratio < MOST, "{small:?} became {large:?}");
}

/// How long it takes until everybody has the routes of a VirtualService's change.
fn routed(mesh: &mut Mesh, workloads: &[Workload], round: usize) -> Duration {
    let change = json!({
        "kind": "VirtualService", "metadata": {"name": "v", "namespace": "default"},
        "spec": {"hosts": ["s7"], "http": [{"route": [{"destination": {"host": format!("s{round}")}}]}]},
    });
    let sight = mesh.scope(&workloads[0]).sight;
    let begun = Instant::now();
    let stale = apply(mesh, &change);
    for who in workloads {
        let affected = mesh.affected(&stale, who, sight);
        assert!(affected.types.contains(Types::ROUTES));
        assert!(
            !affected
                .types
                .meets(Types::CLUSTERS.and(Types::LISTENERS).and(Types::ENDPOINTS)),
            "only routes changed"
        );
        assert_eq!(
            mesh.generate(
                who,
                Kind::Route,
                &Subscription::Names(["80".to_owned()].into())
            )
            .len(),
            1
        );
    }
    begun.elapsed()
}

#[test]
fn a_routes_change_is_made_once_for_all_proxies_that_see_the_same() {
    const FEWER_ROUNDS: usize = 15;
    let (mut mesh, workloads) = built(1_000);
    let (mut one, mut hundred) = (Vec::new(), Vec::new());
    for round in 1..=FEWER_ROUNDS {
        one.push(routed(&mut mesh, &workloads[..1], 2 * round));
        hundred.push(routed(&mut mesh, &workloads, 2 * round + 1));
    }
    one.sort();
    hundred.sort();
    let (one, hundred) = (one[FEWER_ROUNDS / 2], hundred[FEWER_ROUNDS / 2]);
    let ratio = hundred.as_secs_f64() / one.as_secs_f64();
    println!(
        "a route's change at 1,000 services: {one:?} for one proxy, {hundred:?} for 100, {ratio:.2} times"
    );
    assert!(ratio < 5.0, "{one:?} became {hundred:?}");
}
