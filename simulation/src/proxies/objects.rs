//! The cluster's objects, as its users and controllers change them, and what each version of a route means.
//!
//! Two services select the same pods: `main`, whose route leads to all of them, and `switch`, whose route leads to
//! the subset of the color of the day; the other subset is not there then. Each version of a route writes its number
//! into requests and answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use trireme_check::configuration::Version;
use trireme_mesh::{Change, Mesh, ObjectKey};
use trireme_model::kinds::Kind;
use trireme_xds::NodeType;

use super::journal::{Batch, Journal, key_of};
use super::plan::{
    Balancing, CONNECT_TIMEOUT_MS, PER_TRY_TIMEOUT_MS, Plan, ROUTE_TIMEOUT_MS, color_of,
};
use super::record::{Record, now_ms};
use super::upstream::{HTTP1_PORT, HTTP2_PORT, name_of};

pub const NAMESPACE: &str = "shop";
pub const MAIN: &str = "main";
pub const SWITCH: &str = "switch";
pub const BLUE: &str = "blue";
pub const GREEN: &str = "green";
/// What is looked at, by short names.
pub const CLUSTERS: [&str; 3] = [MAIN, BLUE, GREEN];
/// Of both services, and of the gateway.
pub const PORT: u16 = 80;
/// Where a sidecar's clients believe that they connect to.
pub const SERVICE_ADDRESS: [u8; 4] = [10, 43, 0, 10];
/// Says by which version of its route a request was sent.
pub const VERSION_HEADER: &str = "x-configuration";
/// Hosts that endpoint churn leaves.
const LEAST_HOSTS: usize = 4;
const CREATED: &str = "2026-01-01T00:00:00Z";

pub fn host(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc.cluster.local")
}

/// A cluster's whole name.
pub fn cluster(short: &str) -> String {
    match short {
        MAIN => format!("outbound|{PORT}||{}", host(MAIN)),
        color => format!("outbound|{PORT}|{color}|{}", host(SWITCH)),
    }
}

/// What becomes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Ready,
    /// Terminating: it still serves, and takes nothing new.
    Draining,
    Gone,
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A VirtualService becomes routes that proxies must refuse.
    Route,
    /// A DestinationRule becomes clusters that proxies must refuse.
    Cluster,
}

pub struct Objects {
    plan: Plan,
    journal: Journal,
    record: Record,
    upstreams: Vec<IpAddr>,
    presence: Vec<Presence>,
    color: &'static str,
    invalid: Option<Invalid>,
    /// The newest version of any route.
    version: u64,
    current: BTreeMap<(&'static str, ObjectKey), (&'static Kind, Value)>,
}

fn kind(name: &str) -> Option<&'static Kind> {
    Mesh::watched().into_iter().find(|kind| kind.kind == name)
}

fn object(kind: &str, api_version: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": { "name": name, "namespace": NAMESPACE, "creationTimestamp": CREATED },
    });
    if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
        for (name, value) in rest {
            match (object.get_mut(&name), value) {
                (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                (_, value) => drop(object.insert(name, value)),
            }
        }
    }
    object
}

fn istio(kind: &str, name: &str, spec: Value) -> Value {
    object(
        kind,
        "networking.istio.io/v1",
        name,
        json!({ "spec": spec }),
    )
}

fn pod(name: &str, address: IpAddr, labels: Value) -> Value {
    object(
        "Pod",
        "v1",
        name,
        json!({
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "application" }] },
            "status": {
                "phase": "Running", "podIP": address.to_string(),
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }),
    )
}

fn milliseconds(count: u64) -> String {
    format!("{}.{:03}s", count / 1_000, count % 1_000)
}

impl Objects {
    /// The cluster as it is at the beginning. `proxies` are the addresses of the plan's.
    pub fn new(
        plan: Plan,
        journal: Journal,
        record: Record,
        upstreams: &[IpAddr],
        proxies: &[IpAddr],
    ) -> Objects {
        let mut objects = Objects {
            presence: vec![Presence::Ready; upstreams.len()],
            upstreams: upstreams.to_vec(),
            color: BLUE,
            invalid: None,
            version: 0,
            current: BTreeMap::new(),
            plan,
            journal,
            record,
        };
        let mut all = Vec::new();
        for (number, address) in upstreams.iter().enumerate() {
            let labels = json!({ "app": "upstream", "color": color_of(number) });
            all.push(pod(&name_of(number), *address, labels));
        }
        for (number, address) in proxies.iter().enumerate() {
            let labels = match objects.plan.roles[number] {
                NodeType::Sidecar => json!({ "app": "client" }),
                NodeType::Router => json!({ "istio": "gate" }),
            };
            all.push(pod(&format!("proxy-{}", number + 1), *address, labels));
        }
        all.push(istio(
            "Gateway",
            "gate",
            json!({
                "selector": { "istio": "gate" },
                "servers": [{ "port": { "number": PORT, "name": "http", "protocol": "HTTP" }, "hosts": ["*"] }],
            }),
        ));
        for (number, name) in [MAIN, SWITCH].into_iter().enumerate() {
            let [a, b, c, d] = SERVICE_ADDRESS;
            let address = format!("{a}.{b}.{c}.{}", usize::from(d) + number);
            all.push(object(
                "Service",
                "v1",
                name,
                json!({ "spec": {
                    "clusterIP": address, "clusterIPs": [address], "selector": { "app": "upstream" },
                    "ports": [{ "name": "http", "port": PORT, "protocol": "TCP", "targetPort": objects.upstream_port(name) }],
                }}),
            ));
            all.push(objects.slice(name));
            all.push(objects.rule(name, &[BLUE]));
            all.push(objects.route(name));
        }
        objects.put(all);
        objects
    }

    fn upstream_port(&self, service: &str) -> u16 {
        match self.plan.upstream_http2[usize::from(service == SWITCH)] {
            true => HTTP2_PORT,
            false => HTTP1_PORT,
        }
    }

    fn slice(&self, service: &str) -> Value {
        let mut endpoints = Vec::new();
        for (number, address) in self.upstreams.iter().enumerate() {
            let ready = match self.presence[number] {
                Presence::Ready => true,
                Presence::Draining => false,
                Presence::Gone => continue,
            };
            endpoints.push(json!({
                "addresses": [address.to_string()],
                "conditions": { "ready": ready, "serving": true, "terminating": !ready },
                "targetRef": { "kind": "Pod", "name": name_of(number), "namespace": NAMESPACE },
            }));
        }
        object(
            "EndpointSlice",
            "discovery.k8s.io/v1",
            &format!("{service}-x"),
            json!({
                "metadata": { "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{ "name": "http", "port": self.upstream_port(service), "protocol": "TCP" }],
            }),
        )
    }

    fn rule(&self, service: &str, colors: &[&str]) -> Value {
        let Plan {
            limits,
            outlier,
            upstream_http2,
            ..
        } = &self.plan;
        let hash = |table: Value| {
            let mut hash = json!({ "httpHeaderName": "x-request-number" });
            if let (Some(hash), Value::Object(table)) = (hash.as_object_mut(), table) {
                hash.extend(table);
            }
            json!({ "consistentHash": hash })
        };
        let balancing = match self.plan.balancing {
            // Not a prime.
            _ if self.invalid == Some(Invalid::Cluster) && service == MAIN => {
                hash(json!({ "maglev": { "tableSize": 4 } }))
            }
            Balancing::RoundRobin => json!({ "simple": "ROUND_ROBIN" }),
            Balancing::LeastRequest => json!({ "simple": "LEAST_REQUEST" }),
            Balancing::Random => json!({ "simple": "RANDOM" }),
            Balancing::RingHash => hash(json!({ "ringHash": { "minimumRingSize": 256 } })),
            Balancing::Maglev => hash(json!({ "maglev": { "tableSize": 251 } })),
        };
        let mut policy = json!({
            "loadBalancer": balancing,
            "connectionPool": {
                "tcp": {
                    "maxConnections": limits.connections,
                    "connectTimeout": milliseconds(CONNECT_TIMEOUT_MS),
                },
                "http": {
                    "http1MaxPendingRequests": limits.pending,
                    "http2MaxRequests": limits.requests,
                    "maxRetries": limits.retries,
                    // A changed cluster keeps its hosts, counts and ejections.
                    "maxRequestsPerConnection": 1_000 + self.version % 2,
                },
            },
            "outlierDetection": {
                "consecutive5xxErrors": outlier.consecutive_5xx,
                "interval": milliseconds(outlier.interval_ms),
                "baseEjectionTime": milliseconds(outlier.base_ms),
                "maxEjectionPercent": outlier.max_percent,
                "minHealthPercent": self.plan.panic_percent,
            },
        });
        if upstream_http2[usize::from(service == SWITCH)] {
            let http = &mut policy["connectionPool"]["http"];
            http["h2UpgradePolicy"] = json!("UPGRADE");
            http["http2KeepAlive"] = json!({ "interval": "0.500s", "timeout": "0.500s" });
        }
        if let Some(budget) = limits.budget {
            policy["retryBudget"] = json!({
                "percent": budget.percent, "minRetryConcurrency": budget.least,
            });
        }
        let subsets: Vec<Value> = match service {
            SWITCH => colors
                .iter()
                .map(|color| json!({ "name": color, "labels": { "color": color } }))
                .collect(),
            _ => Vec::new(),
        };
        istio(
            "DestinationRule",
            service,
            json!({ "host": host(service), "trafficPolicy": policy, "subsets": subsets }),
        )
    }

    /// A new version of a service's route.
    fn route(&mut self, service: &str) -> Value {
        self.version += 1;
        let number = self.version;
        let all = 0..self.upstreams.len();
        let leads = |upstream: &usize| service == MAIN || color_of(*upstream) == self.color;
        let invalid = service == MAIN && self.invalid == Some(Invalid::Route);
        self.record.version(Version {
            number,
            route: service.to_owned(),
            began_ms: now_ms(),
            hosts: all.filter(leads).map(name_of).collect(),
            invalid,
        });
        let mut destination = json!({ "host": host(service) });
        if service == SWITCH {
            destination["subset"] = json!(self.color);
        }
        let set = json!({ "set": { (VERSION_HEADER): number.to_string() } });
        let mut route = json!({
            "route": [{ "destination": destination }],
            "timeout": milliseconds(ROUTE_TIMEOUT_MS),
            "headers": { "request": set, "response": set },
            "retries": { "attempts": 0 },
        });
        if self.plan.retries > 0 {
            route["retries"] = json!({
                "attempts": self.plan.retries,
                "perTryTimeout": milliseconds(PER_TRY_TIMEOUT_MS),
                "retryOn": "5xx,connect-failure,reset",
                "retryIgnorePreviousHosts": true,
            });
        }
        if invalid {
            route["match"] =
                json!([{ "uri": { "regex": "/(main" } }, { "uri": { "prefix": "/" } }]);
        }
        istio(
            "VirtualService",
            service,
            json!({ "hosts": [host(service)], "gateways": ["mesh", "gate"], "http": [route] }),
        )
    }

    fn put(&mut self, objects: Vec<Value>) {
        let mut changes = Vec::new();
        for object in objects {
            // Only a misspelling in this file could name a kind that the mesh does not know.
            let name = object["kind"].as_str().unwrap_or_default();
            let Some(kind) = kind(name) else {
                self.record
                    .violation(format_args!("the mesh knows no {name}"));
                continue;
            };
            let key = (kind.kind, key_of(&object));
            self.current.insert(key, (kind, object.clone()));
            changes.push((kind, Change::Upsert(object)));
        }
        let at_ms = now_ms();
        self.journal.push(Batch { at_ms, changes });
    }

    /// Leads to the other color: first it is there, then the route leads to it, then the old one is gone.
    pub fn switch(&mut self) -> &'static str {
        let before = self.color;
        self.color = if before == BLUE { GREEN } else { BLUE };
        let both = self.rule(SWITCH, &[BLUE, GREEN]);
        let route = self.route(SWITCH);
        let one = self.rule(SWITCH, &[self.color]);
        for object in [both, route, one] {
            self.put(vec![object]);
        }
        self.color
    }

    /// Another version of both routes and their rules.
    pub fn touch(&mut self) {
        for service in [MAIN, SWITCH] {
            let route = self.route(service);
            let rule = self.rule(service, &[self.color]);
            self.put(vec![rule, route]);
        }
    }

    fn slices(&mut self) {
        let slices = [MAIN, SWITCH].map(|service| self.slice(service));
        self.put(slices.to_vec());
    }

    /// Drains a host; false where there would be too few.
    pub fn drain(&mut self, host: usize) -> bool {
        let ready = self
            .presence
            .iter()
            .filter(|presence| **presence == Presence::Ready)
            .count();
        if self.presence[host] != Presence::Ready || ready <= LEAST_HOSTS {
            return false;
        }
        self.presence[host] = Presence::Draining;
        self.slices();
        true
    }

    /// Takes a drained host away.
    pub fn remove(&mut self, host: usize) {
        if self.presence[host] == Presence::Draining {
            self.presence[host] = Presence::Gone;
            self.slices();
        }
    }

    /// Gives a host back.
    pub fn add(&mut self, host: usize) {
        if self.presence[host] != Presence::Ready {
            self.presence[host] = Presence::Ready;
            self.slices();
        }
    }

    /// Writes what must be refused; false where something is wrong already.
    pub fn spoil(&mut self, invalid: Invalid) -> bool {
        if self.invalid.is_some() {
            return false;
        }
        self.invalid = Some(invalid);
        self.rewrite(invalid);
        true
    }

    /// Puts right what must be refused.
    pub fn mend(&mut self) {
        if let Some(invalid) = self.invalid.take() {
            self.rewrite(invalid);
        }
    }

    fn rewrite(&mut self, invalid: Invalid) {
        let object = match invalid {
            Invalid::Route => self.route(MAIN),
            Invalid::Cluster => self.rule(MAIN, &[]),
        };
        self.put(vec![object]);
    }

    pub fn complete(&mut self) {
        self.mend();
        if self.presence.iter().any(|it| *it != Presence::Ready) {
            self.presence.fill(Presence::Ready);
            self.slices();
        }
    }

    /// A mesh that never saw anything but the objects as they are.
    pub fn mesh(&self) -> Mesh {
        let mut mesh = Mesh::new();
        for (kind, object) in self.current.values() {
            if let Err(error) = mesh.update(kind, Change::Upsert(object.clone())) {
                self.record.violation(format_args!("objects: {error}"));
            }
        }
        mesh
    }
}
