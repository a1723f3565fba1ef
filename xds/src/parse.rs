//! Envoy's messages to the proxy's configuration.
//!
//! In: one resource as it came over the wire. Out: its part of a configuration, or a
//! [`ParseError`] that names the resource, the field and the object that caused it; a proxy sends
//! that text back as its NACK and keeps what it had. What is honoured is parsed, what would change
//! behaviour and is not honoured is refused, and what is passed over stands in [`IGNORED`].

mod access_log;
mod balancing;
mod cluster;
mod endpoint;
mod filter;
mod header;
mod http;
mod ignored;
mod limits;
mod listener;
mod matcher;
mod policy;
mod protocol;
mod rate_limit;
mod refusal;
mod route;
mod tls;
mod value;

use std::sync::Arc;

use prost::{Message, Name};
use trireme_proxy_decide::config;

use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::pb::envoy::config::listener::v3::Listener;
use crate::pb::envoy::config::route::v3::RouteConfiguration;
use crate::pb::envoy::extensions::transport_sockets::tls::v3 as tls_proto;
use crate::pb::google::protobuf::Any;
use crate::{Kind, unpack};

pub use ignored::IGNORED;
pub use refusal::ParseError;
pub use tls::{Secret, SecretContent};

use refusal::Outcome;

/// One resource, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    Cluster(Arc<config::Cluster>),
    Endpoints(Arc<config::Endpoints>),
    Listener(Arc<config::Listener>),
    Routes(Arc<config::RouteConfiguration>),
    Secret(Arc<Secret>),
}

impl Parsed {
    /// The name under which it is referred to.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Parsed::Cluster(cluster) => &cluster.name,
            Parsed::Endpoints(endpoints) => &endpoints.name,
            Parsed::Listener(listener) => &listener.name,
            Parsed::Routes(routes) => &routes.name,
            Parsed::Secret(secret) => &secret.name,
        }
    }
}

/// Reads a resource of any kind that we subscribe to.
///
/// # Errors
/// Where it is of another type, or cannot be applied.
pub fn resource(any: &Any) -> Result<Parsed, ParseError> {
    match Kind::of_type_url(&any.type_url) {
        Some(Kind::Cluster) => cluster(&of_any(Kind::Cluster, any)?)
            .map(Arc::new)
            .map(Parsed::Cluster),
        Some(Kind::Endpoint) => endpoints(&of_any(Kind::Endpoint, any)?)
            .map(Arc::new)
            .map(Parsed::Endpoints),
        Some(Kind::Listener) => listener(&of_any(Kind::Listener, any)?)
            .map(Arc::new)
            .map(Parsed::Listener),
        Some(Kind::Route) => routes(&of_any(Kind::Route, any)?)
            .map(Arc::new)
            .map(Parsed::Routes),
        Some(Kind::Secret) => secret(&of_any(Kind::Secret, any)?)
            .map(Arc::new)
            .map(Parsed::Secret),
        None => Err(ParseError::unknown_type(&any.type_url)),
    }
}

/// Reads a cluster.
///
/// # Errors
/// Where a field is invalid, or is not honoured and would change behaviour.
pub fn cluster(message: &Cluster) -> Result<config::Cluster, ParseError> {
    named(Kind::Cluster, &message.name, cluster::cluster(message))
}

/// Reads a cluster's endpoints.
///
/// # Errors
/// As [`cluster()`].
pub fn endpoints(message: &ClusterLoadAssignment) -> Result<config::Endpoints, ParseError> {
    let name = &message.cluster_name;
    named(Kind::Endpoint, name, endpoint::endpoints(message, false))
}

/// Reads a listener.
///
/// # Errors
/// As [`cluster()`].
pub fn listener(message: &Listener) -> Result<config::Listener, ParseError> {
    named(Kind::Listener, &message.name, listener::listener(message))
}

/// Reads a route configuration.
///
/// # Errors
/// As [`cluster()`].
pub fn routes(message: &RouteConfiguration) -> Result<config::RouteConfiguration, ParseError> {
    named(Kind::Route, &message.name, route::configuration(message))
}

/// Reads a secret.
///
/// # Errors
/// As [`cluster()`].
pub fn secret(message: &tls_proto::Secret) -> Result<Secret, ParseError> {
    named(Kind::Secret, &message.name, tls::secret(message))
}

fn of_any<T: Message + Name + Default>(kind: Kind, any: &Any) -> Result<T, ParseError> {
    unpack(any).map_err(|error| ParseError::malformed(kind, error))
}

fn named<T>(kind: Kind, name: &str, outcome: Outcome<T>) -> Result<T, ParseError> {
    let outcome = if name.is_empty() {
        Err(refusal::refused("name", "must not be empty"))
    } else {
        outcome
    };
    outcome.map_err(|refusal| ParseError::new(kind, name, refusal))
}
