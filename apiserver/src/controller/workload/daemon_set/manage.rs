//! What each node lacks, and what it has too much.
//! Source: kubernetes/kubernetes pkg/controller/daemon/daemon_controller.go, podsShouldBeOnNode.

use std::collections::BTreeSet;

use api::{
    core::{Node, Pod},
    meta::{Resource as _, Time},
};
use jiff::{SignedDuration, Timestamp};

use super::{COMPONENT, Change, Look};
use crate::{
    controller::{
        event::{self, Level},
        write::Action,
    },
    registry::kinds::EVENTS,
};

/// A Pod that failed is not replaced sooner than so long after it was made: what fails at once would fail all the time.
const FAILED_STAYS: SignedDuration = SignedDuration::from_secs(10);

impl<'a> Look<'a> {
    /// Makes Pods where there should be one, and removes those that are over, superfluous or on the wrong node.
    pub(super) fn manage(&self) -> Change<'a> {
        let mut change = Change::default();
        let (surge, _) = self.fence();
        for node in &self.nodes {
            let pods = self.on(&node.metadata.name);
            if self.fitness.is_wanted(node) && pods.is_empty() {
                change.nodes.push(&node.metadata.name);
            } else if self.fitness.may_stay(node) {
                let running = self.bury(pods, &mut change);
                if surge == 0 {
                    change.pods.extend(running.into_iter().skip(1));
                } else {
                    self.manage_surging(node, &running, &mut change);
                }
            } else {
                let staying = pods.iter().filter(|pod| !is_going(pod));
                change.pods.extend(staying);
            }
        }
        // Pods for nodes that are gone; those that ran there are collected with the node.
        let names: BTreeSet<&str> = self.nodes.iter().map(|node| &*node.metadata.name).collect();
        for (name, pods) in &self.on_node {
            let waiting = pods
                .iter()
                .filter(|pod| pod.spec.node_name.is_empty() && !is_going(pod));
            if !names.contains(name) {
                change.pods.extend(waiting);
            }
        }
        change
    }

    /// Removes Pods that have ended; the others are what the node has.
    fn bury(&self, pods: &[&'a Pod], change: &mut Change<'a>) -> Vec<&'a Pod> {
        let mut running = Vec::new();
        for pod in pods.iter().copied().filter(|pod| !is_going(pod)) {
            let place = format!(
                "daemon pod {}/{} on node {}",
                pod.metadata.namespace, pod.metadata.name, pod.spec.node_name
            );
            let (level, reason, message) = match &*pod.status.phase {
                "Failed" => {
                    let again = replaced_at(pod);
                    if again > self.moment.now {
                        change.due = Some(change.due.map_or(again, |due| due.min(again)));
                        continue;
                    }
                    let message = format!("Found failed {place}, will try to kill it");
                    (Level::Warning, "FailedDaemonPod", message)
                }
                "Succeeded" => {
                    let message = format!("Found succeeded {place}, will try to delete it");
                    (Level::Normal, "SucceededDaemonPod", message)
                }
                _ => {
                    running.push(pod);
                    continue;
                }
            };
            let told = event::new(self.claimant.about(), COMPONENT, level, reason, message);
            change
                .events
                .push(Action::Create(&EVENTS, Box::new(told.to_value())));
            change.pods.push(pod);
        }
        running
    }

    /// Of two Pods on a node the old one stays until the new one is available, or the old one is of no use.
    fn manage_surging(&self, node: &'a Node, running: &[&'a Pod], change: &mut Change<'a>) {
        if running.is_empty() {
            let failed_waits = self
                .on(&node.metadata.name)
                .iter()
                .any(|pod| !is_going(pod) && &*pod.status.phase == "Failed");
            if self.fitness.is_wanted(node) && !failed_waits {
                change.nodes.push(&node.metadata.name);
            }
            return;
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) =
            running.iter().copied().partition(|pod| self.is_new(pod));
        change.pods.extend(new.iter().skip(1));
        change.pods.extend(old.iter().skip(1));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.is_ready() || self.is_available(new))
        {
            change.pods.push(old);
        }
    }
}

pub(super) fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn replaced_at(pod: &Pod) -> Timestamp {
    let made = pod.metadata.creation_timestamp.map(Time::timestamp);
    let at = made.and_then(|made| made.checked_add(FAILED_STAYS).ok());
    at.unwrap_or(Timestamp::MIN)
}
