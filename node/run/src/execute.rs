//! Carrying out what was decided for a pod: each action in a task that reports back.

use crate::agent::Agent;
use crate::container;
use crate::downward::Facts;
use crate::environment::Sources;
use crate::instance::container_id;
use crate::probe::{self, Target};
use crate::store::PodDirectory;
use crate::worker::{Mail, Worker};
use crate::{hosts, images, services, volumes};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use trireme_client::DeleteOptions;
use trireme_container::{ContainerError, PodSandbox, SandboxSpec};
use trireme_model::kinds;
use trireme_node_decide::{
    Action, EventRecord, EventType, HookKind, ImageOutcome, ProbeKind, Report, StartFailure,
};

/// How long a start waits for the list of services that its environment needs.
const SERVICES_WAIT: Duration = Duration::from_secs(5);
/// Pause before a sandbox that could not be taken down is tried again.
const REMOVE_RETRY: Duration = Duration::from_secs(1);
/// Bytes of a termination message: the kubelet's limit.
const MESSAGE_MAX_BYTES: u64 = 4096;
/// Bytes and lines of the log that stand in for one, likewise.
const LOG_TAIL_MAX_BYTES: u64 = 2048;
const LOG_TAIL_MAX_LINES: usize = 80;

/// A pod's namespaces as they exist.
#[derive(Clone, Debug)]
pub(crate) struct Sandboxed {
    pub sandbox: Arc<PodSandbox>,
    /// None under hostNetwork.
    pub netns: Option<PathBuf>,
    pub ip: String,
}

pub(crate) fn later(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// What the downward API needs beside the pod.
pub(crate) fn facts(worker: &Worker) -> Facts {
    let agent = &worker.agent;
    Facts {
        node_name: agent.config.name.clone(),
        host_ip: agent.config.internal_ip.to_string(),
        pod_ip: worker.runtime.ip.clone().unwrap_or_default(),
        node_cpu_milli: agent.node_cpu_milli(),
        node_memory_bytes: agent.node_memory_bytes(),
        node_storage_bytes: agent.node_storage_bytes(),
    }
}

/// What a task takes with it.
#[derive(Clone)]
struct Context {
    agent: Arc<Agent>,
    pod: Arc<Pod>,
    uid: String,
    directory: PodDirectory,
    sender: mpsc::Sender<Mail>,
    facts: Facts,
    sandbox: Option<Sandboxed>,
}

impl Context {
    fn of(worker: &Worker) -> Context {
        Context {
            agent: worker.agent.clone(),
            pod: worker.pod.clone(),
            uid: worker.uid.clone(),
            directory: worker.directory.clone(),
            sender: worker.sender.clone(),
            facts: facts(worker),
            sandbox: worker.sandbox.clone(),
        }
    }

    async fn report(&self, report: Report) {
        // An error means that the worker has ended with the agent.
        let _ = self.sender.send(Mail::Report(report)).await;
    }
}

/// Begins an action of a plan.
pub(crate) fn begin(worker: &mut Worker, action: Action) {
    let context = Context::of(worker);
    match action {
        Action::PrepareVolumes => {
            worker.tasks.spawn(async move {
                let report = match prepare_volumes(&context).await {
                    Ok(()) => Report::VolumesReady,
                    Err(problems) => Report::VolumesFailed(problems),
                };
                context.report(report).await;
            });
        }
        Action::RemoveVolumes => {
            worker.tasks.spawn(async move {
                let directory = context.directory.clone();
                let removed = tokio::task::spawn_blocking(move || volumes::remove(&directory)).await;
                if let Ok(Err(error)) = removed {
                    tracing::warn!(uid = context.uid, %error, "volumes could not be removed");
                }
                context.report(Report::VolumesRemoved).await;
            });
        }
        Action::CreateSandbox => {
            worker.tasks.spawn(async move {
                match create_sandbox(&context).await {
                    Ok(sandboxed) => {
                        let _ = context.sender.send(Mail::Sandboxed(sandboxed)).await;
                    }
                    Err(message) => context.report(Report::SandboxFailed(message)).await,
                }
            });
        }
        Action::RemoveSandbox => {
            let removals = std::mem::take(&mut worker.removals);
            worker.tasks.spawn(async move {
                for removal in removals {
                    let _ = removal.await;
                }
                while let Err(error) = remove_sandbox(&context.agent, &context.uid).await {
                    tracing::warn!(uid = context.uid, error, "a sandbox could not be taken down, trying again");
                    tokio::time::sleep(REMOVE_RETRY).await;
                }
                context.report(Report::SandboxRemoved).await;
            });
        }
        Action::EnsureImage {
            container,
            image,
            policy,
        } => {
            worker.tasks.spawn(async move {
                let outcome = ensure_image(&context, &container, &image, &policy).await;
                context
                    .report(Report::Image {
                        container,
                        image,
                        outcome,
                    })
                    .await;
            });
        }
        Action::Start {
            container, attempt, ..
        } => {
            let Some(spec) = worker.container(&container) else { return };
            worker.directory.prune(&container, attempt);
            worker.tasks.spawn(async move {
                start(&context, &spec, attempt).await;
            });
        }
        Action::Hook {
            container,
            attempt,
            kind,
            handler,
            timeout_s,
        } => {
            let Some(spec) = worker.container(&container) else { return };
            worker.tasks.spawn(async move {
                let id = container_id(&context.uid, &container, attempt);
                let target = Target {
                    runtime: &context.agent.runtime,
                    id: &id,
                    ip: &context.facts.pod_ip,
                    container: &spec,
                };
                let timeout = timeout_s.map(Duration::from_secs);
                let done = probe::hook(&target, &handler, timeout).await;
                let told = match kind {
                    HookKind::PostStart => "postStart",
                    HookKind::PreStop => "preStop",
                };
                if let Err(error) = &done {
                    tracing::debug!(id, hook = told, error, "a lifecycle hook failed");
                }
                context
                    .report(Report::HookDone {
                        container,
                        attempt,
                        kind,
                        error: done.err(),
                    })
                    .await;
            });
        }
        Action::Probe {
            container,
            attempt,
            kind,
        } => {
            let Some(spec) = worker.container(&container) else { return };
            worker.tasks.spawn(async move {
                let chosen = match kind {
                    ProbeKind::Startup => spec.startup_probe.clone(),
                    ProbeKind::Liveness => spec.liveness_probe.clone(),
                    ProbeKind::Readiness => spec.readiness_probe.clone(),
                };
                let Some(chosen) = chosen else { return };
                let id = container_id(&context.uid, &container, attempt);
                let target = Target {
                    runtime: &context.agent.runtime,
                    id: &id,
                    ip: &context.facts.pod_ip,
                    container: &spec,
                };
                let outcome = probe::probe(&target, &chosen).await;
                context
                    .report(Report::Probe {
                        container,
                        attempt,
                        kind,
                        outcome,
                    })
                    .await;
            });
        }
        Action::Signal {
            container,
            attempt,
            signal,
            ..
        } => {
            let spec = worker.container(&container);
            worker.tasks.spawn(async move {
                send_signal(&context, spec.as_ref(), &container, attempt, &signal).await;
            });
        }
        // Bookkeeping, done by `begin` of the state; or the worker's own business.
        Action::Stop { .. }
        | Action::Terminate { .. }
        | Action::BackOffTold { .. }
        | Action::Event(_)
        | Action::DeleteObject
        | Action::Forget => {}
    }
}

async fn prepare_volumes(context: &Context) -> Result<(), Vec<String>> {
    let sources = volumes::payload::Sources {
        pod: &context.pod,
        references: &context.agent.references,
        tokens: &context.agent.tokens,
        facts: &context.facts,
    };
    volumes::prepare(&context.directory, &sources).await
}

async fn create_sandbox(context: &Context) -> Result<Sandboxed, String> {
    let (agent, pod) = (&context.agent, &context.pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let (hostname, _) = hosts::names(pod, &agent.config.name, &agent.config.cluster_domain);
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let order = SandboxSpec {
        pod_uid: context.uid.clone(),
        hostname,
        qos: container::qos_of(pod),
        limits: container::pod_limits(pod),
        host_network,
        host_ipc: spec.host_ipc == Some(true),
        host_pid: spec.host_pid == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        sysctls: sysctls
            .filter(|sysctl| !sysctl.name.starts_with("net."))
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
    };
    let network = async {
        if host_network {
            return Ok((None, agent.config.internal_ip.to_string()));
        }
        let ip = agent.allocate(&context.uid).await?;
        let (network, uid) = (agent.network.clone(), context.uid.clone());
        let made = tokio::task::spawn_blocking(move || network.setup(&uid, ip)).await;
        match made {
            Ok(Ok(path)) => Ok((Some(path), ip.to_string())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let (network, sandbox) = tokio::join!(network, agent.runtime.create_sandbox(&order));
    let (netns, ip) = network?;
    let sandbox = sandbox.map_err(|error| error.to_string())?;
    hosts::write(agent, pod, &ip, &context.directory).map_err(|error| error.to_string())?;
    Ok(Sandboxed {
        sandbox: Arc::new(sandbox),
        netns,
        ip,
    })
}

/// Takes down a pod's namespaces and network; its containers are gone.
pub(crate) async fn remove_sandbox(agent: &Agent, uid: &str) -> Result<(), String> {
    agent
        .runtime
        .remove_sandbox(uid)
        .await
        .map_err(|error| error.to_string())?;
    let (network, owner) = (agent.network.clone(), uid.to_owned());
    match tokio::task::spawn_blocking(move || network.teardown(&owner)).await {
        Ok(result) => result.map_err(|error| error.to_string())?,
        Err(error) => return Err(error.to_string()),
    }
    agent.release(uid);
    Ok(())
}

async fn ensure_image(context: &Context, container: &str, image: &str, policy: &str) -> ImageOutcome {
    let secrets = async || {
        let (secrets, missing) = images::pull_secrets(&context.pod, &context.agent.references).await;
        if !missing.is_empty() {
            let record = EventRecord {
                event_type: EventType::Warning,
                reason: "FailedToRetrieveImagePullSecret".to_owned(),
                message: format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    missing.join(", ")
                ),
                container: None,
            };
            context.agent.events.pod(&context.pod, record);
        }
        secrets
    };
    let pulling = async || {
        context
            .report(Report::Image {
                container: container.to_owned(),
                image: image.to_owned(),
                outcome: ImageOutcome::Pulling,
            })
            .await;
    };
    context.agent.images.ensure(image, policy, secrets, pulling).await
}

async fn start(context: &Context, spec: &Container, attempt: u32) {
    let id = container_id(&context.uid, &spec.name, attempt);
    match try_start(context, spec, attempt, &id).await {
        Ok(at) => {
            context
                .report(Report::Started {
                    container: spec.name.clone(),
                    attempt,
                    id: id.clone(),
                    at,
                })
                .await;
            watch(context, spec, attempt).await;
        }
        Err(failure) => {
            context
                .report(Report::StartFailed {
                    container: spec.name.clone(),
                    attempt,
                    failure,
                })
                .await;
        }
    }
}

async fn try_start(
    context: &Context,
    spec: &Container,
    attempt: u32,
    id: &str,
) -> Result<Timestamp, StartFailure> {
    let agent = &context.agent;
    let create = |text: String| StartFailure::Create(text);
    let Some(sandboxed) = &context.sandbox else {
        return Err(create("the pod's sandbox is not ready".to_owned()));
    };
    let name = spec.image.clone().unwrap_or_default();
    let store = agent.images.store().clone();
    let wanted = name.clone();
    let image = tokio::task::spawn_blocking(move || store.get(&wanted))
        .await
        .map_err(|error| create(error.to_string()))?
        .map_err(|error| create(error.to_string()))?
        .ok_or_else(|| create(format!("image {name:?} is not on this node any more")))?;
    let namespace = context.pod.metadata.namespace.clone().unwrap_or_default();
    let mut view = agent.services.clone();
    let listed = async { view.wait_for(|view| view.listed()).await.is_ok() };
    if !tokio::time::timeout(SERVICES_WAIT, listed).await.unwrap_or(false) {
        let message = "services have not yet been read at least once, cannot construct envvars";
        return Err(StartFailure::Config(message.to_owned()));
    }
    let view = agent.services.borrow().clone();
    let links = context.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let sources = Sources {
        references: &agent.references,
        facts: &context.facts,
        services: services::environment(&view, &namespace, links),
    };
    let order = container::order(
        agent,
        &context.pod,
        spec,
        attempt,
        &image,
        &sandboxed.sandbox,
        sandboxed.netns.as_deref(),
        &context.directory,
        &sources,
    )
    .await?;
    let log = context.directory.log(&spec.name, attempt);
    let words = context.directory.termination_log(&spec.name, attempt);
    prepare_files(&log, &words).map_err(|error| create(error.to_string()))?;
    let Ok(_permit) = agent.starts.acquire().await else {
        return Err(create("the agent is ending".to_owned()));
    };
    let mut started = agent.runtime.create_and_start(&order).await;
    if let Err(ContainerError::Exists { .. }) = started {
        // Half of an earlier try.
        agent
            .runtime
            .delete(id)
            .await
            .map_err(|error| create(error.to_string()))?;
        started = agent.runtime.create_and_start(&order).await;
    }
    match started {
        Ok(started) => Ok(started.started_at),
        Err(ContainerError::Start { message }) => Err(StartFailure::Run {
            id: id.to_owned(),
            message,
        }),
        Err(ContainerError::InvalidSpec { field, message }) if field != "command" => {
            Err(StartFailure::Config(format!("{field}: {message}")))
        }
        Err(error) => Err(create(error.to_string())),
    }
}

fn prepare_files(log: &Path, words: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for file in [log, words] {
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
    }
    std::fs::File::create(words)?;
    // Whatever user the container runs as may leave its last words.
    std::fs::set_permissions(words, std::fs::Permissions::from_mode(0o666))
}

/// Waits for the end of an instance and reports it.
async fn watch(context: &Context, spec: &Container, attempt: u32) {
    let id = container_id(&context.uid, &spec.name, attempt);
    let report = match context.agent.runtime.wait(&id).await {
        Ok(exit) => {
            let message = last_words(context, spec, attempt, exit.exit_code).unwrap_or_else(|| {
                exit.error.as_ref().map(ToString::to_string).unwrap_or_default()
            });
            Report::Exited {
                container: spec.name.clone(),
                attempt,
                exit_code: exit.exit_code,
                signal: exit.signal,
                oom_killed: exit.oom_killed,
                message,
                at: exit.finished_at,
            }
        }
        Err(error) => lost(&spec.name, attempt, error.to_string()),
    };
    context.report(report).await;
}

/// An instance whose end nobody saw.
pub(crate) fn lost(container: &str, attempt: u32, message: String) -> Report {
    Report::Exited {
        container: container.to_owned(),
        attempt,
        exit_code: 137,
        signal: None,
        oom_killed: false,
        message,
        at: Timestamp::now(),
    }
}

/// Watches an instance that an earlier agent started.
pub(crate) fn watch_adopted(worker: &mut Worker, container: &str, attempt: u32) {
    let Some(spec) = worker.container(container) else { return };
    let context = Context::of(worker);
    worker.tasks.spawn(async move { watch(&context, &spec, attempt).await });
}

/// What the container left at its termination message path; none if nothing.
fn last_words(context: &Context, spec: &Container, attempt: u32, exit_code: i32) -> Option<String> {
    let path = context.directory.termination_log(&spec.name, attempt);
    let words = read_start(&path, MESSAGE_MAX_BYTES);
    if !words.is_empty() {
        return Some(words);
    }
    let fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !fallback || exit_code == 0 {
        return None;
    }
    let log = context.directory.log(&spec.name, attempt);
    let tail = crate::server::logs::tail_text(&log, LOG_TAIL_MAX_LINES, LOG_TAIL_MAX_BYTES);
    (!tail.is_empty()).then_some(tail)
}

fn read_start(path: &Path, limit: u64) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A signal by name or number.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    use std::str::FromStr;
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = full.strip_prefix("SIGRTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return Some(libc::SIGRTMIN() + offset);
    }
    nix::sys::signal::Signal::from_str(&full).ok().map(|signal| signal as i32)
}

async fn send_signal(
    context: &Context,
    spec: Option<&Container>,
    container: &str,
    attempt: u32,
    signal: &str,
) {
    let runtime = &context.agent.runtime;
    let id = container_id(&context.uid, container, attempt);
    if signal == "SIGKILL" {
        if let Err(error) = runtime.kill(&id).await {
            tracing::warn!(id, %error, "a container could not be killed");
        }
        return;
    }
    // Where the pod says nothing, the image may.
    let own = spec
        .and_then(|spec| spec.lifecycle.as_ref())
        .is_some_and(|lifecycle| lifecycle.stop_signal.is_some());
    let mut name = signal.to_owned();
    if !own && let Some(image) = spec.and_then(|spec| spec.image.clone()) {
        let store = context.agent.images.store().clone();
        let found = tokio::task::spawn_blocking(move || store.get(&image)).await;
        if let Ok(Ok(Some(image))) = found
            && !image.config.stop_signal.is_empty()
        {
            name = image.config.stop_signal;
        }
    }
    let number = signal_number(&name).unwrap_or(libc::SIGTERM);
    match runtime.signal(&id, number) {
        Ok(()) | Err(ContainerError::NotRunning { .. }) => {}
        Err(error) => tracing::warn!(id, signal = name, %error, "a container could not be signalled"),
    }
}

/// Deletes the pod's object: none if finalizers keep it, so that its end is still to come.
pub(crate) async fn delete_object(agent: &Agent, pod: &Pod) -> Option<Report> {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ..DeleteOptions::default()
    };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    match agent.client.delete(kinds::POD, &namespace, &name, &options).await {
        Ok(deletion) if deletion.deleted => Some(Report::Deleted),
        Ok(_) => None,
        Err(error) if error.is_not_found() || error.is_conflict() => Some(Report::Deleted),
        Err(error) => {
            tracing::warn!(namespace, pod = name, %error, "a pod's object could not be deleted");
            Some(Report::DeleteFailed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_are_read_as_docker_writes_them() {
        for (name, number) in [("SIGQUIT", 3), ("QUIT", 3), ("15", 15), ("sigterm", 15)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        assert_eq!(signal_number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        assert_eq!(signal_number("SIGNONSENSE"), None);
        assert_eq!(signal_number("99"), None);
    }
}
