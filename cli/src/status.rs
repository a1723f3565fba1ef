//! `trireme status`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use trireme_client::{Client, ListOptions};
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;

use crate::connect::Place;
use crate::output::{mebibytes, table};
use crate::up::process::ProcessId;
use crate::up::state::State;

/// Over how long processor use is measured.
const USAGE_WINDOW: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Other programs rely on these names.
#[derive(Debug, Serialize)]
pub struct Status {
    pub servers: Vec<Server>,
    pub nodes: Vec<Node>,
    pub workloads: Vec<Workload>,
}

#[derive(Debug, Serialize)]
pub struct Server {
    pub name: String,
    pub address: String,
    pub pid: Option<u32>,
    pub role: String,
    pub term: u64,
    pub applied_index: u64,
    /// Entries behind the server that has applied most.
    pub lag: u64,
    pub healthy: bool,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Node {
    pub name: String,
    pub address: String,
    pub pid: Option<u32>,
    pub ready: bool,
    pub pods: usize,
}

#[derive(Debug, Serialize)]
pub struct Workload {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub ready: u64,
    pub desired: u64,
}

pub async fn run(options: Options) -> Result<()> {
    let client = options.place.client()?;
    let state = State::load(&options.place.data)?;
    let status = gather(&client, state.as_ref()).await?;
    match options.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Format::Text => print!("{}", text(&status)),
    }
    Ok(())
}

pub async fn gather(client: &Client, state: Option<&State>) -> Result<Status> {
    let cluster = client.cluster_status().await?;
    let newest = cluster
        .servers
        .iter()
        .map(|server| server.applied_index)
        .max()
        .unwrap_or(0);
    let mut servers: Vec<Server> = cluster
        .servers
        .iter()
        .map(|status| {
            let server = status.server.clone().unwrap_or_default();
            Server {
                name: server.name,
                address: server.api_address,
                pid: (status.pid != 0).then_some(status.pid),
                role: status.role.clone(),
                term: status.term,
                applied_index: status.applied_index,
                lag: if status.pid == 0 {
                    0
                } else {
                    newest.saturating_sub(status.applied_index)
                },
                healthy: status.healthy,
                message: status.message.clone(),
                memory_bytes: None,
                cpu_percent: None,
            }
        })
        .collect();
    measure(&mut servers, state).await;
    let pods = client
        .list(kinds::POD, &ListOptions::default())
        .await?
        .items;
    let mut pods_on: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &pods {
        let finished = matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        if let (Some(node), false) = (pod["spec"]["nodeName"].as_str(), finished) {
            *pods_on.entry(node.to_owned()).or_default() += 1;
        }
    }
    let nodes = client
        .list(kinds::NODE, &ListOptions::default())
        .await?
        .items
        .iter()
        .map(|node| {
            let name = meta::name(node).to_owned();
            Node {
                address: internal_address(node),
                pid: state.and_then(|state| {
                    let machine = state.nodes().find(|machine| machine.name == name)?;
                    let process = machine.process.filter(|process| process.is_alive())?;
                    u32::try_from(process.pid).ok()
                }),
                ready: is_ready(node),
                pods: pods_on.get(&name).copied().unwrap_or(0),
                name,
            }
        })
        .collect();
    Ok(Status {
        servers,
        nodes,
        workloads: workloads(client).await?,
    })
}

async fn workloads(client: &Client) -> Result<Vec<Workload>> {
    let mut workloads = Vec::new();
    for object in client
        .list(kinds::DEPLOYMENT, &ListOptions::default())
        .await?
        .items
    {
        workloads.push(workload(kinds::DEPLOYMENT, &object));
    }
    for object in client
        .list(kinds::REPLICA_SET, &ListOptions::default())
        .await?
        .items
    {
        // Those of Deployments are told of by the Deployment.
        if meta::controller_of(&object).is_none() {
            workloads.push(workload(kinds::REPLICA_SET, &object));
        }
    }
    Ok(workloads)
}

fn workload(kind: &'static Kind, object: &Value) -> Workload {
    Workload {
        kind: kind.kind,
        namespace: meta::namespace(object).to_owned(),
        name: meta::name(object).to_owned(),
        ready: object["status"]["readyReplicas"].as_u64().unwrap_or(0),
        desired: object["spec"]["replicas"].as_u64().unwrap_or(0),
    }
}

/// Memory and processor use of servers that run on this machine as `trireme up` started them.
async fn measure(servers: &mut [Server], state: Option<&State>) {
    let Some(state) = state else { return };
    let processes: BTreeMap<String, ProcessId> = state
        .servers()
        .filter_map(|machine| Some((machine.name.clone(), machine.process?)))
        .collect();
    let usage = |server: &Server| {
        processes
            .get(&server.name)
            .and_then(|process| process.usage())
    };
    let before: Vec<_> = servers.iter().map(&usage).collect();
    tokio::time::sleep(USAGE_WINDOW).await;
    for (server, before) in servers.iter_mut().zip(before) {
        let (Some(before), Some(after)) = (before, usage(server)) else {
            continue;
        };
        let used = after.cpu.saturating_sub(before.cpu);
        server.memory_bytes = Some(after.resident_bytes);
        server.cpu_percent = Some(used.as_secs_f64() / USAGE_WINDOW.as_secs_f64() * 100.0);
    }
}

pub fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
}

fn internal_address(node: &Value) -> String {
    node["status"]["addresses"]
        .as_array()
        .and_then(|addresses| {
            addresses
                .iter()
                .find(|address| address["type"] == "InternalIP")
        })
        .and_then(|address| address["address"].as_str())
        .unwrap_or("")
        .to_owned()
}

pub fn text(status: &Status) -> String {
    let pid = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let servers: Vec<Vec<String>> = status
        .servers
        .iter()
        .map(|server| {
            // One that does not answer has no figures; zeros would look like some.
            let known = |figure: u64| {
                server
                    .pid
                    .map_or_else(|| "-".to_owned(), |_| figure.to_string())
            };
            vec![
                server.name.clone(),
                server.address.clone(),
                pid(server.pid),
                server.role.clone(),
                known(server.term),
                known(server.applied_index),
                known(server.lag),
                if server.healthy {
                    "healthy".to_owned()
                } else {
                    server.message.clone()
                },
                server
                    .memory_bytes
                    .map_or_else(|| "-".to_owned(), mebibytes),
                server
                    .cpu_percent
                    .map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}%")),
            ]
        })
        .collect();
    let nodes: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.address.clone(),
                pid(node.pid),
                if node.ready { "ready" } else { "not ready" }.to_owned(),
                node.pods.to_string(),
            ]
        })
        .collect();
    let workloads: Vec<Vec<String>> = status
        .workloads
        .iter()
        .map(|workload| {
            vec![
                format!("{}/{}", workload.kind.to_lowercase(), workload.name),
                workload.namespace.clone(),
                format!("{}/{}", workload.ready, workload.desired),
            ]
        })
        .collect();
    let headings = [
        "SERVER", "ADDRESS", "PID", "ROLE", "TERM", "APPLIED", "LAG", "HEALTH", "MEMORY", "CPU",
    ];
    format!(
        "{}\n{}\n{}",
        table(&headings, &servers),
        table(&["NODE", "ADDRESS", "PID", "HEALTH", "PODS"], &nodes),
        table(&["WORKLOAD", "NAMESPACE", "READY"], &workloads),
    )
}
