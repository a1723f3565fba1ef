//! A model of the cluster around the decisions: an API that keeps objects with Kubernetes' rules of
//! precondition, deletion and generation; watches that lag; an executor that carries plans out; node
//! agents that start and stop pods. One seed decides every choice.

mod agents;
mod api;
pub mod invariants;
mod objects;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use trireme_decide::{
    Action, Change, Configuration, Controller, Intent, ObjectKey, Plan, View, controllers, schedule,
};
use trireme_model::kinds::{self, Kind};

pub type Id = (&'static Kind, ObjectKey);

#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Conflict,
    NotFound,
    AlreadyExists,
}

pub struct World {
    pub objects: BTreeMap<Id, Value>,
    revision: u64,
    pub now: Timestamp,
    random: u64,
    controllers: Vec<Box<dyn Controller>>,
    pub view: View,
    /// Changes the view has not seen, per kind in order.
    pending: BTreeMap<&'static Kind, VecDeque<(u64, Change)>>,
    queue: BTreeSet<(usize, ObjectKey)>,
    /// Keys that wait until the view has seen a revision.
    waiting: BTreeMap<(usize, ObjectKey), u64>,
    timers: BTreeMap<(usize, ObjectKey), Timestamp>,
    schedule_due: bool,
    schedule_at: Option<Timestamp>,
    pub events: Vec<(String, String)>,
    pub writes: u64,
    pub refused: u64,
    pub binds: BTreeMap<String, u32>,
    /// Node agents run pods on these nodes.
    pub alive: BTreeSet<String>,
    pub pods_get_ready: bool,
    /// Of a thousand deliveries so many are no event but the end of a watch, whose kind is listed anew: what
    /// happened in between is never told one by one. And so many events come twice.
    pub lost_per_mille: u64,
    pub repeated_per_mille: u64,
    /// After so many further writes the executor crashes and a new leader begins.
    pub crash_after: Option<u64>,
    pub crashes: u64,
    /// Plans made, by controllers and the scheduler.
    pub decisions: u64,
    /// What the view was told to be there.
    shown: BTreeSet<Id>,
}

pub fn at(object: &Value, path: &str) -> Value {
    object.pointer(path).cloned().unwrap_or(Value::Null)
}

impl World {
    pub fn new(seed: u64) -> World {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let configuration = Configuration {
            ca_pem: "CA".to_owned(),
            ..Configuration::default()
        };
        World {
            objects: BTreeMap::new(),
            revision: 100,
            now,
            random: seed,
            controllers: controllers(&configuration),
            view: View::new(now),
            pending: BTreeMap::new(),
            queue: BTreeSet::new(),
            waiting: BTreeMap::new(),
            timers: BTreeMap::new(),
            schedule_due: false,
            schedule_at: None,
            events: Vec::new(),
            writes: 0,
            refused: 0,
            binds: BTreeMap::new(),
            alive: BTreeSet::new(),
            pods_get_ready: true,
            lost_per_mille: 0,
            repeated_per_mille: 0,
            crash_after: None,
            crashes: 0,
            decisions: 0,
            shown: BTreeSet::new(),
        }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    // ---- watches and the executor

    /// Shows the view one change of one kind, if any is left.
    fn deliver(&mut self, kind: &'static Kind) {
        if self.lost_per_mille > 0 && self.random(1000) < self.lost_per_mille {
            self.relist(kind);
        }
        let Some((_, change)) = self.pending.get_mut(kind).and_then(VecDeque::pop_front) else {
            return;
        };
        if self.repeated_per_mille > 0 && self.random(1000) < self.repeated_per_mille {
            self.show(kind, change.clone());
        }
        self.show(kind, change);
    }

    /// A watch has ended: what it had not delivered yet is lost, and everything is listed. As an informer does, it
    /// tells first what is gone, then what is there in the order in which it changed.
    fn relist(&mut self, kind: &'static Kind) {
        let mut there: Vec<(u64, ObjectKey, Value)> = self
            .objects
            .iter()
            .filter(|((other, _), _)| *other == kind)
            .map(|((_, key), object)| {
                let version = at(object, "/metadata/resourceVersion");
                let version = version.as_str().and_then(|text| text.parse().ok());
                (version.unwrap_or(0), key.clone(), object.clone())
            })
            .collect();
        there.sort_by_key(|(version, ..)| *version);
        let gone = self
            .shown
            .iter()
            .filter(|(other, key)| *other == kind && !there.iter().any(|(_, it, _)| it == key));
        let mut changes: VecDeque<(u64, Change)> = gone
            .map(|(_, key)| (1, Change::Delete(key.clone())))
            .collect();
        let there = there.into_iter();
        changes.extend(there.map(|(version, _, object)| (version, Change::Upsert(object))));
        self.pending.insert(kind, changes);
    }

    fn show(&mut self, kind: &'static Kind, change: Change) {
        match &change {
            Change::Upsert(object) => self.shown.insert(Self::id(kind, object)),
            Change::Delete(key) => self.shown.remove(&(kind, key.clone())),
        };
        self.view.set_now(self.now);
        let transition = self
            .view
            .update(kind, change)
            .expect("the API stores what parses");
        for (index, controller) in self.controllers.iter().enumerate() {
            let before = transition.before.as_ref();
            let after = transition.after.as_ref();
            for key in controller.enqueue(&self.view, kind, before, after) {
                self.queue.insert((index, key));
            }
        }
        if kind == kinds::POD || kind == kinds::NODE {
            self.schedule_due = true;
        }
    }

    /// The newest revision below which the view has seen everything.
    fn seen(&self) -> u64 {
        let oldest = self.pending.values().filter_map(|changes| changes.front());
        oldest
            .map(|(revision, _)| revision - 1)
            .min()
            .unwrap_or(self.revision)
    }

    /// Carries out a plan, all of it or (a crash) only its first intents. Answers the revision the
    /// view has to reach before the key may be looked at again.
    fn carry_out(&mut self, plan: &Plan, limit: usize) -> u64 {
        let mut failed_wave = None;
        let mut intents: Vec<&Intent> = plan.intents.iter().collect();
        intents.sort_by_key(|intent| intent.wave);
        for intent in intents.into_iter().take(limit) {
            if failed_wave.is_some_and(|wave| intent.wave > wave) {
                break;
            }
            if self.crash_after == Some(0) {
                break;
            }
            let before = self.revision;
            match self.execute(intent) {
                Ok(()) => {
                    let changed = self.revision > before;
                    assert!(
                        changed || matches!(intent.action, Action::Record),
                        "a write that changes nothing: {intent:?}"
                    );
                    self.count_writes(u64::from(changed));
                    if let Some(event) = &intent.event {
                        self.events
                            .push((event.reason.to_owned(), event.message.clone()));
                    }
                }
                Err(_) => {
                    self.refused += 1;
                    failed_wave = Some(intent.wave);
                }
            }
        }
        self.revision
    }

    fn count_writes(&mut self, writes: u64) {
        self.writes += writes;
        if let Some(left) = &mut self.crash_after {
            *left = left.saturating_sub(writes);
        }
    }

    fn reconcile(&mut self, index: usize, key: ObjectKey, limit: usize) {
        self.view.set_now(self.now);
        let seed = self.random(u64::MAX);
        let plan = self.controllers[index].reconcile(&self.view, &key, seed);
        self.decisions += 1;
        // Made twice, unless it is one of the many that say that all is well.
        if !plan.is_empty() {
            let again = self.controllers[index].reconcile(&self.view, &key, seed);
            assert_eq!(
                format!("{plan:?}"),
                format!("{again:?}"),
                "not a function of its inputs"
            );
        }
        let refused = self.refused;
        let reached = self.carry_out(&plan, limit);
        self.timers.remove(&(index, key.clone()));
        if let Some(after) = plan.requeue_after {
            self.timers.insert((index, key.clone()), self.now + after);
        }
        if !plan.is_empty() {
            self.waiting.insert((index, key.clone()), reached);
        }
        if self.refused > refused {
            self.queue.insert((index, key));
        }
    }

    fn schedule(&mut self) {
        self.schedule_due = false;
        self.view.set_now(self.now);
        let seed = self.random(u64::MAX);
        let plan = schedule::plan(&self.view, seed);
        self.decisions += 1;
        for intent in &plan.intents {
            if self.crash_after == Some(0) {
                break;
            }
            if let Action::Bind {
                namespace,
                name,
                uid,
                node,
            } = &intent.action
            {
                let key = ObjectKey::new(namespace.clone(), name.clone());
                self.view.assume(&key, uid, node);
                if self.execute(intent).is_err() {
                    self.refused += 1;
                    self.view.forget(&key);
                } else {
                    self.count_writes(1);
                    let event = intent.event.as_ref().unwrap();
                    self.events
                        .push((event.reason.to_owned(), event.message.clone()));
                }
            } else if self.execute(intent).is_ok() {
                self.count_writes(1);
                if let Some(event) = &intent.event {
                    self.events
                        .push((event.reason.to_owned(), event.message.clone()));
                }
            }
        }
        self.schedule_at = plan.requeue_after.map(|after| self.now + after);
        // A plan that had to stop goes on at once.
        self.schedule_due |= plan
            .requeue_after
            .is_some_and(|after| after.as_millis() <= 1);
    }

    /// A new leader: everything is listed again, nothing is remembered.
    pub fn restart(&mut self) {
        self.view = View::new(self.now);
        self.shown.clear();
        self.pending.clear();
        self.queue.clear();
        self.waiting.clear();
        self.timers.clear();
        let all: Vec<(Id, Value)> = self
            .objects
            .iter()
            .map(|(id, object)| (id.clone(), object.clone()))
            .collect();
        for (id, object) in all {
            self.publish(id.0, Change::Upsert(object));
        }
        let kinds: Vec<&'static Kind> = self.pending.keys().copied().collect();
        for kind in kinds {
            for (_, change) in self.pending.remove(kind).unwrap_or_default() {
                self.show(kind, change);
            }
        }
    }

    // ---- running

    /// One random step of whatever could happen next. Answers false when nothing is left to do now.
    pub fn step(&mut self) -> bool {
        if self.crash_after == Some(0) {
            self.crash_after = None;
            self.crashes += 1;
            self.restart();
            return true;
        }
        let kinds: Vec<&'static Kind> = self
            .pending
            .iter()
            .filter(|(_, changes)| !changes.is_empty())
            .map(|(kind, _)| *kind)
            .collect();
        let seen = self.seen();
        self.waiting.retain(|_, revision| *revision > seen);
        let now = self.now;
        let due: Vec<(usize, ObjectKey)> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.timers.remove(&key);
            self.queue.insert(key);
        }
        self.schedule_due |= self.schedule_at.take_if(|at| *at <= now).is_some();
        let ready: Vec<(usize, ObjectKey)> = self
            .queue
            .iter()
            .filter(|key| !self.waiting.contains_key(key))
            .cloned()
            .collect();
        let choices = [!kinds.is_empty(), !ready.is_empty(), self.schedule_due];
        let first = self.random(4);
        for offset in 0..4 {
            match (first + offset) % 4 {
                0 if choices[0] => {
                    let index = self.random(kinds.len() as u64) as usize;
                    self.deliver(kinds[index]);
                    return true;
                }
                1 if choices[1] => {
                    let index = self.random(ready.len() as u64) as usize;
                    let key = ready[index].clone();
                    self.queue.remove(&key);
                    self.reconcile(key.0, key.1, usize::MAX);
                    return true;
                }
                2 if choices[2] => {
                    self.schedule();
                    return true;
                }
                3 if self.run_pods() => return true,
                _ => {}
            }
        }
        false
    }

    /// Stops in the middle of a plan: only its first intents are executed, then a new leader starts.
    pub fn crash(&mut self) {
        let ready: Vec<(usize, ObjectKey)> = self
            .queue
            .iter()
            .filter(|key| !self.waiting.contains_key(key))
            .cloned()
            .collect();
        if !ready.is_empty() {
            let index = self.random(ready.len() as u64) as usize;
            let key = ready[index].clone();
            let limit = self.random(4) as usize;
            self.reconcile(key.0, key.1, limit);
        }
        self.crashes += 1;
        self.restart();
    }

    /// Until nothing moves any more; time does not pass.
    pub fn settle(&mut self) {
        self.settle_with(|_| {});
    }

    pub fn settle_with(&mut self, mut check: impl FnMut(&World)) {
        for _ in 0..200_000 {
            if !self.step() {
                return;
            }
            check(self);
        }
        panic!("no fixpoint: {:?}", self.queue);
    }

    /// Lets time pass, with heartbeats each second.
    pub fn pass(&mut self, duration: SignedDuration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = (self.now + SignedDuration::from_secs(1)).min(end);
            self.heartbeat();
            self.settle();
        }
    }

    /// After convergence every key of every controller is looked at again: nothing may be written.
    pub fn assert_fixpoint(&mut self) {
        self.settle();
        let writes = self.writes;
        self.restart();
        self.settle();
        assert_eq!(
            self.writes,
            writes,
            "a fixpoint writes nothing: {:?}",
            self.events.last()
        );
    }
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|it| it["type"] == "Ready" && it["status"] == "True")
    })
}
