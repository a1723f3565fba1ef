//! What is measured: memory, the time until a change is in force, and what a change costs the servers.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;

use super::PATIENCE;
use super::control_plane::ControlPlane;
use super::objects::{Objects, Slice};
use super::pods::Member;
use super::traffic::Caller;
use crate::process;

/// Each proxy is asked this often whether the change is in force: what is measured is at most this much too long.
/// More often, a hundred proxies would spend more on answering than the change costs.
const POLL: Duration = Duration::from_millis(20);
/// Between changes, so that each meets servers and proxies at rest.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// Between changes of an endpoint: each is told by itself.
const ENDPOINT_PAUSE: Duration = Duration::from_millis(25);
/// Requests to each service before memory is read.
const CALLS: usize = 200;

/// One proxy's memory.
pub struct Memory {
    pub resident_bytes: u64,
    pub proportional_bytes: u64,
}

impl Memory {
    /// After calls to every service that the workload calls.
    pub async fn of(member: &mut Member) -> anyhow::Result<Memory> {
        for caller in &mut member.callers {
            for _ in 0..CALLS {
                let answer = caller.call().await?;
                ensure!(answer.status == 200, "status {}", answer.status);
            }
        }
        Ok(Memory {
            resident_bytes: member.process.resident_bytes()?,
            proportional_bytes: member.process.proportional_bytes()?,
        })
    }
}

/// From just before the write until a request through the proxy met what was written.
pub struct RouteChanges {
    /// Of every proxy and change, sorted.
    pub each: Vec<Duration>,
    /// Until the last proxy had it, of every change, sorted.
    pub last: Vec<Duration>,
    /// Until the write was acknowledged, sorted.
    pub write: Vec<Duration>,
    /// Time on cores for each change: of all servers, of all proxies (asking them included), and of the asking.
    pub servers_cpu: Duration,
    pub proxies_cpu: Duration,
    pub asking_cpu: Duration,
}

impl fmt::Display for RouteChanges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "a route's change is in force after p50 {:.1?}, p99 {:.1?}, at most {:.1?} (written after p50 {:.1?}, p99 {:.1?}; at the last proxy after p50 {:.1?}; {} changes; CPU of servers {:.1?}, proxies {:.1?}, asking {:.1?})",
            percentile(&self.each, 50),
            percentile(&self.each, 99),
            percentile(&self.each, 100),
            percentile(&self.write, 50),
            percentile(&self.write, 99),
            percentile(&self.last, 50),
            self.last.len(),
            self.servers_cpu,
            self.proxies_cpu,
            self.asking_cpu,
        )
    }
}

/// Of sorted values, the least that `share` per cent are not above.
pub fn percentile(sorted: &[Duration], share: usize) -> Duration {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Changes the route and asks every proxy until it is led by it.
pub async fn route_changes(
    plane: &ControlPlane,
    objects: &mut Objects,
    members: &mut [Member],
    count: u64,
) -> anyhow::Result<RouteChanges> {
    let mut found = RouteChanges {
        each: Vec::new(),
        last: Vec::new(),
        write: Vec::new(),
        servers_cpu: Duration::ZERO,
        proxies_cpu: Duration::ZERO,
        asking_cpu: Duration::ZERO,
    };
    let mut spent = Spent::default();
    // One change beforehand that is not counted: it ends what went before.
    for number in 0..=count {
        if number == 1 {
            spent = Spent::of(plane, members)?;
        }
        let generation = objects.next_generation();
        let begin = Instant::now();
        objects.change_route(generation).await?;
        let written = begin.elapsed();
        // A proxy that is faster than the answer to the write counts as being as fast.
        let mut asking = JoinSet::new();
        let callers: Vec<Caller> = members
            .iter_mut()
            .map(|member| member.callers.remove(0))
            .collect();
        let spread = POLL / u32::try_from(callers.len().max(1))?;
        for (at, caller) in callers.into_iter().enumerate() {
            let first = begin + written + spread * u32::try_from(at)?;
            asking.spawn(until_in_force(at, caller, generation, begin, first));
        }
        let mut times = Vec::new();
        while let Some(done) = asking.join_next().await {
            let (at, caller, time) = done??;
            members[at].callers.insert(0, caller);
            times.push(time);
        }
        if number > 0 {
            found.write.push(written);
            found.last.extend(times.iter().max());
            found.each.append(&mut times);
        }
        tokio::time::sleep(CHANGE_PAUSE).await;
    }
    let changes = u32::try_from(count.max(1))?;
    let now = Spent::of(plane, members)?;
    found.servers_cpu = (now.servers - spent.servers) / changes;
    found.proxies_cpu = (now.proxies - spent.proxies) / changes;
    found.asking_cpu = (now.ours - spent.ours) / changes;
    for times in [&mut found.each, &mut found.last, &mut found.write] {
        times.sort();
    }
    Ok(found)
}

/// Time on cores so far.
#[derive(Default)]
struct Spent {
    servers: Duration,
    proxies: Duration,
    ours: Duration,
}

impl Spent {
    fn of(plane: &ControlPlane, members: &[Member]) -> anyhow::Result<Spent> {
        let proxies = members.iter().map(|member| member.process.cpu_nanos());
        Ok(Spent {
            servers: Duration::from_nanos(plane.cpu_nanos()?),
            proxies: Duration::from_nanos(proxies.sum::<anyhow::Result<u64>>()?),
            ours: Duration::from_nanos(process::own_cpu_nanos()?),
        })
    }
}

async fn until_in_force(
    at: usize,
    mut caller: Caller,
    generation: u64,
    begin: Instant,
    first: Instant,
) -> anyhow::Result<(usize, Caller, Duration)> {
    let mut next = first;
    loop {
        tokio::time::sleep_until(next.into()).await;
        let answer = caller.call().await.context("asking a proxy")?;
        let time = begin.elapsed();
        ensure!(answer.status == 200, "status {}", answer.status);
        if answer.generation == Some(generation) {
            return Ok((at, caller, time));
        }
        if time > PATIENCE {
            bail!("proxy {at} still has generation {:?}", answer.generation);
        }
        next = (next + POLL).max(Instant::now());
    }
}

/// What one endpoint's change costs all servers together, less what they use at rest.
pub struct EndpointCost {
    pub services: usize,
    /// Where the workloads of all proxies call the service.
    pub called_us: f64,
    /// Where only the one proxy that is told everything is told.
    pub uncalled_us: f64,
    /// At rest, share of a core.
    pub idle: f64,
}

impl fmt::Display for EndpointCost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "at {} services one endpoint's change costs the servers {:.0} us where all proxies are told, {:.0} us where one is; they use {:.1} % of a core at rest",
            self.services,
            self.called_us,
            self.uncalled_us,
            self.idle * 100.0
        )
    }
}

impl EndpointCost {
    pub async fn of(
        plane: &ControlPlane,
        objects: &mut Objects,
        changes: u32,
        idle_nanos: f64,
    ) -> anyhow::Result<EndpointCost> {
        let mut cost = EndpointCost {
            services: objects.count(),
            called_us: 0.0,
            uncalled_us: 0.0,
            idle: idle_nanos / 1e9,
        };
        for (slice, to) in [
            (Slice::Called, &mut cost.called_us),
            (Slice::Uncalled, &mut cost.uncalled_us),
        ] {
            let (begin, spent) = (Instant::now(), plane.cpu_nanos()?);
            let mut ticks = tokio::time::interval(ENDPOINT_PAUSE);
            for _ in 0..changes {
                ticks.tick().await;
                objects.change_endpoint(slice).await?;
            }
            // The last one is told, too.
            tokio::time::sleep(ENDPOINT_PAUSE * 8).await;
            #[allow(clippy::cast_precision_loss)]
            let spent = (plane.cpu_nanos()? - spent) as f64;
            let rest = idle_nanos * begin.elapsed().as_secs_f64();
            *to = (spent - rest) / 1e3 / f64::from(changes);
        }
        Ok(cost)
    }
}
