//! Deployment: ReplicaSets of successive templates, and the step from one to the next within
//! `maxSurge` and `maxUnavailable`.
//!
//! One reconciliation makes one step, as Kubernetes' controller does: sizes are set, and the next
//! step waits until the view shows what became of it.

mod bounds;
mod revision;
mod rollout;
mod status;
mod template;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use trireme_model::kinds::{self, Kind};

use self::bounds::{Bounds, is_recreate};
use self::rollout::{Member, Rollout, size_of};
use self::status::Newest;
use super::ownership::{self, Claim, claim};
use super::{Controller, leaving_namespace, object_value};
use crate::intent::{Action, EventRecord, Intent, Plan, Propagation, Subresource};
use crate::key::ObjectKey;
use crate::labels::selects;
use crate::pod::{availability, is_active, is_finished};
use crate::view::{Object, View, controller_of, in_namespace};

const NAME: &str = "deployment-controller";

pub(crate) struct Deployments;

/// The Deployment's key behind a ReplicaSet.
fn owner_key(set: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(set).filter(|owner| owner.kind == kinds::DEPLOYMENT.kind)?;
    Some(ObjectKey::new(set.namespace.clone()?, owner.name.clone()))
}

impl Controller for Deployments {
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
        if kind == kinds::DEPLOYMENT {
            return after.map(Object::key).into_iter().collect();
        }
        let mut keys = Vec::new();
        for object in [before, after].into_iter().flatten() {
            match object {
                Object::ReplicaSet(set) if controller_of(&set.metadata).is_some() => {
                    keys.extend(owner_key(&set.metadata));
                }
                Object::ReplicaSet(set) => {
                    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                    keys.extend(
                        in_namespace(&view.deployments, namespace)
                            .filter(|(_, deployment)| {
                                let spec = deployment.spec.as_ref();
                                spec.is_some_and(|spec| selects(&spec.selector, &set.metadata))
                            })
                            .map(|(key, _)| key.clone()),
                    );
                }
                // Available pods are counted, and Recreate waits until the old ones are gone.
                Object::Pod(pod) => {
                    let set = controller_of(&pod.metadata)
                        .filter(|owner| owner.kind == kinds::REPLICA_SET.kind)
                        .and_then(|owner| {
                            let namespace = pod.metadata.namespace.clone()?;
                            view.replica_set(&ObjectKey::new(namespace, owner.name.clone()))
                        });
                    keys.extend(set.and_then(|set| owner_key(&set.metadata)));
                }
                _ => {}
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let Some(deployment) = view.deployment(key) else {
            return Plan::default();
        };
        let Some(spec) = deployment.spec.as_ref() else {
            return Plan::default();
        };
        let step = Step {
            view,
            deployment,
            spec,
            plan: Plan::default(),
        };
        step.take()
    }
}

/// One reconciliation.
struct Step<'a> {
    view: &'a View,
    deployment: &'a Arc<Deployment>,
    spec: &'a DeploymentSpec,
    plan: Plan,
}

impl Step<'_> {
    fn name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }

    fn take(mut self) -> Plan {
        let leaves = self.deployment.metadata.deletion_timestamp.is_some();
        let mut rollout = self.rollout(leaves);
        if !self.plan.is_empty() {
            // Adoptions first: sizes are reckoned over what is really ours.
            return self.plan;
        }
        let mut newest = Newest::None;
        let mut collisions = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        if !leaves {
            let paused = self.spec.paused == Some(true);
            let old: Vec<ReplicaSet> = rollout.old.iter().map(|it| it.set.clone()).collect();
            let revision = revision::next_revision(&old);
            if let Some(member) = rollout.newest.as_mut() {
                revision::annotate_newest(&mut member.set, self.deployment, revision);
                if let Some(spec) = member.set.spec.as_mut() {
                    spec.min_ready_seconds = self.spec.min_ready_seconds;
                }
                newest = Newest::Found(member.set.metadata.name.clone().unwrap_or_default());
            }
            if paused || rollout.is_resize() {
                rollout.resize();
                if paused {
                    self.clean_history(&rollout);
                }
            } else if rollout.recreate {
                if !rollout.empty_old() && !self.old_pods_remain(&rollout) {
                    self.advance_newest(&mut rollout, revision, &mut newest, &mut collisions);
                }
            } else if !self.advance_newest(&mut rollout, revision, &mut newest, &mut collisions) {
                rollout.shrink_old();
            }
            if !paused && status::is_complete(self.deployment, &rollout) {
                self.clean_history(&rollout);
            }
            self.write_members(&rollout);
            if self.write_revision(&rollout) {
                return self.plan;
            }
        }
        let now = self.view.now();
        let outcome = status::status(self.deployment, &rollout, &newest, collisions, now);
        if let Some(after) = outcome.requeue_after {
            self.plan.requeue(after);
        }
        if self.deployment.status.as_ref() != Some(&outcome.status) {
            let wave = self.plan.intents.iter().map(|it| it.wave + 1).max();
            let mut updated = Deployment::clone(self.deployment);
            updated.status = Some(outcome.status);
            self.plan.push(
                Intent::new(
                    NAME,
                    "the ReplicaSets' states changed",
                    Action::UpdateStatus {
                        kind: kinds::DEPLOYMENT,
                        object: object_value(&updated),
                    },
                )
                .in_wave(wave.unwrap_or(0)),
            );
        }
        self.plan
    }

    /// Working copies of all ReplicaSets that are ours; adoptions and releases go into the plan.
    fn rollout(&mut self, leaves: bool) -> Rollout {
        let owner = &self.deployment.metadata;
        let uid = owner.uid.as_deref().unwrap_or_default();
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        let orphans = in_namespace(&self.view.replica_sets, namespace)
            .map(|(_, set)| set)
            .filter(|set| controller_of(&set.metadata).is_none());
        let mut members = Vec::new();
        for set in self.view.replica_sets_of(uid).chain(orphans) {
            let kind = kinds::REPLICA_SET;
            match claim(owner, leaves, &self.spec.selector, &set.metadata) {
                Claim::Mine => members.push(self.member(set)),
                Claim::Adopt => self.plan.push(ownership::adopt(
                    NAME,
                    kinds::DEPLOYMENT,
                    owner,
                    kind,
                    &set.metadata,
                )),
                Claim::Release => self.plan.push(ownership::release(
                    NAME,
                    kinds::DEPLOYMENT,
                    owner,
                    kind,
                    &set.metadata,
                )),
                Claim::NotMine => {}
            }
        }
        members.sort_by_key(|member: &Member| {
            let metadata = &member.set.metadata;
            (metadata.creation_timestamp.clone(), metadata.name.clone())
        });
        // Should two have the same template, the older one is it: the choice has to be stable.
        let position = members.iter().position(|member| {
            let template = member.set.spec.as_ref().and_then(|it| it.template.as_ref());
            template.is_some_and(|template| template::same(template, &self.spec.template))
        });
        let newest = position.map(|position| members.remove(position));
        Rollout {
            bounds: Bounds::of(self.deployment),
            recreate: is_recreate(self.deployment),
            newest,
            old: members,
        }
    }

    fn member(&self, set: &Arc<ReplicaSet>) -> Member {
        let min_ready_seconds = self.spec.min_ready_seconds.unwrap_or(0);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let pods = || self.view.pods_of(uid).filter(|pod| is_active(pod));
        let available_pods = pods()
            .filter(|pod| availability(pod, min_ready_seconds, self.view.now()).is_ok())
            .count();
        let reported = set
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0);
        Member {
            set: ReplicaSet::clone(set),
            original: ReplicaSet::clone(set),
            available: reported
                .min(size_of(set))
                .min(i32::try_from(available_pods).unwrap_or(i32::MAX)),
            active: i32::try_from(pods().count()).unwrap_or(i32::MAX),
        }
    }

    /// Recreate starts new pods only when no old one can run any more.
    fn old_pods_remain(&self, rollout: &Rollout) -> bool {
        rollout.old.iter().any(|member| {
            let uid = member.set.metadata.uid.as_deref().unwrap_or_default();
            self.view.pods_of(uid).any(|pod| !is_finished(pod))
        })
    }

    /// Creates the newest ReplicaSet or grows it. Answers whether there was anything to do.
    fn advance_newest(
        &mut self,
        rollout: &mut Rollout,
        revision: i64,
        newest: &mut Newest,
        collisions: &mut Option<i32>,
    ) -> bool {
        if rollout.newest.is_some() {
            return rollout.scale_newest();
        }
        if leaving_namespace(
            self.view,
            self.deployment
                .metadata
                .namespace
                .as_deref()
                .unwrap_or_default(),
        ) {
            return true;
        }
        let set = self.new_replica_set(rollout, revision, collisions.unwrap_or(0));
        let key = ObjectKey::of(&set.metadata);
        if self.view.replica_set(&key).is_some() {
            // The name is taken by another template (or another owner): the next hash is salted
            // with the count of collisions.
            *collisions = Some(collisions.unwrap_or(0) + 1);
            return true;
        }
        *newest = Newest::Created(key.name.clone());
        let owner = &self.deployment.metadata;
        let size = size_of(&set);
        let mut intent = Intent::new(
            NAME,
            format!("Deployment {} has a new template", self.name()),
            Action::Create {
                kind: kinds::REPLICA_SET,
                namespace: key.namespace.clone(),
                object: object_value(&set),
            },
        )
        .with_failure_event(EventRecord::warning(
            kinds::DEPLOYMENT,
            owner,
            "ReplicaSetCreateError",
            format!("Failed to create new replica set \"{}\": ", key.name),
        ));
        if size > 0 {
            intent = intent.with_event(EventRecord::normal(
                kinds::DEPLOYMENT,
                owner,
                "ScalingReplicaSet",
                format!("Scaled up replica set {} from 0 to {size}", key.name),
            ));
        }
        self.plan.push(intent);
        true
    }

    fn new_replica_set(&self, rollout: &Rollout, revision: i64, collisions: i32) -> ReplicaSet {
        let owner = &self.deployment.metadata;
        let hash = template::hash(&self.spec.template, collisions);
        let mut template = self.spec.template.clone();
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.insert(template::HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .insert(template::HASH_LABEL.to_owned(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.name())),
                namespace: owner.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![ownership::controller_reference(
                    kinds::DEPLOYMENT,
                    owner,
                )]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(rollout.newest_size(0)),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        revision::note_size(&mut set, &rollout.bounds);
        revision::annotate_newest(&mut set, self.deployment, revision);
        set
    }

    /// Writes every ReplicaSet that changed.
    fn write_members(&mut self, rollout: &Rollout) {
        for member in rollout.members() {
            if member.set == member.original {
                continue;
            }
            let (before, after) = (size_of(&member.original), member.size());
            let name = member.set.metadata.name.clone().unwrap_or_default();
            let direction = if after > before { "up" } else { "down" };
            let reason = if before == after {
                "its annotations follow the Deployment's".to_owned()
            } else {
                format!("the rollout's next step takes it from {before} to {after}")
            };
            let mut intent = Intent::new(
                NAME,
                reason,
                Action::Update {
                    kind: kinds::REPLICA_SET,
                    object: object_value(&member.set),
                },
            );
            if before != after {
                intent = intent.with_event(EventRecord::normal(
                    kinds::DEPLOYMENT,
                    &self.deployment.metadata,
                    "ScalingReplicaSet",
                    format!("Scaled {direction} replica set {name} from {before} to {after}"),
                ));
            }
            self.plan.push(intent);
        }
    }

    /// Copies the newest ReplicaSet's number to the Deployment. Answers whether that is a write:
    /// the status then waits for the next round, as its resource version would be out of date.
    fn write_revision(&mut self, rollout: &Rollout) -> bool {
        let Some(newest) = &rollout.newest else {
            return false;
        };
        let revision = revision::annotation(&newest.set.metadata, revision::REVISION);
        let owner = &self.deployment.metadata;
        let known = revision::annotation(owner, revision::REVISION);
        let Some(revision) = revision.filter(|revision| Some(*revision) != known) else {
            return false;
        };
        self.plan.push(Intent::new(
            NAME,
            format!("its newest template is revision {revision}"),
            Action::Patch {
                kind: kinds::DEPLOYMENT,
                namespace: owner.namespace.clone().unwrap_or_default(),
                name: owner.name.clone().unwrap_or_default(),
                subresource: Subresource::Main,
                patch: json!({"metadata": {
                    "uid": owner.uid,
                    "resourceVersion": owner.resource_version,
                    "annotations": {revision::REVISION: revision},
                }}),
            },
        ));
        true
    }

    /// Deletes the oldest empty ReplicaSets beyond `revisionHistoryLimit`.
    fn clean_history(&mut self, rollout: &Rollout) {
        let limit = self.spec.revision_history_limit.unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut kept: Vec<&Member> = rollout
            .old
            .iter()
            .filter(|member| member.set.metadata.deletion_timestamp.is_none())
            .collect();
        kept.sort_by_key(|member| {
            let number = revision::number(&member.set.metadata, revision::REVISION);
            (number, member.set.metadata.creation_timestamp.clone())
        });
        let surplus = kept.len().saturating_sub(limit);
        for member in kept.into_iter().take(surplus) {
            let metadata = &member.set.metadata;
            let status = member.set.status.clone().unwrap_or_default();
            let idle = status.replicas == 0
                && member.size() == 0
                && status.observed_generation >= metadata.generation;
            if !idle || member.set != member.original {
                continue;
            }
            self.plan.push(Intent::new(
                NAME,
                format!("it is older than the last {limit} revisions"),
                Action::Delete {
                    kind: kinds::REPLICA_SET,
                    namespace: metadata.namespace.clone().unwrap_or_default(),
                    name: metadata.name.clone().unwrap_or_default(),
                    uid: metadata.uid.clone().unwrap_or_default(),
                    resource_version: metadata.resource_version.clone(),
                    grace_seconds: None,
                    propagation: Propagation::Background,
                },
            ));
        }
    }
}
