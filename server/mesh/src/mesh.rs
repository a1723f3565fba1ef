//! The mesh: the view, what was made from it, and the answers to those who ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use trireme_decide::{Change, ObjectKey};
use trireme_model::kinds::Kind as ObjectKind;
use trireme_xds::Kind;
use trireme_xds::node::NodeIdError;
use trireme_xds::pb::envoy::config::core::v3::Node;

use crate::assignment::{self, Client};
use crate::cluster;
use crate::endpoint::{endpoints, locality_of};
use crate::ingress::ingress;
use crate::resource::{Resource, Subscription};
use crate::routing::RoutingIndex;
use crate::rules::RuleIndex;
use crate::scope::{Made, Scope, ScopeKey};
use crate::service::Service;
use crate::sight::{Scopes, Sight};
use crate::stale::{Affected, Stale, Types};
use crate::view::{MeshError, View, selects};
use crate::workload::{CLUSTER_ID, Role, Workload};
use crate::{gateway, grpc, listener, route, secret};

/// Assignments that are kept: those of 5,000 services for two places, about 40 MB of endpoints at ten a service.
/// Beyond that the oldest names go, and cost their making again when asked for.
const ASSIGNMENTS_KEPT: usize = 20_000;

/// What an assignment depends on besides its service: host, cluster, who asks.
type AssignmentKey = (String, String, ScopeKey, String);

/// See the module's page.
#[derive(Debug, Default)]
pub struct Mesh {
    view: View,
    routings: OnceLock<RoutingIndex>,
    rules: OnceLock<RuleIndex>,
    scopes: Mutex<Scopes>,
    assignments: Mutex<BTreeMap<AssignmentKey, Resource>>,
}

impl Mesh {
    pub fn new() -> Mesh {
        Mesh::default()
    }

    /// Every kind of object to list and watch, each storage once.
    pub fn watched() -> Vec<&'static ObjectKind> {
        View::watched()
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes in one change and answers what it makes stale. A malformed object leaves everything as it was.
    pub fn update(
        &mut self,
        kind: &'static ObjectKind,
        change: Change,
    ) -> Result<Stale, MeshError> {
        let stale = self.view.update(kind, change)?;
        // Where pods run and what Secrets hold is not part of what a scope keeps.
        let kept = Types::CLUSTERS.and(Types::LISTENERS).and(Types::ROUTES);
        if stale.types.meets(kept) {
            self.routings = OnceLock::new();
            self.rules = OnceLock::new();
            let scopes = self.scopes.get_mut();
            scopes.unwrap_or_else(PoisonError::into_inner).forget();
        }
        let assignments = self.assignments.get_mut();
        let assignments = assignments.unwrap_or_else(PoisonError::into_inner);
        if stale.types.contains(Types::ENDPOINTS) {
            assignments.clear();
        } else {
            for host in &stale.endpoints {
                let of_host =
                    assignments.range((host.clone(), String::new(), first(), String::new())..);
                let of_host = of_host.take_while(|((other, ..), _)| other == host);
                let keys: Vec<AssignmentKey> = of_host.map(|(key, _)| key.clone()).collect();
                for key in keys {
                    assignments.remove(&key);
                }
            }
        }
        Ok(stale)
    }

    /// The workload behind a node, completed by what the cluster knows of its pod.
    pub fn workload(&self, node: &Node) -> Result<Workload, NodeIdError> {
        let mut workload = Workload::from_node(node)?;
        if let Some(pod) = self.view.pods.get(&workload.key()) {
            // The pod's labels are the truth; what the proxy sent is what they were when it started.
            workload.labels.clone_from(&pod.labels);
            if workload.locality.is_unknown() {
                workload.locality = locality_of(&self.view, pod);
            }
            workload.node_name.clone_from(&pod.node);
        } else if workload.locality.is_unknown()
            && let Some(known) = self.view.localities.get(&workload.node_name)
        {
            workload.locality = known.clone();
        }
        Ok(workload)
    }

    /// The workload that a pod's proxy would be.
    pub fn workload_of_pod(&self, key: &ObjectKey) -> Option<Workload> {
        let pod = self.view.pods.get(key)?;
        Some(Workload {
            role: match self.is_gateway(&pod.labels) {
                true => Role::Router,
                false => Role::Sidecar,
            },
            address: pod.address.clone(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
            node_name: pod.node.clone(),
            cluster_id: CLUSTER_ID.to_owned(),
            workload_name: pod.workload.clone(),
            locality: locality_of(&self.view, pod),
        })
    }

    /// Some Gateway selects pods with these labels, or they are the gateways that every cluster has.
    fn is_gateway(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut gateways = self.view.gateways.values();
        gateways.any(|it| !it.spec.selector.is_empty() && selects(&it.spec.selector, labels))
            || labels
                .get("istio")
                .is_some_and(|it| it == "ingressgateway" || it == "egressgateway")
    }

    /// The resources of a kind that a workload should have, of those subscribed to. A name that means nothing to it
    /// is left out, except routes: an unknown one is there and empty, as Envoy waits for it.
    pub fn generate(&self, workload: &Workload, kind: Kind, names: &Subscription) -> Vec<Resource> {
        let scope = self.scope(workload);
        let mut resources = match kind {
            Kind::Cluster => self.clusters(&scope, workload),
            Kind::Listener => self.listeners(&scope, workload),
            Kind::Route => return self.routes(&scope, workload, names),
            Kind::Endpoint => return self.endpoints(&scope, workload, names),
            Kind::Secret => return secret::secrets(&self.view, &scope, workload, names),
        };
        resources.retain(|resource| names.contains(&resource.name));
        resources
    }

    /// What of a change concerns a workload. `sight` is what its scope had when it was last asked for.
    pub fn affected(&self, stale: &Stale, workload: &Workload, sight: Sight) -> Affected {
        let scope = self.scope(workload);
        let all = stale.workloads.contains(&workload.key()) || scope.sight != sight;
        let mut affected = Affected {
            types: if all { Types::ALL } else { stale.types },
            endpoints: BTreeSet::new(),
            sight: scope.sight,
        };
        if affected.types.contains(Types::ENDPOINTS) {
            return affected;
        }
        for host in &stale.endpoints {
            if let Some(service) = scope.service(host) {
                affected.endpoints.extend(assignment_names(&scope, service));
            }
        }
        affected
    }

    pub(crate) fn routings(&self) -> &RoutingIndex {
        self.routings
            .get_or_init(|| RoutingIndex::build(&self.view))
    }

    pub(crate) fn rules(&self) -> &RuleIndex {
        self.rules.get_or_init(|| RuleIndex::build(&self.view))
    }

    /// What the workload sees.
    pub fn scope(&self, workload: &Workload) -> Arc<Scope> {
        let key = Scope::key_of(&self.view, self.routings(), self.rules(), workload);
        let scopes = || self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = scopes().get(&key) {
            return scope;
        }
        let built = Scope::build(&self.view, self.routings(), self.rules(), workload, key);
        scopes().keep(built)
    }

    fn clusters(&self, scope: &Scope, workload: &Workload) -> Vec<Resource> {
        let client = client(workload);
        let place = match cluster::depends_on_place(&self.view, scope) {
            true => place(workload),
            false => String::new(),
        };
        let mut clusters = scope.once(Made::OutboundClusters, &place, || {
            let mut made = cluster::outbound(&self.view, scope, client);
            made.extend(crate::filters::clusters(&self.view, workload));
            made
        });
        if workload.role == Role::Sidecar {
            clusters.extend(cluster::inbound(
                &self.view,
                &ingress(&self.view, scope, workload),
            ));
        }
        clusters
    }

    fn listeners(&self, scope: &Scope, workload: &Workload) -> Vec<Resource> {
        match workload.role {
            Role::Sidecar => {
                let mut listeners = scope.once(Made::OutboundListeners, "", || {
                    listener::outbound(&self.view, scope, workload)
                });
                // To itself a pod connects without a proxy.
                let own = format!("{}_", workload.address);
                listeners.retain(|it| !it.name.starts_with(&own));
                listeners.extend(listener::inbound(&self.view, scope, workload));
                listeners
            }
            Role::Router => scope.once(Made::GatewayListeners, "", || {
                gateway::listeners(&self.view, self.routings(), scope, workload)
            }),
            Role::Grpc => scope.once(Made::ApiListener, "", || grpc::listeners(scope)),
        }
    }

    fn routes(&self, scope: &Scope, workload: &Workload, names: &Subscription) -> Vec<Resource> {
        let all;
        let names = match names {
            Subscription::Names(names) => names,
            Subscription::All => {
                all = match workload.role {
                    Role::Sidecar => listener::route_names(&self.view, scope),
                    Role::Router => {
                        gateway::route_names(&self.view, self.routings(), scope, workload)
                    }
                    Role::Grpc => grpc::route_names(scope),
                };
                &all
            }
        };
        let make = |name: &String| {
            scope.once(Made::Routes, name, || {
                let route = match workload.role {
                    Role::Sidecar => route::outbound(&self.view, scope, workload, name),
                    Role::Router => {
                        gateway::routes(&self.view, self.routings(), scope, workload, name)
                    }
                    Role::Grpc => grpc::routes(&self.view, scope, workload, name),
                };
                vec![Resource::new(name.clone(), &route)]
            })
        };
        names.iter().flat_map(make).collect()
    }

    fn endpoints(&self, scope: &Scope, workload: &Workload, names: &Subscription) -> Vec<Resource> {
        let all: BTreeSet<String>;
        let names = match names {
            Subscription::Names(names) => names,
            Subscription::All => {
                let services = scope.services.values();
                let names = services.flat_map(|service| assignment_names(scope, service));
                all = names.collect();
                &all
            }
        };
        names
            .iter()
            .filter_map(|name| self.assignment(scope, workload, name))
            .collect()
    }

    /// `None` where the workload does not see the service, or its endpoints are not sent apart.
    fn assignment(&self, scope: &Scope, workload: &Workload, name: &str) -> Option<Resource> {
        let (number, subset, host) = cluster::parse_name(name)?;
        let service = scope.service(host)?;
        let port = service.port(number)?;
        let rule = scope.rule(host);
        let subset = match subset {
            "" => None,
            subset => Some(rule?.subset(subset)?),
        };
        let policy = rule.map(|it| it.policy(number, subset)).unwrap_or_default();
        let place = match assignment::depends_on_place(&self.view.mesh, &policy) {
            true => place(workload),
            false => String::new(),
        };
        let key = (host.to_owned(), name.to_owned(), scope.key.clone(), place);
        let lock = || {
            self.assignments
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(known) = lock().get(&key) {
            return Some(known.clone());
        }
        let mut found = endpoints(&self.view, service, port);
        found.retain(|it| subset.is_none_or(|subset| selects(&subset.labels, &it.labels)));
        let client = client(workload);
        let load = assignment::assignment(name, &found, &self.view.mesh, &policy, client);
        let resource = Resource::new(name, &load);
        let mut assignments = lock();
        if assignments.len() >= ASSIGNMENTS_KEPT {
            assignments.pop_first();
        }
        assignments.insert(key, resource.clone());
        Some(resource)
    }
}

/// The least key of a host's assignments.
fn first() -> ScopeKey {
    ScopeKey {
        role: Role::Sidecar,
        namespace: String::new(),
        sidecar: None,
        labels: BTreeMap::new(),
    }
}

fn assignment_names(scope: &Scope, service: &Service) -> Vec<String> {
    if !service.has_endpoint_resources() {
        return Vec::new();
    }
    let targets = cluster::targets(scope, service).into_iter();
    targets
        .map(|(port, subset)| {
            let subset = subset.map_or("", |it| it.name.as_str());
            cluster::name(port.number, subset, &service.host)
        })
        .collect()
}

fn client(workload: &Workload) -> Client<'_> {
    Client {
        locality: &workload.locality,
        labels: &workload.labels,
        node: &workload.node_name,
    }
}

/// What of a client preferences among endpoints look at.
fn place(workload: &Workload) -> String {
    let labels: Vec<String> = workload
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!(
        "{} {} {}",
        workload.locality,
        workload.node_name,
        labels.join(",")
    )
}
