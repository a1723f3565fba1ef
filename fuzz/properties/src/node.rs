//! What node agents read: questions about names, and sessions of exec and port-forward.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::SinkExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Builder;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use trireme_network::dns::{ServiceAddress, ServiceRecord, Snapshot, answer_datagram};
use trireme_stream::{BackendError, ExecBackend, Process, StreamOptions, wire};

/// The largest datagram that any client is sent.
const DATAGRAM_BYTES: usize = 1232;
/// In-memory connections of this size make sessions stop and go on.
const PIPE_BYTES: usize = 1024;
/// A session that is not over by then, in the runtime's own time, hangs.
const HANG: Duration = Duration::from_secs(3600);

/// A question gets one answer, of its number, that fits; anything else gets none.
pub fn dns(bytes: &[u8]) {
    let service = |name: &str, address| ServiceRecord {
        namespace: "shop".into(),
        name: name.into(),
        address,
        ports: Vec::new(),
        endpoints: Vec::new(),
    };
    let services = [
        service(
            "web",
            ServiceAddress::Cluster(vec![Ipv4Addr::new(10, 43, 0, 9)]),
        ),
        service("db", ServiceAddress::Headless),
        service(
            "loop",
            ServiceAddress::ExternalName("loop.shop.svc.cluster.local".into()),
        ),
    ];
    let snapshot = Snapshot::new("cluster.local", services);
    if let Some(answer) = answer_datagram(&snapshot, bytes) {
        assert!((12..=DATAGRAM_BYTES).contains(&answer.len()));
        assert_eq!(answer[..2], bytes[..2]);
    }
}

/// Runs a session in paused time: what waits for nothing but a timer is over at once.
fn finish(session: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime
        .block_on(async { tokio::time::timeout(HANG, session).await })
        .expect("the session ends");
}

/// Any bytes of a client end in a closed connection.
pub fn spdy(bytes: &[u8]) {
    let (client, server) = tokio::io::duplex(PIPE_BYTES);
    let (mut answers, mut requests) = tokio::io::split(client);
    let bytes = bytes.to_vec();
    finish(async move {
        let client = async {
            // The server may close before it has read everything.
            let _ = requests.write_all(&bytes).await;
            let _ = requests.shutdown().await;
        };
        let reader = async {
            let mut all = Vec::new();
            let _ = answers.read_to_end(&mut all).await;
        };
        tokio::join!(client, reader, wire::spdy_echo(server));
    });
}

/// Header blocks, one after the other; lengths stand before each.
pub fn spdy_headers(bytes: &[u8]) {
    let mut blocks = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (block, after) = after.split_at(usize::from(*length).min(after.len()));
        blocks.push(block);
        rest = after;
    }
    let _ = wire::spdy_headers(&blocks);
}

/// A process that gives back what it is given.
struct Echo;

impl ExecBackend for Echo {
    async fn start(self, streams: StreamOptions) -> Result<Process, BackendError> {
        let (input, output) = tokio::io::duplex(PIPE_BYTES);
        let (resize, mut sizes) = tokio::sync::mpsc::channel(1);
        let (reader, writer) = (input, output);
        let exit = async move {
            while sizes.recv().await.is_some() {}
            Ok(0)
        };
        Ok(Process {
            stdin: streams.stdin.then_some(Box::pin(writer) as _),
            stdout: streams.stdout.then_some(Box::pin(reader) as _),
            stderr: None,
            resize: Some(resize),
            exit: Box::pin(exit),
        })
    }
}

/// Messages of any content, in any of the subprotocols, end in a closed session. The first byte says which one; of
/// each message the first byte is its length.
pub fn websocket(bytes: &[u8]) {
    const PROTOCOLS: [&str; 4] = [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "",
    ];
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let protocol = PROTOCOLS[usize::from(*first) % PROTOCOLS.len()];
    let options = StreamOptions {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: *first >= 0x80,
    };
    let mut messages = Vec::new();
    let mut rest = rest;
    while let Some((length, after)) = rest.split_first() {
        let (message, after) = after.split_at(usize::from(*length).min(after.len()));
        messages.push(message.to_vec());
        rest = after;
    }
    let (client, server) = tokio::io::duplex(PIPE_BYTES);
    finish(async move {
        let client = async move {
            let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
            for message in messages {
                if client.send(Message::Binary(message.into())).await.is_err() {
                    return;
                }
            }
            let _ = client.close(None).await;
        };
        tokio::join!(
            client,
            wire::exec_websocket(server, protocol, options, Echo)
        );
    });
}
