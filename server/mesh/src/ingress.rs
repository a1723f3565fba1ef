//! The ports on which a workload's application serves, as far as services or a Sidecar speak of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_model::istio::{ConnectionPoolSettings, IngressListener, ServerTlsSettings};

use crate::protocol::{Protocol, Treatment};
use crate::scope::Scope;
use crate::service::{Port, Service, TargetPort};
use crate::view::{View, selects};
use crate::workload::Workload;
use crate::{ObjectKey, reference};

/// One such port.
#[derive(Debug, Clone)]
pub struct Ingress {
    /// Of the pod.
    pub number: u32,
    pub protocol: Protocol,
    /// That lead here, the one that counts first.
    pub services: Vec<Arc<Service>>,
    /// The first service's port.
    pub service_port: u32,
    /// Where the application is; absent means where the client says.
    pub endpoint: Option<(String, u32)>,
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// The sidecar takes TLS off.
    pub tls: Option<ServerTlsSettings>,
    /// The Sidecar that speaks of it.
    pub reference: Option<String>,
    /// Nothing is intercepted: the proxy listens itself, on this address.
    pub bind: Option<String>,
}

/// All of them, by port.
pub fn ingress(view: &View, scope: &Scope, workload: &Workload) -> Vec<Ingress> {
    let served = served(view, scope, workload);
    let sidecar = match &scope.sidecar {
        Some(sidecar) if !sidecar.spec.ingress.is_empty() => sidecar,
        _ => return served.into_values().collect(),
    };
    let reference = reference("Sidecar", &ObjectKey::of(&sidecar.metadata));
    let common = sidecar.spec.inbound_connection_pool.as_ref();
    let written = sidecar.spec.ingress.iter();
    written
        .filter_map(|listener| {
            let port = listener.port.as_ref()?;
            let known = served.get(&port.number);
            let pool = listener.connection_pool.as_ref().or(common).cloned();
            Some(Ingress {
                number: port.number,
                protocol: match (Protocol::parse(&port.protocol), &listener.tls) {
                    (Protocol::Https, Some(_)) => Protocol::Http,
                    (Protocol::Tls, Some(_)) => Protocol::Tcp,
                    (protocol, _) => protocol,
                },
                tls: listener.tls.clone(),
                services: known.map(|it| it.services.clone()).unwrap_or_default(),
                service_port: known.map_or(port.number, |it| it.service_port),
                endpoint: endpoint(listener, workload),
                connection_pool: pool.or_else(|| known?.connection_pool.clone()),
                reference: Some(reference.clone()),
                bind: (listener.capture_mode == trireme_model::istio::CaptureMode::None).then(
                    || match listener.bind.as_str() {
                        "" => workload.address.clone(),
                        bind => bind.to_owned(),
                    },
                ),
            })
        })
        .collect()
}

/// `127.0.0.1:PORT` is the application behind the loopback; `0.0.0.0:PORT` the pod's own address.
fn endpoint(listener: &IngressListener, workload: &Workload) -> Option<(String, u32)> {
    let text = listener.default_endpoint.as_str();
    if text.is_empty() {
        return None;
    }
    if text.starts_with("unix://") {
        return Some((text.to_owned(), 0));
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" | "::" => workload.address.as_str(),
        host => host,
    };
    Some((host.to_owned(), port.parse().ok()?))
}

fn served(view: &View, scope: &Scope, workload: &Workload) -> BTreeMap<u32, Ingress> {
    let mut services: Vec<&Arc<Service>> = view
        .registry
        .selecting(&workload.namespace, &workload.labels);
    services.sort_by_key(|it| (it.origin, it.created, it.host.clone()));
    let pool = scope
        .sidecar
        .as_ref()
        .and_then(|it| it.spec.inbound_connection_pool.clone());
    let mut ports: BTreeMap<u32, Ingress> = BTreeMap::new();
    for service in services {
        debug_assert!(selects(&service.selector, &workload.labels));
        for port in &service.ports {
            let Some(number) = target(view, workload, port) else {
                continue;
            };
            if port.protocol.treatment() == Treatment::None {
                continue;
            }
            match ports.get_mut(&number) {
                Some(known) => known.services.push(service.clone()),
                None => {
                    let rule = scope.rule(&service.host);
                    let own = rule.map(|rule| rule.policy(port.number, None));
                    let ingress = Ingress {
                        number,
                        protocol: port.protocol,
                        services: vec![service.clone()],
                        service_port: port.number,
                        endpoint: None,
                        tls: None,
                        connection_pool: pool.clone().or(own.and_then(|it| it.connection_pool)),
                        reference: None,
                        bind: None,
                    };
                    ports.insert(number, ingress);
                }
            }
        }
    }
    ports
}

fn target(view: &View, workload: &Workload, port: &Port) -> Option<u32> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => view.pods.get(&workload.key())?.ports.get(name).copied(),
    }
}
