//! The protocol of one stream, without I/O: requests in, responses out, in an order in which
//! nothing refers to what the client does not have yet.

use std::sync::Arc;

use trireme_xds::Kind;
use trireme_xds::pb::envoy::config::core::v3::ControlPlane;
use trireme_xds::pb::envoy::service::discovery::v3 as discovery;
use trireme_xds::pb::google::protobuf::Any;
use trireme_xds::pb::google::rpc;

use crate::registry::{KindState, KindStatus};
use crate::source::{Resource, View};
use crate::subscription::{Change, MAX_NAMES, Subscription};

/// Which of xDS's two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    StateOfTheWorld,
    Delta,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::StateOfTheWorld => "state-of-the-world",
            Protocol::Delta => "delta",
        }
    }
}

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("subscribed to {count} names of {kind}; at most {MAX_NAMES} are served on one stream")]
    TooManyNames { kind: Kind, count: usize },
    #[error("nonce {0:?} is not one of this server's")]
    Nonce(String),
}

/// What is sent of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub kind: Kind,
    pub nonce: u64,
    /// Digest of all that the client then holds of the kind.
    pub version: u64,
    pub resources: Vec<Arc<Resource>>,
    /// Only in delta.
    pub removed: Vec<Arc<str>>,
}

/// One stream.
pub struct Session {
    protocol: Protocol,
    clusters: Subscription,
    endpoints: Subscription,
    listeners: Subscription,
    routes: Subscription,
    secrets: Subscription,
    last_nonce: u64,
    /// Listeners and routes wait for the acknowledgement of clusters up to this nonce, and longer
    /// only for clusters that are new, so that those that change all the time do not keep them away.
    barrier: Option<u64>,
    /// The client came with clusters from an earlier stream.
    resumed: bool,
}

impl Session {
    pub fn new(protocol: Protocol) -> Session {
        Session {
            protocol,
            clusters: Subscription::new(Kind::Cluster),
            endpoints: Subscription::new(Kind::Endpoint),
            listeners: Subscription::new(Kind::Listener),
            routes: Subscription::new(Kind::Route),
            secrets: Subscription::new(Kind::Secret),
            last_nonce: 0,
            barrier: None,
            resumed: false,
        }
    }

    /// Takes a request of the state-of-the-world protocol. One of a type that is not served is
    /// passed over: the client then goes on without it.
    pub fn on_request(
        &mut self,
        request: &discovery::DiscoveryRequest,
    ) -> Result<(), SessionError> {
        let Some(kind) = Kind::of_type_url(&request.type_url) else {
            return Ok(());
        };
        let subscription = self.of_mut(kind);
        if request.response_nonce.is_empty() {
            // The client's first of this kind, or it has begun the kind anew.
            subscription.in_flight = None;
        } else {
            let refused = request.error_detail.as_ref().map(text);
            if !subscription.answer(nonce(&request.response_nonce)?, refused)
                && subscription.in_flight.is_some()
            {
                // Written before the response in flight arrived; its answer will say it again.
                return Ok(());
            }
        }
        subscription.set_names(&request.resource_names);
        subscription.check()
    }

    /// Takes a request of the delta protocol.
    pub fn on_delta(
        &mut self,
        request: &discovery::DeltaDiscoveryRequest,
    ) -> Result<(), SessionError> {
        let Some(kind) = Kind::of_type_url(&request.type_url) else {
            return Ok(());
        };
        self.resumed |= kind == Kind::Cluster && !request.initial_resource_versions.is_empty();
        let subscription = self.of_mut(kind);
        if !request.response_nonce.is_empty() {
            let refused = request.error_detail.as_ref().map(text);
            subscription.answer(nonce(&request.response_nonce)?, refused);
        }
        let first = !subscription.requested;
        let changes = !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        if first || changes {
            subscription.change_names(
                &request.resource_names_subscribe,
                &request.resource_names_unsubscribe,
            );
        }
        if first {
            let versions = request.initial_resource_versions.iter();
            subscription.resume(versions.map(|(name, version)| (name.clone(), version.clone())));
        }
        subscription.check()
    }

    /// The next response that brings the client nearer to `view`; `None` when it has
    /// everything or must answer first.
    pub fn next(&mut self, view: &mut dyn View) -> Option<Response> {
        let mut held_back = false;
        for kind in Kind::ALL {
            if kind > Kind::Endpoint && self.must_wait(view) {
                held_back = true;
                break;
            }
            if self.of(kind).in_flight.is_some() {
                continue;
            }
            let change = self.of(kind).change(view, false);
            if let Some(response) = self.send(kind, view, change) {
                return Some(response);
            }
        }
        if held_back {
            return None;
        }
        self.barrier = None;
        let unused = self.listeners.is_settled() && self.routes.is_settled();
        let known = self.listeners.requested || !self.resumed;
        if self.clusters.in_flight.is_none() && unused && known {
            let change = self.clusters.change(view, true);
            return self.send(Kind::Cluster, view, change);
        }
        None
    }

    fn send(&mut self, kind: Kind, view: &mut dyn View, change: Change) -> Option<Response> {
        let state_of_the_world = self.protocol == Protocol::StateOfTheWorld;
        let nonce = self.last_nonce + 1;
        let subscription = self.of_mut(kind);
        let told = if state_of_the_world && !kind.is_complete() {
            // Absence cannot be said.
            !change.changed.is_empty()
        } else {
            !change.is_empty() || subscription.answer_due
        };
        if !told {
            subscription.note_absent(&change);
            subscription.note_seen(view, &change);
            return None;
        }
        let resources = if state_of_the_world && kind.is_complete() {
            subscription.whole(view, &change)
        } else {
            change.changed.clone()
        };
        subscription.sent(nonce, view, &change);
        let version = subscription.digest();
        self.last_nonce = nonce;
        if kind == Kind::Cluster {
            // A client that replaces a cluster waits for its endpoints, also where they are the
            // same (Envoy's "warming").
            for name in change
                .changed
                .iter()
                .filter_map(|cluster| cluster.endpoints.as_ref())
            {
                self.endpoints.renew(name);
            }
        }
        Some(Response {
            kind,
            nonce,
            version,
            resources,
            removed: if state_of_the_world {
                Vec::new()
            } else {
                change.removed
            },
        })
    }

    /// Whether listeners and routes might refer to clusters that the client has not taken in, or
    /// whose endpoints it has asked for and not been sent. A client that takes in clusters asks
    /// for their endpoints before it acknowledges.
    fn must_wait(&mut self, view: &mut dyn View) -> bool {
        if !self.clusters.wildcard {
            // A client that names its clusters does so after it has read its routes.
            return false;
        }
        if let Some(sent) = self.clusters.in_flight {
            let barrier = *self.barrier.get_or_insert(sent.nonce);
            if sent.nonce <= barrier || sent.adds {
                return true;
            }
            // What has come since cannot be sent yet, and routes may lead there already.
            let next = self.clusters.change(view, false);
            if self.clusters.adds(&next) {
                return true;
            }
        }
        self.endpoints.in_flight.is_some() && self.endpoints.awaits()
    }

    /// How far the client has followed, for each kind that it asked for.
    pub fn status(&self) -> Vec<KindStatus> {
        let asked = Kind::ALL
            .into_iter()
            .filter(|kind| self.of(*kind).requested);
        asked.map(|kind| self.of(kind).status()).collect()
    }

    fn of(&self, kind: Kind) -> &Subscription {
        match kind {
            Kind::Cluster => &self.clusters,
            Kind::Endpoint => &self.endpoints,
            Kind::Listener => &self.listeners,
            Kind::Route => &self.routes,
            Kind::Secret => &self.secrets,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut Subscription {
        match kind {
            Kind::Cluster => &mut self.clusters,
            Kind::Endpoint => &mut self.endpoints,
            Kind::Listener => &mut self.listeners,
            Kind::Route => &mut self.routes,
            Kind::Secret => &mut self.secrets,
        }
    }
}

impl Subscription {
    fn check(&self) -> Result<(), SessionError> {
        if self.names_count() > MAX_NAMES {
            return Err(SessionError::TooManyNames {
                kind: self.kind(),
                count: self.names_count(),
            });
        }
        Ok(())
    }

    fn status(&self) -> KindStatus {
        let state = match (self.refused(), self.in_flight, self.acknowledged()) {
            (Some(_), _, _) => KindState::Refused,
            (None, Some(_), _) => KindState::Stale,
            (None, None, Some(_)) => KindState::Synced,
            (None, None, None) => KindState::NotSent,
        };
        KindStatus {
            kind: self.kind(),
            state,
            version: self.acknowledged().map(version).unwrap_or_default(),
            sent_version: version(self.digest()),
            error: self.refused().unwrap_or_default().to_owned(),
            resources: self.count(),
        }
    }
}

/// A version as it is written.
pub fn version(digest: u64) -> String {
    format!("{digest:016x}")
}

fn nonce(text: &str) -> Result<u64, SessionError> {
    text.parse()
        .map_err(|_| SessionError::Nonce(text.to_owned()))
}

fn text(status: &rpc::Status) -> String {
    if status.message.is_empty() {
        format!("refused with code {} and no message", status.code)
    } else {
        status.message.clone()
    }
}

impl Response {
    pub fn into_state_of_the_world(self, control_plane: &str) -> discovery::DiscoveryResponse {
        discovery::DiscoveryResponse {
            version_info: version(self.version),
            resources: self
                .resources
                .iter()
                .map(|resource| Any::clone(&resource.body))
                .collect(),
            type_url: self.kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            control_plane: Some(identified(control_plane)),
            ..discovery::DiscoveryResponse::default()
        }
    }

    pub fn into_delta(self, control_plane: &str) -> discovery::DeltaDiscoveryResponse {
        let resources = self.resources.iter().map(|resource| discovery::Resource {
            name: resource.name.to_string(),
            version: version(resource.version),
            resource: Some(Any::clone(&resource.body)),
            ..discovery::Resource::default()
        });
        discovery::DeltaDiscoveryResponse {
            system_version_info: version(self.version),
            resources: resources.collect(),
            type_url: self.kind.type_url().to_owned(),
            removed_resources: self.removed.iter().map(|name| name.to_string()).collect(),
            nonce: self.nonce.to_string(),
            control_plane: Some(identified(control_plane)),
            ..discovery::DeltaDiscoveryResponse::default()
        }
    }
}

fn identified(name: &str) -> ControlPlane {
    ControlPlane {
        identifier: name.to_owned(),
    }
}
