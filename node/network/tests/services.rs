//! Service rules against real packets.

mod lab;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Instant;

use lab::{Lab, Node, PATIENCE, call, cidr, ip, is_root, refused, serve_tcp, serve_udp};
use trireme_network::{
    Affinity, Endpoint, NodeRoutes, PeerRoute, Protocol, ServiceRule, ServiceRules,
    ServiceRulesConfig, run_in, topology,
};

fn rules(node: &Node, pod_cidr: &str) -> ServiceRules {
    ServiceRules::new(ServiceRulesConfig {
        node_ip: node.node_ip,
        pod_cidr: cidr(pod_cidr),
        cluster_cidr: cidr("10.42.0.0/16"),
        service_cidr: cidr("10.43.0.0/16"),
    })
}

fn service(name: &str, address: &str, endpoints: &[(&str, bool)]) -> ServiceRule {
    ServiceRule {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        cluster_ips: vec![ip(address)],
        external_ips: Vec::new(),
        port: 80,
        node_port: None,
        endpoints: endpoints
            .iter()
            .map(|(address, local)| Endpoint {
                address: ip(address),
                port: 8080,
                local: *local,
            })
            .collect(),
        affinity: Affinity::None,
        external_local: false,
        internal_local: false,
    }
}

fn count(from: &Path, address: &str, port: u16, calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts
            .entry(call(from, address, port).unwrap().0)
            .or_insert(0) += 1;
    }
    counts
}

/// Two nodes: pods a, b, c on the first, d on the second, all but a serving.
struct Two {
    one: Node,
    two: Node,
    a: std::path::PathBuf,
    b: std::path::PathBuf,
    outside: std::path::PathBuf,
    // Last: namespaces go after the pods in them.
    _lab: Lab,
}

fn two() -> Two {
    let mut lab = Lab::new();
    lab.bridge("br0", "10.99.0.1/24");
    run_in(&lab.machine, || {
        topology::share_uplink("lab", cidr("10.99.0.0/24"))
    })
    .unwrap()
    .unwrap();
    // No default route: a node reaches services all the same.
    let one = lab.node("one", "br0", "10.99.0.2/24", None);
    let two = lab.node("two", "br0", "10.99.0.3/24", None);
    let outside = lab.host("outside", "br0", "10.99.0.50/24", None);
    let a = one.pod("a", "10.42.0.2");
    let b = one.pod("b", "10.42.0.3");
    let c = one.pod("c", "10.42.0.4");
    let d = two.pod("d", "10.42.1.2");
    serve_tcp(&b, 8080, "b");
    serve_tcp(&c, 8080, "c");
    serve_tcp(&d, 8080, "d");
    serve_udp(&b, 8080, "b");
    serve_udp(&c, 8080, "c");
    let routes = |node: &Node, own, peer: &Node, range| {
        let peer = PeerRoute {
            node: "peer".into(),
            internal_ip: peer.node_ip,
            pod_cidr: cidr(range),
        };
        let routes = NodeRoutes::new(node.node_ip, cidr(own), cidr("10.43.0.0/16"));
        node.run(|| routes.sync(&[peer])).unwrap();
    };
    routes(&one, "10.42.0.0/24", &two, "10.42.1.0/24");
    routes(&two, "10.42.1.0/24", &one, "10.42.0.0/24");
    Two {
        one,
        two,
        a,
        b,
        outside,
        _lab: lab,
    }
}

#[test]
fn connections_are_spread_evenly_and_updates_are_incremental() {
    if !is_root() {
        return;
    }
    let two = two();
    let mut kernel = rules(&two.one, "10.42.0.0/24");
    let mut sync = |wanted: &[ServiceRule]| two.one.run(|| kernel.sync(wanted)).unwrap();
    let all = [
        ("10.42.0.3", true),
        ("10.42.0.4", true),
        ("10.42.1.2", false),
    ];
    let report = sync(&[service("web", "10.43.0.10", &all)]);
    assert!(report.rebuilt);
    assert_eq!(report.conflicts, Vec::<String>::new());
    // 300 draws of 3: 100 each, give or take five standard deviations (8.2).
    for from in [&two.a, &two.one.namespace] {
        let counts = count(from, "10.43.0.10", 80, 300);
        assert_eq!(counts.len(), 3, "{counts:?}");
        assert!(
            counts.values().all(|count| (59..=141).contains(count)),
            "{counts:?}"
        );
    }
    // Pods keep their own address towards other pods.
    assert_eq!(call(&two.a, "10.43.0.10", 80).unwrap().1, "10.42.0.2");
    // One endpoint less: its verdict and one slot change, or are removed.
    let report = sync(&[service("web", "10.43.0.10", &all[..2])]);
    assert!(!report.rebuilt);
    assert_eq!((report.added, report.removed), (1, 2));
    assert_eq!(count(&two.a, "10.43.0.10", 80, 40).len(), 2);
    // Nothing changed: nothing done.
    let report = sync(&[service("web", "10.43.0.10", &all[..2])]);
    assert_eq!(
        (report.added, report.removed, report.rebuilt),
        (0, 0, false)
    );
    // A second service, and the first without endpoints: refused, at once.
    let report = sync(&[
        service("web", "10.43.0.10", &[]),
        service("other", "10.43.0.11", &all[2..]),
    ]);
    assert!(!report.rebuilt);
    assert!(refused(&two.a, "10.43.0.10", 80));
    assert!(refused(&two.one.namespace, "10.43.0.10", 80));
    assert_eq!(call(&two.a, "10.43.0.11", 80).unwrap().0, "d");
    // No such port, no such service.
    assert!(refused(&two.a, "10.43.0.11", 81));
    assert!(refused(&two.a, "10.43.9.9", 80));
    assert!(refused(&two.one.namespace, "10.43.9.9", 80));
    // Somebody flushes the table: the next change builds it anew.
    two.one
        .run(|| {
            std::process::Command::new("nft")
                .args(["delete", "table", "ip", "trireme"])
                .status()
        })
        .unwrap();
    let report = sync(&[service("web", "10.43.0.10", &all)]);
    assert!(report.rebuilt);
    assert_eq!(count(&two.a, "10.43.0.10", 80, 60).len(), 3);
    // Two services with one address: the first has it.
    let report = sync(&[
        service("web", "10.43.0.10", &all[..1]),
        service("thief", "10.43.0.10", &all[1..]),
    ]);
    assert_eq!(report.conflicts.len(), 1);
    assert_eq!(
        count(&two.a, "10.43.0.10", 80, 20)
            .keys()
            .collect::<Vec<_>>(),
        ["b"]
    );
    two.one.run(ServiceRules::clear).unwrap();
    two.one.run(ServiceRules::clear).unwrap();
    let tables = two
        .one
        .run(|| {
            std::process::Command::new("nft")
                .args(["list", "tables"])
                .output()
        })
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
}

#[test]
fn a_pod_reaches_itself_and_clients_stick() {
    if !is_root() {
        return;
    }
    let two = two();
    let mut kernel = rules(&two.one, "10.42.0.0/24");
    let own = service("own", "10.43.0.10", &[("10.42.0.3", true)]);
    let mut sticky = service(
        "sticky",
        "10.43.0.11",
        &[
            ("10.42.0.3", true),
            ("10.42.0.4", true),
            ("10.42.1.2", false),
        ],
    );
    sticky.affinity = Affinity::ClientIp;
    two.one.run(|| kernel.sync(&[own, sticky.clone()])).unwrap();
    assert_eq!(
        call(&two.b, "10.43.0.10", 80).unwrap(),
        ("b".into(), "10.99.0.2".into())
    );
    assert_eq!(count(&two.a, "10.43.0.11", 80, 30).len(), 1);
    // The same client on another node would meet the same endpoint.
    let mut elsewhere = rules(&two.two, "10.42.1.0/24");
    two.two.run(|| elsewhere.sync(&[sticky])).unwrap();
    assert_eq!(count(&two.two.namespace, "10.43.0.11", 80, 30).len(), 1);
}

#[test]
fn node_ports_serve_the_outside() {
    if !is_root() {
        return;
    }
    let two = two();
    let (mut at_one, mut at_two) = (
        rules(&two.one, "10.42.0.0/24"),
        rules(&two.two, "10.42.1.0/24"),
    );
    let at = |rule: &ServiceRule, pods: &str| {
        let mut rule = rule.clone();
        for endpoint in &mut rule.endpoints {
            endpoint.local = cidr(pods).contains(endpoint.address);
        }
        rule
    };
    let mut web = service(
        "web",
        "10.43.0.10",
        &[("10.42.0.3", true), ("10.42.1.2", false)],
    );
    web.node_port = Some(30080);
    web.external_ips = vec![ip("203.0.113.7")];
    two.one
        .run(|| at_one.sync(&[at(&web, "10.42.0.0/24")]))
        .unwrap();
    two.two
        .run(|| at_two.sync(&[at(&web, "10.42.1.0/24")]))
        .unwrap();
    for node in ["10.99.0.2", "10.99.0.3"] {
        let counts = count(&two.outside, node, 30080, 40);
        assert_eq!(counts.len(), 2, "{node}: {counts:?}");
        assert!(refused(&two.outside, node, 30081));
    }
    // A node sends on in its own name, also to another node's pod.
    let through_one = |_| call(&two.outside, "10.99.0.2", 30080).unwrap();
    let to_d = (0..60)
        .map(through_one)
        .find(|(name, _)| name == "d")
        .unwrap();
    assert_eq!(to_d.1, "10.99.0.2");
    // From a pod, from the node itself, and by an external address.
    assert_eq!(count(&two.a, "10.99.0.2", 30080, 40).len(), 2);
    assert_eq!(count(&two.one.namespace, "10.99.0.2", 30080, 40).len(), 2);
    assert_eq!(count(&two.a, "203.0.113.7", 80, 40).len(), 2);
    // Local: only this node's endpoints, which see the client.
    web.external_local = true;
    two.one
        .run(|| at_one.sync(&[at(&web, "10.42.0.0/24")]))
        .unwrap();
    two.two
        .run(|| at_two.sync(&[at(&web, "10.42.1.0/24")]))
        .unwrap();
    for _ in 0..10 {
        assert_eq!(
            call(&two.outside, "10.99.0.2", 30080).unwrap(),
            ("b".into(), "10.99.0.50".into())
        );
        assert_eq!(
            call(&two.outside, "10.99.0.3", 30080).unwrap(),
            ("d".into(), "10.99.0.50".into())
        );
    }
    // The cluster's own address still reaches all.
    assert_eq!(count(&two.a, "10.43.0.10", 80, 40).len(), 2);
    // No endpoint here: dropped, so that load balancers look elsewhere.
    web.endpoints
        .retain(|endpoint| endpoint.address == ip("10.42.1.2"));
    two.one
        .run(|| at_one.sync(&[at(&web, "10.42.0.0/24")]))
        .unwrap();
    let error = call(&two.outside, "10.99.0.2", 30080).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn udp_clients_follow_the_endpoints() {
    if !is_root() {
        return;
    }
    let two = two();
    let mut kernel = rules(&two.one, "10.42.0.0/24");
    let mut echo = service("echo", "10.43.0.10", &[("10.42.0.3", true)]);
    echo.protocol = Protocol::Udp;
    echo.node_port = Some(30080);
    two.one.run(|| kernel.sync(&[echo.clone()])).unwrap();
    // One socket, one port: the flow is tracked and would go on for ever.
    let ask = |socket: &UdpSocket, to: &str, port: u16| {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"?", (ip(to), port)).unwrap();
        let mut buffer = [0; 100];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let open = |at: &Path| {
        run_in(at, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
            .unwrap()
            .unwrap()
    };
    let (inside, outside) = (open(&two.a), open(&two.outside));
    assert_eq!(ask(&inside, "10.43.0.10", 80), "b");
    assert_eq!(ask(&outside, "10.99.0.2", 30080), "b");
    echo.endpoints[0].address = ip("10.42.0.4");
    let report = two.one.run(|| kernel.sync(&[echo.clone()])).unwrap();
    assert_eq!((report.flushed_flows, report.flush_failed), (2, None));
    assert_eq!(ask(&inside, "10.43.0.10", 80), "c");
    assert_eq!(ask(&outside, "10.99.0.2", 30080), "c");
    // Flows to endpoints that stay are kept.
    echo.endpoints.push(Endpoint {
        address: ip("10.42.0.3"),
        port: 8080,
        local: true,
    });
    let report = two.one.run(|| kernel.sync(&[echo])).unwrap();
    assert_eq!(report.flushed_flows, 0);
    assert_eq!(ask(&inside, "10.43.0.10", 80), "c");
}

#[test]
fn one_endpoint_among_thousands_is_cheap_to_change() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    lab.bridge("br0", "10.99.0.1/24");
    let node = lab.node("one", "br0", "10.99.0.2/24", None);
    let mut kernel = rules(&node, "10.42.0.0/24");
    let mut all: Vec<ServiceRule> = (0..1000u32)
        .map(|number| {
            let address = Ipv4Addr::from(u32::from(ip("10.43.1.0")) + number).to_string();
            let endpoints: Vec<String> = (0..5)
                .map(|endpoint| {
                    Ipv4Addr::from(u32::from(ip("10.42.1.0")) + number * 5 + endpoint).to_string()
                })
                .collect();
            let endpoints: Vec<(&str, bool)> = endpoints
                .iter()
                .map(|address| (address.as_str(), false))
                .collect();
            service(&format!("s{number}"), &address, &endpoints)
        })
        .collect();
    node.run(|| {
        let started = Instant::now();
        let report = kernel.sync(&all).unwrap();
        let whole = started.elapsed();
        assert_eq!((report.added, report.rebuilt), (6000, true));
        all[500].endpoints[2].port = 9090;
        let started = Instant::now();
        let report = kernel.sync(&all).unwrap();
        let one = started.elapsed();
        assert_eq!((report.added, report.removed, report.rebuilt), (1, 1, false));
        // All of them at once, still one netlink transaction.
        for service in &mut all {
            service.endpoints[0].port = 9091;
        }
        let started = Instant::now();
        let report = kernel.sync(&all).unwrap();
        let thousand = started.elapsed();
        assert_eq!((report.added, report.removed, report.rebuilt), (1000, 1000, false));
        eprintln!("1,000 services of 5 endpoints: all {whole:?}, one endpoint {one:?}, a thousand {thousand:?}");
        ServiceRules::clear().unwrap();
    });
}
