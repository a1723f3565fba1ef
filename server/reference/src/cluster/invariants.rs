//! What holds at every moment, whatever the decisions have missed. An error says what does not.

use std::collections::BTreeMap;

use serde_json::Value;
use trireme_model::kinds;

use super::{World, at, is_ready};

/// How far a rollout may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replicas: i64,
    pub surge: i64,
    pub unavailable: i64,
}

fn belongs(object: &Value, app: &str) -> bool {
    object["metadata"]["labels"]["app"] == app
}

/// A Deployment's sizes, pods and readiness, while its pods get ready and nobody else takes any.
pub fn within_bounds(world: &World, app: &str, bounds: Bounds) -> Result<(), String> {
    let Bounds {
        replicas,
        surge,
        unavailable,
    } = bounds;
    let sets = world.all(kinds::REPLICA_SET);
    let sizes = sets.iter().filter(|set| belongs(set, app));
    let sizes: i64 = sizes
        .filter_map(|set| set["spec"]["replicas"].as_i64())
        .sum();
    if sizes > replicas + surge {
        return Err(format!("{app}: {sizes} wanted of {replicas} + {surge}"));
    }
    let pods: Vec<&Value> = world
        .active_pods()
        .into_iter()
        .filter(|pod| belongs(pod, app))
        .collect();
    if pods.len() as i64 > replicas + surge {
        let pods = pods.len();
        return Err(format!("{app}: {pods} pods of {replicas} + {surge}"));
    }
    let ready = pods.iter().filter(|pod| is_ready(pod)).count() as i64;
    if ready < replicas - unavailable {
        return Err(format!(
            "{app}: {ready} ready of {replicas} - {unavailable}"
        ));
    }
    Ok(())
}

/// No pod was ever given two nodes.
pub fn bound_once(world: &World) -> Result<(), String> {
    match world.binds.iter().find(|(_, count)| **count > 1) {
        Some((uid, count)) => Err(format!("pod {uid} was bound {count} times")),
        None => Ok(()),
    }
}

/// Thousandths of a core.
fn millicores(quantity: &Value) -> i64 {
    let text = quantity.as_str().unwrap_or("0");
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().unwrap_or(0),
        None => 1000 * text.parse::<i64>().unwrap_or(0),
    }
}

/// No node runs pods that ask for more cores than it has.
pub fn not_overcommitted(world: &World) -> Result<(), String> {
    let mut used: BTreeMap<String, i64> = BTreeMap::new();
    for pod in world.active_pods() {
        if let Some(node) = at(pod, "/spec/nodeName").as_str() {
            let asks = at(pod, "/spec/containers/0/resources/requests/cpu");
            *used.entry(node.to_owned()).or_default() += millicores(&asks);
        }
    }
    for node in world.all(kinds::NODE) {
        let name = at(node, "/metadata/name");
        let name = name.as_str().unwrap_or_default();
        let has = millicores(&at(node, "/status/allocatable/cpu"));
        let used = used.get(name).copied().unwrap_or_default();
        if used > has {
            return Err(format!("{used} millicores on {name} of {has}"));
        }
    }
    Ok(())
}
