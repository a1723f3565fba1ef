//! The mesh at size, with nothing in it that is not the product's: servers are `trireme server` processes that
//! replicate with fsync, objects are made through their API, and each proxy is a `trireme-proxy sidecar` process in a
//! pod's network namespace with its interception, configured by xDS over TLS with a service account's token.
//!
//! What stands in for a cluster's other parts: no node agents and no pods run (the proxies are members without a Pod
//! object), Services have no selector and EndpointSlices are written by us, and all endpoints are addresses of one
//! upstream in this process. All of it shares this machine's cores, in a network namespace of its own.

mod control_plane;
mod measure;
mod objects;
mod pods;
mod table;
mod traffic;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use control_plane::ControlPlane;
use measure::EndpointCost;
use objects::Objects;
use pods::{Member, Pods};
use table::Report;

#[derive(clap::Args)]
pub struct Options {
    /// Servers of the control plane.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=5))]
    servers: u16,
    /// Proxies that are connected.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=200))]
    proxies: u16,
    /// Changes of a VirtualService that are timed.
    #[arg(long, default_value_t = 60)]
    changes: u64,
    /// Changes of one endpoint that are charged, for each number of services.
    #[arg(long, default_value_t = 200)]
    endpoint_changes: u32,
    /// Numbers of services, rising; memory and route changes are measured at the second.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,5000")]
    services: Vec<usize>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Where the servers and the upstream are, for the pods.
const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Every address in it is this machine's: endpoints of the services are.
const ENDPOINTS: &str = "10.96.0.0/11";
/// Route changes that are timed where every proxy is told everything: they take longer.
const WIDE_CHANGES: u64 = 5;

/// Puts this process into a network namespace and a mount table of its own: what follows touches nothing of the
/// machine's, and ends with the process.
///
/// # Errors
/// Without the right to.
pub fn isolate() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces need root: sudo bench mesh"
    );
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("a network namespace of our own")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("a mount table of our own")?;
    let address = format!("{MACHINE}/32");
    for words in [
        ["link", "set", "lo", "up"].as_slice(),
        &["address", "add", &address, "dev", "lo"],
        &["route", "add", "local", ENDPOINTS, "dev", "lo"],
    ] {
        let status = Command::new("ip").args(words).status().context("ip")?;
        ensure!(status.success(), "ip {} failed: {status}", words.join(" "));
    }
    Ok(())
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    ensure!(
        options.services.len() >= 2 && options.services.is_sorted(),
        "--services needs two numbers at least, rising"
    );
    tokio::select! {
        done = measure_all(&options) => table::print(&done?, options.json),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted");
        }
    }
    Ok(())
}

fn beside(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    ensure!(
        path.exists(),
        "{} is missing; build it first (scripts/build.sh)",
        path.display()
    );
    Ok(path)
}

async fn measure_all(options: &Options) -> anyhow::Result<Report> {
    let directory = tempfile::Builder::new()
        .prefix("bench-mesh-")
        .tempdir_in("/var/tmp")?;
    let upstream = traffic::Upstream::start()?;
    let plane = ControlPlane::start(
        &beside("trireme")?,
        directory.path(),
        MACHINE,
        options.servers,
    )
    .await?;
    eprintln!("bench: {} servers have a leader", options.servers);
    let mut objects = Objects::new(plane.client.clone());
    objects.prepare().await?;
    objects.grow(options.services[0]).await?;
    let mut pods = Pods::new(
        directory.path(),
        &beside("trireme-proxy")?,
        &plane,
        objects.called().to_vec(),
    )
    .await?;
    let mut members = Vec::new();
    for _ in 0..options.proxies {
        members.push(pods.start(objects::NAMESPACE)?);
    }
    for member in &mut members {
        member.ready().await?;
    }
    eprintln!("bench: {} proxies serve", members.len());

    let mut costs = Vec::new();
    let mut report = None;
    for (at, services) in options.services.iter().enumerate() {
        objects.grow(*services).await?;
        let mut wide = pods.start(objects::WIDE_NAMESPACE)?;
        wide.ready().await?;
        let idle_nanos = plane.settle().await?;
        let cost =
            EndpointCost::of(&plane, &mut objects, options.endpoint_changes, idle_nanos).await?;
        drop(wide);
        eprintln!("bench: {cost}");
        costs.push(cost);
        if at == 1 {
            report = Some(
                at_size(options, &plane, &mut objects, &mut pods, &mut members)
                    .await
                    .with_context(|| format!("at {services} services"))?,
            );
        }
    }
    let mut report = report.context("no measurement at size")?;
    report.costs = costs;
    report.served = upstream.served();
    Ok(report)
}

/// Memory of a proxy, and how long a route's change takes, at the number of services that counts.
async fn at_size(
    options: &Options,
    plane: &ControlPlane,
    objects: &mut Objects,
    pods: &mut Pods,
    members: &mut [Member],
) -> anyhow::Result<Report> {
    // Fresh ones: what they hold is what they need, not what was left of growing.
    let mut fresh = Vec::new();
    for namespace in [objects::NAMESPACE, objects::WIDE_NAMESPACE] {
        let mut member = pods.start(namespace)?;
        member.ready().await?;
        fresh.push(measure::Memory::of(&mut member).await?);
    }
    let narrow = measure::route_changes(plane, objects, members, options.changes).await?;
    eprintln!("bench: {narrow}");
    let mut after = 0;
    for member in &*members {
        after = after.max(member.process.resident_bytes()?);
    }
    objects.remove_sidecar().await?;
    plane.settle().await?;
    let wide = measure::route_changes(plane, objects, members, WIDE_CHANGES).await?;
    eprintln!("bench: {wide}");
    objects.make_sidecar().await?;
    plane.settle().await?;
    Ok(Report {
        services: objects.count(),
        proxies: members.len(),
        servers: usize::from(options.servers),
        memory: fresh,
        memory_after_bytes: after,
        narrow,
        wide,
        costs: Vec::new(),
        served: 0,
    })
}

/// How long anything that has to come may take.
const PATIENCE: Duration = Duration::from_secs(60);
