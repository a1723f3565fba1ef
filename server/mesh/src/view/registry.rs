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
    /// Sources in each namespace that select pods or WorkloadEntries.
    selecting: BTreeMap<String, Vec<Arc<Service>>>,
    entries_selecting: BTreeMap<String, Vec<Arc<Service>>>,
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
            remove(&mut self.selecting, &old.namespace, &old);
            remove(&mut self.entries_selecting, &old.namespace, &old);
        }
        let services: Vec<Arc<Service>> = services.into_iter().map(Arc::new).collect();
        for service in &services {
            let same_host = self.by_host.entry(service.host.clone()).or_default();
            let place = same_host.partition_point(|other| rank(other) <= rank(service));
            same_host.insert(place, service.clone());
            if !service.selector.is_empty() {
                let in_namespace = self.selecting.entry(service.namespace.clone());
                in_namespace.or_default().push(service.clone());
                if origin == Origin::ServiceEntry {
                    let in_namespace = self.entries_selecting.entry(service.namespace.clone());
                    in_namespace.or_default().push(service.clone());
                }
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
        let services = self.of_host(host).iter();
        services
            .clone()
            .find(|it| it.namespace == namespace && it.visibility.includes(namespace))
            .or_else(|| {
                services
                    .clone()
                    .find(|it| it.visibility.includes(namespace))
            })
    }

    pub fn of_source(&self, origin: Origin, key: &ObjectKey) -> &[Arc<Service>] {
        self.by_source
            .get(&(origin, key.clone()))
            .map_or(&[], Vec::as_slice)
    }

    /// Services of a namespace whose selector fits the labels.
    pub fn selecting<'a>(
        &'a self,
        namespace: &str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Service>> {
        let services = self.selecting.get(namespace).into_iter().flatten();
        services.filter(|service| selects(&service.selector, labels))
    }

    /// ServiceEntries of a namespace whose selector fits the labels: few, so that a pod's change need not look at
    /// every Service beside it.
    pub fn entries_selecting<'a>(
        &'a self,
        namespace: &str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Service>> {
        let services = self.entries_selecting.get(namespace).into_iter().flatten();
        services.filter(|service| selects(&service.selector, labels))
    }
}

/// Whether every label that is asked for is there. An empty selector selects everything.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

fn remove(index: &mut BTreeMap<String, Vec<Arc<Service>>>, slot: &str, service: &Arc<Service>) {
    if let Some(services) = index.get_mut(slot) {
        services.retain(|other| !Arc::ptr_eq(other, service));
        if services.is_empty() {
            index.remove(slot);
        }
    }
}
