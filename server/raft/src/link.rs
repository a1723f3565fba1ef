//! One HTTP/2 connection to one peer, made when needed, kept while it works.
//!
//! Not tonic's own channel: a dial must go on when its caller gives up, failed dials must be
//! spaced out whoever asks, and a request must not wait in another queue.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::body::Body;
use trireme_proto::raft::raft_client::RaftClient;

use crate::dial::Dial;
use crate::member::Member;
use crate::timing::Timing;

/// First pause after a failed dial; doubles with each further one.
const DIAL_PAUSE_MS: u64 = 25;
/// Last pause: a peer that comes back is found within this.
const DIAL_PAUSE_MAX_MS: u64 = 800;
/// The largest message between servers: a batch of entries of which one may be very large.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// What a peer may send ahead on one stream, and on the connection.
const WINDOW_BYTES: u32 = 4 << 20;

/// The request never left this server.
#[derive(Clone, Debug)]
pub struct NotSent(pub String);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.0)
    }
}

impl Error for NotSent {}

/// Names, in a request, the server that it is meant for. Another may answer at its address: one that came with a
/// wiped disk and a new id, of which the sender has not heard. Did that one answer for its predecessor, it would
/// have promised what the predecessor promised otherwise.
pub const ADDRESSEE: &str = "trireme-server-id";
/// The code of the refusal to answer for another server.
pub const MISADDRESSED: tonic::Code = tonic::Code::FailedPrecondition;

/// Whether a failed call certainly never reached the peer.
pub fn not_sent(status: &tonic::Status) -> bool {
    if status.code() == MISADDRESSED {
        return true;
    }
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<NotSent>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The links to all peers, by id.
pub struct Links {
    dial: Arc<dyn Dial>,
    timing: Timing,
    links: Mutex<BTreeMap<(u64, Purpose), Arc<Link>>>,
}

/// Snapshots have a connection of their own: they must not delay heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Log,
    Snapshot,
}

impl Links {
    pub fn new(dial: Arc<dyn Dial>, timing: Timing) -> Links {
        Links {
            dial,
            timing,
            links: Mutex::default(),
        }
    }

    pub fn get(&self, id: u64, member: &Member, purpose: Purpose) -> Arc<Link> {
        let mut links = self
            .links
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let link = links
            .entry((id, purpose))
            .or_insert_with(|| self.link(id, member));
        if link.member != *member {
            *link = self.link(id, member);
        }
        link.clone()
    }

    /// Peers that have said that their disks are full.
    pub fn full(&self) -> Vec<u64> {
        let links = self
            .links
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let full = links
            .iter()
            .filter(|(_, link)| link.disk_full.load(Ordering::Acquire));
        full.map(|((id, _), _)| *id).collect()
    }

    fn link(&self, id: u64, member: &Member) -> Arc<Link> {
        Arc::new(Link {
            id,
            member: member.clone(),
            dial: self.dial.clone(),
            timing: self.timing.clone(),
            state: Mutex::default(),
            disk_full: AtomicBool::new(false),
        })
    }
}

type Sender = SendRequest<Body>;
type Dialed = Option<Result<Sender, NotSent>>;

pub struct Link {
    id: u64,
    member: Member,
    dial: Arc<dyn Dial>,
    timing: Timing,
    state: Mutex<State>,
    /// The peer refused entries for want of space.
    pub disk_full: AtomicBool,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    dialing: Option<watch::Receiver<Dialed>>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Link {
    pub fn client(self: &Arc<Self>) -> RaftClient<Connection> {
        // The name is never resolved; HTTP/2 wants one.
        let origin = http::Uri::from_static("http://peer");
        RaftClient::with_origin(Connection(self.clone()), origin)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn sender(self: &Arc<Self>) -> Result<Sender, NotSent> {
        let mut dialing = {
            let mut state = self.state();
            if let Some(sender) = &state.sender {
                if !sender.is_closed() {
                    return Ok(sender.clone());
                }
                state.sender = None;
            }
            match &state.dialing {
                Some(dialing) => dialing.clone(),
                None => {
                    if state
                        .not_before
                        .is_some_and(|moment| Instant::now() < moment)
                    {
                        return Err(NotSent(format!("server {} was just unreachable", self.id)));
                    }
                    let (tell, dialing) = watch::channel(None);
                    state.dialing = Some(dialing.clone());
                    tokio::spawn(self.clone().connect(tell));
                    dialing
                }
            }
        };
        let gone = || NotSent("the dial was abandoned".into());
        let dialed = dialing
            .wait_for(Option::is_some)
            .await
            .map_err(|_| gone())?;
        dialed.clone().unwrap_or_else(|| Err(gone()))
    }

    /// Ends by itself at its deadline.
    async fn connect(self: Arc<Self>, tell: watch::Sender<Dialed>) {
        let deadline = Duration::from_millis(self.timing.dial_ms);
        let result = match tokio::time::timeout(deadline, self.handshake()).await {
            Ok(result) => result,
            Err(_) => Err(format!("no connection within {} ms", self.timing.dial_ms)),
        };
        let result = result.map_err(|why| NotSent(format!("server {}: {why}", self.id)));
        {
            let mut state = self.state();
            state.dialing = None;
            match &result {
                Ok(sender) => {
                    state.sender = Some(sender.clone());
                    state.failures = 0;
                    state.not_before = None;
                }
                Err(_) => {
                    let pause = DIAL_PAUSE_MS << state.failures.min(5);
                    let pause = pause.min(DIAL_PAUSE_MAX_MS);
                    let pause = rand::random_range(pause / 2..=pause);
                    state.failures += 1;
                    state.not_before = Some(Instant::now() + Duration::from_millis(pause));
                }
            }
        }
        tell.send_replace(Some(result));
    }

    async fn handshake(&self) -> Result<Sender, String> {
        let stream = self
            .dial
            .dial(self.id, &self.member)
            .await
            .map_err(|e| e.to_string())?;
        let keep_alive = Duration::from_millis(self.timing.keep_alive_ms);
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .keep_alive_interval(keep_alive)
            .keep_alive_timeout(keep_alive)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // Ends when the connection breaks, or when the last sender is gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a peer ended");
            }
        });
        Ok(sender)
    }
}

/// What tonic's client sends requests through.
#[derive(Clone)]
pub struct Connection(Arc<Link>);

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let link = self.0.clone();
        request.headers_mut().insert(ADDRESSEE, link.id.into());
        Box::pin(async move {
            let mut sender = link.sender().await?;
            if let Err(error) = sender.ready().await {
                return Err(Box::new(NotSent(error.to_string())) as Self::Error);
            }
            Ok(sender.send_request(request).await?)
        })
    }
}
