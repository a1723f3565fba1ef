//! What one endpoint's change costs, beside how many services there are.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{apply, slice, workload};
use trireme_mesh::{Kind, Mesh, Subscription, Workload};

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
    let begun = Instant::now();
    let stale = apply(mesh, &change);
    for who in workloads {
        let affected = mesh.affected(&stale, who);
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
