//! What a server answers to its peers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use trireme_proto::raft::raft_server::{Raft, RaftServer};
use trireme_proto::raft::{Payload, SnapshotChunk};

use crate::dial::PeerStream;
use crate::entry::Types;
use crate::link::{ADDRESSEE, MAX_MESSAGE_BYTES, MISADDRESSED};
use crate::machine::Snapshot;
use crate::message::{ChangeMessage, ProposeMessage, SnapshotHeader, VoteMessage, parse, payload};
use crate::replica::Core;

/// The Raft service of one replica, to be mounted where only peers can connect.
pub struct RaftService {
    core: Arc<Core>,
}

impl RaftService {
    pub(crate) fn server(core: Arc<Core>) -> RaftServer<RaftService> {
        RaftServer::new(RaftService { core })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

impl RaftService {
    /// Refuses what is meant for another server that was at this address. A server of a version that named no
    /// addressee is answered.
    fn addressed<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(addressee) = request.metadata().get(ADDRESSEE) else {
            return Ok(());
        };
        let id = self.core.id.to_string();
        if addressee.as_bytes() == id.as_bytes() {
            return Ok(());
        }
        let why = format!("meant for server {addressee:?}, and this is server {id}");
        Err(Status::new(MISADDRESSED, why))
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

type Answer = Result<Response<Payload>, Status>;

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn vote(&self, request: Request<Payload>) -> Answer {
        self.addressed(&request)?;
        let answer = match parse(request.get_ref())? {
            VoteMessage::Vote(vote) => self.core.raft.vote(vote).await,
            VoteMessage::PreVote(vote) => self.core.raft.pre_vote(vote).await,
        };
        Ok(Response::new(payload(&answer.map_err(internal)?)?))
    }

    async fn transfer_leader(&self, request: Request<Payload>) -> Answer {
        self.addressed(&request)?;
        let message: TransferLeaderRequest<Types> = parse(request.get_ref())?;
        let answer = self
            .core
            .raft
            .handle_transfer_leader(message)
            .await
            .map_err(internal)?;
        Ok(Response::new(payload(&answer)?))
    }

    async fn append(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.addressed(&request)?;
        let core = self.core.clone();
        let refused = Arc::new(AtomicBool::new(false));
        let refuse = refused.clone();
        let requests = request.into_inner().scan((), move |(), message| {
            let message =
                message.and_then(|message| parse::<AppendEntriesRequest<Types>>(&message));
            let accepted = match message {
                Ok(message) if core.space.out() && !message.entries.is_empty() => {
                    refuse.store(true, Ordering::Release);
                    None
                }
                Ok(message) => Some(message),
                Err(status) => {
                    tracing::debug!(%status, "a stream of entries ended");
                    None
                }
            };
            std::future::ready(accepted)
        });
        let space = self.core.space.clone();
        let answers = self.core.raft.stream_append(requests).map(move |answer| {
            let answer = payload(&answer.map_err(internal)?)?;
            Ok(Payload {
                disk_full: space.low(),
                ..answer
            })
        });
        let refusal = stream::once(async move {
            refused
                .load(Ordering::Acquire)
                .then(|| Err(Status::resource_exhausted("disk full")))
        });
        let answers = answers.chain(refusal.filter_map(std::future::ready));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn install_snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Answer {
        self.addressed(&request)?;
        if self.core.space.low() {
            return Err(Status::resource_exhausted("disk full"));
        }
        let mut chunks = request.into_inner();
        let cut = || Status::invalid_argument("the snapshot ended early");
        let first = chunks.message().await?.ok_or_else(cut)?;
        let header: SnapshotHeader = parse(&Payload {
            data: first.header,
            ..Payload::default()
        })?;
        let mut incoming = self.core.engine.receive().map_err(internal)?;
        loop {
            let chunk = chunks.message().await?.ok_or_else(cut)?;
            if chunk.last {
                break;
            }
            incoming
                .write(&chunk.file, chunk.offset, &chunk.data)
                .map_err(internal)?;
        }
        let snapshot = Snapshot {
            meta: header.meta,
            snapshot: incoming.finish().map_err(internal)?,
        };
        let installed = self
            .core
            .raft
            .install_full_snapshot(header.vote, snapshot)
            .await;
        Ok(Response::new(payload(&installed.map_err(internal)?)?))
    }

    async fn propose(&self, request: Request<Payload>) -> Answer {
        self.addressed(&request)?;
        let message: ProposeMessage = parse(request.get_ref())?;
        let answer = self.core.propose_as_leader(message.command).await;
        Ok(Response::new(payload(&answer)?))
    }

    async fn read_index(&self, request: Request<Payload>) -> Answer {
        self.addressed(&request)?;
        let answer = self.core.read_index_as_leader().await;
        Ok(Response::new(payload(&answer)?))
    }

    async fn change(&self, request: Request<Payload>) -> Answer {
        self.addressed(&request)?;
        let message: ChangeMessage = parse(request.get_ref())?;
        let answer = self.core.change_as_leader(message).await;
        Ok(Response::new(payload(&answer)?))
    }
}

/// Serves one connection from a peer until it ends or `stop` is cancelled.
pub async fn serve_connection<S: PeerStream>(
    service: RaftServer<RaftService>,
    stream: S,
    stop: CancellationToken,
) {
    use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
    use hyper_util::service::TowerToHyperService;

    const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(10);

    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A peer that lost power says no goodbye.
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::select! {
        () = stop.cancelled() => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "connection from a peer ended");
            }
        }
    }
}

/// Accepts peers on a TCP listener, with mutual TLS where an acceptor is given, until `stop`.
pub async fn serve_listener(
    service: RaftServer<RaftService>,
    listener: tokio::net::TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) {
    /// A peer that has connected must say who it is within this.
    const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(5);
    /// After an error of accept itself, as when file descriptors run out.
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

    let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a peer");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting up a connection from a peer");
            continue;
        }
        let (service, acceptor, stop) = (service.clone(), acceptor.clone(), stop.clone());
        connections.spawn(async move {
            let Some(acceptor) = acceptor else {
                return serve_connection(service, stream, stop).await;
            };
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve_connection(service, stream, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS from a peer"),
                Err(_) => tracing::debug!("TLS from a peer took too long"),
            }
        });
    }
    connections.close();
    connections.wait().await;
}
