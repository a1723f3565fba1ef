//! Routes to the other nodes' pods.

use crate::agent::Agent;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use trireme_client::{Change, Informer, InformerOptions};
use trireme_model::{kinds, meta};
use trireme_network::{Cidr, NodeRoutes, PeerRoute};

/// Nodes come and go seldom; this gathers a whole list into one change.
const GATHER: Duration = Duration::from_millis(50);
/// Routes are looked at this often even if nothing changed: somebody may have removed one.
const RESYNC: Duration = Duration::from_secs(60);
/// Pause after routes could not be written.
const RETRY: Duration = Duration::from_secs(2);

fn peer(object: &serde_json::Value) -> Option<PeerRoute> {
    let internal_ip = object
        .pointer("/status/addresses")?
        .as_array()?
        .iter()
        .find(|address| address["type"] == "InternalIP")?["address"]
        .as_str()?
        .parse()
        .ok()?;
    let pod_cidr: Cidr = object.pointer("/spec/podCIDR")?.as_str()?.parse().ok()?;
    Some(PeerRoute {
        node: meta::name(object).to_owned(),
        internal_ip,
        pod_cidr,
    })
}

/// Follows the nodes and keeps a route to each, until `shutdown`.
pub(crate) async fn follow(agent: Arc<Agent>, shutdown: CancellationToken) {
    let own_cidr = tokio::select! {
        cidr = agent.pod_cidr() => cidr,
        () = shutdown.cancelled() => return,
    };
    let (Some(node_ip), Ok(service_cidr)) = (agent.node_ip(), agent.config.service_cidr.parse())
    else {
        return;
    };
    let routes = NodeRoutes::new(node_ip, own_cidr, service_cidr);
    let (_informer, mut changes) = Informer::start(
        agent.client.clone(),
        kinds::NODE,
        InformerOptions::default(),
    );
    let mut peers: BTreeMap<String, PeerRoute> = BTreeMap::new();
    let mut listed = false;
    let mut pause = RESYNC;
    loop {
        let mut changed = false;
        let deadline = tokio::time::sleep(pause);
        tokio::pin!(deadline);
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = &mut deadline => break,
                () = shutdown.cancelled() => return,
            };
            let Some(change) = change else { return };
            let before = changed;
            match change {
                Change::Upsert(object) => {
                    let name = meta::name(&object).to_owned();
                    let new = peer(&object).filter(|p| p.node != agent.config.name);
                    if new.as_ref() != peers.get(&name) {
                        changed = true;
                        match new {
                            Some(new) => peers.insert(name, new),
                            None => peers.remove(&name),
                        };
                    }
                }
                Change::Delete(object) => changed |= peers.remove(meta::name(&object)).is_some(),
                Change::Progress { .. } => changed |= !std::mem::replace(&mut listed, true),
            }
            if changed && !before {
                deadline
                    .as_mut()
                    .reset(tokio::time::Instant::now() + GATHER);
            }
        }
        if !listed {
            continue;
        }
        let list: Vec<PeerRoute> = peers.values().cloned().collect();
        let writer = routes.clone();
        let written = tokio::task::spawn_blocking(move || writer.sync(&list)).await;
        pause = match written {
            Ok(Ok(report)) if report.failed.is_empty() => {
                agent.set_network_problem("routes", None);
                RESYNC
            }
            Ok(Ok(report)) => {
                for (node, cause) in &report.failed {
                    tracing::warn!(node, cause, "no route to a node's pods");
                }
                RETRY
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "routes could not be written");
                agent.set_network_problem("routes", Some(error.to_string()));
                RETRY
            }
            Err(error) => {
                tracing::error!(%error, "writing routes failed");
                RETRY
            }
        };
    }
}
