//! What proxies may do with requests: seen from clients, from upstreams, and in the proxies' own state.
//!
//! A proxy chooses a host some time before the request arrives there: it may wait for a connection, and messages
//! travel. So where a property speaks of the moment of choice, a host must have been wrong to choose at every
//! moment from which the request may have come: as long ago as its message can have been under way
//! ([`Arrival::transit_ms`]), and before that as long as somebody in the cluster waited for a connection without
//! a break, but no longer than [`Bounds::wait_ms`]. That somebody is perhaps another: who waits is not seen from
//! outside, so that of a cluster that is always at its limit of connections less is known.

use std::collections::{BTreeMap, BTreeSet};

/// One host of a cluster as a proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    /// Outlier detection has it out of the way.
    pub ejected: bool,
    /// When the time of its ejection is over.
    pub due_ms: u64,
}

/// Places taken under a cluster's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
}

/// A proxy's view of one cluster, from this moment on until the next sample of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at_ms: u64,
    pub proxy: u64,
    /// Rises with every start of the proxy.
    pub life: u64,
    pub cluster: String,
    /// Rises with every change that the proxy was told of.
    pub configuration: u64,
    /// As configured, in order of their names.
    pub hosts: Vec<Host>,
    /// When outlier detection next sweeps; it stays until it has swept.
    pub next_sweep_ns: u64,
    pub taken: Taken,
    /// Requests that wait for a connection, also those of this cluster's that was removed and is back.
    pub waiting: u32,
    /// Hosts that it may still have connections to, configured or not, times the workers that have their own.
    pub connected_hosts: u32,
    /// A cluster that a route names and that is not there.
    pub dangling: Option<String>,
}

/// A request at an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at_ms: u64,
    pub proxy: u64,
    pub cluster: String,
    /// By which the request was sent there.
    pub route: String,
    pub request: u64,
    /// 1 is the first.
    pub attempt: u32,
    pub host: String,
    /// The upstream broke off its answer half way.
    pub cut: bool,
    /// How long its message may have been under way.
    pub transit_ms: u64,
    /// The version of its route.
    pub configuration: Option<u64>,
}

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// One whole answer.
    Answered { status: u16, body: String },
    /// The answer began and was broken off.
    Broken,
    /// The connection was closed without an answer.
    Closed,
    /// Neither answer nor end within the client's patience.
    Silence,
    /// More bytes than one answer has.
    Surplus,
}

/// A request at its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: u64,
    pub proxy: u64,
    pub cluster: String,
    pub began_ms: u64,
    pub ended_ms: u64,
    pub ending: Ending,
    /// The version of its route that its answer names.
    pub configuration: Option<u64>,
}

/// A time in which a proxy was down, or not yet back in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub proxy: u64,
    pub from_ms: u64,
    pub to_ms: u64,
}

/// A time in which an upstream was down, or out of reach of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    pub host: String,
    /// None is all of them.
    pub proxy: Option<u64>,
    pub from_ms: u64,
    pub to_ms: u64,
}

/// What the configuration promises of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// A request waits for a connection no longer than this.
    pub wait_ms: u64,
    /// Between two sweeps, with what a sweep may be late.
    pub sweep_ms: u64,
    pub max_ejection_percent: u64,
    /// Fewer healthy hosts than this are not preferred any more.
    pub panic_percent: u64,
    pub limits: Taken,
    /// Retries as a share of requests, percent, where there is a budget; `limits.retries` is its minimum then.
    pub retry_budget_percent: u64,
    pub retries_per_request: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("request {id} got {ending:?} instead of one answer")]
    NotOneAnswer { id: u64, ending: Ending },
    #[error(
        "at {at_ms} ms request {request} arrived at {host}, which proxy {proxy} had ejected since {since_ms} ms"
    )]
    ToEjected {
        at_ms: u64,
        request: u64,
        host: String,
        proxy: u64,
        since_ms: u64,
    },
    #[error(
        "at {at_ms} ms request {request} arrived at {host}, which proxy {proxy} had not had since {since_ms} ms"
    )]
    ToUnknown {
        at_ms: u64,
        request: u64,
        host: String,
        proxy: u64,
        since_ms: u64,
    },
    #[error(
        "at {at_ms} ms proxy {proxy} had {ejected} of {hosts} hosts of {cluster} ejected, over {percent} %"
    )]
    OverCap {
        at_ms: u64,
        proxy: u64,
        cluster: String,
        ejected: u64,
        hosts: u64,
        percent: u64,
    },
    #[error("at {at_ms} ms proxy {proxy} took {host} back between two sweeps")]
    BetweenSweeps {
        at_ms: u64,
        proxy: u64,
        host: String,
    },
    #[error("at {at_ms} ms proxy {proxy} had {taken} {what} to {cluster}, over {limit}")]
    OverLimit {
        at_ms: u64,
        proxy: u64,
        cluster: String,
        what: &'static str,
        taken: u32,
        limit: u32,
    },
    #[error("idle, proxy {proxy} still counts {taken:?} for {cluster}")]
    NotGivenBack {
        proxy: u64,
        cluster: String,
        taken: Taken,
    },
    #[error("request {request} was tried {attempts} times, {allowed} are allowed")]
    Amplified {
        request: u64,
        attempts: u32,
        allowed: u32,
    },
    #[error(
        "attempt {attempt} of request {request} went to {host} again, though {other} had not been tried"
    )]
    SameHost {
        request: u64,
        attempt: u32,
        host: String,
        other: String,
    },
    #[error("request {request} found no host, though proxy {proxy} had {hosts} and panic uses all")]
    NoHost {
        request: u64,
        proxy: u64,
        hosts: usize,
    },
    #[error("at {at_ms} ms a route of proxy {proxy} named {cluster}, which was not there")]
    HalfApplied {
        at_ms: u64,
        proxy: u64,
        cluster: String,
    },
    #[error(
        "at {at_ms} ms proxy {proxy} had {host} of {cluster} still ejected, whose time was over at {due_ms} ms and a sweep has been since"
    )]
    Overstayed {
        at_ms: u64,
        proxy: u64,
        cluster: String,
        host: String,
        due_ms: u64,
    },
    #[error("proxy {proxy} had {host} of {cluster} still ejected at {at_ms} ms, healed long ago")]
    NotReturned {
        at_ms: u64,
        proxy: u64,
        cluster: String,
        host: String,
    },
}

/// Everything that was seen of one cluster at one proxy, in order of time.
struct Story<'a> {
    bounds: &'a Bounds,
    samples: Vec<&'a Sample>,
}

impl<'a> Story<'a> {
    /// The samples in force between two moments, with the one that was so when the first began.
    fn between(&self, from_ms: u64, to_ms: u64) -> &[&'a Sample] {
        let end = self.samples.partition_point(|sample| sample.at_ms <= to_ms);
        let start = self.samples[..end]
            .partition_point(|sample| sample.at_ms < from_ms)
            .saturating_sub(1);
        &self.samples[start..end]
    }

    fn panics(&self, sample: &Sample) -> bool {
        let healthy = sample.hosts.iter().filter(|host| !host.ejected).count() as u64;
        100 * healthy < self.bounds.panic_percent * sample.hosts.len() as u64
    }

    /// Whether a host may be chosen.
    fn available(&self, sample: &Sample, name: &str) -> bool {
        let host = sample.hosts.iter().find(|host| host.name == name);
        host.is_some_and(|host| !host.ejected || self.panics(sample))
    }

    /// Since when the newest samples all say so, if they do.
    fn since(&self, samples: &[&Sample], says: impl Fn(&Sample) -> bool) -> Option<u64> {
        let first = samples.first()?;
        samples
            .iter()
            .all(|sample| says(sample))
            .then_some(first.at_ms)
    }

    /// The first moment at which an arrival's host may have been chosen. Whoever was chosen before a moment in
    /// which nobody waited was sent before it, and has arrived by the time that a message takes.
    fn chosen_from(&self, arrival: &Arrival) -> u64 {
        let sent_ms = arrival.at_ms.saturating_sub(arrival.transit_ms);
        let least_ms = sent_ms.saturating_sub(self.bounds.wait_ms);
        let end = self
            .samples
            .partition_point(|sample| sample.at_ms <= sent_ms);
        let mut from_ms = sent_ms;
        for sample in self.samples[..end].iter().rev() {
            if sample.waiting == 0 || from_ms <= least_ms {
                break;
            }
            from_ms = sample.at_ms;
        }
        // Samples are taken after what they show.
        from_ms.max(least_ms).saturating_sub(STEP_MS)
    }

    fn arrival(&self, arrival: &Arrival) -> Result<(), Violation> {
        let (at_ms, request, proxy) = (arrival.at_ms, arrival.request, arrival.proxy);
        let from_ms = self.chosen_from(arrival);
        let samples = self.between(from_ms, at_ms);
        if samples.first().is_none_or(|first| first.at_ms > from_ms) {
            // It had no view of the cluster for the whole time.
            return Ok(());
        }
        let host = arrival.host.clone();
        let known = |sample: &Sample| sample.hosts.iter().any(|one| one.name == host);
        if let Some(since_ms) = self.since(samples, |sample| !known(sample)) {
            return Err(Violation::ToUnknown {
                at_ms,
                request,
                host,
                proxy,
                since_ms,
            });
        }
        let refused = |sample: &Sample| known(sample) && !self.available(sample, &host);
        if let Some(since_ms) = self.since(samples, refused) {
            return Err(Violation::ToEjected {
                at_ms,
                request,
                host,
                proxy,
                since_ms,
            });
        }
        Ok(())
    }

    /// The arrivals of one request.
    fn retries(&self, arrivals: &[&Arrival]) -> Result<(), Violation> {
        let allowed = 1 + self.bounds.retries_per_request;
        let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
            return Ok(());
        };
        let request = first.request;
        let attempts = (arrivals.len() as u32).max(last.attempt);
        if attempts > allowed {
            return Err(Violation::Amplified {
                request,
                attempts,
                allowed,
            });
        }
        let mut tried: BTreeSet<&str> = BTreeSet::new();
        for arrival in arrivals {
            if tried.contains(arrival.host.as_str()) {
                let from_ms = self.chosen_from(first);
                let samples = self.between(from_ms, arrival.at_ms);
                let names = samples.first().map_or(&[][..], |sample| &sample.hosts);
                let mut untried = names.iter().map(|host| host.name.as_str()).filter(|name| {
                    !tried.contains(name)
                        && samples.iter().all(|sample| self.available(sample, name))
                });
                // Attempts that never arrived went to hosts that nobody saw.
                let unseen = (arrival.attempt as usize).saturating_sub(1 + tried.len());
                if let Some(other) = untried.nth(unseen) {
                    return Err(Violation::SameHost {
                        request,
                        attempt: arrival.attempt,
                        host: arrival.host.clone(),
                        other: other.to_owned(),
                    });
                }
            }
            tried.insert(&arrival.host);
        }
        Ok(())
    }

    fn limits(&self, sample: &Sample, budget: u32) -> Result<(), Violation> {
        let limits = self.bounds.limits;
        let taken = sample.taken;
        // A host without any connection may always have one, so that nobody waits for ever.
        let lonely = sample.connected_hosts;
        for (what, taken, limit) in [
            (
                "connections",
                taken.connections,
                limits.connections + lonely,
            ),
            ("waiting requests", taken.pending, limits.pending),
            ("requests", taken.requests, limits.requests),
            ("retries", taken.retries, limits.retries.max(budget)),
        ] {
            if taken > limit {
                return Err(Violation::OverLimit {
                    at_ms: sample.at_ms,
                    proxy: sample.proxy,
                    cluster: sample.cluster.clone(),
                    what,
                    taken,
                    limit,
                });
            }
        }
        Ok(())
    }

    fn changes(&self) -> Result<(), Violation> {
        let mut most = 0;
        for (index, sample) in self.samples.iter().enumerate() {
            let (at_ms, proxy, cluster) = (sample.at_ms, sample.proxy, sample.cluster.clone());
            if let Some(missing) = &sample.dangling {
                return Err(Violation::HalfApplied {
                    at_ms,
                    proxy,
                    cluster: missing.clone(),
                });
            }
            most = most.max(sample.taken.requests + sample.taken.pending);
            let share = u64::from(most) * self.bounds.retry_budget_percent / 100;
            self.limits(sample, u32::try_from(share).unwrap_or(u32::MAX))?;
            let Some(before) = index.checked_sub(1).map(|index| self.samples[index]) else {
                continue;
            };
            let count =
                |sample: &Sample| sample.hosts.iter().filter(|it| it.ejected).count() as u64;
            for host in before.hosts.iter().filter(|host| host.ejected) {
                if sample.at_ms > host.due_ms + self.bounds.sweep_ms && before.life == sample.life {
                    return Err(Violation::Overstayed {
                        at_ms,
                        proxy,
                        cluster,
                        host: host.name.clone(),
                        due_ms: host.due_ms,
                    });
                }
            }
            // Hosts that went and came within one step are others.
            if (before.life, before.configuration) != (sample.life, sample.configuration) {
                continue;
            }
            let (ejected, hosts) = (count(sample), sample.hosts.len() as u64);
            let percent = self.bounds.max_ejection_percent;
            if ejected > count(before) && 100 * ejected > percent * hosts {
                return Err(Violation::OverCap {
                    at_ms,
                    proxy,
                    cluster,
                    ejected,
                    hosts,
                    percent,
                });
            }
            let swept = before.next_sweep_ns != sample.next_sweep_ns;
            for (old, new) in before.hosts.iter().zip(&sample.hosts) {
                if old.ejected && !new.ejected && !swept {
                    return Err(Violation::BetweenSweeps {
                        at_ms,
                        proxy,
                        host: new.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// A request that found no host, where panic is on and there were hosts all the time.
    fn answer(&self, request: &Request) -> Result<(), Violation> {
        let Ending::Answered { body, .. } = &request.ending else {
            return Ok(());
        };
        if self.bounds.panic_percent == 0 || body != NO_HOST {
            return Ok(());
        }
        let samples = self.between(request.began_ms, request.ended_ms);
        let hosts = samples.iter().map(|sample| sample.hosts.len()).min();
        match hosts {
            Some(hosts) if hosts > 0 => Err(Violation::NoHost {
                request: request.id,
                proxy: request.proxy,
                hosts,
            }),
            _ => Ok(()),
        }
    }
}

/// Between two looks into a proxy.
const STEP_MS: u64 = 1;

/// What a proxy answers when there is no host to choose.
const NO_HOST: &str = "no healthy upstream";

/// Everything that was seen in a world.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    pub requests: Vec<Request>,
    pub arrivals: Vec<Arrival>,
    pub samples: Vec<Sample>,
    pub outages: Vec<Outage>,
    pub breaks: Vec<Break>,
}

impl Traffic {
    /// One whole answer; or none, or half of one, where something between was down meanwhile.
    fn answered(&self, request: &Request, arrivals: &[&Arrival]) -> bool {
        let out = || {
            self.outages.iter().any(|outage| {
                outage.proxy == request.proxy
                    && outage.from_ms <= request.ended_ms
                    && request.began_ms <= outage.to_ms
            })
        };
        let broken = |arrival: &&Arrival| {
            arrival.cut
                || self.breaks.iter().any(|it| {
                    it.host == arrival.host
                        && it.proxy.is_none_or(|proxy| proxy == arrival.proxy)
                        && it.from_ms <= request.ended_ms
                        && arrival.at_ms <= it.to_ms
                })
        };
        match request.ending {
            Ending::Answered { .. } => true,
            Ending::Broken => out() || arrivals.iter().any(broken),
            Ending::Closed => out(),
            Ending::Silence | Ending::Surplus => false,
        }
    }
}

/// Checks all properties; the first violation of each kind of look.
pub fn check(traffic: &Traffic, bounds: &BTreeMap<String, Bounds>) -> Vec<Violation> {
    let mut stories: BTreeMap<u64, BTreeMap<&str, Story<'_>>> = BTreeMap::new();
    for sample in &traffic.samples {
        let Some(bounds) = bounds.get(&sample.cluster) else {
            continue;
        };
        let story = stories
            .entry(sample.proxy)
            .or_default()
            .entry(&sample.cluster)
            .or_insert_with(|| Story {
                bounds,
                samples: Vec::new(),
            });
        story.samples.push(sample);
    }
    let mut by_request: BTreeMap<u64, Vec<&Arrival>> = BTreeMap::new();
    for arrival in &traffic.arrivals {
        by_request.entry(arrival.request).or_default().push(arrival);
    }
    let mut found = Vec::new();
    found.extend(first(traffic.requests.iter().map(|request| {
        let arrivals = by_request.get(&request.id).map_or(&[][..], Vec::as_slice);
        if traffic.answered(request, arrivals) {
            return Ok(());
        }
        Err(Violation::NotOneAnswer {
            id: request.id,
            ending: request.ending.clone(),
        })
    })));
    fn find<'a, 'b>(
        stories: &'b BTreeMap<u64, BTreeMap<&'a str, Story<'a>>>,
        proxy: u64,
        cluster: &str,
    ) -> Option<&'b Story<'a>> {
        stories.get(&proxy)?.get(cluster)
    }
    found.extend(first(traffic.requests.iter().map(|request| {
        find(&stories, request.proxy, &request.cluster)
            .map_or(Ok(()), |story| story.answer(request))
    })));
    found.extend(first(traffic.arrivals.iter().map(|arrival| {
        find(&stories, arrival.proxy, &arrival.cluster)
            .map_or(Ok(()), |story| story.arrival(arrival))
    })));
    found.extend(first(by_request.values().map(|arrivals| {
        let of = arrivals[0];
        find(&stories, of.proxy, &of.cluster).map_or(Ok(()), |story| story.retries(arrivals))
    })));
    found.extend(first(
        stories
            .values()
            .flat_map(BTreeMap::values)
            .map(Story::changes),
    ));
    found
}

fn first(results: impl IntoIterator<Item = Result<(), Violation>>) -> Option<Violation> {
    results.into_iter().find_map(Result::err)
}

/// After everything has healed and nothing is asked: no host is ejected, and no place is taken but by idle
/// connections. `samples` are the last of each cluster at each proxy.
pub fn check_rest<'a>(
    samples: impl IntoIterator<Item = &'a Sample>,
    now_ms: u64,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for sample in samples {
        let (proxy, cluster) = (sample.proxy, sample.cluster.clone());
        let taken = Taken {
            connections: 0,
            ..sample.taken
        };
        if taken != Taken::default() {
            found.push(Violation::NotGivenBack {
                proxy,
                cluster: cluster.clone(),
                taken: sample.taken,
            });
        }
        if let Some(host) = sample.hosts.iter().find(|host| host.ejected) {
            found.push(Violation::NotReturned {
                at_ms: now_ms,
                proxy,
                cluster,
                host: host.name.clone(),
            });
        }
    }
    found
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
pub(crate) mod tests;
