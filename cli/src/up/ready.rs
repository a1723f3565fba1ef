//! Waiting for conditions, with the reason when one does not come.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use trireme_client::{Client, ListOptions};
use trireme_model::kinds;

use super::pending;
use super::process::tail;
use super::state::{Machine, State};
use crate::status::is_ready;

/// Between looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// A healthy start takes a few seconds; a slow or loaded disk gets this long.
const LIMIT: Duration = Duration::from_secs(120);
/// Between looks at what keeps pods.
const REASONS_PAUSE: Duration = Duration::from_secs(1);
/// What keeps pods for so long is told while it is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a log shown when a process has ended.
const TAIL_LINES: usize = 15;

/// Looks until `look` answers `None`; what it answers otherwise is what is waited for. Ends early when
/// one of the machines' processes has ended.
pub async fn until(
    state: &State,
    mut look: impl AsyncFnMut() -> Result<Option<String>>,
) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let Some(missing) = look().await? else {
            return Ok(());
        };
        for machine in &state.machines {
            if machine.process.is_some_and(|process| !process.is_alive()) {
                bail!(
                    "{} has ended; the end of {}:\n{}",
                    machine.name,
                    machine.log.display(),
                    tail(&machine.log, TAIL_LINES)
                );
            }
        }
        if Instant::now() > deadline {
            bail!("after {} s still waiting: {missing}", LIMIT.as_secs());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The first server's token and identity exist.
pub async fn token(first: &Machine, state: &State) -> Result<()> {
    let path = first.data.join("server.json");
    until(state, async || {
        Ok((!path.exists()).then(|| format!("{} does not exist yet", path.display())))
    })
    .await
}

/// Writes the administrator's kubeconfig for this machine's own local address.
pub async fn kubeconfig(data: &Path, first: &Machine, state: &State) -> Result<()> {
    let source = first.data.join("kubeconfig");
    until(state, async || {
        Ok((!source.exists()).then(|| format!("{} does not exist yet", source.display())))
    })
    .await?;
    let text = std::fs::read_to_string(&source)?;
    let mut document: Value = serde_yaml_ng::from_str(&text)?;
    document["clusters"][0]["cluster"]["server"] =
        format!("https://127.0.0.1:{}", state.api_port).into();
    let target = data.join("kubeconfig");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&target)?;
        let text = serde_yaml_ng::to_string(&document).map_err(std::io::Error::other)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    };
    write().with_context(|| format!("writing {}", target.display()))?;
    give_to_caller(&target)
}

/// Lets the person who called `sudo` read the kubeconfig, and nobody else, so that kubectl needs no `sudo`.
fn give_to_caller(kubeconfig: &Path) -> Result<()> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(user), Some(group)) = (number("SUDO_UID"), number("SUDO_GID")) else {
        return Ok(());
    };
    std::os::unix::fs::chown(kubeconfig, Some(user), Some(group))
        .with_context(|| format!("giving {} to user {user}", kubeconfig.display()))
}

/// Every server is a healthy voter.
pub async fn servers(client: &Client, state: &State, say: &impl Fn(String)) -> Result<()> {
    let wanted = state.servers().count();
    let mut told = 0;
    until(state, async || {
        let Ok(status) = client.cluster_status().await else {
            return Ok(Some("no server answers yet".to_owned()));
        };
        let count = status
            .servers
            .iter()
            .filter(|server| server.healthy && matches!(&*server.role, "leader" | "follower"))
            .count();
        Ok(progress(count, wanted, "servers", &mut told, say))
    })
    .await
}

/// Every node is Ready.
pub async fn nodes(client: &Client, state: &State, say: &impl Fn(String)) -> Result<()> {
    let wanted = state.nodes().count();
    let mut told = 0;
    until(state, async || {
        let Ok(list) = client.list(kinds::NODE, &ListOptions::default()).await else {
            return Ok(Some("no server answers about nodes".to_owned()));
        };
        let count = list.items.iter().filter(|node| is_ready(node)).count();
        Ok(progress(count, wanted, "nodes", &mut told, say))
    })
    .await
}

/// Every replica of a deployment is available. What keeps its pods is told when it has done so for a while.
pub async fn deployment(
    client: &Client,
    state: &State,
    (namespace, name): (&str, &str),
    say: &impl Fn(String),
) -> Result<()> {
    let begin = Instant::now();
    let mut looked = None;
    let mut reasons = Vec::new();
    let mut told = Vec::new();
    until(state, async || {
        let Ok(deployment) = client.get(kinds::DEPLOYMENT, namespace, name).await else {
            return Ok(Some(format!("{namespace}/{name} does not exist yet")));
        };
        let (status, spec) = (&deployment["status"], &deployment["spec"]);
        let available = status["availableReplicas"].as_u64().unwrap_or(0);
        let wanted = spec["replicas"].as_u64().unwrap_or(1);
        let seen = status["observedGeneration"] == deployment["metadata"]["generation"];
        if seen && available >= wanted {
            return Ok(None);
        }
        if looked.is_none_or(|at: Instant| at.elapsed() > REASONS_PAUSE) {
            looked = Some(Instant::now());
            reasons = pods_reasons(client, state, &deployment).await;
            if begin.elapsed() > PATIENCE {
                for reason in reasons.iter().filter(|reason| !told.contains(*reason)) {
                    say(format!("{namespace}/{name} waits: {reason}"));
                }
                told.clone_from(&reasons);
            }
        }
        let why: String = reasons.iter().map(|it| format!("\n  {it}")).collect();
        Ok(Some(format!(
            "{available} of {wanted} replicas of {namespace}/{name} are available{why}"
        )))
    })
    .await
}

/// What keeps a deployment's pods; nothing when that cannot be read now.
async fn pods_reasons(client: &Client, state: &State, deployment: &Value) -> Vec<String> {
    let labels = deployment["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    let of_it = ListOptions {
        namespace: deployment["metadata"]["namespace"]
            .as_str()
            .map(str::to_owned),
        label_selector: selector.join(","),
        ..ListOptions::default()
    };
    let everywhere = ListOptions::default();
    let (Ok(pods), Ok(nodes)) = (
        client.list(kinds::POD, &of_it).await,
        client.list(kinds::NODE, &everywhere).await,
    ) else {
        return Vec::new();
    };
    let data = state
        .nodes()
        .next()
        .map(|node| node.data.display().to_string())
        .unwrap_or_default();
    let mut all = pending::reasons(&pods.items, &nodes.items, &data);
    // The pods themselves may be refused.
    if let Some(failure) = deployment["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["type"] == "ReplicaFailure"))
        && failure["status"] == "True"
    {
        let message = failure["message"].as_str().unwrap_or_default();
        all.insert(0, format!("its pods are refused: {message}"));
    }
    all
}

/// Tells of each step once; answers what is missing.
fn progress(
    count: usize,
    wanted: usize,
    what: &str,
    told: &mut usize,
    say: &impl Fn(String),
) -> Option<String> {
    if count > *told {
        *told = count;
        say(format!("{what}: {count} of {wanted} ready"));
    }
    (count < wanted).then(|| format!("{count} of {wanted} {what} are ready"))
}
