//! On how many nodes a DaemonSet runs.
//! Source: kubernetes/kubernetes pkg/controller/daemon/daemon_controller.go, updateDaemonSetStatus.

use api::apps::DaemonSetStatus;

use super::Look;
use crate::{
    controller::{workload::progress, write::Action},
    registry::kinds::DAEMON_SETS,
};

impl Look<'_> {
    /// The write of the status, if it is another one.
    pub(super) fn status_write(&self) -> Option<Action> {
        progress::status_write(&DAEMON_SETS, self.set, &self.set.status, &self.status())
    }

    fn status(&self) -> DaemonSetStatus {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: self.set.status.collision_count,
            conditions: self.set.status.conditions.clone(),
            ..DaemonSetStatus::default()
        };
        for node in &self.nodes {
            // Of several the oldest counts.
            let pod = self.on(&node.metadata.name).first();
            if !self.fitness.is_wanted(node) {
                status.number_misscheduled += i32::from(pod.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = pod else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pod.is_ready());
            status.number_available += i32::from(self.is_available(pod));
            status.updated_number_scheduled += i32::from(self.is_new(pod));
        }
        status.number_unavailable = status.desired_number_scheduled - status.number_available;
        status
    }
}
