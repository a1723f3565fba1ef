//! The pods of this node: which there are, and one worker for each.

use crate::agent::Agent;
use crate::instance;
use crate::references::Reference;
use crate::store::{self, PodDirectory};
use crate::worker::{Mail, Worker};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trireme_client::{Change, Informer, InformerOptions};
use trireme_container::{ContainerState, ContainerStatus, PodSandbox};
use trireme_model::{kinds, meta};
use trireme_node_decide::{PodRuntime, admit};

/// What everybody may know of a pod's worker.
#[derive(Clone)]
pub(crate) struct PodHandle {
    pub mail: mpsc::Sender<Mail>,
    pub seen: watch::Receiver<PodSeen>,
}

/// A pod with its state, as its worker last saw both.
#[derive(Clone)]
pub(crate) struct PodSeen {
    pub pod: Arc<Pod>,
    pub runtime: Arc<PodRuntime>,
    pub status: Arc<PodStatus>,
}

/// Workers by pod uid.
#[derive(Default)]
pub(crate) struct Pods {
    handles: Mutex<BTreeMap<String, PodHandle>>,
}

impl Pods {
    fn handles(&self) -> MutexGuard<'_, BTreeMap<String, PodHandle>> {
        // A panic while holding it leaves the map as it was.
        self.handles
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    pub fn get(&self, uid: &str) -> Option<PodHandle> {
        self.handles().get(uid).cloned()
    }

    fn insert(&self, uid: &str, handle: PodHandle) {
        self.handles().insert(uid.to_owned(), handle);
    }

    fn remove(&self, uid: &str) {
        self.handles().remove(uid);
    }

    pub fn all(&self) -> Vec<PodHandle> {
        self.handles().values().cloned().collect()
    }

    /// The pod of that name; of several the one that is not ending.
    pub fn find(&self, namespace: &str, name: &str) -> Option<PodSeen> {
        let mut found: Option<PodSeen> = None;
        for handle in self.all() {
            let seen = handle.seen.borrow().clone();
            let metadata = &seen.pod.metadata;
            if metadata.namespace.as_deref() != Some(namespace)
                || metadata.name.as_deref() != Some(name)
            {
                continue;
            }
            let ending = |seen: &PodSeen| {
                seen.pod.metadata.deletion_timestamp.is_some() || seen.runtime.gone
            };
            if found.as_ref().is_none_or(ending) {
                found = Some(seen);
            }
        }
        found
    }
}

fn is_terminal(status: Option<&PodStatus>) -> bool {
    matches!(
        status.and_then(|s| s.phase.as_deref()),
        Some("Failed" | "Succeeded")
    )
}

/// What the runtime had when the agent started.
pub(crate) struct Inventory {
    containers: BTreeMap<String, Vec<ContainerStatus>>,
    sandboxes: BTreeMap<String, PodSandbox>,
}

impl Inventory {
    pub fn containers(&self, uid: &str) -> &[ContainerStatus] {
        self.containers
            .get(uid)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    pub fn sandbox(&self, uid: &str) -> Option<&PodSandbox> {
        self.sandboxes.get(uid)
    }

    fn read(agent: &Agent) -> Inventory {
        let mut inventory = Inventory {
            containers: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
        };
        match agent.runtime.list() {
            Ok(list) => {
                for status in list {
                    if let Some((uid, _, _)) = instance::parse(&status.id) {
                        inventory
                            .containers
                            .entry(uid.to_owned())
                            .or_default()
                            .push(status);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "containers could not be listed"),
        }
        match agent.runtime.sandboxes() {
            Ok(list) => {
                for sandbox in list {
                    inventory
                        .sandboxes
                        .insert(sandbox.spec.pod_uid.clone(), sandbox);
                }
            }
            Err(error) => tracing::error!(%error, "sandboxes could not be listed"),
        }
        inventory
    }
}

struct Dispatcher {
    agent: Arc<Agent>,
    workers: JoinSet<String>,
    shutdown: CancellationToken,
}

/// Follows the pods bound to this node until `shutdown`.
pub(crate) async fn follow(
    agent: Arc<Agent>,
    mut references: mpsc::Receiver<Reference>,
    shutdown: CancellationToken,
) {
    let mut dispatcher = Dispatcher {
        agent: agent.clone(),
        workers: JoinSet::new(),
        shutdown: shutdown.clone(),
    };
    dispatcher.adopt().await;
    let options = InformerOptions {
        field_selector: format!("spec.nodeName={}", agent.config.name),
        ..InformerOptions::default()
    };
    let (_informer, mut changes) = Informer::start(agent.client.clone(), kinds::POD, options);
    let mut listed: Option<BTreeSet<String>> = Some(BTreeSet::new());
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(Change::Upsert(object)) => {
                    if let Some(list) = &mut listed {
                        list.insert(meta::uid(&object).to_owned());
                    }
                    match serde_json::from_value::<Pod>(object) {
                        Ok(pod) => dispatcher.upsert(pod).await,
                        Err(error) => tracing::warn!(%error, "a pod cannot be read"),
                    }
                }
                Some(Change::Delete(object)) => dispatcher.gone(meta::uid(&object)).await,
                Some(Change::Progress { .. }) => {
                    // The first complete list: whoever is not in it has lost its object.
                    if let Some(list) = listed.take() {
                        dispatcher.orphans(&list).await;
                    }
                }
                None => break,
            },
            Some(reference) = references.recv() => {
                for uid in agent.references.users(&reference) {
                    dispatcher.mail(&uid, Mail::ReferenceChanged).await;
                }
            }
            Some(ended) = dispatcher.workers.join_next() => match ended {
                Ok(uid) => agent.pods.remove(&uid),
                Err(error) => tracing::error!(%error, "a pod's worker failed"),
            },
            () = shutdown.cancelled() => break,
        }
    }
    while dispatcher.workers.join_next().await.is_some() {}
}

impl Dispatcher {
    /// Takes over the pods that an earlier agent left.
    async fn adopt(&mut self) {
        let agent = self.agent.clone();
        let inventory = Arc::new(Inventory::read(&agent));
        let uids = store::pod_uids(&agent.config.data).unwrap_or_else(|error| {
            tracing::error!(%error, "the pods of an earlier agent could not be listed");
            Vec::new()
        });
        let mut known = BTreeSet::new();
        for uid in uids {
            let directory = PodDirectory::new(&agent.config.data, &uid);
            match directory.load() {
                Some((pod, runtime)) => {
                    known.insert(uid.clone());
                    self.start(pod, runtime, Some(inventory.clone()));
                }
                None => {
                    tracing::warn!(uid, "a pod directory without a readable state is removed");
                    if let Err(error) =
                        crate::volumes::remove(&directory).and_then(|()| directory.remove())
                    {
                        tracing::warn!(uid, %error, "a pod directory could not be removed");
                    }
                }
            }
        }
        // Whatever runs without a record was being removed when the last agent ended.
        for (uid, containers) in &inventory.containers {
            if known.contains(uid) {
                continue;
            }
            for container in containers {
                if let Err(error) = agent.runtime.delete(&container.id).await {
                    tracing::warn!(id = container.id, %error, "a stray container could not be removed");
                }
            }
        }
        for uid in inventory
            .sandboxes
            .keys()
            .filter(|uid| !known.contains(*uid))
        {
            if let Err(error) = agent.runtime.remove_sandbox(uid).await {
                tracing::warn!(uid, %error, "a stray sandbox could not be removed");
            }
        }
        let network = agent.network.clone();
        let swept = tokio::task::spawn_blocking(move || {
            for attachment in network.list()? {
                if !known.contains(&attachment.pod_uid) {
                    network.teardown(&attachment.pod_uid)?;
                }
            }
            Ok::<(), trireme_network::NetworkError>(())
        })
        .await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "stray pod networks could not be removed");
        }
    }

    async fn upsert(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        if self.agent.pods.get(&uid).is_some() {
            self.mail(&uid, Mail::Pod(Arc::new(pod))).await;
            return;
        }
        let deleting = pod.metadata.deletion_timestamp.is_some();
        if is_terminal(pod.status.as_ref()) && !deleting {
            return; // it ended before this agent's records begin: nothing of it is here
        }
        let now = Timestamp::now();
        let mut runtime = PodRuntime::new(&self.agent.config.internal_ip.to_string(), now);
        // A pod whose record was lost keeps the start time that it has reported.
        let reported = pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref().map(|t| t.0));
        runtime.start_time = reported.or(runtime.start_time);
        if !deleting && let Err(outcome) = self.admit(&pod) {
            let record = trireme_node_decide::EventRecord {
                event_type: trireme_node_decide::EventType::Warning,
                reason: outcome.reason.clone(),
                message: outcome.message.clone(),
                container: None,
            };
            self.agent.events.pod(&pod, record);
            runtime.outcome = Some(outcome);
        }
        self.start(pod, runtime, None);
    }

    /// Whether the node takes the pod beside those it has.
    fn admit(&self, pod: &Pod) -> Result<(), trireme_node_decide::Outcome> {
        let Some(node) = self.agent.node.borrow().clone() else {
            return Ok(());
        };
        let others: Vec<Arc<Pod>> = self
            .agent
            .pods
            .all()
            .into_iter()
            .map(|handle| handle.seen.borrow().clone())
            .filter(|seen| !is_terminal(Some(&seen.status)) && seen.runtime.outcome.is_none())
            .map(|seen| seen.pod)
            .collect();
        let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
        admit::admit(&node, &others, pod)
    }

    fn start(&mut self, pod: Pod, runtime: PodRuntime, inventory: Option<Arc<Inventory>>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (handle, worker) = Worker::new(self.agent.clone(), pod, runtime, self.shutdown.clone());
        self.agent.pods.insert(&uid, handle);
        self.workers.spawn(async move {
            worker.run(inventory).await;
            uid
        });
    }

    async fn mail(&self, uid: &str, mail: Mail) {
        if let Some(handle) = self.agent.pods.get(uid) {
            // An error means that the worker has just ended.
            let _ = handle.mail.send(mail).await;
        }
    }

    async fn gone(&mut self, uid: &str) {
        self.mail(uid, Mail::Gone).await;
    }

    async fn orphans(&mut self, listed: &BTreeSet<String>) {
        for handle in self.agent.pods.all() {
            let seen = handle.seen.borrow().clone();
            let uid = seen.pod.metadata.uid.clone().unwrap_or_default();
            if !listed.contains(&uid) {
                tracing::info!(
                    namespace = seen.pod.metadata.namespace,
                    pod = seen.pod.metadata.name,
                    uid,
                    "the pod was deleted while this agent was away"
                );
                self.mail(&uid, Mail::Gone).await;
            }
        }
    }
}

/// Whether a container found at the start still lives.
pub(crate) fn is_live(status: &ContainerStatus) -> bool {
    !matches!(status.state, ContainerState::Exited(_))
}
