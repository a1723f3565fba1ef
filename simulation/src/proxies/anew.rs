//! What a workload would have if everything were made anew from the objects: the truth that proxies and other clients
//! are held against.

use std::collections::BTreeMap;

use anyhow::Context;
use trireme_check::configuration::Holding;
use trireme_mesh::{Mesh, Resource, Subscription};
use trireme_proxy::xds::Known;
use trireme_proxy_decide::config::Snapshot;
use trireme_xds::pb::envoy::config::core::v3::Node;
use trireme_xds::{Kind, parse};

/// Made anew for one workload.
pub struct Anew {
    pub snapshot: Snapshot,
    pub holding: Holding,
}

impl Anew {
    pub fn make(mesh: &Mesh, node: &Node) -> anyhow::Result<Anew> {
        let workload = mesh.workload(node)?;
        let mut known = Known::default();
        let mut holding = Holding::new();
        for kind in Kind::ALL {
            let names = match kind {
                Kind::Cluster | Kind::Listener => Subscription::All,
                other => {
                    let wanted = known.wanted(other);
                    Subscription::Names(wanted.iter().map(ToString::to_string).collect())
                }
            };
            let made = mesh.generate(&workload, kind, &names);
            for resource in &made {
                let parsed = parse::resource(&resource.body);
                known.put(parsed.with_context(|| format!("{kind} {}", resource.name))?);
            }
            holding.insert(kind.to_string(), digests(&made));
        }
        let update = known.update(&Snapshot::default());
        Ok(Anew {
            snapshot: Snapshot::default().with(&update),
            holding,
        })
    }

    /// The first thing in which a proxy differs.
    pub fn difference(&self, have: &Snapshot) -> Option<String> {
        first(&self.snapshot.clusters, &have.clusters, "cluster")
            .or_else(|| first(&self.snapshot.endpoints, &have.endpoints, "endpoints"))
            .or_else(|| first(&self.snapshot.listeners, &have.listeners, "listener"))
            .or_else(|| first(&self.snapshot.routes, &have.routes, "routes"))
    }
}

fn digests(made: &[Resource]) -> BTreeMap<String, u64> {
    made.iter()
        .map(|resource| (resource.name.clone(), resource.version))
        .collect()
}

fn first<T: PartialEq>(
    one: &BTreeMap<std::sync::Arc<str>, T>,
    other: &BTreeMap<std::sync::Arc<str>, T>,
    what: &str,
) -> Option<String> {
    let mut names = one.keys().chain(other.keys());
    let name = names.find(|name| one.get(*name) != other.get(*name))?;
    Some(format!("{what} {name}"))
}
