//! Carrying out what was decided for a pod: each action in a task that reports back.

use crate::agent::Agent;
use crate::container;
use crate::downward::Facts;
use crate::instance::container_id;
use crate::probe::{self, Target};
use crate::store::PodDirectory;
use crate::worker::{Mail, Worker};
use crate::{hosts, intercept, signal, start, volumes};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use trireme_client::DeleteOptions;
use trireme_container::{PodSandbox, SandboxSpec};
use trireme_model::kinds;
use trireme_node_decide::{Action, HookKind, ProbeKind, Report};

/// Pause before a sandbox that could not be taken down is tried again.
const REMOVE_RETRY: Duration = Duration::from_secs(1);

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
pub(crate) struct Context {
    pub agent: Arc<Agent>,
    pub pod: Arc<Pod>,
    pub uid: String,
    pub directory: PodDirectory,
    pub sender: mpsc::Sender<Mail>,
    pub facts: Facts,
    pub sandbox: Option<Sandboxed>,
}

impl Context {
    pub fn of(worker: &Worker) -> Context {
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

    pub async fn report(&self, report: Report) {
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
                let removed =
                    tokio::task::spawn_blocking(move || volumes::remove(&directory)).await;
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
                    tracing::warn!(
                        uid = context.uid,
                        error,
                        "a sandbox could not be taken down, trying again"
                    );
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
                let outcome = start::ensure_image(&context, &container, &image, &policy).await;
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
            let Some(spec) = worker.container(&container) else {
                return;
            };
            worker.directory.prune(&container, attempt);
            worker.tasks.spawn(async move {
                start::start(&context, &spec, attempt).await;
            });
        }
        Action::Hook {
            container,
            attempt,
            kind,
            handler,
            timeout_s,
        } => {
            let Some(spec) = worker.container(&container) else {
                return;
            };
            worker.tasks.spawn(async move {
                let id = container_id(&context.uid, &container, attempt);
                let target = Target {
                    runtime: &context.agent.runtime,
                    id: &id,
                    ip: &context.facts.pod_ip,
                    container: &spec,
                    intercepted: intercept::is_intercepted(&context.pod),
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
            let Some(spec) = worker.container(&container) else {
                return;
            };
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
                    intercepted: intercept::is_intercepted(&context.pod),
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
            signal: name,
            ..
        } => {
            let spec = worker.container(&container);
            worker.tasks.spawn(async move {
                signal::send(&context, spec.as_ref(), &container, attempt, &name).await;
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
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|c| c.sysctls.iter().flatten());
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
        let interception = intercept::of(pod).map_err(|error| error.to_string())?;
        let ip = agent.allocate(&context.uid).await?;
        let (network, uid) = (agent.network.clone(), context.uid.clone());
        let made = tokio::task::spawn_blocking(move || {
            let namespace = network.setup(&uid, ip)?;
            // Before any container starts: no connection of the pod escapes its proxy.
            if let Some(interception) = interception {
                interception.apply(&namespace)?;
            }
            Ok::<_, trireme_network::NetworkError>(namespace)
        })
        .await;
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

/// Deletes the pod's object: none if finalizers keep it, so that its end is still to come.
pub(crate) async fn delete_object(agent: &Agent, pod: &Pod) -> Option<Report> {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ..DeleteOptions::default()
    };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    match agent
        .client
        .delete(kinds::POD, &namespace, &name, &options)
        .await
    {
        Ok(deletion) if deletion.deleted => Some(Report::Deleted),
        Ok(_) => None,
        Err(error) if error.is_not_found() || error.is_conflict() => Some(Report::Deleted),
        Err(error) => {
            tracing::warn!(namespace, pod = name, %error, "a pod's object could not be deleted");
            Some(Report::DeleteFailed)
        }
    }
}
