//! The place a request takes in a route configuration.

use std::sync::Arc;

use super::matching::matches_route;
use crate::config::{
    ClusterSpecifier, CorsPolicy, FaultPolicy, FilterOverrides, HeaderChanges, LocalRateLimit,
    Mirror, Origin, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteForward,
    TlsRequirement, VirtualHost, WeightedCluster,
};
use crate::head::RequestHead;

/// What came of the search for a route.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// No virtual host has the authority.
    NoVirtualHost,
    /// The virtual host has no route for the request.
    NoRoute(u32),
    /// The virtual host wants TLS: redirect to https.
    NeedsTls(u32),
    /// This one.
    Found(Place),
}

/// A route in its configuration, and the cluster chosen of several.
#[derive(Clone, Debug)]
pub struct Place {
    /// The configuration.
    pub configuration: Arc<RouteConfiguration>,
    host: u32,
    route: u32,
    weighted: Option<u32>,
}

/// Looks for the request's route. `draw` is the request's number, `internal` whether the client
/// counts as internal.
#[must_use]
pub fn find(
    configuration: &Arc<RouteConfiguration>,
    head: &RequestHead,
    internal: bool,
    draw: u64,
) -> Lookup {
    let authority = head.authority();
    let authority = if configuration.ignore_port_in_host_matching {
        without_port(authority)
    } else {
        authority
    };
    let Some(host) = configuration.domains().find(authority) else {
        return Lookup::NoVirtualHost;
    };
    // An index of this configuration's virtual hosts.
    let virtual_host = &configuration.virtual_hosts[host];
    let host = u32::try_from(host).unwrap_or(u32::MAX);
    let wants_tls = match virtual_host.require_tls {
        TlsRequirement::None => false,
        TlsRequirement::ExternalOnly => !internal,
        TlsRequirement::All => true,
    };
    if wants_tls && !is_https(head) {
        return Lookup::NeedsTls(host);
    }
    let found = virtual_host
        .routes
        .iter()
        .position(|route| matches_route(&route.matches, head, draw));
    let Some(route) = found else {
        return Lookup::NoRoute(host);
    };
    let weighted = match &virtual_host.routes[route].action {
        RouteAction::Forward(forward) => match &forward.cluster {
            ClusterSpecifier::Weighted(weighted) => {
                let draw = weighted
                    .random_value_header
                    .as_ref()
                    .and_then(|name| head.headers.get(name)?.to_str().ok())
                    .and_then(crate::text::parse_number)
                    .unwrap_or(draw);
                choose_weighted(&weighted.clusters, draw)
            }
            _ => None,
        },
        _ => None,
    };
    Lookup::Found(Place {
        configuration: configuration.clone(),
        host,
        route: u32::try_from(route).unwrap_or(u32::MAX),
        weighted,
    })
}

/// The index of the cluster that `draw` falls on.
#[must_use]
pub fn choose_weighted(clusters: &[WeightedCluster], draw: u64) -> Option<u32> {
    let total: u64 = clusters
        .iter()
        .map(|cluster| u64::from(cluster.weight))
        .sum();
    if total == 0 {
        return None;
    }
    let at = draw % total;
    let mut end = 0;
    let index = clusters.iter().position(|cluster| {
        end += u64::from(cluster.weight);
        at < end
    })?;
    u32::try_from(index).ok()
}

/// The scheme that counts is the client's: `x-forwarded-proto` where a trusted proxy set it.
fn is_https(head: &RequestHead) -> bool {
    match head.first("x-forwarded-proto") {
        Some(scheme) => scheme.eq_ignore_ascii_case("https"),
        None => head.https,
    }
}

/// An authority without its port.
pub(crate) fn without_port(authority: &str) -> &str {
    let end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => 0,
    };
    match authority[end..].find(':') {
        Some(colon) => &authority[..end + colon],
        None => authority,
    }
}

impl Place {
    /// The virtual host.
    #[must_use]
    pub fn virtual_host(&self) -> &VirtualHost {
        &self.configuration.virtual_hosts[self.host as usize]
    }

    /// The route.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.virtual_host().routes[self.route as usize]
    }

    /// The forwarding action, where it is one.
    #[must_use]
    pub fn forward(&self) -> Option<&RouteForward> {
        match &self.route().action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// The cluster chosen of several.
    #[must_use]
    pub fn weighted(&self) -> Option<&WeightedCluster> {
        match &self.forward()?.cluster {
            ClusterSpecifier::Weighted(weighted) => weighted.clusters.get(self.weighted? as usize),
            _ => None,
        }
    }

    /// The name of the cluster the request goes to; none where a header should name it and does
    /// not.
    #[must_use]
    pub fn cluster<'a>(&'a self, head: &'a RequestHead) -> Option<&'a str> {
        let by_header =
            |name: &http::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        match &self.forward()?.cluster {
            ClusterSpecifier::Cluster(name) => Some(name),
            ClusterSpecifier::Header(name) => by_header(name),
            ClusterSpecifier::Weighted(_) => {
                let weighted = self.weighted()?;
                match &weighted.cluster_header {
                    Some(name) if weighted.name.is_empty() => by_header(name),
                    _ => Some(&weighted.name),
                }
            }
        }
    }

    /// Labels that hosts must have: the action's and the weighted cluster's, sorted by key.
    #[must_use]
    pub fn labels(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let Some(forward) = self.forward() else {
            return Vec::new();
        };
        let mut labels = forward.metadata_match.clone();
        for (key, value) in self
            .weighted()
            .into_iter()
            .flat_map(|weighted| &weighted.metadata_match)
        {
            match labels.iter_mut().find(|(name, _)| name == key) {
                Some(label) => label.1 = value.clone(),
                None => labels.push((key.clone(), value.clone())),
            }
        }
        labels.sort();
        labels
    }

    /// The object that caused the route, else the one that caused the virtual host.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.route()
            .origin
            .as_ref()
            .or(self.virtual_host().origin.as_ref())
    }

    /// The retry policy: the route's, else the virtual host's.
    #[must_use]
    pub fn retry_policy(&self) -> Option<&Arc<RetryPolicy>> {
        self.forward()?
            .retry_policy
            .as_ref()
            .or(self.virtual_host().retry_policy.as_ref())
    }

    /// Mirrors of the most specific level that has any.
    #[must_use]
    pub fn mirrors(&self) -> &[Mirror] {
        let own = self.forward().map_or(&[][..], |forward| &forward.mirrors);
        [
            own,
            &self.virtual_host().mirrors,
            &self.configuration.mirrors,
        ]
        .into_iter()
        .find(|mirrors| !mirrors.is_empty())
        .unwrap_or(&[])
    }

    /// Filter settings, the most specific level first.
    pub fn overrides(&self) -> impl Iterator<Item = &FilterOverrides> {
        self.weighted()
            .map(|weighted| &weighted.filters)
            .into_iter()
            .chain([
                &self.route().filters,
                &self.virtual_host().filters,
                &self.configuration.filters,
            ])
    }

    /// The fault settings of the most specific level that has any.
    #[must_use]
    pub fn fault(&self) -> Option<&Arc<FaultPolicy>> {
        self.overrides().find_map(|level| level.fault.as_ref())
    }

    /// The local rate limit of the most specific level that has any.
    #[must_use]
    pub fn local_rate_limit(&self) -> Option<&Arc<LocalRateLimit>> {
        self.overrides()
            .find_map(|level| level.local_rate_limit.as_ref())
    }

    /// CORS policies, the most specific first: the filter's, else those in route and virtual
    /// host.
    #[must_use]
    pub fn cors(&self) -> Vec<&Arc<CorsPolicy>> {
        let by_filter: Vec<_> = self
            .overrides()
            .filter_map(|level| level.cors.as_ref())
            .collect();
        if !by_filter.is_empty() {
            return by_filter;
        }
        self.forward()
            .and_then(|forward| forward.cors.as_ref())
            .into_iter()
            .chain(&self.virtual_host().cors)
            .collect()
    }

    /// Whether a filter is switched off here.
    #[must_use]
    pub fn disables(&self, filter: &str) -> bool {
        self.overrides()
            .any(|level| level.disabled.iter().any(|name| &**name == filter))
    }

    /// Header changes in the order in which they apply.
    pub fn header_changes(&self) -> impl Iterator<Item = &HeaderChanges> {
        let mut levels = [
            self.weighted().map(|weighted| &weighted.headers),
            Some(&self.route().headers),
            Some(&self.virtual_host().headers),
            Some(&self.configuration.headers),
        ];
        if self.configuration.most_specific_header_mutations_wins {
            levels.reverse();
        }
        levels
            .into_iter()
            .flatten()
            .filter(|level| !level.is_empty())
    }
}
