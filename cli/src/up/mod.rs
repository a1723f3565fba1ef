//! `trireme up`: a cluster of several machines on this one.
//!
//! A machine is a network namespace with one process in it, started and joined by the same
//! `trireme server` and `trireme node` as anywhere else; there is no shortcut between them.

mod gateway;
pub mod network;
mod pending;
pub mod process;
mod ready;
mod sample;
pub mod state;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::{connect, down, status};
use state::{Machine, Role, State};

/// Of every server, inside its own namespace.
pub const API_PORT: u16 = 6443;

#[derive(Args, Debug)]
pub struct Options {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(network::MAX_SERVERS)))]
    servers: u8,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=i64::from(network::MAX_NODES)))]
    nodes: u8,
    /// Where everything is kept
    #[arg(long, default_value = "/var/lib/trireme/up")]
    data: PathBuf,
    /// Registry mirrors and credentials, k3s's registries.yaml
    #[arg(long)]
    registries: Option<PathBuf>,
    /// Which resolvers the nodes ask about names outside the cluster, instead of /etc/resolv.conf
    #[arg(long)]
    resolv_conf: Option<PathBuf>,
    /// Leave the sample application out
    #[arg(long)]
    no_sample: bool,
}

pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("containers and network namespaces need root: sudo trireme up");
    }
    for (option, path) in [
        ("registries", &options.registries),
        ("resolv-conf", &options.resolv_conf),
    ] {
        if let Some(path) = path
            && !path.exists()
        {
            bail!("--{option} {}: no such file", path.display());
        }
    }
    std::fs::create_dir_all(&options.data)
        .with_context(|| format!("creating {}", options.data.display()))?;
    let data = options.data.canonicalize()?;
    let known = State::load(&data)?;
    let is_new = known.is_none();
    let mut state = match known {
        Some(state) => state,
        None => network::allocate(&data, options.servers, options.nodes)?,
    };
    let result = tokio::select! {
        result = start(&options, &data, &mut state) => result,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = result {
        if is_new && shutdown.is_cancelled() {
            println!("interrupted: removing what was started");
            down::remove(&data)?;
            bail!("interrupted; nothing is left");
        }
        bail!(
            "the cluster is not up: {error:#}\nlogs are in {}; `trireme down --data {}` removes it",
            data.join("logs").display(),
            data.display()
        );
    }
    Ok(())
}

async fn start(options: &Options, data: &std::path::Path, state: &mut State) -> Result<()> {
    let begin = Instant::now();
    let say = |text: String| println!("{:>5.1} s  {text}", begin.elapsed().as_secs_f64());
    network::connect(state)?;
    let subnet = network::subnet(state)?;
    let was_on = trireme_network::topology::share_uplink(&network::uplink_table(state), subnet)?;
    state.forwarding_was_on.get_or_insert(was_on);
    state.save(data)?;
    say(format!(
        "network: bridge {}, {} machines in {subnet}",
        state.bridge,
        state.machines.len()
    ));

    let names: Vec<String> = state
        .machines
        .iter()
        .map(|machine| machine.name.clone())
        .collect();
    let first = state.servers().next().context("no servers")?.clone();
    let servers: Vec<String> = state
        .servers()
        .map(|machine| format!("{}:{API_PORT}", machine.address))
        .collect();
    let mut cgroup_roots: std::collections::BTreeMap<String, String> = names
        .iter()
        .map(|name| (name.clone(), down::cgroup_root(state, name)))
        .collect();
    for name in &names {
        let machine = state
            .machine_mut(name)
            .context("a machine without a name")?;
        if machine.process.is_some_and(process::ProcessId::is_alive) {
            continue;
        }
        let cgroup_root = cgroup_roots.remove(name).unwrap_or_default();
        let arguments = arguments(machine, &first, &servers, &cgroup_root, options);
        machine.process = Some(process::start(
            &arguments,
            Some(&machine.namespace),
            &machine.log,
        )?);
        let address = machine.address;
        state.save(data)?;
        if *name == first.name {
            say(format!("{name} at {address}: starting"));
            // The others need its token and its CA, which it makes at its first start.
            ready::token(&first, state).await?;
            say(format!(
                "{name}: has made the cluster's authority and token"
            ));
        }
    }
    say(format!("{} machines are starting and joining", names.len()));
    if !state.balancer.is_some_and(process::ProcessId::is_alive) {
        let arguments = [
            "balance".to_owned(),
            "--listen".to_owned(),
            format!("127.0.0.1:{}", state.api_port),
            "--servers".to_owned(),
            servers.join(","),
        ];
        let log = data.join("logs/balance.log");
        state.balancer = Some(process::start(&arguments, None, &log)?);
        state.save(data)?;
    }
    ready::kubeconfig(data, &first, state).await?;
    let kubeconfig = data.join("kubeconfig");
    let client = connect::client(&kubeconfig, servers)?;
    ready::servers(&client, state, &say).await?;
    ready::nodes(&client, state, &say).await?;
    if !options.no_sample && state.nodes().next().is_some() {
        sample::apply(&client, state).await?;
        sample::wait(&client, state, &say).await?;
        say("sample: deployment and service hello serve".to_owned());
    }
    let mut gateway = None;
    if state.nodes().next().is_some() {
        gateway = gateway::wait(&client, state, &say).await?;
        if let Some(url) = &gateway {
            say(format!("gateway: istio-ingressgateway serves at {url}"));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let summary = status::gather(&client, Some(state)).await?;
    println!("\n{}", status::text(&summary));
    if let Some(url) = gateway {
        println!(
            "ingress gateway: {url} (a Gateway with selector istio: ingressgateway and a VirtualService lead on from there)"
        );
    }
    println!(
        "ready after {seconds:.1} s; logs in {}",
        data.join("logs").display()
    );
    print_next_steps(data, state, options.no_sample);
    Ok(())
}

/// The command line of a machine: what a person would type on a real one.
fn arguments(
    machine: &Machine,
    first: &Machine,
    servers: &[String],
    cgroup_root: &str,
    options: &Options,
) -> Vec<String> {
    let mut words = vec![
        match machine.role {
            Role::Server => "server",
            Role::Node => "node",
        }
        .to_owned(),
        "--name".to_owned(),
        machine.name.clone(),
        "--address".to_owned(),
        machine.address.to_string(),
        "--data".to_owned(),
        machine.data.display().to_string(),
    ];
    if machine.name == first.name {
        words.push("--bootstrap".to_owned());
        return words;
    }
    words.extend([
        "--join".to_owned(),
        servers.join(","),
        "--token-file".to_owned(),
        first.data.join("token").display().to_string(),
    ]);
    if machine.role == Role::Node {
        words.extend(["--cgroup-root".to_owned(), cgroup_root.to_owned()]);
    }
    let files = [
        ("--registries", &options.registries),
        ("--resolv-conf", &options.resolv_conf),
    ];
    for (option, path) in files {
        if let (Role::Node, Some(path)) = (machine.role, path) {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            words.extend([option.to_owned(), path.display().to_string()]);
        }
    }
    words
}

fn print_next_steps(data: &std::path::Path, state: &State, no_sample: bool) {
    let kubeconfig = data.join("kubeconfig");
    // The name that works in the reader's shell, which may not find this program on its PATH.
    let program = std::env::current_exe()
        .map_or_else(|_| "trireme".to_owned(), |path| path.display().to_string());
    println!("\nThree things to try:\n");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get nodes,pods -o wide");
    if let (Some(node), false) = (state.nodes().next(), no_sample) {
        println!("  curl http://{}:{}/", node.address, sample::NODE_PORT);
    } else {
        println!("  kubectl create deployment web --image=trireme.local/hello --replicas=2");
    }
    // One of two is no majority.
    if state.servers().count() > 2 {
        println!(
            "  kill -9 <PID of the leader above>; {program} status --data {}    # it sails on",
            data.display()
        );
    } else {
        println!("  {program} status --data {}", data.display());
    }
    println!("\n`{program} down --data {}` ends it.", data.display());
}
