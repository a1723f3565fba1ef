//! Services and their endpoints: rules in the kernel, answers of the DNS server, and the
//! environment variables that containers get.

mod derive;
pub(crate) mod host_port;

use crate::agent::Agent;
pub(crate) use derive::{environment, rules, snapshot, target_port};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use trireme_client::{Change, Informer, InformerOptions};
use trireme_model::{kinds, meta};
use trireme_network::dns::Snapshot;
use trireme_network::{Cidr, ServiceRules, ServiceRulesConfig};

/// How long changes are gathered before the kernel is told: long enough to take a whole rollout
/// step in one transaction, short enough not to be noticed.
const GATHER: Duration = Duration::from_millis(5);
/// Pause after the kernel refused the rules.
const RETRY: Duration = Duration::from_secs(1);

/// Namespace and name.
type Key = (String, String);

/// Every service with its endpoint slices, as last seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    pub services: BTreeMap<Key, Arc<Service>>,
    /// By service, then by the slice's name.
    slices: BTreeMap<Key, BTreeMap<String, Arc<EndpointSlice>>>,
    services_listed: bool,
    slices_listed: bool,
}

impl Services {
    /// Whether both lists were complete at least once.
    pub fn complete(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// Whether services were listed: what containers' environments need.
    pub fn listed(&self) -> bool {
        self.services_listed
    }

    fn take_service(&mut self, change: Change) -> bool {
        match change {
            Change::Upsert(object) => {
                let key = key(&object);
                match serde_json::from_value::<Service>(object) {
                    Ok(service) => {
                        self.services.insert(key, Arc::new(service));
                        true
                    }
                    Err(error) => {
                        tracing::warn!(namespace = key.0, name = key.1, %error, "a service cannot be read");
                        false
                    }
                }
            }
            Change::Delete(object) => self.services.remove(&key(&object)).is_some(),
            Change::Progress { .. } => !std::mem::replace(&mut self.services_listed, true),
        }
    }

    fn take_slice(&mut self, change: Change) -> bool {
        match change {
            Change::Upsert(object) => {
                let (namespace, name) = key(&object);
                let Some(service) = meta::label(&object, "kubernetes.io/service-name") else {
                    return self.drop_slice(&namespace, &name);
                };
                let owner = (namespace.clone(), service.to_owned());
                match serde_json::from_value::<EndpointSlice>(object) {
                    Ok(slice) => {
                        let same = self
                            .slices
                            .get(&owner)
                            .is_some_and(|s| s.contains_key(&name));
                        if !same {
                            self.drop_slice(&namespace, &name);
                        }
                        self.slices
                            .entry(owner)
                            .or_default()
                            .insert(name, Arc::new(slice));
                        true
                    }
                    Err(error) => {
                        tracing::warn!(namespace, name, %error, "an endpoint slice cannot be read");
                        false
                    }
                }
            }
            Change::Delete(object) => {
                let (namespace, name) = key(&object);
                self.drop_slice(&namespace, &name)
            }
            Change::Progress { .. } => !std::mem::replace(&mut self.slices_listed, true),
        }
    }

    fn drop_slice(&mut self, namespace: &str, name: &str) -> bool {
        let mut dropped = false;
        self.slices.retain(|(owner_namespace, _), slices| {
            if owner_namespace == namespace {
                dropped |= slices.remove(name).is_some();
            }
            !slices.is_empty()
        });
        dropped
    }

    fn slices_of(&self, key: &Key) -> impl Iterator<Item = &EndpointSlice> {
        self.slices
            .get(key)
            .into_iter()
            .flat_map(|slices| slices.values())
            .map(Arc::as_ref)
            .filter(|slice| slice.address_type == "IPv4")
    }
}

fn key(object: &serde_json::Value) -> Key {
    (
        meta::namespace(object).to_owned(),
        meta::name(object).to_owned(),
    )
}

/// The two ends that other tasks read.
pub(crate) struct Published {
    pub view: watch::Sender<Arc<Services>>,
    pub names: watch::Sender<Arc<Snapshot>>,
}

/// Follows services and endpoint slices and keeps kernel, DNS and view up to date.
pub(crate) async fn follow(agent: Arc<Agent>, published: Published, shutdown: CancellationToken) {
    let options = InformerOptions::default;
    let (_services, mut services) =
        Informer::start(agent.client.clone(), kinds::SERVICE, options());
    let (_slices, mut slices) =
        Informer::start(agent.client.clone(), kinds::ENDPOINT_SLICE, options());
    let (kernel_sender, kernel) = watch::channel(Arc::new(Services::default()));
    let mut kernel_task = tokio::spawn(keep_rules(agent.clone(), kernel, shutdown.clone()));
    let mut now = Services::default();
    loop {
        let mut changed = tokio::select! {
            change = services.recv() => match change {
                Some(change) => now.take_service(change),
                None => break,
            },
            change = slices.recv() => match change {
                Some(change) => now.take_slice(change),
                None => break,
            },
            () = shutdown.cancelled() => break,
        };
        if !changed {
            continue;
        }
        let deadline = tokio::time::sleep(GATHER);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => break,
                Some(change) = services.recv() => changed |= now.take_service(change),
                Some(change) = slices.recv() => changed |= now.take_slice(change),
            }
        }
        let view = Arc::new(now.clone());
        // Half a list would take away rules that still serve.
        if view.complete() {
            published
                .names
                .send_replace(Arc::new(snapshot(&view, &agent.config.cluster_domain)));
            kernel_sender.send_replace(view.clone());
        }
        published.view.send_replace(view);
    }
    drop(kernel_sender);
    if let Err(error) = (&mut kernel_task).await {
        tracing::error!(%error, "the task that keeps service rules failed");
    }
}

/// Writes the newest rules to the kernel, one transaction after the other.
async fn keep_rules(
    agent: Arc<Agent>,
    mut newest: watch::Receiver<Arc<Services>>,
    shutdown: CancellationToken,
) {
    let Some(config) = rules_config(&agent, &shutdown).await else {
        return;
    };
    let (sender, mut receiver) = mpsc::channel::<()>(1);
    let mut host_ports = agent.host_ports.subscribe();
    let mut rules_state = Some(ServiceRules::new(config));
    loop {
        let view = newest.borrow_and_update().clone();
        if view.complete() {
            let mut wanted = rules(&view, &agent.config.name);
            // After the services, which keep an address and port that both claim.
            wanted.extend(host_ports.borrow_and_update().values().flatten().cloned());
            let Some(mut state) = rules_state.take() else {
                return;
            };
            let synced = tokio::task::spawn_blocking(move || {
                let result = state.sync(&wanted);
                (state, result)
            })
            .await;
            match synced {
                Ok((state, result)) => {
                    rules_state = Some(state);
                    match result {
                        Ok(report) => {
                            agent.set_network_problem("rules", None);
                            for conflict in &report.conflicts {
                                tracing::warn!(conflict, "a service rule is left out");
                            }
                        }
                        Err(error) => {
                            tracing::error!(%error, "service rules could not be written");
                            agent.set_network_problem("rules", Some(error.to_string()));
                            let again = sender.clone();
                            tokio::spawn(async move {
                                tokio::time::sleep(RETRY).await;
                                let _ = again.try_send(());
                            });
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "writing service rules failed");
                    return;
                }
            }
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            // The sender is the agent's own, which outlives this.
            _ = host_ports.changed() => {}
            _ = receiver.recv() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn rules_config(agent: &Agent, shutdown: &CancellationToken) -> Option<ServiceRulesConfig> {
    let pod_cidr = tokio::select! {
        cidr = agent.pod_cidr() => cidr,
        () = shutdown.cancelled() => return None,
    };
    let parse = |text: &str| text.parse::<Cidr>().ok();
    Some(ServiceRulesConfig {
        node_ip: agent.node_ip()?,
        pod_cidr,
        cluster_cidr: parse(&agent.config.cluster_cidr)?,
        service_cidr: parse(&agent.config.service_cidr)?,
    })
}
