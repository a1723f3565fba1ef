//! DestinationRules made ready: those of one host put together, and which of them holds for whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_decide::ObjectKey;
use trireme_model::istio::{PortTrafficPolicy, Subset, TrafficPolicy};

use crate::host;
use crate::reference;
use crate::service::{Service, Visibility};
use crate::view::View;

/// The DestinationRules of one namespace for one host, the oldest first: its policy is the first that gives one,
/// subsets are gathered.
#[derive(Debug, Clone)]
pub struct Rule {
    pub keys: Vec<ObjectKey>,
    pub host: String,
    pub namespace: String,
    pub visibility: Visibility,
    /// Of the client; empty means all.
    pub selector: BTreeMap<String, String>,
    pub policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
    /// How metadata names it.
    pub reference: String,
}

impl Rule {
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| subset.name == name)
    }

    /// The policy of a port, for a subset or the whole service.
    pub fn policy(&self, port: u32, subset: Option<&Subset>) -> TrafficPolicy {
        let mut policy = of_port(self.policy.as_ref(), port);
        if let Some(own) = subset.and_then(|subset| subset.traffic_policy.as_ref()) {
            overlay(&mut policy, own, port);
        }
        policy
    }
}

/// A port that is named takes nothing of the four from the rest.
fn of_port(policy: Option<&TrafficPolicy>, port: u32) -> TrafficPolicy {
    let mut policy = policy.cloned().unwrap_or_default();
    if let Some(own) = port_settings(&policy, port).cloned() {
        take(&mut policy, own);
    }
    policy.port_level_settings.clear();
    policy
}

fn port_settings(policy: &TrafficPolicy, port: u32) -> Option<&PortTrafficPolicy> {
    let mut settings = policy.port_level_settings.iter();
    settings.find(|it| it.port.as_ref().is_some_and(|it| it.number == port))
}

fn take(policy: &mut TrafficPolicy, own: PortTrafficPolicy) {
    policy.load_balancer = own.load_balancer;
    policy.connection_pool = own.connection_pool;
    policy.outlier_detection = own.outlier_detection;
    policy.tls = own.tls;
}

/// What a subset says goes before what the rule says.
fn overlay(policy: &mut TrafficPolicy, subset: &TrafficPolicy, port: u32) {
    fn or<T: Clone>(under: &mut Option<T>, over: &Option<T>) {
        if over.is_some() {
            under.clone_from(over);
        }
    }
    or(&mut policy.load_balancer, &subset.load_balancer);
    or(&mut policy.connection_pool, &subset.connection_pool);
    or(&mut policy.outlier_detection, &subset.outlier_detection);
    or(&mut policy.tls, &subset.tls);
    or(&mut policy.tunnel, &subset.tunnel);
    or(&mut policy.proxy_protocol, &subset.proxy_protocol);
    or(&mut policy.retry_budget, &subset.retry_budget);
    if let Some(own) = port_settings(subset, port).cloned() {
        take(policy, own);
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct RuleIndex {
    exact: BTreeMap<(String, String), Vec<Arc<Rule>>>,
    /// For each namespace, the most specific first.
    wildcards: BTreeMap<String, Vec<Arc<Rule>>>,
    pub looks_at_labels: bool,
}

impl RuleIndex {
    pub fn build(view: &View) -> RuleIndex {
        let mut objects: Vec<_> = view.destination_rules.values().collect();
        objects.sort_by_key(|object| {
            let created = object.metadata.creation_timestamp.as_ref().map(|it| it.0);
            (
                created,
                object.name().to_owned(),
                object.namespace().to_owned(),
            )
        });
        let mut merged: BTreeMap<(String, String), Vec<Rule>> = BTreeMap::new();
        let mut looks_at_labels = false;
        for object in objects {
            let namespace = object.namespace().to_owned();
            let host = host::resolve(&object.spec.host, &namespace);
            let export_to = match object.spec.export_to.is_empty() {
                true => &view.mesh.default_destination_rule_export_to,
                false => &object.spec.export_to,
            };
            let visibility = Visibility::read(export_to.iter().map(String::as_str), &namespace);
            let selector = object.spec.workload_selector.as_ref();
            let selector = selector
                .map(|it| it.match_labels.clone())
                .unwrap_or_default();
            looks_at_labels |= !selector.is_empty();
            let key = ObjectKey::of(&object.metadata);
            let rules = merged.entry((namespace.clone(), host.clone())).or_default();
            let same = rules
                .iter_mut()
                .find(|rule| rule.selector == selector && rule.visibility == visibility);
            match same {
                Some(rule) => {
                    rule.keys.push(key);
                    if rule.policy.is_none() {
                        rule.policy.clone_from(&object.spec.traffic_policy);
                    }
                    for subset in &object.spec.subsets {
                        if rule.subset(&subset.name).is_none() {
                            rule.subsets.push(subset.clone());
                        }
                    }
                }
                None => {
                    let mut subsets: Vec<Subset> = Vec::new();
                    for subset in &object.spec.subsets {
                        if subsets.iter().all(|known| known.name != subset.name) {
                            subsets.push(subset.clone());
                        }
                    }
                    rules.push(Rule {
                        reference: reference("DestinationRule", &key),
                        keys: vec![key],
                        host,
                        namespace,
                        visibility,
                        selector,
                        policy: object.spec.traffic_policy.clone(),
                        subsets,
                    });
                }
            }
        }
        let mut index = RuleIndex {
            looks_at_labels,
            ..RuleIndex::default()
        };
        for ((namespace, host), mut rules) in merged {
            // One that selects its clients goes before one that does not.
            rules.sort_by_key(|rule| rule.selector.is_empty());
            let rules: Vec<Arc<Rule>> = rules.into_iter().map(Arc::new).collect();
            match host::is_wildcard(&host) {
                true => index.wildcards.entry(namespace).or_default().extend(rules),
                false => drop(index.exact.insert((namespace, host), rules)),
            }
        }
        for rules in index.wildcards.values_mut() {
            rules.sort_by(|one, other| host::by_specificity(&one.host, &other.host));
        }
        index
    }

    /// The rule for a service's host as a client sees it: its own namespace's, else the service's, else the root's;
    /// within one the most specific.
    pub fn find(
        &self,
        service: &Service,
        client_namespace: &str,
        client_labels: &BTreeMap<String, String>,
        root_namespace: &str,
    ) -> Option<&Arc<Rule>> {
        let mut tried: Vec<&str> = Vec::with_capacity(3);
        for namespace in [client_namespace, service.namespace.as_str(), root_namespace] {
            if tried.contains(&namespace) {
                continue;
            }
            tried.push(namespace);
            let fits = |rule: &&Arc<Rule>| {
                // A selector means workloads of the rule's own namespace.
                let selected = rule.selector.is_empty()
                    || (namespace == client_namespace
                        && crate::view::selects(&rule.selector, client_labels));
                let seen =
                    namespace == client_namespace || rule.visibility.includes(client_namespace);
                selected && seen && host::covers(&rule.host, &service.host)
            };
            let exact = self
                .exact
                .get(&(namespace.to_owned(), service.host.clone()));
            let exact = exact.into_iter().flatten();
            let wildcards = self.wildcards.get(namespace).into_iter().flatten();
            if let Some(rule) = exact.chain(wildcards).find(fits) {
                return Some(rule);
            }
        }
        None
    }
}
