//! Cluster DNS asked from a pod, in real namespaces.

mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use lab::{Lab, PATIENCE, ip, is_root};
use trireme_network::dns::{
    EndpointRecord, SERVER_ADDRESS, Server, ServerConfig, ServiceAddress, ServiceRecord, Snapshot,
    claim_address, release_address,
};
use trireme_network::{run_in, spawn_in_netns};

/// How often a query is sent before the server is held to be silent.
const ATTEMPTS: u32 = 5;

fn record(name: &str, address: ServiceAddress, pods: usize) -> ServiceRecord {
    let endpoints = (0..pods)
        .map(|pod| EndpointRecord {
            address: Ipv4Addr::from(u32::from(ip("10.42.0.2")) + pod as u32),
            hostname: None,
            ports: vec![],
        })
        .collect();
    ServiceRecord {
        namespace: "shop".into(),
        name: name.into(),
        address,
        ports: vec![],
        endpoints,
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

/// A resolver that knows one address for everything.
fn upstream(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = query.clone().into_response();
            let name = query.queries[0].name().clone();
            if query.queries[0].query_type() == RecordType::A {
                answer.add_answer(Record::from_rdata(
                    name,
                    60,
                    RData::A(A(ip("198.51.100.9"))),
                ));
            }
            socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
        }
    });
}

#[test]
fn pods_ask_their_node() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new();
    lab.bridge("br0", "10.99.0.1/24");
    let node = lab.node("one", "br0", "10.99.0.2/24", None);
    let pod = node.pod("a", "10.42.0.2");
    let snapshot = Arc::new(Snapshot::new(
        "cluster.local",
        [
            record("web", ServiceAddress::Cluster(vec![ip("10.43.0.10")]), 0),
            record("many", ServiceAddress::Headless, 200),
            record(
                "outer",
                ServiceAddress::ExternalName("example.org".into()),
                0,
            ),
        ],
    ));
    node.run(|| claim_address(SERVER_ADDRESS)).unwrap();
    node.run(|| claim_address(SERVER_ADDRESS)).unwrap();
    let resolver = node.run(|| UdpSocket::bind("127.0.0.1:5300")).unwrap();
    upstream(resolver);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let namespace = node.namespace.clone();
    let server = thread::spawn(move || {
        run_in(&namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (_sender, receiver) = tokio::sync::watch::channel(snapshot);
                let config = ServerConfig {
                    address: SocketAddr::from((SERVER_ADDRESS, 53)),
                    upstreams: vec!["127.0.0.1:5300".parse().unwrap()],
                };
                let server = Server::start(config, receiver.clone()).await.unwrap();
                // One that has nobody to ask.
                let alone = ServerConfig {
                    address: SocketAddr::from((SERVER_ADDRESS, 5353)),
                    upstreams: vec![],
                };
                let alone = Server::start(alone, receiver).await.unwrap();
                ready.send(()).unwrap();
                let _ = stopped.await;
                server.shutdown().await;
                alone.shutdown().await;
            });
        })
        .unwrap();
    });
    is_ready.recv_timeout(PATIENCE).unwrap();
    let socket = run_in(&pod, || UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask_at = |port: u16, query: &Message| {
        let mut buffer = [0; 65_535];
        // A datagram may be lost, or answered late on a busy machine: asked again, as every resolver does.
        for _ in 0..ATTEMPTS {
            socket
                .send_to(&query.to_vec().unwrap(), (SERVER_ADDRESS, port))
                .unwrap();
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                let answer = Message::from_vec(&buffer[..length]).unwrap();
                if answer.metadata.id == query.metadata.id && answer.queries == query.queries {
                    return (answer, length);
                }
            }
        }
        panic!("no answer to {query:?} in {ATTEMPTS} attempts");
    };
    let ask = |query: &Message| ask_at(53, query);
    let (answer, _) = ask(&question("web.shop.svc.cluster.local.", RecordType::A));
    assert_eq!(answer.answers[0].data, RData::A(A(ip("10.43.0.10"))));
    assert_eq!(answer.answers[0].ttl, 5);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    // Too many for a datagram: some of them, and the word to ask over TCP.
    let many = question("many.shop.svc.cluster.local.", RecordType::A);
    let (answer, length) = ask(&many);
    assert!(
        answer.metadata.truncation && length <= 512 && answer.answers.len() > 20,
        "{length}"
    );
    let mut roomy = many.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    roomy.set_edns(edns);
    let (answer, length) = ask(&roomy);
    assert!(
        answer.metadata.truncation && length > 512 && length <= 1232 && answer.edns.is_some(),
        "{length}"
    );
    let mut stream = run_in(&pod, || TcpStream::connect((SERVER_ADDRESS, 53)))
        .unwrap()
        .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..2 {
        let bytes = many.to_vec().unwrap();
        stream
            .write_all(&[(bytes.len() as u16).to_be_bytes().to_vec(), bytes].concat())
            .unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 200);
    }
    // Other names go upstream, aliases too.
    let (answer, _) = ask(&question("example.org.", RecordType::A));
    assert_eq!(answer.answers[0].data, RData::A(A(ip("198.51.100.9"))));
    let (answer, _) = ask(&question("outer.shop.svc.cluster.local.", RecordType::A));
    let kinds: Vec<RecordType> = answer.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    let (answer, _) = ask_at(5353, &question("example.org.", RecordType::A));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let (answer, _) = ask_at(
        5353,
        &question("outer.shop.svc.cluster.local.", RecordType::A),
    );
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // Nonsense gets no more than a refusal, and the server lives.
    socket.send_to(&[0xff; 5], (SERVER_ADDRESS, 53)).unwrap();
    socket
        .send_to(&[[1, 2, 1, 0, 0, 9], [0; 6]].concat(), (SERVER_ADDRESS, 53))
        .unwrap();
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(
        Message::from_vec(&buffer[..length])
            .unwrap()
            .metadata
            .response_code,
        ResponseCode::FormErr
    );
    // The resolver most small images have.
    let mut command = Command::new("busybox");
    command.args([
        "nslookup",
        "web.shop.svc.cluster.local",
        &SERVER_ADDRESS.to_string(),
    ]);
    command.stdout(std::process::Stdio::piped());
    match spawn_in_netns(&mut command, &pod) {
        Ok(child) => {
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success() && text.contains("10.43.0.10"),
                "{text}"
            );
        }
        Err(error) => eprintln!("without busybox: {error}"),
    }
    stop.send(()).unwrap();
    server.join().unwrap();
    node.run(|| release_address(SERVER_ADDRESS)).unwrap();
    node.run(|| release_address(SERVER_ADDRESS)).unwrap();
}
