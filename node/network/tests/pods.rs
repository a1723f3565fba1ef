//! Pod networks and the routes between nodes, in real namespaces.

mod lab;

use lab::{Lab, call, cidr, ip, is_root, serve_tcp};
use trireme_network::{NodeRoutes, PeerRoute, namespace, run_in, topology};

#[test]
fn a_pod_network_is_made_found_and_removed() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    lab.bridge("br0", "10.99.0.1/24");
    let node = lab.node("one", "br0", "10.99.0.2/24", Some("10.99.0.1"));
    let path = node.pod("uid-a", "10.42.0.2");
    assert!(namespace::exists(&path));
    // Again: the same, at once.
    assert_eq!(node.pod("uid-a", "10.42.0.2"), path);
    let found = node.run(|| node.pods.list()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].pod_uid.as_str(), found[0].address, &found[0].netns),
        ("uid-a", Some(ip("10.42.0.2")), &path)
    );
    // The pod is on its own loopback, and meets its node both ways.
    serve_tcp(&path, 80, "pod");
    assert_eq!(call(&path, "127.0.0.1", 80).unwrap().0, "pod");
    assert_eq!(
        call(&node.namespace, "10.42.0.2", 80).unwrap(),
        ("pod".into(), "10.99.0.2".into())
    );
    serve_tcp(&node.namespace, 81, "node");
    assert_eq!(
        call(&path, "10.99.0.2", 81).unwrap(),
        ("node".into(), "10.42.0.2".into())
    );
    // Another address: made anew.
    node.pod("uid-a", "10.42.0.9");
    let found = node.run(|| node.pods.list()).unwrap();
    assert_eq!(found[0].address, Some(ip("10.42.0.9")));
    // Half made: the namespace without its pair, and only a file.
    namespace::create(&node.directory.join("uid-half")).unwrap();
    std::fs::write(node.directory.join("uid-file"), "").unwrap();
    let found = node.run(|| node.pods.list()).unwrap();
    let half: Vec<_> = found
        .iter()
        .filter(|pod| pod.address.is_none())
        .map(|pod| pod.pod_uid.as_str())
        .collect();
    assert_eq!(half, ["uid-file", "uid-half"]);
    node.pod("uid-half", "10.42.0.3");
    for uid in ["uid-a", "uid-half", "uid-file", "uid-never"] {
        node.run(|| node.pods.teardown(uid)).unwrap();
    }
    assert_eq!(node.run(|| node.pods.list()).unwrap(), []);
    assert!(!path.exists());
    let links = node
        .run(|| std::fs::read_to_string("/proc/net/dev"))
        .unwrap();
    assert!(!links.contains("tp"), "{links}");
    let error = node
        .run(|| node.pods.setup("../x", ip("10.42.0.4")))
        .unwrap_err();
    assert!(error.to_string().contains("uid"), "{error}");
}

#[test]
fn pods_of_two_nodes_in_one_subnet_meet() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    lab.bridge("br0", "10.99.0.1/24");
    let one = lab.node("one", "br0", "10.99.0.2/24", Some("10.99.0.1"));
    let two = lab.node("two", "br0", "10.99.0.3/24", Some("10.99.0.1"));
    let a = one.pod("a", "10.42.0.2");
    let b = two.pod("b", "10.42.1.2");
    serve_tcp(&b, 8080, "b");
    let routes = |node_ip, own| NodeRoutes::new(ip(node_ip), cidr(own), cidr("10.43.0.0/16"));
    let peer = |node: &str, address, range| PeerRoute {
        node: node.into(),
        internal_ip: ip(address),
        pod_cidr: cidr(range),
    };
    let from_one = routes("10.99.0.2", "10.42.0.0/24");
    let to_two = [peer("two", "10.99.0.3", "10.42.1.0/24")];
    let report = one.run(|| from_one.sync(&to_two)).unwrap();
    assert_eq!(
        (report.added, report.removed, report.failed.len()),
        (2, 0, 0)
    );
    let report = one.run(|| from_one.sync(&to_two)).unwrap();
    assert_eq!((report.added, report.removed), (0, 0));
    let to_one = [peer("one", "10.99.0.2", "10.42.0.0/24")];
    two.run(|| routes("10.99.0.3", "10.42.1.0/24").sync(&to_one))
        .unwrap();
    assert_eq!(
        call(&a, "10.42.1.2", 8080).unwrap(),
        ("b".into(), "10.42.0.2".into())
    );
    assert_eq!(
        call(&one.namespace, "10.42.1.2", 8080).unwrap(),
        ("b".into(), "10.99.0.2".into())
    );
    // A peer that would take our own range is refused, the others served.
    let report = one
        .run(|| {
            from_one.sync(&[
                peer("thief", "10.99.0.9", "10.42.0.0/24"),
                to_two[0].clone(),
            ])
        })
        .unwrap();
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].0, "thief");
    assert!(call(&a, "10.42.1.2", 8080).is_ok());
    let report = one.run(|| from_one.sync(&[])).unwrap();
    assert_eq!((report.added, report.removed), (0, 1));
    // Its own pods are still reached.
    serve_tcp(&a, 8080, "a");
    assert!(call(&one.namespace, "10.42.0.2", 8080).is_ok());
}

#[test]
fn pods_behind_a_router_meet_through_vxlan() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    // The machine routes between its two bridges, and knows no pods.
    lab.bridge("br0", "10.98.0.1/24");
    lab.bridge("br1", "10.98.1.1/24");
    run_in(&lab.machine, || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    })
    .unwrap()
    .unwrap();
    let one = lab.node("one", "br0", "10.98.0.2/24", Some("10.98.0.1"));
    let two = lab.node("two", "br1", "10.98.1.2/24", Some("10.98.1.1"));
    let a = one.pod("a", "10.42.0.2");
    let b = two.pod("b", "10.42.1.2");
    serve_tcp(&b, 8080, "b");
    let peer = |node: &str, address, range| PeerRoute {
        node: node.into(),
        internal_ip: ip(address),
        pod_cidr: cidr(range),
    };
    let from_one = NodeRoutes::new(one.node_ip, cidr("10.42.0.0/24"), cidr("10.43.0.0/16"));
    let from_two = NodeRoutes::new(two.node_ip, cidr("10.42.1.0/24"), cidr("10.43.0.0/16"));
    let report = one
        .run(|| from_one.sync(&[peer("two", "10.98.1.2", "10.42.1.0/24")]))
        .unwrap();
    assert_eq!(report.failed, []);
    two.run(|| from_two.sync(&[peer("one", "10.98.0.2", "10.42.0.0/24")]))
        .unwrap();
    assert_eq!(
        call(&a, "10.42.1.2", 8080).unwrap(),
        ("b".into(), "10.42.0.2".into())
    );
    // The node itself comes from its own address of the pod range.
    assert_eq!(
        call(&one.namespace, "10.42.1.2", 8080).unwrap(),
        ("b".into(), "10.42.0.1".into())
    );
    one.run(|| from_one.sync(&[])).unwrap();
    assert!(!one.run(|| topology::link_exists("trireme-vxlan")).unwrap());
    two.run(NodeRoutes::clear).unwrap();
    assert!(!two.run(|| topology::link_exists("trireme-vxlan")).unwrap());
}

#[test]
fn a_topology_reaches_beyond_its_bridge() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    lab.bridge("br0", "10.97.0.1/24");
    lab.bridge("outside", "198.51.100.1/24");
    let inside = lab.host("inside", "br0", "10.97.0.2/24", Some("10.97.0.1"));
    let outside = lab.host("web", "outside", "198.51.100.2/24", None);
    serve_tcp(&outside, 80, "web");
    // New namespaces copy the machine's own setting.
    run_in(&lab.machine, || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")
    })
    .unwrap()
    .unwrap();
    let was_on = run_in(&lab.machine, || {
        topology::share_uplink("lab", cidr("10.97.0.0/24"))
    })
    .unwrap()
    .unwrap();
    assert!(!was_on);
    assert_eq!(
        call(&inside, "198.51.100.2", 80).unwrap(),
        ("web".into(), "198.51.100.1".into())
    );
    run_in(&lab.machine, || {
        topology::stop_sharing_uplink("lab", was_on)
    })
    .unwrap()
    .unwrap();
    run_in(&lab.machine, || {
        topology::stop_sharing_uplink("lab", was_on)
    })
    .unwrap()
    .unwrap();
    let on = run_in(&lab.machine, || {
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
    })
    .unwrap()
    .unwrap();
    assert_eq!(on.trim(), "0");
    run_in(&lab.machine, || topology::delete_link("br0"))
        .unwrap()
        .unwrap();
    run_in(&lab.machine, || topology::delete_link("br0"))
        .unwrap()
        .unwrap();
    let long = run_in(&lab.machine, || {
        topology::create_bridge("a-name-far-too-long", cidr("10.0.0.1/24"))
    })
    .unwrap();
    assert!(
        long.unwrap_err()
            .to_string()
            .contains("longer than 15 bytes")
    );
    assert!(topology::create_namespace(&inside).is_err());
}
