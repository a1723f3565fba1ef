//! The kinds of resources that are subscribed to.

use std::fmt;

/// A type of xDS resource, in the order in which changes are sent so that nothing refers to what
/// is not there yet (make before break): clusters, their endpoints, listeners, their routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
    Secret,
}

impl Kind {
    /// Every kind, in the order of sending.
    pub const ALL: [Kind; 5] = [
        Kind::Cluster,
        Kind::Endpoint,
        Kind::Listener,
        Kind::Route,
        Kind::Secret,
    ];

    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// `None` for a type that we do not serve.
    pub fn of_type_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// As operators call the service of this kind: CDS, EDS, LDS, RDS, SDS.
    pub fn service(self) -> &'static str {
        match self {
            Kind::Cluster => "CDS",
            Kind::Endpoint => "EDS",
            Kind::Listener => "LDS",
            Kind::Route => "RDS",
            Kind::Secret => "SDS",
        }
    }

    /// Whether a state-of-the-world response holds every resource of the kind, so that what is
    /// missing from it is deleted. For the others a response holds only what is sent.
    pub fn is_complete(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service())
    }
}

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::pb::envoy::{
        config::cluster::v3::Cluster, config::endpoint::v3::ClusterLoadAssignment,
        config::listener::v3::Listener, config::route::v3::RouteConfiguration,
        extensions::transport_sockets::tls::v3::Secret,
    };

    #[test]
    fn urls_are_those_of_the_messages() {
        let urls = [
            Cluster::type_url(),
            ClusterLoadAssignment::type_url(),
            Listener::type_url(),
            RouteConfiguration::type_url(),
            Secret::type_url(),
        ];
        for (kind, url) in Kind::ALL.into_iter().zip(urls) {
            assert_eq!(kind.type_url(), url);
            assert_eq!(Kind::of_type_url(&url), Some(kind));
        }
        assert_eq!(Kind::of_type_url("type.googleapis.com/nothing"), None);
    }
}
