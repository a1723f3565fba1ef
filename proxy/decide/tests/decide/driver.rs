//! A driver without sockets: pools of HTTP/1 connections whose connecting, answering and closing
//! a test or a random generator commands. It carries out effects as the proxy does, and checks
//! with every step what must always hold.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rand_chacha::ChaCha8Rng;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::breaker::Resource;
use trireme_proxy_decide::config::{Priority, Snapshot};
use trireme_proxy_decide::exchange::{
    Connection, Context, Effect, Event, Exchange, RateLimitAnswer, RateLimitQuestion, Reply,
    ResponseHead,
};
use trireme_proxy_decide::fault::ActiveFaults;
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::retry::Broken;
use trireme_proxy_decide::upstream::{
    Admission, ClusterState, Connection as Place, Host, Lease, Live, PoolView, Waiting, admit,
    attach, connect,
};

/// Where a request's attempt is.
enum Attempt {
    None,
    Waiting(Waiting),
    Active(Place),
}

/// One request.
pub struct Request {
    pub exchange: Exchange,
    attempt: Attempt,
    host: Option<(Arc<ClusterState>, Arc<Host>)>,
    tried: Vec<Arc<Host>>,
    pub replies: Vec<Reply>,
    pub forwarded: Option<ResponseHead>,
    pub resets: u32,
    pub gone: bool,
    /// The host of each attempt.
    pub attempts: Vec<SocketAddr>,
    /// The head as each attempt sent it.
    pub sent: Vec<RequestHead>,
    pub mirrored: Vec<RequestHead>,
    pub asked: Vec<RateLimitQuestion>,
}

#[derive(Default)]
struct Pool {
    connecting: Vec<Place>,
    idle: Vec<Place>,
    active: u32,
    waiting: VecDeque<usize>,
}

impl Pool {
    fn view(&self) -> PoolView {
        let count = |length: usize| u32::try_from(length).expect("few");
        PoolView {
            ready: !self.idle.is_empty(),
            connecting_capacity: count(self.connecting.len()),
            pending: count(self.waiting.len()),
            connections: count(self.connecting.len() + self.idle.len()) + self.active,
        }
    }
}

pub struct Driver {
    pub live: Live,
    pub now: Nanos,
    pub rng: ChaCha8Rng,
    pub requests: Vec<Request>,
    pub connection: Arc<Connection>,
    faults: Arc<ActiveFaults>,
    pools: BTreeMap<SocketAddr, Pool>,
    /// Whether connecting succeeds at once.
    pub connects: bool,
}

/// The time of day at the driver's start.
const UNIX_START: u64 = 1_700_000_000_000_000_000;

impl Driver {
    pub fn new(snapshot: Snapshot, connection: Arc<Connection>, seed: u64) -> Driver {
        Driver {
            live: Live::new(snapshot, Nanos::ZERO),
            now: Nanos::ZERO,
            rng: crate::world::rng(seed),
            requests: Vec::new(),
            connection,
            faults: Arc::default(),
            pools: BTreeMap::new(),
            connects: true,
        }
    }

    /// Begins a request; its number.
    pub fn begin(&mut self, head: RequestHead, ended: bool) -> usize {
        let mut effects = Vec::new();
        let mut context = Context {
            live: &self.live,
            now: self.now,
            unix_nanos: UNIX_START + self.now.0,
            rng: &mut self.rng,
            service_cluster: "own",
            faults: &self.faults,
        };
        let exchange = Exchange::begin(&self.connection, head, ended, &mut context, &mut effects);
        self.requests.push(Request {
            exchange,
            attempt: Attempt::None,
            host: None,
            tried: Vec::new(),
            replies: Vec::new(),
            forwarded: None,
            resets: 0,
            gone: false,
            attempts: Vec::new(),
            sent: Vec::new(),
            mirrored: Vec::new(),
            asked: Vec::new(),
        });
        let request = self.requests.len() - 1;
        self.carry_out(request, effects, None);
        request
    }

    /// A GET of `path`, complete.
    pub fn get(&mut self, path: &str) -> usize {
        self.begin(RequestHead::get("host", path).expect("valid"), true)
    }

    /// Reports an event.
    pub fn on(&mut self, request: usize, event: Event<'_>) {
        let mut effects = Vec::new();
        let mut context = Context {
            live: &self.live,
            now: self.now,
            unix_nanos: UNIX_START + self.now.0,
            rng: &mut self.rng,
            service_cluster: "own",
            faults: &self.faults,
        };
        self.requests[request]
            .exchange
            .on(event, &mut context, &mut effects);
        self.carry_out(request, effects, None);
    }

    /// The upstream answers with a status and headers; `end` is whether nothing follows.
    pub fn answer(&mut self, request: usize, status: u16, headers: &[(&str, &str)], end: bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                http::HeaderName::from_bytes(name.as_bytes()).expect("valid"),
                value.parse().expect("valid"),
            );
        }
        let mut head = ResponseHead {
            status: StatusCode::from_u16(status).expect("valid"),
            headers: map,
        };
        let mut effects = Vec::new();
        let mut context = Context {
            live: &self.live,
            now: self.now,
            unix_nanos: UNIX_START + self.now.0,
            rng: &mut self.rng,
            service_cluster: "own",
            faults: &self.faults,
        };
        self.requests[request].exchange.on(
            Event::Head {
                head: &mut head,
                end,
            },
            &mut context,
            &mut effects,
        );
        self.carry_out(request, effects, Some(&head));
        if end && self.requests[request].forwarded.is_some() {
            self.release(request, true);
        }
    }

    /// The answer's end was passed on.
    pub fn end(&mut self, request: usize) {
        self.on(request, Event::ResponseEnd);
        self.release(request, true);
    }

    /// The attempt breaks.
    pub fn break_off(&mut self, request: usize, broken: Broken, detail: &str) {
        self.release(request, false);
        self.on(request, Event::Broken(broken, detail));
    }

    /// The client goes away.
    pub fn leave(&mut self, request: usize) {
        self.requests[request].gone = true;
        self.on(request, Event::DownstreamGone);
    }

    /// Lets time pass, with every deadline and sweep on its way.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        loop {
            let next = self
                .requests
                .iter()
                .filter_map(|request| request.exchange.deadline())
                .chain(self.live.next_sweep())
                .min()
                .filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            self.live.sweep(self.now, &mut self.rng);
            for request in 0..self.requests.len() {
                let due = self.requests[request]
                    .exchange
                    .deadline()
                    .is_some_and(|deadline| deadline <= self.now);
                if due {
                    self.on(request, Event::Time);
                }
            }
        }
        self.now = end;
    }

    /// Another configuration.
    pub fn update(&mut self, snapshot: Snapshot) {
        self.live = self.live.update(snapshot, self.now);
    }

    /// Requests whose attempt is on a connection.
    pub fn active(&self) -> Vec<usize> {
        self.having(|request| matches!(request.attempt, Attempt::Active(_)))
    }

    /// Requests that are not over.
    pub fn open(&self) -> Vec<usize> {
        self.having(|request| !request.exchange.is_done())
    }

    fn having(&self, keep: impl Fn(&Request) -> bool) -> Vec<usize> {
        (0..self.requests.len())
            .filter(|index| keep(&self.requests[*index]))
            .collect()
    }

    /// Hosts with connections being opened.
    pub fn connecting(&self) -> Vec<SocketAddr> {
        self.pools
            .iter()
            .filter(|(_, pool)| !pool.connecting.is_empty())
            .map(|(host, _)| *host)
            .collect()
    }

    /// One connection to `host` is open, or failed.
    pub fn connected(&mut self, host: SocketAddr, success: bool) {
        let Some(pool) = self.pools.get_mut(&host) else {
            return;
        };
        let Some(place) = pool.connecting.pop() else {
            return;
        };
        if success {
            pool.idle.push(place);
            self.serve(host);
            return;
        }
        drop(place);
        // As Envoy's pools: those that waited fail with the connection.
        let waiting: Vec<usize> = pool.waiting.drain(..).collect();
        for request in waiting {
            self.requests[request].attempt = Attempt::None;
            self.on(
                request,
                Event::Broken(Broken::RemoteConnectionFailure, "refused"),
            );
        }
    }

    /// Gives idle connections to those that wait.
    fn serve(&mut self, host: SocketAddr) {
        loop {
            let Some(pool) = self.pools.get_mut(&host) else {
                return;
            };
            if pool.idle.is_empty() {
                return;
            }
            let Some(request) = pool.waiting.pop_front() else {
                return;
            };
            self.requests[request].attempt = Attempt::None;
            self.attach(request, host);
        }
    }

    fn attach(&mut self, request: usize, host: SocketAddr) {
        let (cluster, upstream) = self.requests[request].host.clone().expect("chosen");
        match attach(&cluster, &upstream, Priority::Default) {
            Some(lease) => self.take_connection(request, host, lease),
            None => self.on(request, Event::Overflow),
        }
    }

    fn take_connection(&mut self, request: usize, host: SocketAddr, lease: Lease) {
        let pool = self.pools.entry(host).or_default();
        let place = pool.idle.pop().expect("ready");
        pool.active += 1;
        self.requests[request].attempt = Attempt::Active(place);
        let head = self.requests[request].exchange.attempt_head();
        self.requests[request].sent.push(head);
        self.on(request, Event::Attached(lease));
    }

    /// Ends a request's attempt; its connection is kept or closed.
    fn release(&mut self, request: usize, keep: bool) {
        let attempt = std::mem::replace(&mut self.requests[request].attempt, Attempt::None);
        let Some((cluster, host)) = self.requests[request].host.clone() else {
            return;
        };
        let pool = self.pools.entry(host.address).or_default();
        match attempt {
            Attempt::None => {}
            Attempt::Waiting(waiting) => {
                pool.waiting.retain(|other| *other != request);
                waiting.cancel(&cluster);
            }
            Attempt::Active(place) => {
                pool.active -= 1;
                if keep && !host.is_gone() {
                    pool.idle.push(place);
                } else {
                    drop(place);
                    // Those that wait may need another connection.
                    if let Some(place) = connect(&cluster, &host, Priority::Default, pool.view()) {
                        pool.connecting.push(place);
                    }
                }
                self.serve(host.address);
                self.settle(host.address);
            }
        }
    }

    fn settle(&mut self, host: SocketAddr) {
        while self.connects
            && self
                .pools
                .get(&host)
                .is_some_and(|pool| !pool.connecting.is_empty())
        {
            self.connected(host, true);
        }
    }

    fn carry_out(&mut self, request: usize, effects: Vec<Effect>, head: Option<&ResponseHead>) {
        for effect in effects {
            match effect {
                Effect::Attempt(attempt) => {
                    let host = attempt.host.address;
                    self.check_attempt(request, &attempt.cluster, &attempt.host);
                    let known = &mut self.requests[request];
                    assert!(
                        matches!(known.attempt, Attempt::None),
                        "one attempt at a time"
                    );
                    known.host = Some((attempt.cluster.clone(), attempt.host.clone()));
                    known.attempts.push(host);
                    known.tried.push(attempt.host.clone());
                    assert_eq!(known.attempts.len(), attempt.number as usize);
                    self.begin_attempt(request, &attempt);
                }
                Effect::Cancel => self.release(request, false),
                Effect::Reply(reply) => {
                    self.requests[request].replies.push(reply);
                }
                Effect::Forward => {
                    let head = head.expect("only in answer to a head").clone();
                    let known = &mut self.requests[request];
                    assert!(known.forwarded.is_none(), "one answer");
                    known.forwarded = Some(head);
                }
                Effect::ResetDownstream => self.requests[request].resets += 1,
                Effect::Mirror(mirrored) => {
                    self.requests[request].mirrored.push(mirrored.head);
                }
                Effect::AskRateLimit(question) => {
                    self.requests[request].asked.push(question);
                }
                Effect::Ejected(_) => {}
            }
        }
        self.check(request);
    }

    fn begin_attempt(&mut self, request: usize, attempt: &trireme_proxy_decide::exchange::Attempt) {
        let host = attempt.host.address;
        let pool = self.pools.entry(host).or_default();
        match admit(
            &attempt.cluster,
            &attempt.host,
            attempt.priority,
            pool.view(),
        ) {
            Admission::Attach(lease) => self.take_connection(request, host, lease),
            Admission::Wait(waiting, place) => {
                pool.connecting.extend(place);
                pool.waiting.push_back(request);
                self.requests[request].attempt = Attempt::Waiting(waiting);
                self.settle(host);
            }
            Admission::Overflow => self.on(request, Event::Overflow),
        }
    }

    /// The rate limit service answers.
    pub fn rate_limit(&mut self, request: usize, answer: RateLimitAnswer) {
        self.on(request, Event::RateLimit(answer));
    }

    /// A retry takes a host not tried before where there is a healthy one, and no request begins
    /// on a host that the configuration no longer has.
    fn check_attempt(&self, request: usize, cluster: &ClusterState, host: &Arc<Host>) {
        let current = self
            .live
            .cluster(&cluster.config.name, self.now)
            .expect("a request's cluster is in the configuration");
        let configured = current.endpoints().is_some_and(|endpoints| {
            endpoints.localities.iter().any(|place| {
                let here = |endpoint: &trireme_proxy_decide::config::Endpoint| {
                    endpoint.address.socket() == Some(host.address)
                };
                place.endpoints.iter().any(here)
            })
        });
        assert!(configured, "a request began on a host that is gone");
        assert!(
            current.members.iter().all(|host| !host.is_healthy()) || {
                // Panic aside, only healthy hosts.
                let healthy = current
                    .members
                    .iter()
                    .filter(|host| host.is_healthy())
                    .count();
                host.is_healthy() || 2 * healthy < current.members.len()
            },
            "a request began on an unhealthy host without panic"
        );
        let known = &self.requests[request];
        let avoids = known
            .exchange
            .place()
            .and_then(|place| place.retry_policy())
            .is_some_and(|policy| policy.avoid_previous_hosts);
        let tried = |other: &Arc<Host>| known.tried.iter().any(|tried| Arc::ptr_eq(tried, other));
        if avoids && tried(host) {
            let untried = current
                .members
                .iter()
                .any(|other| other.is_healthy() && !tried(other));
            assert!(!untried, "a retry went to a host already tried");
        }
    }

    fn check(&self, request: usize) {
        let known = &self.requests[request];
        let answers = known.replies.len() + usize::from(known.forwarded.is_some());
        assert!(answers <= 1, "one answer");
        if known.exchange.is_done() {
            assert!(answers == 1 || known.gone, "an answer");
            assert!(known.resets == 0 || known.forwarded.is_some());
        }
        let policy = known
            .exchange
            .place()
            .and_then(|place| place.retry_policy())
            .map_or(0, |policy| policy.num_retries as usize);
        assert!(
            known.attempts.len() <= policy + 1,
            "retries within the policy"
        );
        self.check_limits();
    }

    /// No limit is exceeded; connections may be one a host more where a pool had none.
    pub fn check_limits(&self) {
        for cluster in self.live.in_use() {
            let breaker = &cluster.breaker;
            let current = |resource| breaker.current(Priority::Default, resource);
            let max = |resource| breaker.max(Priority::Default, resource);
            for resource in [Resource::Requests, Resource::Pending] {
                assert!(current(resource) <= max(resource), "{resource:?}");
            }
            if breaker.threshold(Priority::Default).retry_budget.is_none() {
                assert!(
                    current(Resource::Retries) <= max(Resource::Retries),
                    "retries"
                );
            }
            let hosts = u32::try_from(self.pools.len()).expect("few");
            assert!(
                current(Resource::Connections) <= max(Resource::Connections).saturating_add(hosts),
                "connections"
            );
            for pool in self.pools.values() {
                let view = pool.view();
                assert!(
                    view.connections <= max(Resource::Connections).max(1),
                    "one pool's connections"
                );
            }
        }
    }

    /// Closes everything; nothing may be held any more.
    pub fn close(mut self) {
        for request in self.open() {
            self.leave(request);
        }
        let clusters: Vec<_> = self.live.in_use().cloned().collect();
        for request in &self.requests {
            assert!(request.exchange.is_done());
        }
        self.pools.clear();
        self.requests.clear();
        for cluster in clusters {
            for resource in [
                Resource::Connections,
                Resource::Pending,
                Resource::Requests,
                Resource::Retries,
            ] {
                assert_eq!(
                    cluster.breaker.current(Priority::Default, resource),
                    0,
                    "{resource:?} left over"
                );
            }
            for host in cluster.members.iter() {
                assert_eq!((host.active(), host.connections()), (0, 0));
            }
        }
        assert_eq!(self.faults.count(), 0);
    }
}
