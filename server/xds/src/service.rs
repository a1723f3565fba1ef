//! Streams over gRPC: one task's worth of state a stream, driven by its own polling.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{Stream, unfold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Status, Streaming};
use trireme_xds::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use trireme_xds::pb::envoy::service::discovery::v3 as discovery;
use trireme_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};

use crate::registry::{Registered, Registry, WorkloadStatus};
use crate::session::{Protocol, Response, Session, SessionError};
use crate::source::{Source, SourceError, Workload};

/// Streams at once on one server. A stream's own state is a few KB and grows with what it is
/// subscribed to; 4,096 match the API's limit of connections.
const MAX_STREAMS: usize = 4096;
/// A client's request: names and versions of all that it holds. 10,000 resources with names of
/// 100 bytes are 1.3 MB.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// How long an identity that was proven once is believed: after that the client must connect
/// again, with a token that is still good. Some minutes are added, different for each.
const MAX_STREAM_AGE: Duration = Duration::from_secs(3600);
const MAX_STREAM_AGE_SPREAD_S: u64 = 600;

/// Says whether the caller, known by what the transport left in the extensions, may be this node.
pub type Admit = Arc<dyn Fn(&Extensions, &Node) -> Result<(), Status> + Send + Sync>;

/// The aggregated discovery service.
#[derive(Clone)]
pub struct Ads {
    /// Named in responses.
    pub server_name: Arc<str>,
    pub source: Arc<dyn Source>,
    pub admit: Admit,
    pub registry: Arc<Registry>,
    /// Ends all streams.
    pub closing: CancellationToken,
    streams: Arc<Semaphore>,
}

impl Ads {
    pub fn new(
        server_name: &str,
        source: Arc<dyn Source>,
        admit: Admit,
        registry: Arc<Registry>,
        closing: CancellationToken,
    ) -> Ads {
        Ads {
            server_name: server_name.into(),
            source,
            admit,
            registry,
            closing,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }

    /// As a service for a gRPC server.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Ads> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(usize::MAX)
    }

    fn open<W: Wire>(
        &self,
        request: Request<Streaming<W::Request>>,
    ) -> Result<Responses<W>, Status> {
        let slot = self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this server serves {MAX_STREAMS} streams of configuration already"
            ))
        })?;
        let (_, extensions, requests) = request.into_parts();
        let stream = OpenStream::<W> {
            ads: self.clone(),
            requests,
            extensions,
            session: Session::new(W::PROTOCOL),
            connected: None,
            expires: Instant::now() + MAX_STREAM_AGE,
            ended: false,
            _slot: slot,
        };
        Ok(Box::pin(unfold(stream, OpenStream::step)))
    }
}

type Responses<W> = Pin<Box<dyn Stream<Item = Result<<W as Wire>::Response, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<StateOfTheWorld>;
    type DeltaAggregatedResourcesStream = Responses<Delta>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<StateOfTheWorld>(request)
            .map(tonic::Response::new)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request).map(tonic::Response::new)
    }
}

/// One of the two protocols on the wire.
pub trait Wire: Send + 'static {
    const PROTOCOL: Protocol;
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn take(session: &mut Session, request: &Self::Request) -> Result<(), SessionError>;
    fn response(response: Response, server: &str) -> Self::Response;
}

pub struct StateOfTheWorld;

impl Wire for StateOfTheWorld {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;
    type Request = discovery::DiscoveryRequest;
    type Response = discovery::DiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn take(session: &mut Session, request: &Self::Request) -> Result<(), SessionError> {
        session.on_request(request)
    }

    fn response(response: Response, server: &str) -> Self::Response {
        response.into_state_of_the_world(server)
    }
}

pub struct Delta;

impl Wire for Delta {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Request = discovery::DeltaDiscoveryRequest;
    type Response = discovery::DeltaDiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn take(session: &mut Session, request: &Self::Request) -> Result<(), SessionError> {
        session.on_delta(request)
    }

    fn response(response: Response, server: &str) -> Self::Response {
        response.into_delta(server)
    }
}

/// What is known once the first request has named the node.
struct Connected {
    workload: Arc<dyn Workload>,
    changes: watch::Receiver<u64>,
    registered: Registered,
}

struct OpenStream<W: Wire> {
    ads: Ads,
    requests: Streaming<W::Request>,
    extensions: Extensions,
    session: Session,
    connected: Option<Connected>,
    expires: Instant,
    ended: bool,
    _slot: OwnedSemaphorePermit,
}

impl<W: Wire> OpenStream<W> {
    /// The next response. It is made when the transport asks for one, so that a client that does
    /// not read has nothing made for it.
    async fn step(mut self) -> Option<(Result<W::Response, Status>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(response) = self.next_response() {
                let response = W::response(response, &self.ads.server_name);
                return Some((Ok(response), self));
            }
            let changed = async {
                match &mut self.connected {
                    Some(connected) => connected.changes.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let failure = tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.take(&request).err(),
                    Ok(None) | Err(_) => return None,
                },
                there = changed => (!there).then(|| Status::unavailable("the source of configuration has ended")),
                () = tokio::time::sleep_until(self.expires) => Some(Status::unavailable(
                    "this stream is old; connect again to prove the identity again",
                )),
                () = self.ads.closing.cancelled() => Some(Status::unavailable("the server is stopping")),
            };
            if let Some(failure) = failure {
                self.ended = true;
                return Some((Err(failure), self));
            }
        }
    }

    fn next_response(&mut self) -> Option<Response> {
        let connected = self.connected.as_mut()?;
        connected.changes.borrow_and_update();
        let mut response = None;
        let session = &mut self.session;
        connected
            .workload
            .look(&mut |view| response = session.next(view));
        if response.is_some() {
            connected.registered.update(self.session.status());
        }
        response
    }

    fn take(&mut self, request: &W::Request) -> Result<(), Status> {
        if self.connected.is_none() {
            self.connect(W::node(request))?;
        }
        W::take(&mut self.session, request).map_err(|error| match error {
            SessionError::TooManyNames { .. } => Status::resource_exhausted(error.to_string()),
            SessionError::Nonce(_) => Status::invalid_argument(error.to_string()),
        })?;
        if let Some(connected) = &self.connected {
            connected.registered.update(self.session.status());
        }
        Ok(())
    }

    fn connect(&mut self, node: Option<&Node>) -> Result<(), Status> {
        let node = node.ok_or_else(|| {
            Status::invalid_argument("the first request of a stream must carry the node")
        })?;
        (self.ads.admit)(&self.extensions, node)?;
        let workload = self
            .ads
            .source
            .workload(node)
            .map_err(|error| match error {
                SourceError::Node(_) => Status::invalid_argument(error.to_string()),
                SourceError::NotReady(_) => Status::unavailable(error.to_string()),
            })?;
        let registered = self.ads.registry.register(WorkloadStatus {
            node_id: node.id.clone(),
            protocol: W::PROTOCOL,
            user_agent: user_agent(node),
            connected: SystemTime::now(),
            kinds: Vec::new(),
        });
        self.expires += Duration::from_secs(registered.id() % MAX_STREAM_AGE_SPREAD_S);
        let changes = workload.changes();
        self.connected = Some(Connected {
            workload,
            changes,
            registered,
        });
        tracing::debug!(
            node = node.id,
            protocol = W::PROTOCOL.as_str(),
            "a workload has connected"
        );
        Ok(())
    }
}

fn user_agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(version) => format!(
                "{}.{}.{}",
                version.major_number, version.minor_number, version.patch
            ),
            None => String::new(),
        },
        None => String::new(),
    };
    format!("{} {version}", node.user_agent_name)
        .trim()
        .to_owned()
}
