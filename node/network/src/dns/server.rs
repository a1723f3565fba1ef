//! The server: UDP and TCP on one address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use netlink_packet_route::address::AddressScope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::answer::{Reply, Resolution, resolve};
use super::snapshot::Snapshot;
use super::upstream;
use crate::netlink::Netlink;
use crate::{Cidr, NetworkError};

/// Where every node's cluster DNS listens: link-local, so that it means
/// "this node" everywhere.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);

/// Questions waiting for an upstream at once; each takes a socket and up to
/// 64 KiB. Beyond it the answer is SERVFAIL.
const MAX_FORWARDED: usize = 256;
/// TCP connections at once; beyond it, new ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a TCP connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest UDP answer, whatever the client offers: the recommendation of
/// DNS Flag Day 2020, which no path fragments.
const MAX_UDP_BYTES: usize = 1232;
/// Without EDNS (RFC 1035).
const PLAIN_UDP_BYTES: usize = 512;
/// Questions longer than any name with EDNS options needs are dropped.
const MAX_QUERY_BYTES: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cluster DNS cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
}

#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Usually [`SERVER_ADDRESS`], port 53; port 0 picks a free one.
    pub address: SocketAddr,
    /// Who is asked about other names, in turn; see [`super::upstreams`].
    /// With none the answer is SERVFAIL, at once.
    pub upstreams: Vec<SocketAddr>,
}

/// Gives the loopback interface the address to listen on; succeeds when it
/// has it. Its scope is "host", so it never becomes the source of the node's
/// other packets.
pub fn claim_address(address: Ipv4Addr) -> Result<(), NetworkError> {
    let mut netlink = Netlink::open()?;
    let loopback = netlink.link("lo")?;
    netlink.set_up(loopback.index)?;
    netlink.add_address(loopback.index, single(address), AddressScope::Host)
}

/// Undoes [`claim_address`]; succeeds when there is nothing to undo.
pub fn release_address(address: Ipv4Addr) -> Result<(), NetworkError> {
    let mut netlink = Netlink::open()?;
    let loopback = netlink.link("lo")?;
    netlink.delete_address(loopback.index, single(address))
}

fn single(address: Ipv4Addr) -> Cidr {
    Cidr::new(address, 32).expect("32 is a prefix length")
}

/// A running server; it ends with [`Server::shutdown`] or when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    upstreams: Vec<SocketAddr>,
    forwarded: Semaphore,
    turn: AtomicUsize,
}

impl Shared {
    fn answer_locally(&self, question: &Question) -> Option<Message> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let snapshot = self.snapshot.borrow().clone();
        answer_locally(&snapshot, question, turn)
    }
}

impl Server {
    /// Listens on UDP and TCP. The address has to exist: see
    /// [`claim_address`].
    pub async fn start(
        config: ServerConfig,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> Result<Server, DnsError> {
        let failed = |source| DnsError::Listen {
            address: config.address,
            source,
        };
        let tcp = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let shared = Arc::new(Shared {
            snapshot,
            upstreams: config.upstreams,
            forwarded: Semaphore::new(MAX_FORWARDED),
            turn: AtomicUsize::new(0),
        });
        let tasks = vec![
            tokio::spawn(serve_udp(Arc::new(udp), shared.clone())),
            tokio::spawn(serve_tcp(tcp, shared)),
        ];
        Ok(Server { address, tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits until every task has ended.
    pub async fn shutdown(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    // Owns the forwarded questions: they end with the server.
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; MAX_QUERY_BYTES];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier answer; a client went away.
                tracing::debug!(%error, "a DNS datagram could not be received");
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        let Some(question) = Question::read(&buffer[..length]) else {
            continue;
        };
        match shared.answer_locally(&question) {
            Some(answer) => send(&socket, &fit(answer, question.udp_bytes()), client).await,
            None => {
                let (socket, shared) = (socket.clone(), shared.clone());
                waiting.spawn(async move {
                    let limit = question.udp_bytes();
                    let bytes = forward(&shared, question, Some(limit)).await;
                    send(&socket, &bytes, client).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "a DNS answer could not be sent");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    if let Err(error) = serve_connection(stream, &shared).await {
                        tracing::debug!(%client, %error, "a DNS connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a DNS connection could not be accepted");
                // Out of file descriptors, most likely: let some close.
                if connections.join_next().await.is_none() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let length = match timeout(IDLE_TIMEOUT, stream.read_u16()).await {
            Ok(Ok(length)) => usize::from(length),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let mut buffer = vec![0; length];
        timeout(IDLE_TIMEOUT, stream.read_exact(&mut buffer)).await??;
        let Some(question) = Question::read(&buffer) else {
            return Ok(());
        };
        let bytes = match shared.answer_locally(&question) {
            Some(answer) => fit(answer, usize::from(u16::MAX)),
            None => forward(shared, question, None).await,
        };
        let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        timeout(IDLE_TIMEOUT, stream.write_all(&framed)).await??;
    }
}

/// The answer to a datagram as a server without upstreams would send it; `None` where there is none, or others
/// would have to be asked.
#[doc(hidden)]
pub fn answer_datagram(snapshot: &Snapshot, bytes: &[u8]) -> Option<Vec<u8>> {
    let question = Question::read(bytes)?;
    let answer = answer_locally(snapshot, &question, 0)?;
    Some(fit(answer, question.udp_bytes()))
}

struct Question {
    message: Message,
    bytes: Vec<u8>,
}

impl Question {
    /// `None` for what is no DNS query at all, and gets no answer.
    fn read(bytes: &[u8]) -> Option<Question> {
        let message = match Message::from_vec(bytes) {
            Ok(message) => message,
            Err(_) if bytes.len() >= 12 && bytes[2] & 0x80 == 0 => {
                let id = u16::from_be_bytes([bytes[0], bytes[1]]);
                Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
            }
            Err(_) => return None,
        };
        if message.metadata.message_type == MessageType::Response
            && message.metadata.response_code != ResponseCode::FormErr
        {
            return None;
        }
        Some(Question {
            message,
            bytes: bytes.to_vec(),
        })
    }

    fn udp_bytes(&self) -> usize {
        match &self.message.edns {
            Some(edns) => usize::from(edns.max_payload()).clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES),
            None => PLAIN_UDP_BYTES,
        }
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut response =
            Message::response(self.message.metadata.id, self.message.metadata.op_code);
        response.metadata = Metadata::response_from_request(&self.message.metadata);
        response.metadata.response_code = code;
        response.metadata.recursion_available = true;
        response.add_queries(self.message.queries.iter().cloned());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_BYTES as u16);
            response.set_edns(edns);
        }
        response
    }
}

/// The answer, where no upstream has to be asked.
fn answer_locally(snapshot: &Snapshot, question: &Question, turn: usize) -> Option<Message> {
    let message = &question.message;
    if message.metadata.message_type == MessageType::Response {
        return Some(message.clone());
    }
    if message.metadata.op_code != OpCode::Query {
        return Some(question.response(ResponseCode::NotImp));
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Some(question.response(ResponseCode::BADVERS));
    }
    let [query] = message.queries.as_slice() else {
        return Some(question.response(ResponseCode::FormErr));
    };
    if query.query_class() != DNSClass::IN {
        return None;
    }
    match resolve(snapshot, query.name(), query.query_type(), turn) {
        Resolution::Known(reply) => Some(known(question, reply)),
        Resolution::Alias { .. } | Resolution::Elsewhere => None,
    }
}

fn known(question: &Question, reply: Reply) -> Message {
    let mut response = question.response(reply.code);
    response.metadata.authoritative = true;
    response.add_answers(reply.answers);
    response.add_additionals(reply.additionals);
    response.add_authorities(reply.authority);
    response
}

/// Asks upstream; `udp_bytes` is the room of a client on UDP.
async fn forward(shared: &Shared, question: Question, udp_bytes: Option<usize>) -> Vec<u8> {
    let limit = udp_bytes.unwrap_or(usize::from(u16::MAX));
    let failed = |question: &Question| fit(question.response(ResponseCode::ServFail), limit);
    let Ok(_permit) = shared.forwarded.try_acquire() else {
        return failed(&question);
    };
    let alias = question.message.queries.first().and_then(|query| {
        let snapshot = shared.snapshot.borrow().clone();
        match resolve(&snapshot, query.name(), query.query_type(), 0) {
            Resolution::Alias { aliases, target } => Some((aliases, target, query.query_type())),
            _ => None,
        }
    });
    match alias {
        Some((aliases, target, kind)) => {
            let response = resolve_alias(shared, &question, aliases, target, kind).await;
            fit(response, limit)
        }
        None => {
            match upstream::ask(&shared.upstreams, &question.bytes, udp_bytes.is_none()).await {
                // Passed on as it is, unless it is more than the client can take.
                Some(answer) if answer.len() <= limit => answer,
                Some(answer) => match Message::from_vec(&answer) {
                    Ok(message) => fit(message, limit),
                    Err(_) => failed(&question),
                },
                None => failed(&question),
            }
        }
    }
}

async fn resolve_alias(
    shared: &Shared,
    question: &Question,
    aliases: Vec<Record>,
    target: Name,
    kind: RecordType,
) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(hickory_proto::op::Query::query(target, kind));
    let answer = match query.to_vec() {
        Ok(bytes) => upstream::ask(&shared.upstreams, &bytes, false).await,
        Err(_) => None,
    };
    let answer = answer.and_then(|answer| Message::from_vec(&answer).ok());
    let code = answer.as_ref().map_or(ResponseCode::ServFail, |answer| {
        answer.metadata.response_code
    });
    let mut response = question.response(code);
    response.add_answers(aliases);
    if let Some(answer) = answer {
        response.add_answers(answer.answers);
        response.add_authorities(answer.authorities);
    }
    response
}

/// The message's bytes, with as many answers as there is room for; marked as
/// truncated where some are missing, so that clients ask again over TCP.
fn fit(mut message: Message, limit: usize) -> Vec<u8> {
    let encode = |message: &Message| match message.to_vec() {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, "a DNS answer could not be encoded");
            let Metadata { id, op_code, .. } = message.metadata;
            let refusal = Message::error_msg(id, op_code, ResponseCode::ServFail);
            refusal.to_vec().unwrap_or_default()
        }
    };
    let bytes = encode(&message);
    if bytes.len() <= limit {
        return bytes;
    }
    // Additional records may be left out without a word.
    message.additionals.clear();
    let bytes = encode(&message);
    if bytes.len() <= limit {
        return bytes;
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let mut best = encode(&message.truncate());
    // Names are compressed, so sizes are only known by encoding.
    let (mut fitting, mut too_many) = (0, answers.len());
    while fitting + 1 < too_many {
        let count = fitting.midpoint(too_many);
        message.answers = answers[..count].to_vec();
        let bytes = encode(&message);
        if bytes.len() <= limit {
            (fitting, best) = (count, bytes);
        } else {
            too_many = count;
        }
    }
    best
}
