//! What becomes of configuration: on its way from servers to proxies, and in what proxies do by it.
//!
//! The law of the protocols: whatever happened on the way, a client that was told changes holds what a client
//! holds that was told everything, and both hold what is made anew from the objects. [`Client`] is what a client
//! holds by either protocol's rules, [`law`] compares.
//!
//! And of requests: each is served by one version of its route that existed ([`served`]), never by half of one and
//! half of another; while nothing but the control plane is gone, all are served ([`survived`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::traffic::{Arrival, Ending, Request};

/// Digests of resources by kind and name.
pub type Holding = BTreeMap<String, BTreeMap<String, u64>>;

/// What a client of a configuration protocol holds.
#[derive(Clone, Debug, Default)]
pub struct Client {
    held: Holding,
}

impl Client {
    pub fn held(&self) -> &Holding {
        &self.held
    }

    /// Delta: what changed is there, what was removed is not, everything else is as it was.
    pub fn take_changes<'a>(
        &mut self,
        kind: &str,
        changed: impl IntoIterator<Item = (String, u64)>,
        removed: impl IntoIterator<Item = &'a str>,
    ) {
        let held = self.held.entry(kind.to_owned()).or_default();
        held.extend(changed);
        for name in removed {
            held.remove(name);
        }
    }

    /// State of the world: of a complete kind what is not named is gone; of the others only what is named is
    /// spoken of.
    pub fn take_world(
        &mut self,
        kind: &str,
        complete: bool,
        resources: impl IntoIterator<Item = (String, u64)>,
    ) {
        let held = self.held.entry(kind.to_owned()).or_default();
        if complete {
            held.clear();
        }
        held.extend(resources);
    }

    /// What nothing refers to any more is dropped.
    pub fn retain(&mut self, kind: &str, wanted: &BTreeSet<String>) {
        if let Some(held) = self.held.get_mut(kind) {
            held.retain(|name, _| wanted.contains(name));
        }
    }

    /// A client that has just started.
    pub fn forget(&mut self) {
        self.held.clear();
    }
}

/// One version of a route, as the objects said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its own among all versions of all routes.
    pub number: u64,
    pub route: String,
    pub began_ms: u64,
    /// Where it leads; hosts that come and go among them.
    pub hosts: BTreeSet<String>,
    /// No proxy may take it.
    pub invalid: bool,
}

/// A time in which nothing was wrong but that no server of the control plane ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub from_ms: u64,
    pub to_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{client} holds {held:?} of {kind} {name}, made anew it is {anew:?}")]
    Law {
        client: String,
        kind: String,
        name: String,
        held: Option<u64>,
        anew: Option<u64>,
    },
    #[error("request {request} was served by version {one} of its route, and by {other}")]
    Mixed { request: u64, one: u64, other: u64 },
    #[error("request {request} was served by version {number} of {route}, which {why}")]
    NoVersion {
        request: u64,
        route: String,
        number: u64,
        why: &'static str,
    },
    #[error(
        "request {request} was served by version {number} of its route and arrived at {host}, where that does not lead"
    )]
    ElsewhereThanConfigured {
        request: u64,
        number: u64,
        host: String,
    },
    #[error("request {request} got {ending:?} while only the control plane was gone")]
    DidNotSurvive { request: u64, ending: Ending },
    #[error("proxy {proxy} served no request while only the control plane was gone")]
    Idle { proxy: u64 },
}

/// Where what a client holds is not what would be made anew; the first such resource.
pub fn law(client: &str, held: &Holding, anew: &Holding) -> Option<Violation> {
    let kinds: BTreeSet<&String> = held.keys().chain(anew.keys()).collect();
    let empty = BTreeMap::new();
    for kind in kinds {
        let held = held.get(kind).unwrap_or(&empty);
        let anew = anew.get(kind).unwrap_or(&empty);
        let names: BTreeSet<&String> = held.keys().chain(anew.keys()).collect();
        for name in names {
            if held.get(name) != anew.get(name) {
                return Some(Violation::Law {
                    client: client.to_owned(),
                    kind: kind.clone(),
                    name: name.clone(),
                    held: held.get(name).copied(),
                    anew: anew.get(name).copied(),
                });
            }
        }
    }
    None
}

/// Whether each request was served by one version of its route that existed then; the first that was not.
pub fn served(
    versions: &[Version],
    requests: &[Request],
    arrivals: &[Arrival],
) -> Option<Violation> {
    let by_number: BTreeMap<u64, &Version> = versions.iter().map(|it| (it.number, it)).collect();
    let mut used: BTreeMap<u64, u64> = BTreeMap::new();
    let mut one = |request: u64, number: u64| match *used.entry(request).or_insert(number) {
        one if one == number => Ok(()),
        one => Err(Violation::Mixed {
            request,
            one,
            other: number,
        }),
    };
    for arrival in arrivals {
        let request = arrival.request;
        let Some(number) = arrival.configuration else {
            continue;
        };
        let no = |why| {
            Some(Violation::NoVersion {
                request,
                route: arrival.route.clone(),
                number,
                why,
            })
        };
        let Some(version) = by_number.get(&number) else {
            return no("never was");
        };
        if version.route != arrival.route {
            return no("is of another route");
        }
        if version.invalid {
            return no("had to be refused");
        }
        if version.began_ms > arrival.at_ms {
            return no("came later");
        }
        if !version.hosts.contains(&arrival.host) {
            return Some(Violation::ElsewhereThanConfigured {
                request,
                number,
                host: arrival.host.clone(),
            });
        }
        if let Err(violation) = one(request, number) {
            return Some(violation);
        }
    }
    for request in requests {
        if let Some(number) = request.configuration
            && let Err(violation) = one(request.id, number)
        {
            return Some(violation);
        }
    }
    None
}

/// What a proxy answers when one of its limits refuses.
const OVERFLOW: &str = "overflow";

/// Whether all requests within a loss were answered well, or refused by a limit, and each of `proxies` had some.
pub fn survived(loss: Loss, proxies: u64, requests: &[Request]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut served = BTreeSet::new();
    let within =
        |request: &&Request| request.began_ms >= loss.from_ms && request.ended_ms <= loss.to_ms;
    for request in requests.iter().filter(within) {
        match &request.ending {
            Ending::Answered { status: 200, .. } => {
                served.insert(request.proxy);
            }
            Ending::Answered { body, .. } if body.contains(OVERFLOW) => {}
            ending if found.is_empty() => found.push(Violation::DidNotSurvive {
                request: request.id,
                ending: ending.clone(),
            }),
            _ => {}
        }
    }
    let idle = (1..=proxies).filter(|proxy| !served.contains(proxy));
    found.extend(idle.map(|proxy| Violation::Idle { proxy }));
    found
}

#[cfg(test)]
#[path = "configuration_tests.rs"]
mod tests;
