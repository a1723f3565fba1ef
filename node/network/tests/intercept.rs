//! Interception against real packets: a pod with something in the proxy's place.

mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use lab::{Lab, Node, PATIENCE, call, cidr, ip, is_root, serve_tcp};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use trireme_network::{
    Interception, PROBE_MARK, ServiceRules, ServiceRulesConfig, namespace, run_in,
};

/// The proxy's user, which its sockets belong to.
const PROXY_USER: u32 = 1337;

/// Sockets made by `work` belong to the proxy's user: a thread has its own file system credentials,
/// as the kernel counts them, where the raw system call is used.
fn as_proxy<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    run_in(namespace, || {
        // SAFETY: plain system calls with numbers; only this thread, which ends here, changes.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, i64::from(PROXY_USER), -1) };
        assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
        work()
    })
    .unwrap()
}

/// Listens in the proxy's place and tells where each connection was going.
fn stand_in(namespace: &Path, port: u16, name: &'static str) {
    let listener = run_in(namespace, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
    })
    .unwrap()
    .unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let went = getsockopt(&stream, sockopt::OriginalDst).unwrap();
            let address = Ipv4Addr::from(u32::from_be(went.sin_addr.s_addr));
            let port = u16::from_be(went.sin_port);
            let _ = stream.write_all(format!("{name} {address}:{port}").as_bytes());
        }
    });
}

/// What answers a connection that carries a mark or a source of its own.
fn call_from(address: &str, port: u16, source: Option<&str>, mark: Option<u32>) -> String {
    // SAFETY: the new descriptor is nobody else's.
    let socket = unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(raw >= 0);
        OwnedFd::from_raw_fd(raw)
    };
    if let Some(mark) = mark {
        setsockopt(&socket, sockopt::Mark, &mark).unwrap();
    }
    if let Some(source) = source {
        let source = nix::sys::socket::SockaddrIn::from(SocketAddrV4::new(ip(source), 0));
        nix::sys::socket::bind(socket.as_raw_fd(), &source).unwrap();
    }
    let target = nix::sys::socket::SockaddrIn::from(SocketAddrV4::new(ip(address), port));
    nix::sys::socket::connect(socket.as_raw_fd(), &target).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn pod(lab: &mut Lab) -> (Node, std::path::PathBuf) {
    lab.bridge("br0", "10.99.0.1/24");
    let node = lab.node("one", "br0", "10.99.0.2/24", Some("10.99.0.1"));
    let path = node.pod("uid-a", "10.42.0.2");
    serve_tcp(&path, 8080, "app");
    serve_tcp(&path, 9090, "metrics");
    serve_tcp(&path, 15021, "health");
    stand_in(&path, 15001, "outbound");
    stand_in(&path, 15006, "inbound");
    (node, path)
}

#[test]
fn connections_meet_the_proxy_but_its_own_and_the_probes() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    let (node, path) = pod(&mut lab);
    serve_tcp(&node.namespace, 7000, "node");
    let all = Interception::default();
    all.apply(&path).unwrap();
    // Again: replaced, not doubled.
    all.apply(&path).unwrap();

    // In: to the proxy, which learns where it was going; its own ports are not intercepted.
    let seen = |port| call(&node.namespace, "10.42.0.2", port).unwrap();
    assert_eq!(seen(8080), ("inbound".into(), "10.42.0.2:8080".into()));
    assert_eq!(seen(15021).0, "health");

    // Out: to the proxy, but not from the proxy.
    let out = || call(&path, "10.99.0.2", 7000).unwrap();
    assert_eq!(out(), ("outbound".into(), "10.99.0.2:7000".into()));
    assert!(as_proxy(&path, || call_from("10.99.0.2", 7000, None, None)).starts_with("node "));
    // A service's address, which nothing answers at: intercepted all the same.
    assert_eq!(call(&path, "10.43.0.9", 80).unwrap().1, "10.43.0.9:80");

    // Over loopback: the application with itself, untouched; the proxy with the pod's own address,
    // inbound; the proxy passing on to the application, untouched.
    assert_eq!(call(&path, "127.0.0.1", 8080).unwrap().0, "app");
    assert_eq!(call(&path, "10.42.0.2", 8080).unwrap().0, "app");
    let own = as_proxy(&path, || call_from("10.42.0.2", 8080, None, None));
    assert_eq!(own, "inbound 10.42.0.2:8080");
    let passed = as_proxy(&path, || {
        call_from("10.42.0.2", 8080, Some("127.0.0.6"), None)
    });
    assert_eq!(passed, "app 127.0.0.6");
    assert!(as_proxy(&path, || call_from("127.0.0.1", 8080, None, None)).starts_with("app "));

    // The node's probes ask the application itself, with the gateway's address; without the node's
    // rules nothing gives them that address.
    let mut rules = ServiceRules::new(ServiceRulesConfig {
        node_ip: node.node_ip,
        pod_cidr: cidr("10.42.0.0/24"),
        cluster_cidr: cidr("10.42.0.0/16"),
        service_cidr: cidr("10.43.0.0/16"),
    });
    node.run(|| rules.sync(&[])).unwrap();
    let probe = || node.run(|| call_from("10.42.0.2", 8080, None, Some(PROBE_MARK)));
    assert_eq!(probe(), "app 169.254.1.1");
    let plain = node.run(|| call_from("10.42.0.2", 8080, None, None));
    assert_eq!(plain, "inbound 10.42.0.2:8080");

    // The rules end with the namespace: the pod made anew has none.
    node.run(|| node.pods.teardown("uid-a")).unwrap();
    assert!(!namespace::exists(&path));
    let again = node.pod("uid-a", "10.42.0.2");
    serve_tcp(&again, 8080, "app");
    assert_eq!(call(&node.namespace, "10.42.0.2", 8080).unwrap().0, "app");
}

#[test]
fn annotations_leave_ports_and_ranges_alone() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    let (node, path) = pod(&mut lab);
    serve_tcp(&node.namespace, 7000, "node");
    serve_tcp(&node.namespace, 7001, "node");
    let with = |pairs: &[(&str, &str)]| {
        let read = Interception::from_annotations(|name| {
            let found = pairs
                .iter()
                .find(|(key, _)| name == format!("traffic.sidecar.istio.io/{key}"));
            found.map(|(_, value)| *value)
        });
        read.unwrap().apply(&path).unwrap();
    };
    let into = |port| call(&node.namespace, "10.42.0.2", port).unwrap().0;
    let out = |port| call(&path, "10.99.0.2", port).unwrap().0;

    with(&[
        ("excludeInboundPorts", "9090"),
        ("excludeOutboundPorts", "7001"),
    ]);
    assert_eq!(
        (into(8080).as_str(), into(9090).as_str()),
        ("inbound", "metrics")
    );
    assert_eq!(
        (out(7000).as_str(), out(7001).as_str()),
        ("outbound", "node")
    );

    with(&[
        ("includeInboundPorts", "9090"),
        ("includeOutboundIPRanges", "10.43.0.0/16"),
    ]);
    assert_eq!(
        (into(8080).as_str(), into(9090).as_str()),
        ("app", "inbound")
    );
    assert_eq!(out(7000), "node");
    assert_eq!(call(&path, "10.43.0.9", 80).unwrap().0, "outbound");

    with(&[
        ("excludeOutboundIPRanges", "10.99.0.0/24"),
        ("includeInboundPorts", ""),
    ]);
    assert_eq!((into(8080).as_str(), out(7000).as_str()), ("app", "node"));

    with(&[
        ("includeOutboundIPRanges", ""),
        ("includeOutboundPorts", "7001"),
    ]);
    assert_eq!(
        (out(7000).as_str(), out(7001).as_str()),
        ("node", "outbound")
    );
}
