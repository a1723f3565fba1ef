//! Waiting for conditions, with the reason when one does not come.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use trireme_client::{Client, ListOptions};
use trireme_model::kinds;

use super::process::tail;
use super::reason;
use super::state::{Machine, State};
use crate::status::is_ready;

/// Between looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// A healthy start takes a few seconds; a slow or loaded disk gets this long.
const LIMIT: Duration = Duration::from_secs(120);
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

/// Adds to a failed wait for a Deployment what its pods say.
pub async fn explained(
    waited: Result<()>,
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<()> {
    match waited {
        Err(error) => match reason::of(client, namespace, name).await {
            Some(reason) => Err(anyhow::anyhow!("{error:#}; {reason}")),
            None => Err(error),
        },
        Ok(()) => Ok(()),
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
