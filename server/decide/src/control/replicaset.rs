//! ReplicaSet: as many active pods as asked for.

mod ranking;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use trireme_model::kinds::{self, Kind};

use super::ownership::{self, Claim, claim};
use super::{Controller, leaving_namespace, nonzero, object_value, second};
use crate::digest::{fnv1a, mix, name_suffix};
use crate::intent::{Action, EventRecord, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::labels::selects;
use crate::pod::{availability, is_active, is_finished, is_ready, is_terminating};
use crate::view::{Object, View, controller_of, in_namespace};

const NAME: &str = "replicaset-controller";

/// Most pods one reconciliation creates or deletes, as in Kubernetes: the next one goes on when the
/// view has seen these.
const BURST_REPLICAS: usize = 500;

/// Longest generated name before its suffix: 63 (a label's limit, which hostnames share) less 5.
const MAX_GENERATED_BASE_LENGTH: usize = 58;

pub(crate) struct ReplicaSets;

fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind == kinds::REPLICA_SET {
            return after.map(Object::key).into_iter().collect();
        }
        if kind != kinds::POD {
            return Vec::new();
        }
        let mut keys = Vec::new();
        for object in [before, after].into_iter().flatten() {
            let metadata = object.metadata();
            let namespace = metadata.namespace.clone().unwrap_or_default();
            match controller_of(metadata) {
                Some(owner) if owner.kind == kinds::REPLICA_SET.kind => {
                    keys.push(ObjectKey::new(namespace, owner.name.clone()));
                }
                Some(_) => {}
                None => keys.extend(
                    in_namespace(&view.replica_sets, &namespace)
                        .filter(|(_, set)| {
                            let spec = set.spec.as_ref();
                            spec.is_some_and(|spec| selects(&spec.selector, metadata))
                        })
                        .map(|(key, _)| key.clone()),
                ),
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = view.replica_set(key) else {
            return plan;
        };
        let Some(spec) = set.spec.as_ref() else {
            return plan;
        };
        let leaves = set.metadata.deletion_timestamp.is_some();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut pods: Vec<&Arc<Pod>> = Vec::new();
        let candidates = view.pods_of(uid).chain(view.orphan_pods(&key.namespace));
        for pod in candidates {
            match claim(&set.metadata, leaves, &spec.selector, &pod.metadata) {
                Claim::Mine => pods.push(pod),
                Claim::Adopt if is_finished(pod) => {}
                Claim::Adopt => {
                    let (owner, object) = (&set.metadata, &pod.metadata);
                    let kind = kinds::REPLICA_SET;
                    plan.push(ownership::adopt(NAME, kind, owner, kinds::POD, object));
                    pods.push(pod);
                }
                Claim::Release => {
                    let (owner, object) = (&set.metadata, &pod.metadata);
                    let kind = kinds::REPLICA_SET;
                    plan.push(ownership::release(NAME, kind, owner, kinds::POD, object));
                }
                Claim::NotMine => {}
            }
        }
        let active: Vec<&Arc<Pod>> = pods.iter().copied().filter(|pod| is_active(pod)).collect();
        self.write_status(view, set, &pods, &active, &mut plan);
        if !leaves {
            let first_wave = if plan.is_empty() { 0 } else { 1 };
            let wanted = usize::try_from(replicas_of(set)).unwrap_or(0);
            if active.len() < wanted && !leaving_namespace(view, &key.namespace) {
                let missing = (wanted - active.len()).min(BURST_REPLICAS);
                create_pods(view, set, missing, seed, first_wave, &mut plan);
            } else if active.len() > wanted {
                let surplus = (active.len() - wanted).min(BURST_REPLICAS);
                delete_pods(view, set, active, surplus, first_wave, &mut plan);
            }
        }
        plan
    }
}

/// Creation waves of 1, 2, 4, …: the wave of the `index`-th creation.
fn slow_start_wave(index: usize) -> u32 {
    (index + 1).ilog2()
}

fn create_pods(
    view: &View,
    set: &ReplicaSet,
    count: usize,
    seed: u64,
    first_wave: u32,
    plan: &mut Plan,
) {
    let owner_name = set.metadata.name.clone().unwrap_or_default();
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone());
    let template = template.unwrap_or_default();
    let mut base = format!("{owner_name}-");
    base.truncate(MAX_GENERATED_BASE_LENGTH);
    let identity = set.metadata.uid.as_deref().unwrap_or_default();
    let mut draw = mix(seed ^ fnv1a(identity.as_bytes()));
    let mut names = std::collections::BTreeSet::new();
    for index in 0..count {
        let name = loop {
            let name = format!("{base}{}", name_suffix(draw));
            draw = mix(draw);
            let key = ObjectKey::new(namespace.clone(), name.clone());
            if view.pod(&key).is_none() && names.insert(name.clone()) {
                break name;
            }
        };
        let pod = pod_from(&template, set, &namespace, &base, &name);
        let event = EventRecord::normal(
            kinds::REPLICA_SET,
            &set.metadata,
            "SuccessfulCreate",
            format!("Created pod: {name}"),
        );
        let failure = EventRecord::warning(
            kinds::REPLICA_SET,
            &set.metadata,
            "FailedCreate",
            "Error creating: ",
        );
        plan.push(
            Intent::new(
                NAME,
                format!("ReplicaSet {owner_name} lacks {count} of its pods"),
                Action::Create {
                    kind: kinds::POD,
                    namespace: namespace.clone(),
                    object: object_value(&pod),
                },
            )
            .with_event(event)
            .with_failure_event(failure)
            .in_wave(first_wave + slow_start_wave(index)),
        );
    }
}

fn pod_from(
    template: &PodTemplateSpec,
    set: &ReplicaSet,
    namespace: &str,
    base: &str,
    name: &str,
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(base.to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![ownership::controller_reference(
                kinds::REPLICA_SET,
                &set.metadata,
            )]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

fn delete_pods(
    view: &View,
    set: &ReplicaSet,
    active: Vec<&Arc<Pod>>,
    count: usize,
    wave: u32,
    plan: &mut Plan,
) {
    let owner_name = set.metadata.name.clone().unwrap_or_default();
    for pod in ranking::first_to_go(view, set, active, count) {
        let key = ObjectKey::of(&pod.metadata);
        let event = EventRecord::normal(
            kinds::REPLICA_SET,
            &set.metadata,
            "SuccessfulDelete",
            format!("Deleted pod: {}", key.name),
        );
        let failure = EventRecord::warning(
            kinds::REPLICA_SET,
            &set.metadata,
            "FailedDelete",
            "Error deleting: ",
        );
        plan.push(
            Intent::new(
                NAME,
                format!("ReplicaSet {owner_name} has {count} pods too many"),
                Action::Delete {
                    kind: kinds::POD,
                    namespace: key.namespace,
                    name: key.name,
                    uid: pod.metadata.uid.clone().unwrap_or_default(),
                    resource_version: None,
                    grace_seconds: None,
                    propagation: Propagation::Background,
                },
            )
            .with_event(event)
            .with_failure_event(failure)
            .in_wave(wave),
        );
    }
}

impl ReplicaSets {
    fn write_status(
        &self,
        view: &View,
        set: &Arc<ReplicaSet>,
        pods: &[&Arc<Pod>],
        active: &[&Arc<Pod>],
        plan: &mut Plan,
    ) {
        let Some(spec) = set.spec.as_ref() else {
            return;
        };
        let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
        let template_labels = spec
            .template
            .as_ref()
            .and_then(|template| template.metadata.as_ref())
            .and_then(|metadata| metadata.labels.clone())
            .unwrap_or_default();
        let (mut labelled, mut ready, mut available) = (0, 0, 0);
        for pod in active {
            let own = pod.metadata.labels.as_ref();
            let has = |(name, value)| own.and_then(|own| own.get(name)) == Some(value);
            labelled += i32::from(template_labels.iter().all(has));
            ready += i32::from(is_ready(pod));
            match availability(pod, min_ready_seconds, view.now()) {
                Ok(()) => available += 1,
                Err(Some(wait)) => plan.requeue(wait),
                Err(None) => {}
            }
        }
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let terminating = pods
            .iter()
            .filter(|pod| is_terminating(pod) && !is_finished(pod))
            .count();
        let old = set.status.clone().unwrap_or_default();
        let missing = count(active.len()) < replicas_of(set);
        let refusal = view
            .failure(NAME, &ObjectKey::of(&set.metadata))
            .filter(|_| missing);
        let status = ReplicaSetStatus {
            replicas: count(active.len()),
            fully_labeled_replicas: nonzero(labelled),
            ready_replicas: nonzero(ready),
            available_replicas: nonzero(available),
            terminating_replicas: Some(count(terminating)),
            observed_generation: set.metadata.generation,
            conditions: conditions(old.conditions.as_deref(), refusal, view),
        };
        if set.status.as_ref() == Some(&status) {
            return;
        }
        let mut updated = ReplicaSet::clone(set);
        updated.status = Some(status);
        plan.push(Intent::new(
            NAME,
            "the pods' states changed",
            Action::UpdateStatus {
                kind: kinds::REPLICA_SET,
                object: object_value(&updated),
            },
        ));
    }
}

/// `ReplicaFailure` while the API refuses our pods; other conditions stay as they are.
fn conditions(
    old: Option<&[ReplicaSetCondition]>,
    refusal: Option<&str>,
    view: &View,
) -> Option<Vec<ReplicaSetCondition>> {
    let old = old.unwrap_or_default();
    let known = old.iter().find(|it| it.type_ == "ReplicaFailure");
    let mut conditions: Vec<ReplicaSetCondition> = old
        .iter()
        .filter(|it| it.type_ != "ReplicaFailure")
        .cloned()
        .collect();
    if let Some(refusal) = refusal {
        conditions.push(match known {
            Some(known) => known.clone(),
            None => ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some("FailedCreate".to_owned()),
                message: Some(refusal.to_owned()),
                last_transition_time: Some(Time(second(view.now()))),
            },
        });
    }
    (!conditions.is_empty()).then_some(conditions)
}
