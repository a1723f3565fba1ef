//! Machines, nodes and pods in namespaces of their own. Everything hangs below
//! one "machine" namespace, so the test's host never sees any of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use trireme_network::{Cidr, PodNetwork, PodNetworkConfig, run_in, topology};

pub const PATIENCE: Duration = Duration::from_secs(3);

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Whether the test can run at all; says so when it cannot.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

pub struct Lab {
    directory: tempfile::TempDir,
    namespaces: Vec<PathBuf>,
    pub machine: PathBuf,
    links: usize,
}

impl Lab {
    pub fn new() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let machine = directory.path().join("machine");
        topology::create_namespace(&machine).unwrap();
        Lab {
            machine: machine.clone(),
            namespaces: vec![machine],
            directory,
            links: 0,
        }
    }

    pub fn bridge(&self, name: &str, address: &str) {
        run_in(&self.machine, || {
            topology::create_bridge(name, cidr(address))
        })
        .unwrap()
        .unwrap();
    }

    /// A namespace behind the bridge.
    pub fn host(
        &mut self,
        name: &str,
        bridge: &str,
        address: &str,
        gateway: Option<&str>,
    ) -> PathBuf {
        let path = self.directory.path().join(name);
        topology::create_namespace(&path).unwrap();
        self.namespaces.push(path.clone());
        self.links += 1;
        let end = format!("h{}", self.links);
        let gateway = gateway.map(ip);
        run_in(&self.machine, || {
            topology::connect(bridge, &path, &end, "eth0", cidr(address), gateway)
        })
        .unwrap()
        .unwrap();
        path
    }

    pub fn node(&mut self, name: &str, bridge: &str, address: &str, gateway: Option<&str>) -> Node {
        let namespace = self.host(name, bridge, address, gateway);
        let node_ip = cidr(address).address();
        let directory = self.directory.path().join(format!("{name}-pods"));
        let config = PodNetworkConfig {
            directory: directory.clone(),
            node_ip,
            mtu: None,
        };
        let pods = run_in(&namespace, || PodNetwork::new(config))
            .unwrap()
            .unwrap();
        Node {
            namespace,
            node_ip,
            pods,
            directory,
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for path in self.namespaces.iter().rev() {
            topology::delete_namespace(path).unwrap();
        }
    }
}

pub struct Node {
    pub namespace: PathBuf,
    pub node_ip: Ipv4Addr,
    pub pods: PodNetwork,
    pub directory: PathBuf,
}

impl Node {
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.namespace, work).unwrap()
    }

    pub fn pod(&self, uid: &str, address: &str) -> PathBuf {
        self.run(|| self.pods.setup(uid, ip(address))).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pod in self.run(|| self.pods.list()).unwrap() {
            self.run(|| self.pods.teardown(&pod.pod_uid)).unwrap();
        }
    }
}

/// Serves TCP on a namespace's port: tells its name and the client's address.
pub fn serve_tcp(namespace: &Path, port: u16, name: &'static str) {
    let listener = run_in(namespace, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
    })
    .unwrap()
    .unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let client = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(format!("{name} {client}").as_bytes());
        }
    });
}

/// Answers every datagram with its name.
pub fn serve_udp(namespace: &Path, port: u16, name: &'static str) {
    let socket = run_in(namespace, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        .unwrap()
        .unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
}

/// What the server says, as (its name, the client's address it saw).
pub fn call(namespace: &Path, address: &str, port: u16) -> std::io::Result<(String, String)> {
    let address = SocketAddr::V4(SocketAddrV4::new(ip(address), port));
    run_in(namespace, || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (name, client) = text.split_once(' ').unwrap();
        Ok((name.to_owned(), client.to_owned()))
    })
    .unwrap()
}

pub fn refused(namespace: &Path, address: &str, port: u16) -> bool {
    matches!(call(namespace, address, port), Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}
