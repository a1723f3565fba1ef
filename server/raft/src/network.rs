//! openraft's network: sends its messages over the links.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use futures_util::{FutureExt, Stream, future::BoxFuture};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use tonic::{Code, Status};
use trireme_proto::raft::{Payload, SnapshotChunk};

use crate::entry::{Types, Vote};
use crate::link::{Link, Links, Purpose, not_sent};
use crate::machine::{Snapshot, SnapshotData};
use crate::member::Member;
use crate::message::{SnapshotHeader, VoteMessage, parse, payload};
use crate::timing::Timing;

/// A piece of a snapshot's file.
const CHUNK_BYTES: usize = 256 << 10;
/// Pieces sent ahead of what the connection has taken.
const CHUNKS_AHEAD: usize = 4;
/// Between attempts at a peer that cannot be reached; the link spaces out dials besides.
const RETRY_PAUSES_MS: [u64; 4] = [10, 25, 50, 100];

pub struct Network {
    links: Arc<Links>,
    timing: Timing,
}

impl Network {
    pub fn new(links: Arc<Links>, timing: Timing) -> Network {
        Network { links, timing }
    }

    fn to(&self, target: u64, member: &Member, purpose: Purpose) -> PeerNetwork {
        let link = self.links.get(target, member, purpose);
        PeerNetwork {
            link,
            timing: self.timing.clone(),
            heartbeats: None,
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, member: &Member) -> PeerNetwork {
        self.to(target, member, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> PeerNetwork {
        let mut network = self.to(target, member, Purpose::Log);
        network.heartbeats = Some(None);
        network
    }

    async fn new_snapshot_client(&mut self, target: u64, member: &Member) -> PeerNetwork {
        self.to(target, member, Purpose::Snapshot)
    }
}

pub struct PeerNetwork {
    link: Arc<Link>,
    timing: Timing,
    /// For heartbeats only: the stream that they share, while it works. Each of them on a stream
    /// of its own would be most of what an idle leader does.
    heartbeats: Option<Option<Heartbeats>>,
}

struct Heartbeats {
    requests: tokio::sync::mpsc::Sender<Payload>,
    answers: tonic::Streaming<Payload>,
}

type RpcError = RPCError<Types>;

fn rpc_error(status: Status) -> RpcError {
    if not_sent(&status) || status.code() == Code::ResourceExhausted {
        RPCError::Unreachable(Unreachable::new(&status))
    } else {
        RPCError::Network(NetworkError::new(&status))
    }
}

impl PeerNetwork {
    /// One question with one answer, within a time that covers a new connection.
    async fn ask<T, F>(&self, option: &RPCOption, call: F) -> Result<T, RpcError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let limit = option
            .soft_ttl()
            .max(Duration::from_millis(self.timing.dial_ms));
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(rpc_error),
            Err(_) => {
                let error = AnyError::error(format!("no answer within {} ms", limit.as_millis()));
                Err(RPCError::Network(NetworkError::new(&error)))
            }
        }
    }

    /// One heartbeat and its answer. Dropped half way, it leaves no stream behind whose next answer
    /// would be to another heartbeat.
    async fn heartbeat(
        &mut self,
        request: &AppendEntriesRequest<Types>,
        option: &RPCOption,
    ) -> Result<StreamAppendResult<Types>, RpcError> {
        let request = payload(request).map_err(rpc_error)?;
        let mut stream = match self.heartbeats.as_mut().and_then(Option::take) {
            Some(stream) => stream,
            None => {
                let (requests, receiver) = tokio::sync::mpsc::channel(1);
                let requests_out = tokio_stream::wrappers::ReceiverStream::new(receiver);
                let mut client = self.link.client();
                let answers = self
                    .ask(option, client.append(requests_out))
                    .await?
                    .into_inner();
                Heartbeats { requests, answers }
            }
        };
        let ended = || {
            rpc_error(Status::unavailable(
                "the peer ended the stream of heartbeats",
            ))
        };
        stream.requests.send(request).await.map_err(|_| ended())?;
        let answer = stream
            .answers
            .message()
            .await
            .map_err(rpc_error)?
            .ok_or_else(ended)?;
        self.link
            .disk_full
            .store(answer.disk_full, Ordering::Release);
        let result: StreamAppendResult<Types> = parse(&answer).map_err(rpc_error)?;
        // The peer ends the stream after an error.
        if result.is_ok() {
            self.heartbeats = Some(Some(stream));
        }
        Ok(result)
    }

    async fn vote_message(
        &self,
        message: VoteMessage,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let mut client = self.link.client();
        self.ask(&option, async move {
            let answer = client.vote(payload(&message)?).await?;
            parse(&answer.into_inner())
        })
        .await
    }
}

/// Lets everybody else run before a request that brings no entries, only how far the log is committed:
/// the answer to who proposed goes out first. By then there may be another request, which brings
/// that too and goes in its place.
fn commits_after<S>(requests: S) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin,
{
    let state = (requests.fuse(), None);
    stream::unfold(state, |(mut requests, held)| async move {
        let mut request = match held {
            Some(held) => held,
            None => requests.next().await?,
        };
        let mut held = None;
        if request.entries.is_empty() {
            tokio::task::yield_now().await;
            if let Some(Some(next)) = requests.next().now_or_never() {
                if next.prev_log_id == request.prev_log_id && next.vote == request.vote {
                    request = next;
                } else {
                    held = Some(next);
                }
            }
        }
        Some((request, (requests, held)))
    })
}

impl RaftNetworkV2<Types> for PeerNetwork {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let sent = rpc
            .entries
            .last()
            .map(|entry| entry.log_id)
            .or(rpc.prev_log_id);
        let results = self
            .stream_append(stream::iter([rpc]), option)
            .await?
            .next()
            .await;
        let gone = || RPCError::Network(NetworkError::new(&AnyError::error("no answer")));
        match results.ok_or_else(gone)?? {
            Ok(matched) if matched == sent => Ok(AppendEntriesResponse::Success),
            Ok(matched) => Ok(AppendEntriesResponse::PartialSuccess(matched)),
            Err(openraft::raft::StreamAppendError::Conflict(_)) => {
                Ok(AppendEntriesResponse::Conflict)
            }
            Err(openraft::raft::StreamAppendError::HigherVote(vote)) => {
                Ok(AppendEntriesResponse::HigherVote(vote))
            }
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        async move {
            // openraft's back-off sleeps within this stream; a client that fails to connect would
            // never poll it, and the caller would spin.
            let Some(first) = input.next().await else {
                return Ok(stream::empty().boxed());
            };
            if self.heartbeats.is_some() && first.entries.is_empty() {
                let result = self.heartbeat(&first, &option).await?;
                return Ok(stream::iter([Ok(result)]).boxed());
            }
            let requests = commits_after(stream::iter([first]).chain(input));
            let payloads = requests.map(|request| {
                payload(&request).unwrap_or_else(|status| {
                    // The receiver refuses an empty payload, which ends the stream.
                    tracing::error!(%status, "encoding log entries");
                    Payload::default()
                })
            });
            let mut client = self.link.client();
            let answers = self
                .ask(&option, client.append(payloads))
                .await?
                .into_inner();
            let link = self.link.clone();
            let results = answers.map(move |answer| {
                let answer = answer.map_err(rpc_error)?;
                link.disk_full.store(answer.disk_full, Ordering::Release);
                parse(&answer).map_err(rpc_error)
            });
            Ok(results.boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.vote_message(VoteMessage::Vote(rpc), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.vote_message(VoteMessage::PreVote(rpc), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let header = SnapshotHeader {
            vote,
            meta: snapshot.meta.clone(),
        };
        let header = payload(&header).map_err(rpc_error)?.data;
        let (chunks, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let checkpoint = snapshot.snapshot;
        let sending = send_files(checkpoint, header, chunks);
        let mut client = self.link.client();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let installing = async move {
            // Both end with the other: a broken connection closes the channel.
            let (sent, answer) = tokio::join!(sending, client.install_snapshot(stream));
            let answer = answer.map_err(rpc_error)?.into_inner();
            sent.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
            parse(&answer).map_err(rpc_error)
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = installing => Ok(answer?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let mut client = self.link.client();
        self.ask(&option, async move {
            let answer = client.transfer_leader(payload(&request)?).await?;
            parse(&answer.into_inner())
        })
        .await
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = RETRY_PAUSES_MS[RETRY_PAUSES_MS.len() - 1];
        let pauses = RETRY_PAUSES_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

async fn send_files(
    checkpoint: SnapshotData,
    header: bytes::Bytes,
    chunks: tokio::sync::mpsc::Sender<SnapshotChunk>,
) -> io::Result<()> {
    let broken = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the peer stopped listening");
    chunks
        .send(SnapshotChunk {
            header,
            ..SnapshotChunk::default()
        })
        .await
        .map_err(broken)?;
    for (file, size) in checkpoint.files()? {
        let mut offset = 0;
        loop {
            let data = checkpoint.read(&file, offset, CHUNK_BYTES)?;
            let length = data.len() as u64;
            if length == 0 && offset < size {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, file));
            }
            let chunk = SnapshotChunk {
                file: file.clone(),
                offset,
                data,
                ..Default::default()
            };
            chunks.send(chunk).await.map_err(broken)?;
            offset += length;
            if offset >= size {
                break;
            }
        }
    }
    let last = SnapshotChunk {
        last: true,
        ..SnapshotChunk::default()
    };
    chunks.send(last).await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::entry::{Entry, LogId};

    fn log_id(index: u64) -> LogId {
        let term = openraft::vote::leader_id_std::CommittedLeaderId::new(1);
        LogId::new(term, index)
    }

    /// Follows the entry at `after`, brings those up to `last`, and says what is committed.
    fn request(after: u64, last: u64, committed: u64) -> AppendEntriesRequest<Types> {
        let blank = |index| Entry {
            log_id: log_id(index),
            payload: EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(after)),
            entries: (after + 1..=last).map(blank).collect(),
            leader_commit: Some(log_id(committed)),
        }
    }

    /// Each request as it goes out: after which entry, how many, what is committed.
    async fn sent(requests: Vec<AppendEntriesRequest<Types>>) -> Vec<(u64, usize, u64)> {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        commits_after(stream::iter(requests))
            .map(|it| {
                (
                    index(it.prev_log_id),
                    it.entries.len(),
                    index(it.leader_commit),
                )
            })
            .collect()
            .await
    }

    #[tokio::test]
    async fn a_commit_goes_with_the_entries_that_follow() {
        let requests = vec![request(7, 7, 7), request(7, 9, 7), request(9, 9, 9)];
        assert_eq!(sent(requests).await, [(7, 2, 7), (9, 0, 9)]);
    }

    #[tokio::test]
    async fn a_commit_is_not_lost_to_entries_that_are_sent_again() {
        let requests = vec![request(7, 7, 7), request(5, 9, 7)];
        assert_eq!(sent(requests).await, [(7, 0, 7), (5, 4, 7)]);
    }

    #[tokio::test]
    async fn a_commit_lets_the_answer_go_first() {
        let (told, mut answer) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { told.send(()).ok() });
        let mut requests = std::pin::pin!(commits_after(stream::iter([request(7, 7, 7)])));
        assert!(requests.next().await.is_some());
        assert!(answer.try_recv().is_ok());
    }
}
