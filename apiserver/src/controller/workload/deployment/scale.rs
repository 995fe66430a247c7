//! Another number of Pods while several ReplicaSets have some: each gets its share.
//! Source: kubernetes/kubernetes pkg/controller/deployment/sync.go, scale; util/deployment_util.go, GetReplicaSetProportion.

use std::cmp::Reverse;

use super::{DESIRED, MAX, Rollout, Set};

impl Rollout<'_> {
    /// Whether another number of Pods is wanted than when the ReplicaSets got theirs.
    pub(super) fn is_scaled(&self) -> bool {
        let wanted = i64::from(self.replicas());
        let mut active = self.sets().filter(|set| set.replicas > 0);
        active.any(|set| set.number(DESIRED).is_some_and(|desired| desired != wanted))
    }

    /// Gives each ReplicaSet its part of what is wanted.
    pub(super) fn scale(&mut self) {
        let wanted = self.replicas();
        if let Some(name) = self.only_one() {
            return self.resize(name, wanted);
        }
        let active = self.sets().filter(|set| set.replicas > 0);
        let active: Vec<Set<'_>> = active.cloned().collect();
        if self.is_saturated() {
            let old = active.iter().filter(|set| !self.is_new(set));
            let old: Vec<&str> = old.map(|set| set.name()).collect();
            old.into_iter().for_each(|name| self.resize(name, 0));
        } else if self.is_rolling() {
            for (name, size) in self.shares(active) {
                self.resize(name, size);
            }
        }
    }

    fn is_new(&self, set: &Set<'_>) -> bool {
        let new = self.new.as_ref();
        new.is_some_and(|new| new.name() == set.name())
    }

    /// The only ReplicaSet that has Pods; when none has any, the newest.
    fn only_one<'b>(&self) -> Option<&'b str>
    where
        Self: 'b,
    {
        let mut active = self.sets().filter(|set| set.replicas > 0);
        match (active.next(), active.next()) {
            (Some(one), None) => Some(one.name()),
            (Some(_), Some(_)) => None,
            (None, _) => {
                let newest = self.new.as_ref().or(self.old.last());
                newest.map(Set::name)
            }
        }
    }

    /// Whether the new ReplicaSet has all that is wanted, available.
    fn is_saturated(&self) -> bool {
        let wanted = self.replicas();
        self.new.as_ref().is_some_and(|new| {
            new.replicas == wanted
                && new.number(DESIRED) == Some(wanted.into())
                && new.available() == wanted
        })
    }

    /// The size of each: in proportion, the rest to the first; growing, that is the largest and then the newest, shrinking
    /// the largest and then the oldest.
    fn shares<'b>(&self, mut active: Vec<Set<'b>>) -> Vec<(&'b str, i32)> {
        let wanted = self.replicas();
        let (surge, _) = self.fence();
        let allowed = if wanted > 0 { wanted + surge } else { 0 };
        let has: i32 = active.iter().map(|set| set.replicas).sum();
        let to_add = allowed - has;
        active.sort_by_key(|set| {
            let created = set.known.metadata.creation_timestamp;
            let age = if to_add > 0 {
                (Some(Reverse(created)), None)
            } else {
                (None, Some(created))
            };
            (Reverse(set.replicas), age, set.name())
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for set in &active {
            let left = to_add - added;
            let share = self.share(set, wanted + surge);
            let share = if to_add > 0 {
                share.clamp(0, left)
            } else {
                share.clamp(left, 0)
            };
            added += share;
            sizes.push((set.name(), set.replicas + share));
        }
        if let Some((_, size)) = sizes.first_mut() {
            *size = (*size + to_add - added).max(0);
        }
        sizes
    }

    /// How many Pods more (or less) keep the ReplicaSet's part of the whole the same.
    fn share(&self, set: &Set<'_>, most: i32) -> i32 {
        if self.replicas() == 0 {
            return -set.replicas;
        }
        let known = set.number(MAX).filter(|max| *max != 0);
        let before = known.unwrap_or_else(|| self.deployment.status.replicas.into());
        if before == 0 {
            return 0;
        }
        let size = f64::from(set.replicas) * f64::from(most) / before as f64;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a number of Pods fits; beyond that the cast stops at the greatest"
        )]
        let size = size.round() as i32;
        size - set.replicas
    }
}
