//! Rolling updates: new Pods as far as surge allows, old ones go as far as enough are available.
//! Source: kubernetes/kubernetes pkg/controller/deployment/rolling.go.

use super::{Rollout, Set};

impl Rollout<'_> {
    /// One step; false while the new ReplicaSet is not there.
    pub(super) fn roll(&mut self) -> bool {
        if !self.ensure_new() {
            return false;
        }
        if !self.grow() && !self.shrink() && self.is_complete(&self.deployment.status) {
            self.clean_up();
        }
        true
    }

    /// How many Pods the new ReplicaSet may have, now that it has so many.
    pub(super) fn room_for_new(&self, has: i32) -> i32 {
        let wanted = self.replicas();
        if !self.is_rolling() {
            return wanted;
        }
        let (surge, _) = self.fence();
        let room = wanted + surge - self.asked_for();
        has + room.min(wanted - has).max(0)
    }

    /// Brings the new ReplicaSet nearer to what is wanted.
    fn grow(&mut self) -> bool {
        let wanted = self.replicas();
        let Some(new) = &self.new else { return false };
        let (name, has) = (new.name(), new.replicas);
        let size = if has > wanted {
            wanted
        } else {
            self.room_for_new(has)
        };
        if size == has {
            return false;
        }
        self.resize(name, size);
        true
    }

    /// Takes Pods away from the old ReplicaSets: first those that are of no use, then as many as may be missing.
    fn shrink(&mut self) -> bool {
        let old: i32 = self.old.iter().map(|set| set.replicas).sum();
        if old == 0 {
            return false;
        }
        let (_, unavailable) = self.fence();
        let at_least = self.replicas() - unavailable;
        let new = self.new.as_ref();
        let not_yet = new.map_or(0, |new| new.replicas - new.available());
        let mut may_go = self.asked_for() - at_least - not_yet;
        if may_go <= 0 {
            return false;
        }
        let unhealthy = |set: &Set<'_>| set.replicas - set.available();
        let removed = self.take_away(&mut may_go, unhealthy);
        let available: i32 = self.sets().map(Set::available).sum();
        let mut may_go = available - at_least;
        removed | self.take_away(&mut may_go, |set| set.replicas)
    }

    /// Takes at most so many Pods, of each old ReplicaSet at most what it offers.
    fn take_away(&mut self, count: &mut i32, offers: impl Fn(&Set<'_>) -> i32) -> bool {
        let mut taken = false;
        for index in 0..self.old.len() {
            let set = &self.old[index];
            let goes = offers(set).min(set.replicas).min(*count);
            if goes > 0 {
                let (name, size) = (set.name(), set.replicas - goes);
                self.resize(name, size);
                *count -= goes;
                taken = true;
            }
        }
        taken
    }
}
