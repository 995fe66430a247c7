//! Recreate: the new Pods are made when the last old one is gone.
//! Source: kubernetes/kubernetes pkg/controller/deployment/recreate.go.

use super::Rollout;

impl Rollout<'_> {
    /// One step; false while the new ReplicaSet is not there.
    pub(super) fn recreate(&mut self) -> bool {
        let active = self.old.iter().filter(|set| set.replicas > 0);
        let active: Vec<&str> = active.map(|set| set.name()).collect();
        if !active.is_empty() {
            active.into_iter().for_each(|name| self.resize(name, 0));
            self.number_new();
            return true;
        }
        let mut old = self.old.iter();
        let is_there =
            old.any(|set| set.known.status.replicas > 0 || self.pods_of(set).next().is_some());
        if is_there {
            self.number_new();
            return true;
        }
        if !self.ensure_new() {
            return false;
        }
        let new = self.new.as_ref().map(|new| (new.name(), new.replicas));
        let wanted = self.replicas();
        if let Some((name, _)) = new.filter(|(_, has)| *has != wanted) {
            self.resize(name, wanted);
        }
        if self.is_complete(&self.deployment.status) {
            self.clean_up();
        }
        true
    }
}
