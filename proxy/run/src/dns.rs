//! Clusters whose hosts are names: each is resolved, again when the answer is old, and its endpoints take the place of
//! the names. A name that does not resolve for now keeps the addresses it had.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use trireme_proxy_decide::config::{
    Address, Cluster, ClusterKind, DnsFamily, Endpoint, Endpoints, LocalityEndpoints,
};

use crate::net::Net;
use crate::shared::Shared;

/// A record that holds for less is asked for no more often than this (Envoy's minimum is 1 s, too).
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// How often a name is asked for again that did not resolve.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer is waited for (Envoy's resolver: 5 s).
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn is_named(cluster: &Cluster) -> bool {
    matches!(
        cluster.kind,
        ClusterKind::StrictDns | ClusterKind::LogicalDns
    )
}

fn family(addresses: Vec<IpAddr>, family: DnsFamily) -> Vec<IpAddr> {
    let four = |address: &IpAddr| address.is_ipv4();
    let (fours, sixes): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(four);
    match family {
        DnsFamily::V4Only => fours,
        DnsFamily::V6Only => sixes,
        DnsFamily::V4Preferred if !fours.is_empty() => fours,
        DnsFamily::V4Preferred => sixes,
        // Envoy prefers IPv6 here; it is asked for both and takes what there is.
        DnsFamily::Auto if !sixes.is_empty() => sixes,
        DnsFamily::Auto => fours,
        DnsFamily::All => fours.into_iter().chain(sixes).collect(),
    }
}

struct Answers {
    known: BTreeMap<Arc<str>, Vec<IpAddr>>,
    ttl: Option<Duration>,
    failed: bool,
}

async fn ask(net: &Rc<dyn Net>, cluster: &Cluster, answers: &mut Answers) {
    answers.ttl = None;
    answers.failed = false;
    let Some(endpoints) = &cluster.endpoints else {
        return;
    };
    let names = endpoints
        .localities
        .iter()
        .flat_map(|group| &group.endpoints)
        .filter_map(|endpoint| match &endpoint.address {
            Address::Name(inner) => Some(inner.0.clone()),
            _ => None,
        });
    let names: std::collections::BTreeSet<Arc<str>> = names.collect();
    answers.known.retain(|name, _| names.contains(name));
    for name in names {
        match tokio::time::timeout(TIMEOUT, net.resolve(&name)).await {
            Ok(Ok(resolved)) => {
                let addresses = family(resolved.addresses, cluster.dns.family);
                if let Some(ttl) = resolved.ttl {
                    answers.ttl = Some(answers.ttl.map_or(ttl, |least| least.min(ttl)));
                }
                answers.known.insert(name, addresses);
            }
            Ok(Err(error)) => {
                tracing::debug!(cluster = %cluster.name, %name, %error, "does not resolve");
                answers.failed = true;
            }
            Err(_) => answers.failed = true,
        }
    }
}

fn with_addresses(cluster: &Cluster, known: &BTreeMap<Arc<str>, Vec<IpAddr>>) -> Option<Endpoints> {
    let configured = cluster.endpoints.as_ref()?;
    let mut endpoints = Endpoints::clone(configured);
    endpoints.localities = configured
        .localities
        .iter()
        .map(|group| {
            let mut found: Vec<Endpoint> = Vec::new();
            for endpoint in &group.endpoints {
                let Address::Name(inner) = &endpoint.address else {
                    found.push(endpoint.clone());
                    continue;
                };
                let (name, port) = &**inner;
                let mut addresses = known.get(name).cloned().unwrap_or_default();
                if cluster.kind == ClusterKind::LogicalDns {
                    addresses.truncate(1);
                }
                found.extend(addresses.into_iter().map(|address| Endpoint {
                    address: Address::from(std::net::SocketAddr::new(address, *port)),
                    hostname: endpoint.hostname.clone().or_else(|| Some(name.clone())),
                    ..endpoint.clone()
                }));
            }
            LocalityEndpoints {
                endpoints: found,
                ..group.clone()
            }
        })
        .collect();
    Some(endpoints)
}

async fn follow(shared: Arc<Shared>, net: Rc<dyn Net>, cluster: Arc<Cluster>) {
    let mut answers = Answers {
        known: BTreeMap::new(),
        ttl: None,
        failed: false,
    };
    loop {
        ask(&net, &cluster, &mut answers).await;
        let complete = !answers.failed || !answers.known.is_empty();
        if complete && let Some(endpoints) = with_addresses(&cluster, &answers.known) {
            shared.resolved(&cluster, endpoints);
        }
        let pause = match (answers.failed, cluster.dns.respect_ttl, answers.ttl) {
            (true, _, _) => RETRY,
            (false, true, Some(ttl)) => ttl.max(MIN_REFRESH),
            _ => cluster.dns.refresh_rate,
        };
        sleep(pause).await;
    }
}

/// Resolves the names of whatever clusters there are, for ever.
pub async fn run(shared: Arc<Shared>, net: Rc<dyn Net>) {
    let mut configurations = shared.subscribe();
    configurations.mark_changed();
    let mut followed: BTreeMap<Arc<str>, (Arc<Cluster>, JoinHandle<()>)> = BTreeMap::new();
    while configurations.changed().await.is_ok() {
        configurations.borrow_and_update();
        let clusters = shared.snapshot().clusters;
        followed.retain(|name, (cluster, task)| {
            let same = clusters
                .get(name)
                .is_some_and(|now| Arc::ptr_eq(now, cluster));
            if !same {
                task.abort();
            }
            same
        });
        for (name, cluster) in clusters.iter().filter(|(_, cluster)| is_named(cluster)) {
            followed.entry(name.clone()).or_insert_with(|| {
                let task =
                    tokio::task::spawn_local(follow(shared.clone(), net.clone(), cluster.clone()));
                (cluster.clone(), task)
            });
        }
    }
}
