//! The sizes of a Deployment's ReplicaSets: what each should be next.
//!
//! A [`Rollout`] holds working copies of the ReplicaSets. Functions here change the copies; what
//! differs from the original in the end becomes a write.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::bounds::{Bounds, proportional_size};
use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, note_size, number};

/// One ReplicaSet under change.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub set: ReplicaSet,
    /// As the view has it.
    pub original: ReplicaSet,
    /// Pods of it that are available now: never more than its status, its spec or its pods say.
    pub available: i32,
    /// Pods of it that are neither finished nor being deleted; more than its size while the
    /// ReplicaSet has not been seen to yet.
    pub active: i32,
}

/// The ReplicaSets of one Deployment.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    pub bounds: Bounds,
    pub recreate: bool,
    /// Of the Deployment's present template.
    pub newest: Option<Member>,
    /// All others, oldest first.
    pub old: Vec<Member>,
}

pub(super) fn size_of(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

impl Member {
    pub fn size(&self) -> i32 {
        size_of(&self.set)
    }

    /// Sets the size, and notes the Deployment's with it.
    fn resize(&mut self, size: i32, bounds: &Bounds) -> bool {
        let changed = self.size() != size;
        if changed {
            self.set.spec.get_or_insert_default().replicas = Some(size);
            note_size(&mut self.set, bounds);
        }
        changed
    }
}

impl Rollout {
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.newest.iter().chain(&self.old)
    }

    fn total_size(&self) -> i32 {
        self.members().map(Member::size).sum()
    }

    /// The Deployment was resized since its ReplicaSets were last scaled.
    pub fn is_resize(&self) -> bool {
        let active = || self.members().filter(|member| member.size() > 0);
        if self.recreate && active().count() > 1 {
            // Nothing is shared between old and new here: the old ones go first.
            return false;
        }
        active().any(|it| {
            number(&it.set.metadata, DESIRED_REPLICAS)
                .is_some_and(|desired| desired != i64::from(self.bounds.replicas))
        })
    }

    /// How large the newest ReplicaSet may be now.
    pub fn newest_size(&self, current: i32) -> i32 {
        let wanted = self.bounds.replicas;
        if current >= wanted || self.recreate {
            return wanted;
        }
        // By size or by pods, whichever is more: surplus pods that are still there take room, too.
        let taken: i32 = self.members().map(|it| it.size().max(it.active)).sum();
        let room = self.bounds.max_total() - taken;
        if room <= 0 {
            return current;
        }
        current + room.min(wanted - current)
    }

    /// Brings the newest ReplicaSet nearer to its size. Answers whether it changed.
    pub fn scale_newest(&mut self) -> bool {
        let Some(current) = self.newest.as_ref().map(Member::size) else {
            return false;
        };
        let size = self.newest_size(current);
        let bounds = self.bounds;
        self.newest
            .as_mut()
            .is_some_and(|newest| newest.resize(size, &bounds))
    }

    /// Takes pods from the old ReplicaSets as far as the newest one replaces them: first those that
    /// are not available anyway, then, oldest first, as many as keep `min_available`.
    pub fn shrink_old(&mut self) -> bool {
        let newest = self.newest.as_ref();
        let newest_unavailable = newest.map_or(0, |it| (it.size() - it.available).max(0));
        let min_available = self.bounds.min_available();
        let limit = self.total_size() - min_available - newest_unavailable;
        if limit <= 0 {
            return false;
        }
        let bounds = self.bounds;
        let mut taken = 0;
        for member in &mut self.old {
            let unhealthy = (member.size() - member.available).max(0);
            let cut = unhealthy.min(limit - taken);
            if cut > 0 {
                member.resize(member.size() - cut, &bounds);
                taken += cut;
            }
        }
        let available: i32 = self.members().map(|it| it.available).sum();
        // What is available lies within the sizes, so this stays within the limit, too.
        let mut spare = available - min_available;
        for member in &mut self.old {
            let cut = member.size().min(spare);
            if cut > 0 {
                member.resize(member.size() - cut, &bounds);
                member.available = member.available.min(member.size());
                spare -= cut;
                taken += cut;
            }
        }
        taken > 0
    }

    /// Recreate: every old ReplicaSet to nothing.
    pub fn empty_old(&mut self) -> bool {
        let bounds = self.bounds;
        let mut changed = false;
        for member in &mut self.old {
            changed |= member.resize(0, &bounds);
        }
        changed
    }

    /// Follows a resize of the Deployment without moving the rollout on.
    pub fn resize(&mut self) {
        let bounds = self.bounds;
        let active = self.members().filter(|member| member.size() > 0).count();
        if active <= 1 {
            let target = if active == 1 {
                self.newest
                    .iter_mut()
                    .chain(&mut self.old)
                    .find(|member| member.size() > 0)
            } else if self.newest.is_some() {
                self.newest.as_mut()
            } else {
                self.old.last_mut()
            };
            if let Some(member) = target {
                member.resize(bounds.replicas, &bounds);
                note_size(&mut member.set, &bounds);
            }
            return;
        }
        let saturated = self.newest.as_ref().is_some_and(|it| {
            it.size() == bounds.replicas
                && number(&it.set.metadata, DESIRED_REPLICAS) == Some(i64::from(bounds.replicas))
                && it.available == bounds.replicas
        });
        if saturated {
            self.empty_old();
            return;
        }
        if self.recreate {
            return;
        }
        let allowed = if bounds.replicas > 0 {
            bounds.max_total()
        } else {
            0
        };
        let to_add = allowed - self.total_size();
        let mut members: Vec<&mut Member> = self
            .newest
            .iter_mut()
            .chain(self.old.iter_mut().rev())
            .filter(|member| member.size() > 0)
            .collect();
        // The largest first; of equals the newer one when growing, the older one when shrinking.
        if to_add < 0 {
            members.reverse();
        }
        members.sort_by_key(|member| std::cmp::Reverse(member.size()));
        let mut added = 0;
        let mut sizes = Vec::with_capacity(members.len());
        for member in &members {
            let before = number(&member.set.metadata, MAX_REPLICAS)
                .and_then(|max| i32::try_from(max).ok())
                .unwrap_or(bounds.max_total());
            let size = proportional_size(member.size(), &bounds, before, to_add, added);
            added += size - member.size();
            sizes.push(size);
        }
        // What rounding left over goes to the largest.
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (member, size) in members.into_iter().zip(sizes) {
            member.resize(size, &bounds);
            note_size(&mut member.set, &bounds);
        }
    }
}
