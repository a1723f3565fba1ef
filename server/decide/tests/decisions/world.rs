//! A model of the cluster around the decisions: an API that keeps objects with Kubernetes' rules of
//! precondition, deletion and generation; watches that lag; an executor that carries plans out; node
//! agents that start and stop pods. One seed decides every choice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use trireme_decide::{
    Action, Change, Configuration, Controller, Intent, ObjectKey, Plan, Subresource, View,
    controllers, schedule,
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
}

pub fn at(object: &Value, path: &str) -> Value {
    object.pointer(path).cloned().unwrap_or(Value::Null)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
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
        }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    // ---- the API

    fn id(kind: &'static Kind, object: &Value) -> Id {
        let namespace = if kind.namespaced {
            at(object, "/metadata/namespace")
        } else {
            json!("")
        };
        let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
        (
            kind,
            ObjectKey::new(text(namespace), text(at(object, "/metadata/name"))),
        )
    }

    fn store(&mut self, id: Id, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.publish(id.0, Change::Upsert(object.clone()));
        self.objects.insert(id, object);
    }

    fn erase(&mut self, id: &Id) {
        self.revision += 1;
        self.objects.remove(id);
        self.publish(id.0, Change::Delete(id.1.clone()));
    }

    fn publish(&mut self, kind: &'static Kind, change: Change) {
        self.pending
            .entry(kind)
            .or_default()
            .push_back((self.revision, change));
    }

    pub fn create(&mut self, kind: &'static Kind, mut object: Value) -> Result<(), Refusal> {
        let id = Self::id(kind, &object);
        if self.objects.contains_key(&id) {
            return Err(Refusal::AlreadyExists);
        }
        let uid = format!("uid-{}", self.revision + 1);
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(self.now.to_string());
        if kind == kinds::POD && object.get("status").is_none() {
            object["status"] = json!({"phase": "Pending"});
        }
        if kind == kinds::NAMESPACE {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        self.store(id, object);
        Ok(())
    }

    fn checked(&self, id: &Id, sent: &Value) -> Result<Value, Refusal> {
        let known = self.objects.get(id).ok_or(Refusal::NotFound)?;
        for field in ["/metadata/uid", "/metadata/resourceVersion"] {
            let wanted = at(sent, field);
            if !wanted.is_null() && wanted != at(known, field) {
                return Err(Refusal::Conflict);
            }
        }
        Ok(known.clone())
    }

    fn replace(&mut self, id: Id, known: Value, mut object: Value) {
        object["metadata"]["generation"] = known["metadata"]["generation"].clone();
        if object["spec"] != known["spec"] {
            let generation = known["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        let leaving = !at(&object, "/metadata/deletionTimestamp").is_null();
        let held = at(&object, "/metadata/finalizers")
            .as_array()
            .is_some_and(|it| !it.is_empty());
        if leaving && !held && !matches!(id.0.kind, "Pod" | "Namespace") {
            self.erase(&id);
        } else if object != known {
            self.store(id, object);
        }
    }

    pub fn update(&mut self, kind: &'static Kind, mut object: Value) -> Result<(), Refusal> {
        let id = Self::id(kind, &object);
        let known = self.checked(&id, &object)?;
        object["status"] = known["status"].clone();
        if object["status"].is_null() {
            object.as_object_mut().unwrap().remove("status");
        }
        self.replace(id, known, object);
        Ok(())
    }

    pub fn update_status(&mut self, kind: &'static Kind, object: Value) -> Result<(), Refusal> {
        let id = Self::id(kind, &object);
        let known = self.checked(&id, &object)?;
        let mut updated = known.clone();
        updated["status"] = object["status"].clone();
        self.replace(id, known, updated);
        Ok(())
    }

    pub fn patch(
        &mut self,
        kind: &'static Kind,
        key: ObjectKey,
        patch: &Value,
    ) -> Result<(), Refusal> {
        let id = (kind, key);
        let known = self.checked(&id, patch)?;
        let mut updated = known.clone();
        merge(&mut updated, patch);
        self.replace(id, known, updated);
        Ok(())
    }

    pub fn delete(
        &mut self,
        kind: &'static Kind,
        key: ObjectKey,
        grace: Option<u64>,
        propagation: &str,
    ) -> Result<(), Refusal> {
        let id = (kind, key);
        let mut object = self.objects.get(&id).cloned().ok_or(Refusal::NotFound)?;
        let mut finalizers: Vec<Value> = at(&object, "/metadata/finalizers")
            .as_array()
            .cloned()
            .unwrap_or_default();
        match propagation {
            "Foreground" => finalizers.push(json!("foregroundDeletion")),
            "Orphan" => finalizers.push(json!("orphan")),
            _ => {}
        }
        let gone = match kind.kind {
            "Pod" => grace == Some(0) || at(&object, "/spec/nodeName").is_null(),
            "Namespace" => false,
            _ => finalizers.is_empty(),
        };
        if gone {
            self.erase(&id);
            return Ok(());
        }
        if at(&object, "/metadata/deletionTimestamp").is_null() {
            object["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
            if !finalizers.is_empty() {
                object["metadata"]["finalizers"] = json!(finalizers);
            }
            if kind == kinds::NAMESPACE {
                object["status"]["phase"] = json!("Terminating");
            }
            self.store(id, object);
        }
        Ok(())
    }

    fn execute(&mut self, intent: &Intent) -> Result<(), Refusal> {
        for absent in &intent.absent {
            let id = (
                absent.kind,
                ObjectKey::new(absent.namespace.clone(), absent.name.clone()),
            );
            if let Some(found) = self.objects.get(&id)
                && (absent.uid.is_empty() || at(found, "/metadata/uid") == absent.uid.as_str())
            {
                return Err(Refusal::Conflict);
            }
        }
        match &intent.action {
            Action::Create { kind, object, .. } => self.create(kind, object.clone()),
            Action::Update { kind, object } => self.update(kind, object.clone()),
            Action::UpdateStatus { kind, object } => self.update_status(kind, object.clone()),
            Action::Patch {
                kind,
                namespace,
                name,
                subresource,
                patch,
            } => {
                assert_eq!(*subresource, Subresource::Main);
                self.patch(kind, ObjectKey::new(namespace.clone(), name.clone()), patch)
            }
            Action::Delete {
                kind,
                namespace,
                name,
                uid,
                resource_version,
                grace_seconds,
                propagation,
            } => {
                let key = ObjectKey::new(namespace.clone(), name.clone());
                let mut sent = json!({"metadata": {"uid": uid}});
                if let Some(version) = resource_version {
                    sent["metadata"]["resourceVersion"] = json!(version);
                }
                self.checked(&(*kind, key.clone()), &sent)?;
                self.delete(kind, key, *grace_seconds, propagation.as_str())
            }
            Action::Bind {
                namespace,
                name,
                uid,
                node,
            } => {
                let id = (kinds::POD, ObjectKey::new(namespace.clone(), name.clone()));
                let known = self.checked(&id, &json!({"metadata": {"uid": uid}}))?;
                let bound = !at(&known, "/spec/nodeName").is_null();
                if bound || !at(&known, "/metadata/deletionTimestamp").is_null() {
                    return Err(Refusal::Conflict);
                }
                let mut object = known;
                object["spec"]["nodeName"] = json!(node);
                *self.binds.entry(uid.clone()).or_default() += 1;
                self.store(id, object);
                Ok(())
            }
            Action::FinalizeNamespace { object, .. } => {
                let id = Self::id(kinds::NAMESPACE, object);
                self.checked(&id, object)?;
                assert!(
                    !self
                        .objects
                        .keys()
                        .any(|(_, key)| key.namespace == id.1.name),
                    "a namespace was let go with objects in it"
                );
                self.erase(&id);
                Ok(())
            }
            Action::Record => Ok(()),
        }
    }

    // ---- watches and the executor

    /// Shows the view one change of one kind, if any is left.
    fn deliver(&mut self, kind: &'static Kind) {
        let Some((_, change)) = self.pending.get_mut(kind).and_then(VecDeque::pop_front) else {
            return;
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
            let before = self.revision;
            match self.execute(intent) {
                Ok(()) => {
                    let changed = self.revision > before;
                    assert!(
                        changed || matches!(intent.action, Action::Record),
                        "a write that changes nothing: {intent:?}"
                    );
                    self.writes += u64::from(changed);
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

    fn reconcile(&mut self, index: usize, key: ObjectKey, limit: usize) {
        self.view.set_now(self.now);
        let seed = self.random(u64::MAX);
        let plan = self.controllers[index].reconcile(&self.view, &key, seed);
        let again = self.controllers[index].reconcile(&self.view, &key, seed);
        assert_eq!(
            format!("{plan:?}"),
            format!("{again:?}"),
            "not a function of its inputs"
        );
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
        for intent in &plan.intents {
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
                    self.writes += 1;
                    let event = intent.event.as_ref().unwrap();
                    self.events
                        .push((event.reason.to_owned(), event.message.clone()));
                }
            } else if self.execute(intent).is_ok() {
                self.writes += 1;
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
            while self
                .pending
                .get(kind)
                .is_some_and(|changes| !changes.is_empty())
            {
                self.deliver(kind);
            }
        }
    }

    // ---- node agents

    /// One node agent does the next thing for one pod. Answers whether there was anything to do.
    fn run_pods(&mut self) -> bool {
        let mut due = Vec::new();
        for ((kind, key), object) in &self.objects {
            let node = at(object, "/spec/nodeName");
            if *kind != kinds::POD || !node.as_str().is_some_and(|it| self.alive.contains(it)) {
                continue;
            }
            let leaving = !at(object, "/metadata/deletionTimestamp").is_null();
            let ready = at(object, "/status/podIP").is_string()
                && object["status"]["conditions"]
                    .as_array()
                    .is_some_and(|conditions| {
                        conditions
                            .iter()
                            .any(|it| it["type"] == "Ready" && it["status"] == "True")
                    });
            if leaving || (self.pods_get_ready && !ready) {
                due.push((key.clone(), leaving));
            }
        }
        if due.is_empty() {
            return false;
        }
        let index = self.random(due.len() as u64) as usize;
        let (key, leaving) = due[index].clone();
        let id = (kinds::POD, key);
        if leaving {
            self.erase(&id);
        } else {
            let mut object = self.objects[&id].clone();
            let number = self.revision;
            object["status"]["phase"] = json!("Running");
            object["status"]["podIP"] =
                json!(format!("10.42.{}.{}", number / 250 % 250, number % 250));
            object["status"]["conditions"] = json!([
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": self.now.to_string()},
            ]);
            self.store(id, object);
        }
        true
    }

    /// Every live node's agent renews its Lease and, where the API thinks otherwise, its status.
    pub fn heartbeat(&mut self) {
        for node in self.alive.clone() {
            let lease = (
                kinds::LEASE,
                ObjectKey::new("kube-node-lease", node.clone()),
            );
            let renewed = json!({"renewTime": format!("{:.6}", self.now)});
            match self.objects.get(&lease).cloned() {
                Some(mut object) => {
                    if object["spec"] != renewed {
                        object["spec"] = renewed;
                        self.store(lease, object);
                    }
                }
                None => {
                    let object = json!({
                        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {"name": node, "namespace": "kube-node-lease"},
                        "spec": renewed,
                    });
                    self.create(kinds::LEASE, object).unwrap();
                }
            }
            let id = (kinds::NODE, ObjectKey::cluster(node));
            if let Some(mut object) = self.objects.get(&id).cloned() {
                let ready = at(&object, "/status/conditions/0/status");
                if ready != "True" {
                    object["status"]["conditions"] = json!([ready_condition(self.now)]);
                    self.store(id, object);
                }
            }
        }
    }

    // ---- running

    /// One random step of whatever could happen next. Answers false when nothing is left to do now.
    pub fn step(&mut self) -> bool {
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

    // ---- what tests ask

    pub fn all(&self, kind: &'static Kind) -> Vec<&Value> {
        let of_kind = self.objects.iter().filter(|((other, _), _)| *other == kind);
        of_kind.map(|(_, object)| object).collect()
    }

    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, ObjectKey::new(namespace, name)))
    }

    /// Pods that are neither finished nor being deleted.
    pub fn active_pods(&self) -> Vec<&Value> {
        self.all(kinds::POD)
            .into_iter()
            .filter(|pod| at(pod, "/metadata/deletionTimestamp").is_null())
            .filter(|pod| {
                !matches!(
                    pod["status"]["phase"].as_str(),
                    Some("Failed" | "Succeeded")
                )
            })
            .collect()
    }

    pub fn ready_pods(&self) -> usize {
        self.active_pods()
            .into_iter()
            .filter(|pod| is_ready(pod))
            .count()
    }

    pub fn has_event(&self, reason: &str, message: &str) -> bool {
        self.events.iter().any(|(r, m)| r == reason && m == message)
    }

    pub fn add_node(&mut self, name: &str, cpu: &str, memory: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
                "conditions": [ready_condition(self.now)],
            },
        });
        self.create(kinds::NODE, object).unwrap();
        self.alive.insert(name.to_owned());
    }

    pub fn add_namespace(&mut self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.create(kinds::NAMESPACE, object).unwrap();
    }

    pub fn add_deployment(&mut self, name: &str, replicas: i32, strategy: Value) {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "strategy": strategy,
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10,
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "main", "image": "web:1"}]},
                },
            },
        });
        self.create(kinds::DEPLOYMENT, object).unwrap();
    }

    /// Changes an object as a user would.
    pub fn edit(&mut self, kind: &'static Kind, name: &str, change: impl FnOnce(&mut Value)) {
        let namespace = if kind.namespaced { "default" } else { "" };
        let mut object = self.get(kind, namespace, name).unwrap().clone();
        change(&mut object);
        self.update(kind, object).unwrap();
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

fn ready_condition(now: Timestamp) -> Value {
    json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastHeartbeatTime": now.to_string(), "lastTransitionTime": now.to_string(),
    })
}
