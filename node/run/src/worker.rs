//! One pod: decides, carries out, reports, keeps its state on disk.

use crate::agent::Agent;
use crate::execute::{self, Sandboxed};
use crate::pods::{Inventory, PodHandle, PodSeen};
use crate::references::{self};
use crate::status::StatusWriter;
use crate::store::PodDirectory;
use crate::{services, volumes};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use trireme_node_decide::{
    Action, EventRecord, Instance, PodRuntime, Report, VolumeState, containers, decide,
};

/// Reports and changes waiting for a worker; whoever sends more waits, as the worker never waits
/// for a sender.
const MAIL_MAX: usize = 256;
/// Plans that may follow each other without anything happening; a pod comes to rest within ten.
const ROUNDS_MAX: u32 = 100;
/// Pause before volumes whose contents could not be renewed are tried again.
const REFRESH_RETRY_S: i64 = 10;

/// What a worker is told.
pub(crate) enum Mail {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API has it no more.
    Gone,
    /// A ConfigMap or Secret that it refers to changed.
    ReferenceChanged,
    /// Something that was begun came to this.
    Report(Report),
    /// Its namespaces are ready.
    Sandboxed(Sandboxed),
    /// The contents of its volumes are up to date, or not.
    Refreshed(Result<(), Vec<String>>),
}

/// Drives one pod.
pub(crate) struct Worker {
    pub agent: Arc<Agent>,
    pub pod: Arc<Pod>,
    pub uid: String,
    pub runtime: PodRuntime,
    pub directory: PodDirectory,
    pub sandbox: Option<Sandboxed>,
    pub tasks: JoinSet<()>,
    /// Containers that are being removed from the runtime.
    pub removals: Vec<JoinHandle<()>>,
    pub sender: mpsc::Sender<Mail>,
    mail: mpsc::Receiver<Mail>,
    seen: watch::Sender<PodSeen>,
    status: Option<StatusWriter>,
    saved: Option<PodRuntime>,
    refreshing: bool,
    refresh_again: bool,
    refresh_at: Option<Timestamp>,
    shutdown: CancellationToken,
}

impl Worker {
    pub fn new(
        agent: Arc<Agent>,
        pod: Pod,
        runtime: PodRuntime,
        shutdown: CancellationToken,
    ) -> (PodHandle, Worker) {
        let pod = Arc::new(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (sender, mail) = mpsc::channel(MAIL_MAX);
        let status = pod.status.clone().unwrap_or_default();
        let (seen, seen_receiver) = watch::channel(PodSeen {
            pod: pod.clone(),
            runtime: Arc::new(runtime.clone()),
            status: Arc::new(status),
        });
        let handle = PodHandle {
            mail: sender.clone(),
            seen: seen_receiver,
        };
        let worker = Worker {
            directory: PodDirectory::new(&agent.config.data, &uid),
            agent,
            pod,
            uid,
            runtime,
            sandbox: None,
            tasks: JoinSet::new(),
            removals: Vec::new(),
            sender,
            mail,
            seen,
            status: None,
            saved: None,
            refreshing: false,
            refresh_again: false,
            refresh_at: None,
            shutdown,
        };
        (handle, worker)
    }

    /// Runs until the pod is forgotten or the agent ends.
    pub async fn run(mut self, inventory: Option<Arc<Inventory>>) {
        if let Err(error) = self.directory.save_pod(&self.pod) {
            tracing::error!(uid = self.uid, %error, "a pod could not be recorded");
        }
        self.agent
            .references
            .hold(&self.uid, &references::references(&self.pod));
        self.status = Some(StatusWriter::start(self.agent.client.clone(), &self.pod));
        if let Some(inventory) = inventory {
            self.adopt(&inventory).await;
            // Tokens of the last agent are not known to this one.
            self.refresh_at = Some(Timestamp::now());
        }
        loop {
            let (forgotten, wake_at) = self.settle();
            if forgotten {
                self.forget().await;
                return;
            }
            let wake_at = [wake_at, self.refresh_at, self.renewal()]
                .into_iter()
                .flatten()
                .min();
            let pause = wake_at.map(|at| {
                let left = at.duration_since(Timestamp::now());
                std::time::Duration::try_from(left).unwrap_or_default()
            });
            let wake = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                mail = self.mail.recv() => match mail {
                    Some(mail) => self.take(mail),
                    None => return,
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(uid = self.uid, %error, "a pod's task failed");
                    }
                    continue;
                }
                () = wake => self.refresh_if_due(),
                () = self.shutdown.cancelled() => return,
            }
            // Whatever else has arrived is taken into the same decision.
            while let Ok(mail) = self.mail.try_recv() {
                self.take(mail);
            }
        }
    }

    /// Decides and begins until nothing more is to be begun. True if the pod is to be forgotten.
    fn settle(&mut self) -> (bool, Option<Timestamp>) {
        for _ in 0..ROUNDS_MAX {
            let now = Timestamp::now();
            let plan = decide(&self.pod, &self.runtime, now);
            self.runtime.remember(&plan.status);
            for action in &plan.actions {
                self.runtime.begin(action, now);
            }
            // Before anything is carried out: whoever comes after must know of it.
            self.save();
            if plan.actions.is_empty() {
                self.publish(&plan.status);
                return (false, plan.wake_at);
            }
            for action in plan.actions {
                match action {
                    Action::Forget => return (true, None),
                    Action::Event(record) => self.tell(record),
                    Action::DeleteObject => {
                        self.publish(&plan.status);
                        self.delete_object();
                    }
                    action => execute::begin(self, action),
                }
            }
        }
        tracing::error!(uid = self.uid, "the plans for a pod do not come to rest");
        (
            false,
            Some(execute::later(
                Timestamp::now(),
                SignedDuration::from_secs(1),
            )),
        )
    }

    pub fn tell(&self, record: EventRecord) {
        self.agent.events.pod(&self.pod, record);
    }

    fn publish(&self, status: &PodStatus) {
        if let Some(writer) = &self.status {
            writer.report(status);
        }
        let runtime = &self.runtime;
        self.seen.send_if_modified(|seen| {
            let changed = *seen.status != *status
                || *seen.runtime != *runtime
                || !Arc::ptr_eq(&seen.pod, &self.pod);
            if changed {
                *seen = PodSeen {
                    pod: self.pod.clone(),
                    runtime: Arc::new(runtime.clone()),
                    status: Arc::new(status.clone()),
                };
            }
            changed
        });
    }

    /// Keeps the state on disk; what probes counted is not worth a write each time.
    fn save(&mut self) {
        let mut kept = self.runtime.clone();
        for record in kept.containers.values_mut() {
            if let Instance::Running { probes, .. } = &mut record.instance {
                for track in [
                    &mut probes.startup,
                    &mut probes.liveness,
                    &mut probes.readiness,
                ] {
                    let passing = track.passing;
                    *track = trireme_node_decide::ProbeTrack {
                        passing,
                        ..Default::default()
                    };
                }
            }
        }
        if self.saved.as_ref() == Some(&kept) {
            return;
        }
        match self.directory.save_runtime(&kept) {
            Ok(()) => self.saved = Some(kept),
            Err(error) => {
                tracing::error!(uid = self.uid, %error, "a pod's state could not be recorded")
            }
        }
    }

    pub fn observe(&mut self, report: Report) {
        for record in self.runtime.observe(&self.pod, report, Timestamp::now()) {
            self.tell(record);
        }
    }

    fn take(&mut self, mail: Mail) {
        match mail {
            Mail::Pod(pod) => self.take_pod(pod),
            Mail::Gone => self.observe(Report::Deleted),
            Mail::ReferenceChanged => {
                self.observe(Report::TryAgain);
                self.refresh();
            }
            Mail::Report(report) => self.take_report(report),
            Mail::Sandboxed(sandboxed) => {
                let ip = sandboxed.ip.clone();
                self.set_sandbox(Some(sandboxed));
                self.observe(Report::SandboxReady { ip });
            }
            Mail::Refreshed(result) => {
                self.refreshing = false;
                self.refresh_at = None;
                if let Err(problems) = result {
                    for problem in problems {
                        tracing::debug!(uid = self.uid, problem, "a volume was not renewed");
                    }
                    let pause = SignedDuration::from_secs(REFRESH_RETRY_S);
                    self.refresh_at = Some(execute::later(Timestamp::now(), pause));
                }
                if std::mem::take(&mut self.refresh_again) {
                    self.refresh();
                }
            }
        }
    }

    /// Takes note of the pod's namespaces, and of the node's ports that lead to them.
    pub fn set_sandbox(&mut self, sandbox: Option<Sandboxed>) {
        let rules = match (&sandbox, self.agent.node_ip()) {
            (Some(sandboxed), Some(node_ip)) => {
                services::host_port::rules(&self.pod, &sandboxed.ip, node_ip)
            }
            _ => Vec::new(),
        };
        self.agent.host_ports.send_if_modified(|all| {
            if rules.is_empty() {
                return all.remove(&self.uid).is_some();
            }
            all.insert(self.uid.clone(), rules.clone()).as_ref() != Some(&rules)
        });
        self.sandbox = sandbox;
    }

    fn take_report(&mut self, report: Report) {
        let ended = match &report {
            Report::Exited {
                container, attempt, ..
            } => Some((container.clone(), *attempt)),
            _ => None,
        };
        if let Report::SandboxRemoved = report {
            self.set_sandbox(None);
        }
        self.observe(report);
        if let Some((container, attempt)) = ended {
            // The exit is on disk here before it is removed there.
            self.save();
            self.remove_instance(&container, attempt);
        }
    }

    /// Removes an ended instance from the runtime; its log stays.
    pub fn remove_instance(&mut self, container: &str, attempt: u32) {
        let id = crate::instance::container_id(&self.uid, container, attempt);
        let runtime = self.agent.runtime.clone();
        self.removals.retain(|removal| !removal.is_finished());
        self.removals.push(tokio::spawn(async move {
            if let Err(error) = runtime.delete(&id).await {
                tracing::warn!(id, %error, "an ended container could not be removed");
            }
        }));
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        let (old, new) = (&self.pod.metadata, &pod.metadata);
        let metadata_changed = old.labels != new.labels || old.annotations != new.annotations;
        let spec_changed = self.pod.spec != pod.spec;
        let deletion_changed = old.deletion_timestamp != new.deletion_timestamp
            || old.deletion_grace_period_seconds != new.deletion_grace_period_seconds;
        if let Some(writer) = &self.status {
            writer.observe(&pod);
        }
        self.pod = pod;
        let changed = metadata_changed || spec_changed || deletion_changed;
        if changed && let Err(error) = self.directory.save_pod(&self.pod) {
            tracing::error!(uid = self.uid, %error, "a pod could not be recorded");
        }
        if spec_changed {
            self.agent
                .references
                .hold(&self.uid, &references::references(&self.pod));
        }
        if metadata_changed {
            self.refresh();
        }
    }

    fn renewal(&self) -> Option<Timestamp> {
        match self.runtime.volumes {
            VolumeState::Ready if !self.refreshing && self.refresh_at.is_none() => {
                self.agent.tokens.next_renewal(&self.uid)
            }
            _ => None,
        }
    }

    fn refresh_if_due(&mut self) {
        let now = Timestamp::now();
        let due = [self.refresh_at, self.renewal()]
            .into_iter()
            .flatten()
            .any(|at| at <= now);
        if due {
            self.refresh_at = None;
            self.refresh();
        }
    }

    /// Brings volumes from the API up to date, in a task of its own.
    fn refresh(&mut self) {
        let any = volumes::volumes(&self.pod).any(volumes::payload::is_api_volume);
        if !any || self.runtime.volumes != VolumeState::Ready {
            return;
        }
        if self.refreshing {
            self.refresh_again = true;
            return;
        }
        self.refreshing = true;
        let (agent, pod, directory) =
            (self.agent.clone(), self.pod.clone(), self.directory.clone());
        let (sender, facts) = (self.sender.clone(), execute::facts(self));
        self.tasks.spawn(async move {
            let sources = volumes::payload::Sources {
                pod: &pod,
                references: &agent.references,
                tokens: &agent.tokens,
                facts: &facts,
            };
            let result = volumes::refresh(&directory, &sources).await;
            let _ = sender.send(Mail::Refreshed(result)).await;
        });
    }

    /// Deletes the API object once it shows the pod's last status.
    fn delete_object(&mut self) {
        let Some(writer) = &self.status else { return };
        let flushed = writer.flushed();
        let (agent, pod, sender) = (self.agent.clone(), self.pod.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            flushed.await;
            if let Some(report) = execute::delete_object(&agent, &pod).await {
                let _ = sender.send(Mail::Report(report)).await;
            }
        });
    }

    /// Removes every trace of the pod.
    async fn forget(&mut self) {
        self.tasks.shutdown().await;
        for removal in self.removals.drain(..) {
            let _ = removal.await;
        }
        self.agent.references.hold(&self.uid, &BTreeSet::new());
        self.agent.tokens.forget(&self.uid);
        let directory = self.directory.clone();
        let removed = tokio::task::spawn_blocking(move || {
            volumes::remove(&directory)?;
            directory.remove()
        })
        .await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(uid = self.uid, %error, "a pod's directory could not be removed");
        }
    }

    /// The container's spec by name.
    pub fn container(&self, name: &str) -> Option<k8s_openapi::api::core::v1::Container> {
        containers(&self.pod)
            .into_iter()
            .map(|found| found.container)
            .find(|container| container.name == name)
    }
}
