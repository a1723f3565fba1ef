use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use trireme_proxy_decide::config::{RouteAction, RouteSource};

use super::support::{
    Client, answering, chain, cluster, endpoints, forward, free, get, http, listener, manager, ok,
    proxy, route, routes, run,
};
use trireme_proxy_decide::config::{Cluster, ClusterKind, Filter, Snapshot, Update};

fn by_rds() -> trireme_proxy_decide::config::HttpConnectionManager {
    let mut manager = manager(vec![]);
    manager.routes = RouteSource::Rds(Arc::from("rds"));
    manager
}

#[test]
fn a_swap_drops_no_request() {
    run(async {
        let (one, two) = (
            answering(|_| ok("one")).await,
            answering(|_| ok("two")).await,
        );
        let address = free();
        let snapshot = Snapshot::default()
            .with_listener(listener(
                "http",
                address,
                vec![chain(Filter::Http(Arc::new(by_rds())))],
            ))
            .with_routes(routes(
                "rds",
                vec![route("/", RouteAction::Forward(Box::new(forward("one"))))],
            ))
            .with_cluster(cluster("one", &[one.address]));
        let proxy = proxy(snapshot, address).await;
        let stop = Rc::new(Cell::new(false));
        let mut clients = Vec::new();
        for _ in 0..4 {
            let stop = stop.clone();
            clients.push(tokio::task::spawn_local(async move {
                let mut client = Client::connect(address).await;
                let mut answers = Vec::new();
                while !stop.get() {
                    let answer = client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
                    assert_eq!(answer.status, 200);
                    if answer.header("connection") == Some("close") {
                        client = Client::connect(address).await;
                    }
                    answers.push(answer.body);
                }
                answers
            }));
        }
        for turn in 0..20 {
            let (name, at) = if turn % 2 == 0 {
                ("two", two.address)
            } else {
                ("one", one.address)
            };
            let before = one.seen.borrow().len() + two.seen.borrow().len();
            proxy.shared.publish(&Update {
                clusters: vec![(Arc::from(name), Some(Arc::new(cluster(name, &[at]))))],
                routes: vec![(
                    Arc::from("rds"),
                    Some(Arc::new(routes(
                        "rds",
                        vec![route("/", RouteAction::Forward(Box::new(forward(name))))],
                    ))),
                )],
                ..Update::default()
            });
            // Change the listener as well, now and then: it drains in-band.
            if turn % 5 == 0 {
                let mut changed = listener(
                    "http",
                    address,
                    vec![chain(Filter::Http(Arc::new(by_rds())))],
                );
                changed.buffer_limit_bytes += turn;
                proxy.shared.publish(&Update {
                    listeners: vec![(Arc::from("http"), Some(Arc::new(changed)))],
                    ..Update::default()
                });
            }
            while one.seen.borrow().len() + two.seen.borrow().len() < before + 20 {
                tokio::task::yield_now().await;
            }
        }
        stop.set(true);
        let mut seen = Vec::new();
        for client in clients {
            seen.extend(client.await.expect("client"));
        }
        assert!(seen.iter().any(|body| body == "one") && seen.iter().any(|body| body == "two"));
    });
}

#[test]
fn a_host_that_left_gets_nothing_more() {
    run(async {
        let (one, two) = (
            answering(|_| ok("one")).await,
            answering(|_| ok("two")).await,
        );
        let mut eds = Cluster::new("back", ClusterKind::Eds);
        eds.eds_service_name = Some(Arc::from("eds"));
        let address = free();
        let snapshot = Snapshot::default()
            .with_listener(listener(
                "http",
                address,
                vec![chain(Filter::Http(Arc::new(manager(vec![route(
                    "/",
                    RouteAction::Forward(Box::new(forward("back"))),
                )]))))],
            ))
            .with_cluster(eds)
            .with_endpoints(endpoints("eds", &[one.address, two.address]));
        let proxy = proxy(snapshot, address).await;
        for _ in 0..4 {
            get(address, "/").await;
        }
        assert_eq!(one.seen.borrow().len(), 2);
        proxy.shared.publish(&Update {
            endpoints: vec![(
                Arc::from("eds"),
                Some(Arc::new(endpoints("eds", &[two.address]))),
            )],
            ..Update::default()
        });
        tokio::task::yield_now().await;
        for _ in 0..10 {
            assert_eq!(get(address, "/").await.body, "two");
        }
        assert_eq!(one.seen.borrow().len(), 2);
    });
}

#[test]
fn a_listener_that_is_gone_is_closed() {
    run(async {
        let proxy = http(vec![], vec![]).await;
        assert_eq!(get(proxy.address, "/").await.status, 404);
        proxy.shared.publish(&Update {
            listeners: vec![(Arc::from("http"), None)],
            ..Update::default()
        });
        loop {
            tokio::task::yield_now().await;
            if tokio::net::TcpStream::connect(proxy.address).await.is_err() {
                return;
            }
        }
    });
}
