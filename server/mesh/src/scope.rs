//! What a workload sees: its services and rules, narrowed by a Sidecar. Workloads that see the same share one scope,
//! and with it everything made from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use trireme_decide::ObjectKey;
use trireme_model::istio::{self, OutboundTrafficMode};

use crate::host;
use crate::protocol::Protocol;
use crate::resource::Resource;
use crate::routing::{MESH_GATEWAY, Routing, RoutingIndex};
use crate::rules::{Rule, RuleIndex};
use crate::service::{Resolution, Service};
use crate::sight::Sight;
use crate::view::{View, selects};
use crate::workload::{Role, Workload};

/// Things that a scope keeps: clients may ask for routes by any name, and a mesh has fewer ports and detected services
/// than this. What is beyond is made again when asked for.
const MADE_KEPT: usize = 16_384;

/// What tells scopes apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScopeKey {
    pub role: Role,
    pub namespace: String,
    pub sidecar: Option<ObjectKey>,
    /// Empty unless some object looks at them.
    pub labels: BTreeMap<String, String>,
}

/// One of a Sidecar's egress listeners, or the one that stands for all.
#[derive(Debug)]
pub struct Egress {
    pub port: Option<EgressPort>,
    pub bind: String,
    /// The application connects to the listener itself: nothing is intercepted.
    pub bound: bool,
    pub services: BTreeMap<String, Arc<Service>>,
    pub routings: Vec<Arc<Routing>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressPort {
    pub number: u32,
    pub name: String,
    pub protocol: Protocol,
}

/// See the module's page.
#[derive(Debug)]
pub struct Scope {
    pub key: ScopeKey,
    pub egress: Vec<Egress>,
    /// All of them together, and those that their routes lead to.
    pub services: Arc<BTreeMap<String, Arc<Service>>>,
    /// Another wherever the workload sees other services than before.
    pub sight: Sight,
    /// Services that are other names of one, by its host.
    pub aliases: BTreeMap<String, Vec<Arc<Service>>>,
    pub rules: BTreeMap<String, Arc<Rule>>,
    pub allow_any: bool,
    /// Where traffic to the unknown goes instead of straight out.
    pub egress_proxy: Option<istio::Destination>,
    pub sidecar: Option<Arc<istio::Sidecar>>,
    /// What was made for this scope, by what it is and its name.
    pub(crate) made: Mutex<BTreeMap<(Made, String), Vec<Resource>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Made {
    OutboundClusters,
    OutboundListeners,
    Routes,
    GatewayListeners,
    ApiListener,
}

impl Scope {
    pub fn rule(&self, host: &str) -> Option<&Arc<Rule>> {
        self.rules.get(host)
    }

    pub fn service(&self, host: &str) -> Option<&Arc<Service>> {
        self.services.get(host)
    }

    /// The egress listener that stands for every port that no other names.
    pub fn catch_all(&self) -> Option<&Egress> {
        self.egress.iter().find(|egress| egress.port.is_none())
    }

    pub fn egress_of_port(&self, port: u32) -> Option<&Egress> {
        self.egress
            .iter()
            .find(|egress| egress.port.as_ref().is_some_and(|it| it.number == port))
            .or_else(|| self.catch_all())
    }

    /// Makes something once for all workloads of the scope.
    pub(crate) fn once(
        &self,
        what: Made,
        name: &str,
        make: impl FnOnce() -> Vec<Resource>,
    ) -> Vec<Resource> {
        let key = (what, name.to_owned());
        let made = |it: &Mutex<BTreeMap<_, Vec<Resource>>>| match it.lock() {
            Ok(made) => made.get(&key).cloned(),
            Err(_) => None,
        };
        if let Some(resources) = made(&self.made) {
            return resources;
        }
        let resources = make();
        if let Ok(mut made) = self.made.lock()
            && made.len() < MADE_KEPT
        {
            made.insert(key, resources.clone());
        }
        resources
    }

    pub fn key_of(
        view: &View,
        routings: &RoutingIndex,
        rules: &RuleIndex,
        workload: &Workload,
    ) -> ScopeKey {
        let filters = view.envoy_filters.values();
        let looks_at_labels = workload.role == Role::Router
            || routings.looks_at_labels
            || rules.looks_at_labels
            || filters
                .clone()
                .any(|it| it.spec.workload_selector.is_some());
        ScopeKey {
            role: workload.role,
            namespace: workload.namespace.clone(),
            sidecar: sidecar_of(view, workload).map(|it| ObjectKey::of(&it.metadata)),
            labels: match looks_at_labels {
                true => workload.labels.clone(),
                false => BTreeMap::new(),
            },
        }
    }

    pub fn build(
        view: &View,
        routings: &RoutingIndex,
        rules: &RuleIndex,
        workload: &Workload,
        key: ScopeKey,
    ) -> Scope {
        let sidecar = key.sidecar.as_ref().and_then(|it| view.sidecars.get(it));
        let namespace = workload.namespace.as_str();
        let visible = Visible { view, namespace };
        let mine: Vec<Arc<Routing>> = routings
            .of_gateway(MESH_GATEWAY)
            .iter()
            .filter(|routing| routing.visibility.includes(namespace))
            .cloned()
            .collect();
        let written = sidecar.map_or(&[][..], |it| &it.spec.egress);
        let mut services = BTreeMap::new();
        let egress: Vec<Egress> = match written.is_empty() {
            true => {
                let all = visible.all();
                services = match key.role {
                    Role::Router => led_to(view, routings, workload, visible),
                    Role::Sidecar | Role::Grpc => all.clone(),
                };
                vec![Egress {
                    port: None,
                    bind: String::new(),
                    bound: false,
                    services: all,
                    routings: mine,
                }]
            }
            false => {
                let narrow = |listener| narrowed(listener, visible, &mine);
                let egress: Vec<Egress> = written.iter().map(narrow).collect();
                for listener in &egress {
                    let own = listener.services.iter();
                    services.extend(own.map(|(host, service)| (host.clone(), service.clone())));
                    let led = listener.routings.iter().flat_map(|it| it.destinations());
                    for destination in led {
                        if let Some(service) = visible.get(&destination.host) {
                            services.insert(service.host.clone(), service.clone());
                        }
                    }
                }
                egress
            }
        };
        let found = services.iter().filter_map(|(host, service)| {
            let root = view.mesh.root_namespace.as_str();
            let rule = rules.find(service, namespace, &workload.labels, root)?;
            Some((host.clone(), rule.clone()))
        });
        let mut aliases: BTreeMap<String, Vec<Arc<Service>>> = BTreeMap::new();
        let other_names = services
            .values()
            .filter(|it| it.resolution == Resolution::Alias);
        for service in other_names {
            let same = aliases.entry(service.external_name.clone()).or_default();
            same.push(service.clone());
        }
        let policy = sidecar
            .and_then(|it| it.spec.outbound_traffic_policy.as_ref())
            .or(view.mesh.outbound_traffic_policy.as_ref());
        Scope {
            rules: found.collect(),
            aliases,
            key,
            egress,
            services: Arc::new(services),
            sight: Sight::default(),
            allow_any: policy.is_none_or(|it| it.mode == OutboundTrafficMode::AllowAny),
            egress_proxy: policy
                .and_then(|it| it.egress_proxy.clone())
                .map(|mut destination| {
                    destination.host = host::resolve(&destination.host, namespace);
                    destination
                }),
            sidecar: sidecar.cloned(),
            made: Mutex::default(),
        }
    }
}

/// All that a namespace sees: most Sidecars name a few of it, and nobody looks at the rest.
#[derive(Clone, Copy)]
struct Visible<'a> {
    view: &'a View,
    namespace: &'a str,
}

impl<'a> Visible<'a> {
    fn get(self, host: &str) -> Option<&'a Arc<Service>> {
        self.view.registry.visible(host, self.namespace)
    }

    fn all(self) -> BTreeMap<String, Arc<Service>> {
        let all = self.view.registry.all_visible(self.namespace);
        all.map(|(host, service)| (host.clone(), service.clone()))
            .collect()
    }
}

/// What a gateway's routes lead to, and what its rate limits ask: it has no use for the rest of the mesh.
fn led_to(
    view: &View,
    routings: &RoutingIndex,
    workload: &Workload,
    visible: Visible<'_>,
) -> BTreeMap<String, Arc<Service>> {
    let gateways = crate::gateway::selecting(view, workload).into_iter();
    let bound = gateways.flat_map(|gateway| {
        let name = ObjectKey::of(&gateway.metadata).to_string();
        routings.of_gateway(&name).iter()
    });
    let bound = bound.filter(|it| it.visibility.includes(&workload.namespace));
    let mut hosts: Vec<String> = bound
        .flat_map(|routing| routing.destinations())
        .map(|destination| destination.host.clone())
        .collect();
    hosts.extend(crate::filters::asked_hosts(view, workload));
    let mut services = BTreeMap::new();
    for host in hosts {
        let Some(service) = visible.get(&host) else {
            continue;
        };
        if let Some(behind) = visible.get(&service.external_name) {
            services.insert(behind.host.clone(), behind.clone());
        }
        services.insert(host, service.clone());
    }
    services
}

/// The Sidecar that holds for a workload: one of its namespace that selects it, else one of its namespace without a
/// selector, else the root namespace's without one; of several the oldest.
pub fn sidecar_of<'a>(view: &'a View, workload: &Workload) -> Option<&'a Arc<istio::Sidecar>> {
    if workload.role == Role::Router {
        return None;
    }
    let of_namespace = |namespace: &str| {
        let mut found: Vec<_> = view
            .sidecars
            .values()
            .filter(|it| it.namespace() == namespace)
            .collect();
        found.sort_by_key(|it| it.metadata.creation_timestamp.as_ref().map(|it| it.0));
        found
    };
    let own = of_namespace(&workload.namespace);
    let selects_it = |it: &&&Arc<istio::Sidecar>| {
        let selector = it.spec.workload_selector.as_ref();
        selector.is_some_and(|it| selects(&it.labels, &workload.labels))
    };
    let for_all = |it: &&&Arc<istio::Sidecar>| it.spec.workload_selector.is_none();
    own.iter()
        .find(selects_it)
        .or_else(|| own.iter().find(for_all))
        .copied()
        .or_else(|| {
            of_namespace(&view.mesh.root_namespace)
                .iter()
                .find(for_all)
                .copied()
        })
}

fn narrowed(
    listener: &istio::EgressListener,
    visible: Visible<'_>,
    routings: &[Arc<Routing>],
) -> Egress {
    let Visible { view, namespace } = visible;
    let patterns: Vec<(&str, String)> = listener
        .hosts
        .iter()
        .filter_map(|text| text.split_once('/'))
        .map(|(within, name)| (if within == "." { namespace } else { within }, name))
        .filter(|(within, _)| *within != "~")
        .map(|(within, name)| (within, name.to_ascii_lowercase()))
        .collect();
    let within = |pattern: &str, of: &str| pattern == "*" || pattern == of;
    let picks = |service: &Service| {
        let mut patterns = patterns.iter();
        patterns.any(|(space, name)| {
            host::covers(name, &service.host) && within(space, &service.namespace)
        })
    };
    let mut services = BTreeMap::new();
    let mut pick = |name: &String, service: &Arc<Service>| {
        // Another namespace's service of that name may be the one that is asked for.
        let candidates = view.registry.of_host(name).iter();
        let picked = [service].into_iter().chain(candidates);
        let mut picked = picked.filter(|it| it.visibility.includes(namespace) && picks(it));
        if let Some(service) = picked.next() {
            services.insert(name.clone(), service.clone());
        }
    };
    if patterns.iter().any(|(_, name)| host::is_wildcard(name)) {
        for (name, service) in view.registry.all_visible(namespace) {
            pick(name, service);
        }
    } else {
        // Named one by one: there is no need to look at all the others.
        for (_, name) in &patterns {
            if let Some(service) = visible.get(name) {
                pick(name, service);
            }
        }
    }
    let taken = routings.iter().filter(|routing| {
        patterns.iter().any(|(space, name)| {
            within(space, &routing.key.namespace)
                && routing.hosts.iter().any(|host| host::matches(name, host))
        })
    });
    let routings = taken.cloned().collect();
    Egress {
        port: listener.port.as_ref().map(|port| EgressPort {
            number: port.number,
            name: port.name.clone(),
            protocol: Protocol::parse(&port.protocol),
        }),
        bind: listener.bind.clone(),
        bound: listener.capture_mode == istio::CaptureMode::None,
        services,
        routings,
    }
}
