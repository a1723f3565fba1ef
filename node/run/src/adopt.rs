//! Taking over a pod that an earlier agent left: its containers go on as they are.

use crate::execute::{self, Sandboxed};
use crate::instance::{self, container_id};
use crate::pods::{Inventory, is_live};
use crate::start;
use crate::worker::{Mail, Worker};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use trireme_container::{ContainerError, ContainerState, ContainerStatus, Exit};
use trireme_node_decide::{Instance, Report, SandboxState, StartFailure};

/// How often a start that an earlier agent had begun is looked at, and for how long: the runtime's
/// own limit for a start.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 3000;

impl Worker {
    /// Compares what was recorded with what there is.
    pub async fn adopt(&mut self, inventory: &Inventory) {
        let uid = self.uid.clone();
        let found: BTreeMap<(String, u32), ContainerStatus> = inventory
            .containers(&uid)
            .iter()
            .filter_map(|status| {
                let (_, name, attempt) = instance::parse(&status.id)?;
                Some(((name.to_owned(), attempt), status.clone()))
            })
            .collect();
        self.runtime
            .adopt(|name, attempt| found.contains_key(&(name.to_owned(), attempt)));
        self.adopt_sandbox(inventory, found.values().any(is_live))
            .await;
        let mut current = Vec::new();
        for (name, record) in self.runtime.containers.clone() {
            let (attempt, starting) = match &record.instance {
                Instance::Starting { attempt } => (*attempt, true),
                Instance::Running { attempt, .. } => (*attempt, false),
                Instance::None => continue,
            };
            current.push((name.clone(), attempt));
            match found
                .get(&(name.clone(), attempt))
                .map(|status| &status.state)
            {
                Some(state) => self.adopt_instance(&name, attempt, starting, state),
                None => {
                    let message = "The container could not be located when the agent was started";
                    self.observe(start::lost(&name, attempt, message.to_owned()));
                }
            }
        }
        // Ended ones whose exit is recorded, and whatever else is left of earlier instances.
        for (key, status) in &found {
            if !current.contains(key) {
                if is_live(status) {
                    tracing::warn!(
                        id = status.id,
                        "a container that nobody asked for is removed"
                    );
                }
                self.remove_instance(&key.0, key.1);
            }
        }
        tracing::info!(
            namespace = self.pod.metadata.namespace,
            pod = self.pod.metadata.name,
            containers = current.len(),
            "pod adopted"
        );
    }

    async fn adopt_sandbox(&mut self, inventory: &Inventory, any_live: bool) {
        let SandboxState::Ready { ip } = self.runtime.sandbox.clone() else {
            return;
        };
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let netns = self.agent.network.path(&self.uid);
        let sandbox = inventory
            .sandbox(&self.uid)
            .filter(|sandbox| sandbox.stands());
        let network = self.agent.network.clone();
        let attachments = tokio::task::spawn_blocking(move || network.list()).await;
        let connected = host_network
            || attachments.ok().and_then(Result::ok).is_some_and(|list| {
                list.iter()
                    .any(|a| a.pod_uid == self.uid && a.address.is_some())
            });
        match sandbox {
            Some(sandbox) if connected => {
                self.set_sandbox(Some(Sandboxed {
                    sandbox: Arc::new(sandbox.clone()),
                    netns: (!host_network).then_some(netns),
                    ip,
                }));
            }
            _ if any_live => {
                tracing::error!(
                    uid = self.uid,
                    "the pod's namespaces are gone under live containers"
                );
                self.observe(Report::SandboxLost);
            }
            _ => {
                self.observe(Report::SandboxLost);
                if let Err(error) = execute::remove_sandbox(&self.agent, &self.uid).await {
                    tracing::warn!(
                        uid = self.uid,
                        error,
                        "what is left of a sandbox could not be removed"
                    );
                }
            }
        }
    }

    fn adopt_instance(&mut self, name: &str, attempt: u32, starting: bool, state: &ContainerState) {
        let id = container_id(&self.uid, name, attempt);
        match state {
            ContainerState::Running { started_at, .. } => {
                if starting {
                    self.observe(Report::Started {
                        container: name.to_owned(),
                        attempt,
                        id,
                        at: *started_at,
                    });
                }
                start::watch_adopted(self, name, attempt);
            }
            ContainerState::Exited(exit) => {
                if starting {
                    for report in ended_start(name, attempt, &id, exit) {
                        self.observe(report);
                    }
                }
                // Read like any other end, termination message included.
                start::watch_adopted(self, name, attempt);
            }
            ContainerState::Creating => self.await_start(name, attempt),
        }
    }

    /// A start that was under way when the last agent ended: its shim goes on by itself.
    fn await_start(&mut self, name: &str, attempt: u32) {
        let id = container_id(&self.uid, name, attempt);
        let (runtime, sender) = (self.agent.runtime.clone(), self.sender.clone());
        let name = name.to_owned();
        self.tasks.spawn(async move {
            for _ in 0..LOOKS_MAX {
                let state = runtime
                    .status(&id)
                    .ok()
                    .flatten()
                    .map(|status| status.state);
                let reports = match state {
                    Some(ContainerState::Creating) => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                        continue;
                    }
                    Some(ContainerState::Running { started_at, .. }) => vec![Report::Started {
                        container: name.clone(),
                        attempt,
                        id: id.clone(),
                        at: started_at,
                    }],
                    Some(ContainerState::Exited(exit)) => ended_start(&name, attempt, &id, &exit),
                    None => break,
                };
                for report in reports {
                    let _ = sender.send(Mail::Report(report)).await;
                }
                let report = match runtime.wait(&id).await {
                    Ok(exit) => Report::Exited {
                        container: name.clone(),
                        attempt,
                        exit_code: exit.exit_code,
                        signal: exit.signal,
                        oom_killed: exit.oom_killed,
                        message: String::new(),
                        at: exit.finished_at,
                    },
                    Err(error) => start::lost(&name, attempt, error.to_string()),
                };
                let _ = sender.send(Mail::Report(report)).await;
                return;
            }
            if let Err(error) = runtime.delete(&id).await {
                tracing::warn!(id, %error, "a start that came to nothing could not be removed");
            }
            let report = Report::StartFailed {
                container: name,
                attempt,
                failure: StartFailure::Create("its start was interrupted".to_owned()),
            };
            let _ = sender.send(Mail::Report(report)).await;
        });
    }
}

/// Reports for a start whose end is already known.
fn ended_start(name: &str, attempt: u32, id: &str, exit: &Exit) -> Vec<Report> {
    match &exit.error {
        Some(ContainerError::Start { message }) => vec![Report::StartFailed {
            container: name.to_owned(),
            attempt,
            failure: StartFailure::Run {
                id: id.to_owned(),
                message: message.clone(),
            },
        }],
        _ => vec![Report::Started {
            container: name.to_owned(),
            attempt,
            id: id.to_owned(),
            at: exit.started_at.unwrap_or(exit.finished_at),
        }],
    }
}
