//! Warnings for Istio's objects that name what is not there, or claim what another one claims.
//!
//! They are admitted all the same: manifests come in any order. What stays wrong is told again by the object's status
//! conditions, which follow the cluster; this tells whoever writes the object at once.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use trireme_model::Value;
use trireme_model::istio::{
    Destination, DestinationRule, DestinationRuleSpec, HttpRoute, Object, ServiceEntry,
    ServiceEntrySpec, VirtualService, VirtualServiceSpec,
};
use trireme_model::kinds::{
    DESTINATION_RULE, GATEWAY, Kind, SERVICE, SERVICE_ENTRY, VIRTUAL_SERVICE,
};

use crate::api::Api;

/// Every sidecar.
const MESH: &str = "mesh";
/// Most objects of a kind that are looked through on a write, a few milliseconds' work; in larger clusters the
/// conditions alone tell.
const SCAN_MAX: usize = 2000;

/// What of a new or changed object's names leads nowhere. Answers nothing where the store cannot be read: a warning
/// is no reason to refuse a write.
pub(super) fn warnings(api: &Api, kind: &Kind, object: &Value) -> Vec<String> {
    let names = Names { api };
    let mut found = Vec::new();
    if *kind == *VIRTUAL_SERVICE {
        if let Ok(object) = Object::read(object) {
            virtual_service(&names, &object, &mut found);
        }
    } else if *kind == *DESTINATION_RULE
        && let Ok(object) = Object::read(object)
    {
        destination_rule(&names, &object, &mut found);
    }
    found
}

fn virtual_service(names: &Names<'_>, object: &VirtualService, found: &mut Vec<String>) {
    let namespace = object.namespace();
    let mut seen = BTreeSet::new();
    for (path, destination) in destinations(object) {
        let host = names.full(&destination.host, namespace);
        if !seen.insert((host.clone(), destination.subset.clone())) {
            continue;
        }
        if !names.is_host(&host) {
            found.push(format!("{path}.host: Referenced host not found: {host:?}"));
        } else if !destination.subset.is_empty() && !names.has_subset(&host, &destination.subset) {
            found.push(format!(
                "{path}.subset: Referenced host+subset in destinationrule not found: \"{host}+{}\"",
                destination.subset
            ));
        }
    }
    for (index, gateway) in object.spec.gateways.iter().enumerate() {
        let (own, name) = gateway
            .split_once('/')
            .unwrap_or((namespace, gateway.as_str()));
        if gateway != MESH && !name.contains('.') && !names.exists(GATEWAY, own, name) {
            found.push(format!(
                "spec.gateways[{index}]: Referenced gateway not found: \"{own}/{name}\""
            ));
        }
    }
    for (index, route) in object.spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else {
            continue;
        };
        let own = match delegate.namespace.as_str() {
            "" => namespace,
            other => other,
        };
        if !names.exists(VIRTUAL_SERVICE, own, &delegate.name) {
            found.push(format!(
                "spec.http[{index}].delegate: Referenced virtual service not found: \"{own}/{}\"",
                delegate.name
            ));
        }
    }
    same_hosts(names, object, found);
}

fn for_mesh(object: &VirtualService) -> bool {
    object.spec.gateways.is_empty() || object.spec.gateways.iter().any(|name| name == MESH)
}

/// Two objects that route a host for the mesh: sidecars go by the older one alone.
fn same_hosts(names: &Names<'_>, object: &VirtualService, found: &mut Vec<String>) {
    if !for_mesh(object) {
        return;
    }
    let namespace = object.namespace();
    for (index, host) in object.spec.hosts.iter().enumerate() {
        let host = names.full(host, namespace);
        let others = names.mentioning::<VirtualServiceSpec>(VIRTUAL_SERVICE, &host);
        for other in others {
            let (own, name) = (other.namespace(), other.name());
            let itself = own == namespace && name == object.name();
            let claims = other
                .spec
                .hosts
                .iter()
                .any(|claimed| names.full(claimed, own) == host);
            if !itself && for_mesh(&other) && claims {
                found.push(format!(
                    "spec.hosts[{index}]: virtual service {own}/{name} defines the same host {host:?} for the mesh, \
                     and only the older one is in force; merge them"
                ));
            }
        }
    }
}

fn destination_rule(names: &Names<'_>, object: &DestinationRule, found: &mut Vec<String>) {
    let host = names.full(&object.spec.host, object.namespace());
    if !names.is_host(&host) {
        found.push(format!("spec.host: Referenced host not found: {host:?}"));
    }
}

/// Where requests may go, each with its path.
fn destinations(object: &VirtualService) -> Vec<(String, &Destination)> {
    let mut all = Vec::new();
    for (index, route) in object.spec.http.iter().enumerate() {
        http_destinations(route, &format!("spec.http[{index}]"), &mut all);
    }
    let tls = object.spec.tls.iter().map(|route| &route.route);
    let tcp = object.spec.tcp.iter().map(|route| &route.route);
    for (field, routes) in [
        ("tls", tls.collect::<Vec<_>>()),
        ("tcp", tcp.collect::<Vec<_>>()),
    ] {
        for (outer, route) in routes.into_iter().enumerate() {
            for (inner, each) in route.iter().enumerate() {
                let path = format!("spec.{field}[{outer}].route[{inner}].destination");
                all.push((path, &each.destination));
            }
        }
    }
    all
}

fn http_destinations<'a>(
    route: &'a HttpRoute,
    path: &str,
    all: &mut Vec<(String, &'a Destination)>,
) {
    for (index, each) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}].destination");
        all.push((path, &each.destination));
    }
    if let Some(mirror) = &route.mirror {
        all.push((format!("{path}.mirror"), mirror));
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{index}].destination");
        all.push((path, &mirror.destination));
    }
}

/// What there is, as this server has it.
struct Names<'a> {
    api: &'a Api,
}

impl Names<'_> {
    /// Short names are those of services in the object's own namespace.
    fn full(&self, host: &str, namespace: &str) -> String {
        if host.contains('.') || host.starts_with('*') {
            return host.trim_end_matches('.').to_owned();
        }
        format!("{host}.{namespace}.svc.{}", self.api.config.cluster_domain)
    }

    fn exists(&self, kind: &Kind, namespace: &str, name: &str) -> bool {
        // What cannot be read is not called missing.
        !matches!(self.api.store.read(&kind.key(namespace, name)), Ok(None))
    }

    /// Whether a Service or a ServiceEntry has this name. Names with wildcards are not followed.
    fn is_host(&self, host: &str) -> bool {
        if host.starts_with('*') {
            return true;
        }
        let suffix = format!(".svc.{}", self.api.config.cluster_domain);
        if let Some((name, namespace)) = host
            .strip_suffix(&suffix)
            .and_then(|rest| rest.split_once('.'))
            && self.exists(SERVICE, namespace, name)
        {
            return true;
        }
        let Some(all) = self.all::<ServiceEntrySpec>(SERVICE_ENTRY, "") else {
            return true;
        };
        all.iter().any(|entry: &ServiceEntry| {
            entry
                .spec
                .hosts
                .iter()
                .any(|own| match own.strip_prefix('*') {
                    Some(suffix) => host.ends_with(suffix),
                    None => own == host,
                })
        })
    }

    fn has_subset(&self, host: &str, subset: &str) -> bool {
        let Some(all) = self.all::<DestinationRuleSpec>(DESTINATION_RULE, subset) else {
            return true;
        };
        all.iter().any(|rule| {
            let own = self.full(&rule.spec.host, rule.namespace());
            let covers = match own.strip_prefix('*') {
                Some(suffix) => host.ends_with(suffix),
                None => own == host,
            };
            let named = rule.spec.subsets.iter().any(|each| each.name == subset);
            covers && named
        })
    }

    /// Objects of a kind whose text has the first label of the host in it.
    fn mentioning<S: Default + DeserializeOwned>(&self, kind: &Kind, host: &str) -> Vec<Object<S>> {
        let label = host.trim_start_matches("*.").split('.').next();
        self.all(kind, label.unwrap_or(host)).unwrap_or_default()
    }

    /// All objects of a kind whose text has `needle` in it, which spares reading the others. `None` where there are
    /// too many, or where they cannot be read.
    fn all<S: Default + DeserializeOwned>(
        &self,
        kind: &Kind,
        needle: &str,
    ) -> Option<Vec<Object<S>>> {
        let (kvs, _) = self.api.store.read_prefix(&kind.prefix(None)).ok()?;
        if kvs.len() > SCAN_MAX {
            return None;
        }
        let objects = kvs.iter().filter_map(|kv| {
            let text = std::str::from_utf8(&kv.value).ok()?;
            if !text.contains(needle) {
                return None;
            }
            Object::read(&serde_json::from_str(text).ok()?).ok()
        });
        Some(objects.collect())
    }
}
