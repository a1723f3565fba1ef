//! `trireme mesh bootstrap`: what a program that is not ours needs to become a member.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use trireme_client::Client;
use trireme_model::kinds;
use trireme_model::meta;

use crate::connect::Place;

/// Where a pod finds its token.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ADMIN_PORT: u16 = 15000;
/// A name in every server's certificate.
const SERVER_NAME: &str = "kubernetes.default.svc";
/// A server that is gone without a word is noticed within this and its half.
const KEEPALIVE_MS: u32 = 10_000;
/// The longest pause between attempts to reach a server.
const RECONNECT_MS: u32 = 2_000;

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("program").required(true).args(["envoy", "grpc"]))]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// For Envoy, as YAML
    #[arg(long)]
    envoy: bool,
    /// For a gRPC program without a proxy, as JSON (GRPC_XDS_BOOTSTRAP)
    #[arg(long)]
    grpc: bool,
    /// The member's namespace
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// The member is this pod: its labels, address and service account count
    #[arg(long, conflicts_with_all = ["workload", "label", "address", "service_account"])]
    pod: Option<String>,
    /// The member's name where it is no pod; labels of a Deployment of that name count
    #[arg(long, required_unless_present = "pod")]
    workload: Option<String>,
    /// A label of a member that is no pod, as NAME=VALUE (repeat for more)
    #[arg(long)]
    label: Vec<String>,
    /// The address of a member that is no pod
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// The service account of a member that is no pod
    #[arg(long, default_value = "default")]
    service_account: String,
    /// The member is a gateway
    #[arg(long)]
    router: bool,
    /// File with the service account token that proves who the member is
    #[arg(long, default_value = TOKEN_FILE)]
    token_file: PathBuf,
    /// File with the cluster's CA; only for gRPC, Envoy's configuration contains it
    #[arg(
        long,
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    )]
    ca_file: PathBuf,
    /// Servers (host:port) instead of those of the cluster
    #[arg(long)]
    server: Vec<String>,
    /// Port of Envoy's administration on 127.0.0.1
    #[arg(long, default_value_t = ADMIN_PORT)]
    admin_port: u16,
    /// Which of xDS's protocols Envoy speaks
    #[arg(long, value_enum, default_value_t = Protocol::Delta)]
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Delta,
    StateOfTheWorld,
}

/// Who the member is.
#[derive(Debug)]
struct Member {
    id: String,
    workload: String,
    metadata: Value,
}

pub async fn run(options: Options) -> Result<()> {
    let client = options.place.client()?;
    let servers = if options.server.is_empty() {
        servers(&client).await?
    } else {
        options.server.clone()
    };
    let member = member(&client, &options).await?;
    if options.grpc {
        let bootstrap = grpc(&options, &servers, &member);
        println!("{}", serde_json::to_string_pretty(&bootstrap)?);
        return Ok(());
    }
    let ca = options.place.ca_pem()?;
    let bootstrap = envoy(&options, &servers, &member, &ca)?;
    print!("{}", serde_yaml_ng::to_string(&bootstrap)?);
    Ok(())
}

async fn servers(client: &Client) -> Result<Vec<String>> {
    let status = client.cluster_status().await?;
    let addresses = status
        .servers
        .into_iter()
        .filter_map(|status| status.server);
    let addresses: Vec<String> = addresses.map(|server| server.api_address).collect();
    if addresses.is_empty() {
        bail!("the cluster names no servers");
    }
    Ok(addresses)
}

async fn member(client: &Client, options: &Options) -> Result<Member> {
    let namespace = &options.namespace;
    let node_type = if options.router { "router" } else { "sidecar" };
    let (name, workload, address, account, labels, node_name) = match &options.pod {
        Some(name) => {
            let pod = client.get(kinds::POD, namespace, name).await?;
            let address = pod["status"]["podIP"].as_str();
            let address = address.with_context(|| {
                format!("pod {namespace}/{name} has no address yet; wait until it runs")
            })?;
            let account = pod["spec"]["serviceAccountName"].as_str();
            (
                name.clone(),
                workload_of(&pod),
                address.to_owned(),
                account.unwrap_or("default").to_owned(),
                meta::labels(&pod),
                pod["spec"]["nodeName"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )
        }
        None => {
            let name = options.workload.clone().unwrap_or_default();
            let labels = labels(client, options, &name).await?;
            (
                name.clone(),
                name,
                options.address.to_string(),
                options.service_account.clone(),
                labels,
                String::new(),
            )
        }
    };
    let mut metadata = json!({
        "NAME": name,
        "NAMESPACE": namespace,
        "SERVICE_ACCOUNT": account,
        "CLUSTER_ID": "Kubernetes",
        "WORKLOAD_NAME": workload,
        "LABELS": labels,
    });
    if !node_name.is_empty() {
        metadata["NODE_NAME"] = json!(node_name);
    }
    if options.grpc {
        metadata["GENERATOR"] = json!("grpc");
    }
    Ok(Member {
        id: format!("{node_type}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"),
        workload: format!("{workload}.{namespace}"),
        metadata,
    })
}

/// The name of the Deployment or whatever made the pod.
fn workload_of(pod: &Value) -> String {
    let Some(owner) = meta::controller_of(pod) else {
        return meta::name(pod).to_owned();
    };
    let owner = owner["name"].as_str().unwrap_or_default();
    match meta::label(pod, "pod-template-hash") {
        Some(hash) => owner
            .trim_end_matches(hash)
            .trim_end_matches('-')
            .to_owned(),
        None => owner.to_owned(),
    }
}

/// Those given, beside those of the pods of a Deployment of that name.
async fn labels(
    client: &Client,
    options: &Options,
    name: &str,
) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    match client
        .get(kinds::DEPLOYMENT, &options.namespace, name)
        .await
    {
        Ok(deployment) => {
            let template = &deployment["spec"]["template"];
            labels.extend(meta::labels(template));
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    for label in &options.label {
        let (name, value) = label
            .split_once('=')
            .with_context(|| format!("--label {label:?} is not NAME=VALUE"))?;
        labels.insert(name.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn envoy(options: &Options, servers: &[String], member: &Member, ca: &str) -> Result<Value> {
    let api_type = match options.protocol {
        Protocol::Delta => "DELTA_GRPC",
        Protocol::StateOfTheWorld => "GRPC",
    };
    let token_file = options
        .token_file
        .to_str()
        .context("--token-file is not text")?;
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    Ok(json!({
        "node": {
            "id": member.id,
            "cluster": member.workload,
            "metadata": member.metadata,
        },
        "admin": { "address": { "socket_address": {
            "address": "127.0.0.1",
            "port_value": options.admin_port,
        }}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "google_grpc": google_grpc(&target(servers)?, token_file, ca) }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
    }))
}

/// Envoy's second gRPC client, which reads the token's file for each new stream: it is replaced
/// long before it expires.
fn google_grpc(target: &str, token_file: &str, ca: &str) -> Value {
    json!({
        "target_uri": target,
        "stat_prefix": "trireme",
        "channel_credentials": { "ssl_credentials": { "root_certs": { "inline_string": ca } } },
        "credentials_factory_name": "envoy.grpc_credentials.file_based_metadata",
        "call_credentials": [{ "from_plugin": {
            "name": "envoy.grpc_credentials.file_based_metadata",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
                "secret_data": { "filename": token_file },
                "header_key": "authorization",
                "header_prefix": "Bearer ",
            },
        }}],
        "channel_args": { "args": {
            "grpc.ssl_target_name_override": { "string_value": SERVER_NAME },
            "grpc.keepalive_time_ms": { "int_value": KEEPALIVE_MS },
            "grpc.keepalive_timeout_ms": { "int_value": KEEPALIVE_MS / 2 },
            "grpc.max_reconnect_backoff_ms": { "int_value": RECONNECT_MS },
        }},
    })
}

/// All servers as one target: the first that answers is used, and left when it no longer does.
fn target(servers: &[String]) -> Result<String> {
    let mut addresses = Vec::new();
    for server in servers {
        let address: SocketAddr = server
            .parse()
            .with_context(|| format!("server {server:?} is not ADDRESS:PORT"))?;
        addresses.push(address);
    }
    let family = |is: fn(&SocketAddr) -> bool| -> Vec<String> {
        let of_family = addresses.iter().filter(|address| is(address));
        of_family.map(ToString::to_string).collect()
    };
    let (v4, v6) = (family(SocketAddr::is_ipv4), family(SocketAddr::is_ipv6));
    if v4.is_empty() {
        return Ok(format!("ipv6:{}", v6.join(",")));
    }
    Ok(format!("ipv4:{}", v4.join(",")))
}

fn grpc(options: &Options, servers: &[String], member: &Member) -> Value {
    let tls = json!({
        "type": "tls",
        "config": { "ca_certificate_file": options.ca_file },
    });
    let servers = servers.iter().map(|server| {
        json!({
            "server_uri": server,
            "channel_creds": [tls],
            "call_creds": [{
                "type": "jwt_token_file",
                "config": { "jwt_token_file": options.token_file },
            }],
            "server_features": ["xds_v3"],
        })
    });
    json!({
        "xds_servers": servers.collect::<Vec<Value>>(),
        "node": {
            "id": member.id,
            "cluster": member.workload,
            "metadata": member.metadata,
        },
    })
}
