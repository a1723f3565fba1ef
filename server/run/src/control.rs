//! The one loop: observe → decide → execute, run by the server that leads.
//!
//! A key is decided by one controller at a time, never while its last plan is being carried out, and
//! not before the view has seen what that plan wrote: a stale view cannot create anything twice.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use trireme_client::{Client, EventRecorder, Informer, InformerOptions};
use trireme_decide::{Action, Change, Configuration, Controller, ObjectKey, Plan, View, schedule};
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;

use crate::execute::{Outcome, execute};

/// Plans carried out at once. Each holds its own writes in flight; more would only queue in Raft.
const CONCURRENT_PLANS: usize = 64;
/// Changes taken into the view before decisions are made on it, so that a burst is decided once.
const BATCH_MAX: usize = 4096;
/// Back-off of a key whose plan was refused, doubling.
const BACK_OFF_FIRST: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// When nothing wakes the loop earlier: clocks of conditions are looked at this often at least.
const IDLE_WAKE: Duration = Duration::from_secs(10);

/// A controller's index and the key that it looks at.
type Item = (usize, ObjectKey);

struct Control {
    client: Client,
    recorder: EventRecorder,
    view: View,
    controllers: Vec<Box<dyn Controller>>,
    /// Index past the controllers': the scheduler, whose key is always the empty one.
    scheduler: usize,
    ready: BTreeSet<Item>,
    delayed: BTreeSet<(Instant, Item)>,
    /// When an item is due, to keep one delay for each.
    due: BTreeMap<Item, Instant>,
    /// Being carried out; true when something changed meanwhile.
    busy: BTreeMap<Item, bool>,
    /// Written by the last plan and not seen yet.
    unseen: BTreeMap<Item, Vec<(&'static Kind, u64)>>,
    /// Consecutive refusals.
    refusals: BTreeMap<Item, u32>,
    /// The version up to which the view has seen each storage.
    reached: BTreeMap<&'static str, u64>,
}

/// Runs until `ended`; the caller starts it when this server has become the leader.
pub async fn run(
    client: Client,
    recorder: EventRecorder,
    configuration: Configuration,
    ended: CancellationToken,
) {
    let controllers = trireme_decide::controllers(&configuration);
    let mut control = Control {
        scheduler: controllers.len(),
        view: View::new(jiff::Timestamp::now()),
        client: client.clone(),
        recorder,
        controllers,
        ready: BTreeSet::new(),
        delayed: BTreeSet::new(),
        due: BTreeMap::new(),
        busy: BTreeMap::new(),
        unseen: BTreeMap::new(),
        refusals: BTreeMap::new(),
        reached: BTreeMap::new(),
    };
    let kinds = View::watched();
    let mut informers = Vec::new();
    let mut streams = Vec::new();
    for kind in kinds {
        let (informer, changes) = Informer::start(client.clone(), kind, InformerOptions::default());
        informers.push(informer);
        streams.push(ReceiverStream::new(changes).map(move |change| (kind, change)));
    }
    let mut changes = pin!(futures_util::stream::select_all(streams).ready_chunks(BATCH_MAX));
    let mut unsynced = informers.len();
    let mut running: JoinSet<(Item, Outcome)> = JoinSet::new();
    loop {
        let wake = control
            .delayed
            .first()
            .map_or_else(|| Instant::now() + IDLE_WAKE, |(due, _)| *due);
        tokio::select! {
            batch = changes.next() => {
                let Some(batch) = batch else { return };
                control.view.set_now(jiff::Timestamp::now());
                for (kind, change) in batch {
                    if control.observe(kind, change) {
                        unsynced = unsynced.saturating_sub(1);
                    }
                }
            }
            Some(finished) = running.join_next() => match finished {
                Ok((item, outcome)) => control.finish(item, outcome),
                // A panic in a plan's execution is our own bug; the process must not go on half.
                Err(error) => {
                    if error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            },
            () = tokio::time::sleep_until(wake) => {}
            () = ended.cancelled() => break,
        }
        if unsynced > 0 {
            continue;
        }
        control.release_due();
        control.view.set_now(jiff::Timestamp::now());
        while running.len() < CONCURRENT_PLANS {
            let Some((item, plan)) = control.decide() else {
                break;
            };
            let (client, recorder) = (control.client.clone(), control.recorder.clone());
            running.spawn(async move {
                let outcome = execute(&client, &recorder, plan).await;
                (item, outcome)
            });
        }
    }
    running.shutdown().await;
    for informer in informers {
        informer.stop().await;
    }
}

impl Control {
    /// Takes a change into the view and queues whom it concerns. True when it was the end of the
    /// kind's first list.
    fn observe(&mut self, kind: &'static Kind, change: trireme_client::Change) -> bool {
        let (version, change) = match change {
            trireme_client::Change::Upsert(object) => {
                (version(&object), Some(Change::Upsert(object)))
            }
            trireme_client::Change::Delete(object) => {
                let key = ObjectKey::new(meta::namespace(&object), meta::name(&object));
                (version(&object), Some(Change::Delete(key)))
            }
            trireme_client::Change::Progress { resource_version } => {
                (resource_version.parse().unwrap_or(0), None)
            }
        };
        let Some(change) = change else {
            let first = !self.reached.contains_key(kind.storage);
            self.advance(kind, version);
            return first;
        };
        match self.view.update(kind, change) {
            Ok(transition) => {
                for index in 0..self.controllers.len() {
                    let keys = self.controllers[index].enqueue(
                        &self.view,
                        kind,
                        transition.before.as_ref(),
                        transition.after.as_ref(),
                    );
                    for key in keys {
                        self.queue((index, key));
                    }
                }
                if kind == kinds::POD || kind == kinds::NODE {
                    self.queue((self.scheduler, ObjectKey::default()));
                }
            }
            Err(error) => tracing::error!(%error, "an object of the API cannot be understood"),
        }
        // Before the first list is complete nothing is decided, so nothing waits for versions.
        if self.reached.contains_key(kind.storage) {
            self.advance(kind, version);
        }
        false
    }

    fn advance(&mut self, kind: &'static Kind, version: u64) {
        let reached = self.reached.entry(kind.storage).or_insert(0);
        *reached = version.max(*reached);
        let reached = &self.reached;
        let mut seen = Vec::new();
        self.unseen.retain(|item, written| {
            written.retain(|(kind, version)| {
                reached
                    .get(kind.storage)
                    .is_some_and(|reached| reached < version)
            });
            if written.is_empty() {
                seen.push(item.clone());
            }
            !written.is_empty()
        });
        // What changed while it waited was kept in the ready queue.
        for item in seen {
            self.queue(item);
        }
    }

    fn queue(&mut self, item: Item) {
        if let Some(changed) = self.busy.get_mut(&item) {
            *changed = true;
            return;
        }
        self.ready.insert(item);
    }

    fn delay(&mut self, item: Item, after: Duration) {
        let due = Instant::now() + after;
        if let Some(known) = self.due.get(&item) {
            if *known <= due {
                return;
            }
            self.delayed.remove(&(*known, item.clone()));
        }
        self.due.insert(item.clone(), due);
        self.delayed.insert((due, item));
    }

    fn release_due(&mut self) {
        let now = Instant::now();
        while let Some((due, item)) = self.delayed.first().cloned() {
            if due > now {
                break;
            }
            self.delayed.remove(&(due, item.clone()));
            self.due.remove(&item);
            self.queue(item);
        }
    }

    /// The next plan that holds something to do.
    fn decide(&mut self) -> Option<(Item, Plan)> {
        loop {
            let item = self
                .ready
                .iter()
                .find(|item| !self.unseen.contains_key(*item) && !self.backing_off(item))
                .cloned()?;
            self.ready.remove(&item);
            let (index, key) = &item;
            let seed = rand::random();
            let plan = match self.controllers.get(*index) {
                Some(controller) => controller.reconcile(&self.view, key, seed),
                None => schedule::plan(&self.view, seed),
            };
            if let Some(after) = plan.requeue_after {
                self.delay(item.clone(), after.unsigned_abs());
            }
            if plan.is_empty() {
                self.refusals.remove(&item);
                continue;
            }
            for intent in &plan.intents {
                if let Action::Bind {
                    namespace,
                    name,
                    uid,
                    node,
                } = &intent.action
                {
                    let pod = ObjectKey::new(namespace, name);
                    self.view.assume(&pod, uid, node);
                }
            }
            self.busy.insert(item.clone(), false);
            return Some((item, plan));
        }
    }

    /// A refused key waits for its delay even when something changes, so that a write which is
    /// refused again and again costs one request in each interval.
    fn backing_off(&self, item: &Item) -> bool {
        self.refusals.contains_key(item)
            && self.due.get(item).is_some_and(|due| *due > Instant::now())
    }

    fn finish(&mut self, item: Item, outcome: Outcome) {
        let changed = self.busy.remove(&item).unwrap_or(false);
        for (namespace, name) in &outcome.unbound {
            self.view.forget(&ObjectKey::new(namespace, name));
        }
        if let Some(controller) = self.controllers.get(item.0) {
            let name = controller.name();
            if outcome.refusal.is_some() || !outcome.written.is_empty() {
                self.view
                    .note_failure(name, &item.1, outcome.refusal.clone());
            }
        }
        let failed = outcome.conflict || outcome.refusal.is_some();
        if failed && item.0 == self.scheduler {
            // The view makes the refused pods wait (View::forget); the others must not.
            self.ready.insert(item);
            return;
        }
        if failed {
            let refusals = self.refusals.entry(item.clone()).or_insert(0);
            let pause = BACK_OFF_FIRST
                .saturating_mul(2_u32.saturating_pow(*refusals))
                .min(BACK_OFF_MAX);
            *refusals = refusals.saturating_add(1);
            self.delay(item.clone(), pause);
        } else {
            self.refusals.remove(&item);
        }
        let reached = &self.reached;
        let unseen: Vec<_> = outcome
            .written
            .into_iter()
            .filter(|(kind, version)| {
                reached
                    .get(kind.storage)
                    .is_some_and(|reached| reached < version)
            })
            .collect();
        if !unseen.is_empty() {
            self.unseen.insert(item.clone(), unseen);
        }
        if changed {
            self.ready.insert(item);
        }
    }
}

fn version(object: &serde_json::Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}
