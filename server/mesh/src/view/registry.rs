//! All services by host, by what they come from, and by what they select.

use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_decide::ObjectKey;

use crate::service::{Origin, Service};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Registry {
    by_source: BTreeMap<(Origin, ObjectKey), Vec<Arc<Service>>>,
    /// For each host, the one that counts first: Kubernetes' before entries, then the oldest.
    by_host: BTreeMap<String, Vec<Arc<Service>>>,
    /// Services that select pods or WorkloadEntries.
    selecting: Selecting,
    /// Of those, ServiceEntries.
    entries_selecting: Selecting,
}

/// Services with a selector by namespace and the first label that they ask for, so that what selects a pod is found
/// by the pod's labels, and not by a look at every service beside it.
#[derive(Debug, Default)]
struct Selecting(BTreeMap<String, BTreeMap<(String, String), Vec<Arc<Service>>>>);

impl Selecting {
    /// One that selects nothing is left out.
    fn insert(&mut self, service: &Arc<Service>) {
        let Some((name, value)) = service.selector.first_key_value() else {
            return;
        };
        let in_namespace = self.0.entry(service.namespace.clone()).or_default();
        let asking = in_namespace.entry((name.clone(), value.clone()));
        asking.or_default().push(service.clone());
    }

    fn remove(&mut self, service: &Arc<Service>) {
        let (Some((name, value)), Some(in_namespace)) = (
            service.selector.first_key_value(),
            self.0.get_mut(&service.namespace),
        ) else {
            return;
        };
        remove(in_namespace, &(name.clone(), value.clone()), service);
        if in_namespace.is_empty() {
            self.0.remove(&service.namespace);
        }
    }

    /// Those that fit the labels, the one that counts first before the others.
    fn fitting(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&Arc<Service>> {
        let Some(in_namespace) = self.0.get(namespace) else {
            return Vec::new();
        };
        let asking = labels
            .iter()
            .filter_map(|(name, value)| in_namespace.get(&(name.clone(), value.clone())));
        let mut found: Vec<&Arc<Service>> = asking
            .flatten()
            .filter(|service| selects(&service.selector, labels))
            .collect();
        found.sort_by(|one, other| rank(one).cmp(&rank(other)));
        found
    }
}

fn rank(service: &Service) -> impl Ord + '_ {
    (service.origin, service.created, &service.source)
}

impl Registry {
    /// Puts the services of one object in the place of those it had; whether that makes a difference.
    pub fn replace(&mut self, origin: Origin, key: &ObjectKey, services: Vec<Service>) -> bool {
        let slot = (origin, key.clone());
        let before = self.by_source.get(&slot);
        let same = before.map_or(services.is_empty(), |before| {
            before.len() == services.len()
                && before
                    .iter()
                    .zip(&services)
                    .all(|(one, other)| **one == *other)
        });
        if same {
            return false;
        }
        for old in self.by_source.remove(&slot).unwrap_or_default() {
            remove(&mut self.by_host, &old.host, &old);
            self.selecting.remove(&old);
            self.entries_selecting.remove(&old);
        }
        let services: Vec<Arc<Service>> = services.into_iter().map(Arc::new).collect();
        for service in &services {
            let same_host = self.by_host.entry(service.host.clone()).or_default();
            let place = same_host.partition_point(|other| rank(other) <= rank(service));
            same_host.insert(place, service.clone());
            self.selecting.insert(service);
            if origin == Origin::ServiceEntry {
                self.entries_selecting.insert(service);
            }
        }
        if !services.is_empty() {
            self.by_source.insert(slot, services);
        }
        true
    }

    /// Every host and the services of that name, by host.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Vec<Arc<Service>>)> {
        self.by_host.iter()
    }

    pub fn of_host(&self, host: &str) -> &[Arc<Service>] {
        self.by_host.get(host).map_or(&[], Vec::as_slice)
    }

    /// The service of that name that a namespace sees.
    pub fn visible(&self, host: &str, namespace: &str) -> Option<&Arc<Service>> {
        seen(self.of_host(host), namespace)
    }

    /// All that a namespace sees, by host.
    pub fn all_visible<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Service>)> {
        let hosts = self.by_host.iter();
        hosts.filter_map(move |(host, services)| Some((host, seen(services, namespace)?)))
    }

    pub fn of_source(&self, origin: Origin, key: &ObjectKey) -> &[Arc<Service>] {
        self.by_source
            .get(&(origin, key.clone()))
            .map_or(&[], Vec::as_slice)
    }

    /// Services of a namespace whose selector fits the labels.
    pub fn selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<&Arc<Service>> {
        self.selecting.fitting(namespace, labels)
    }

    /// ServiceEntries of a namespace whose selector fits the labels.
    pub fn entries_selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<&Arc<Service>> {
        self.entries_selecting.fitting(namespace, labels)
    }
}

/// Of the services of one host, the one that a namespace sees: its own before others.
fn seen<'a>(services: &'a [Arc<Service>], namespace: &str) -> Option<&'a Arc<Service>> {
    let sees = |it: &&Arc<Service>| it.visibility.includes(namespace);
    let own = services.iter().filter(|it| it.namespace == namespace);
    own.clone()
        .find(sees)
        .or_else(|| services.iter().find(sees))
}

/// Whether every label that is asked for is there. An empty selector selects everything.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

fn remove<K: Ord>(index: &mut BTreeMap<K, Vec<Arc<Service>>>, slot: &K, service: &Arc<Service>) {
    if let Some(services) = index.get_mut(slot) {
        services.retain(|other| !Arc::ptr_eq(other, service));
        if services.is_empty() {
            index.remove(slot);
        }
    }
}
