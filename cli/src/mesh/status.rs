//! `trireme mesh status`, in the manner of `istioctl proxy-status`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use trireme_proto::v1::{MeshKind, MeshStatusReply, MeshWorkload};

use crate::connect::Place;
use crate::output::table;

/// The kinds that have a column, in the order of `istioctl proxy-status`.
const COLUMNS: [&str; 4] = ["CDS", "LDS", "EDS", "RDS"];

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
struct Status {
    servers: Vec<Server>,
    workloads: Vec<Workload>,
}

#[derive(Debug, Serialize)]
struct Server {
    name: String,
    reachable: bool,
    message: String,
}

#[derive(Debug, Serialize)]
struct Workload {
    /// `pod.namespace`
    name: String,
    /// `sidecar` or `router`
    #[serde(rename = "type")]
    node_type: String,
    address: String,
    server: String,
    protocol: String,
    version: String,
    connected_at: u64,
    kinds: Vec<Kind>,
}

#[derive(Debug, Serialize)]
struct Kind {
    service: String,
    /// SYNCED, STALE, NACK, or NOT SENT
    state: String,
    version: String,
    sent_version: String,
    error: String,
    resources: u32,
}

pub async fn run(options: Options) -> Result<()> {
    let reply = options.place.client()?.mesh_status(false).await?;
    let status = status(reply);
    match options.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Format::Text => print!("{}", text(&status)),
    }
    Ok(())
}

fn status(reply: MeshStatusReply) -> Status {
    let servers = reply.servers.into_iter().map(|server| Server {
        name: server.name,
        reachable: server.message.is_empty(),
        message: server.message,
    });
    Status {
        servers: servers.collect(),
        workloads: reply.workloads.into_iter().map(workload).collect(),
    }
}

fn workload(workload: MeshWorkload) -> Workload {
    let mut parts = workload.node_id.split('~').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let (node_type, address, name) = (part(), part(), part());
    Workload {
        // A node that calls itself otherwise is shown as it does.
        name: if name.is_empty() {
            workload.node_id.clone()
        } else {
            name
        },
        node_type,
        address,
        server: workload.server,
        protocol: workload.protocol,
        version: workload.user_agent,
        connected_at: workload.connected_at,
        kinds: workload.kinds.into_iter().map(kind).collect(),
    }
}

fn kind(kind: MeshKind) -> Kind {
    Kind {
        service: kind.service,
        state: kind.state,
        version: kind.version,
        sent_version: kind.sent_version,
        error: kind.error,
        resources: kind.resources,
    }
}

fn text(status: &Status) -> String {
    let mut headings = vec!["NAME", "TYPE"];
    headings.extend(COLUMNS);
    headings.extend(["SERVER", "VERSION"]);
    let rows: Vec<Vec<String>> = status.workloads.iter().map(row).collect();
    let mut out = if rows.is_empty() {
        "no workload is connected\n".to_owned()
    } else {
        table(&headings, &rows)
    };
    for workload in &status.workloads {
        for kind in workload.kinds.iter().filter(|kind| !kind.error.is_empty()) {
            out.push_str(&format!(
                "{} refuses {}: {}\n",
                workload.name, kind.service, kind.error
            ));
        }
    }
    for server in status.servers.iter().filter(|server| !server.reachable) {
        out.push_str(&format!("server {}: {}\n", server.name, server.message));
    }
    out
}

fn row(workload: &Workload) -> Vec<String> {
    let mut row = vec![workload.name.clone(), workload.node_type.clone()];
    for column in COLUMNS {
        let kind = workload.kinds.iter().find(|kind| kind.service == column);
        row.push(kind.map_or_else(|| "-".to_owned(), |kind| kind.state.clone()));
    }
    row.extend([workload.server.clone(), workload.version.clone()]);
    row
}

#[cfg(test)]
mod tests {
    use trireme_proto::v1::MeshServer;

    use super::*;

    #[test]
    fn the_table_names_states_and_refusals() {
        let kind = |service: &str, state: &str, error: &str| MeshKind {
            service: service.into(),
            state: state.into(),
            error: error.into(),
            ..MeshKind::default()
        };
        let reply = MeshStatusReply {
            servers: vec![
                MeshServer {
                    name: "server-1".into(),
                    message: String::new(),
                },
                MeshServer {
                    name: "server-2".into(),
                    message: "unreachable: no answer".into(),
                },
            ],
            workloads: vec![MeshWorkload {
                server: "server-1".into(),
                node_id: "sidecar~10.42.0.7~reviews-1.shop~shop.svc.cluster.local".into(),
                user_agent: "envoy 1.40.0".into(),
                kinds: vec![
                    kind("CDS", "SYNCED", ""),
                    kind("EDS", "STALE", ""),
                    kind("RDS", "NACK", "RDS \"80\": no"),
                ],
                ..MeshWorkload::default()
            }],
        };
        assert_eq!(
            text(&status(reply)),
            "NAME            TYPE     CDS     LDS  EDS    RDS   SERVER    VERSION\n\
             reviews-1.shop  sidecar  SYNCED  -    STALE  NACK  server-1  envoy 1.40.0\n\
             reviews-1.shop refuses RDS: RDS \"80\": no\n\
             server server-2: unreachable: no answer\n"
        );
    }
}
