//! How `kubectl get pods` tells what a Pod is doing (api.md (c), cell rules).

use serde_json::{Value, json};

use super::{items, text_at};
use crate::registry::table::Row;

/// One row.
pub(super) fn fill(pod: &Value, row: &mut Row) {
    let spec = &pod["spec"];
    let phase = text_at(pod, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        let message = "The pod has completed.";
        row.conditions.push(json!({
            "type": "Completed", "status": "True", "reason": phase, "message": message,
        }));
    }
    let summary = Summary::of(pod);
    row.name(pod);
    row.text(&format!("{}/{}", summary.ready, summary.total));
    row.text(&summary.reason);
    let restarts = summary.restarts.to_string();
    if summary.restarts > 0 && !summary.last_restart.is_empty() {
        let ago = row.elapsed(&summary.last_restart);
        row.text(&format!("{restarts} ({ago} ago)"));
    } else {
        row.text(&restarts);
    }
    row.age(pod);
    row.or_none(text_at(&pod["status"]["podIPs"][0], &["ip"]));
    row.or_none(text_at(spec, &["nodeName"]));
    row.or_none(text_at(pod, &["status", "nominatedNodeName"]));
    row.or_none(&gates(pod));
}

/// How many readiness gates hold, `1/2`.
fn gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return String::new();
    }
    let holds = |gate: &&Value| condition(pod, text_at(gate, &["conditionType"])) == "True";
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

fn condition<'a>(pod: &'a Value, name: &str) -> &'a str {
    items(&pod["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == name)
        .map_or("", |condition| text_at(condition, &["status"]))
}

#[derive(Debug, Default, PartialEq)]
struct Summary {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: String,
    reason: String,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let mut summary = Self {
            total: items(&pod["spec"]["containers"]).len(),
            reason: text_at(pod, &["status", "phase"]).to_owned(),
            ..Self::default()
        };
        let reason = text_at(pod, &["status", "reason"]);
        if !reason.is_empty() {
            reason.clone_into(&mut summary.reason);
        }
        let gated = items(&pod["status"]["conditions"]).iter().any(|condition| {
            condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated"
        });
        if gated {
            summary.reason = "SchedulingGated".into();
        }
        let initializing = summary.init_containers(pod);
        if !initializing || condition(pod, "Initialized") == "True" {
            summary.containers(pod);
        }
        summary.deletion(pod);
        summary
    }

    /// Walks the init containers; answers whether one of them still holds the Pod up.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let specs = items(&pod["spec"]["initContainers"]);
        let is_sidecar = |name: &str| {
            specs
                .iter()
                .any(|spec| spec["name"] == name && spec["restartPolicy"] == "Always")
        };
        self.total += specs
            .iter()
            .filter(|spec| spec["restartPolicy"] == "Always")
            .count();
        for (index, status) in items(&pod["status"]["initContainerStatuses"])
            .iter()
            .enumerate()
        {
            self.count_restarts(status);
            let sidecar = is_sidecar(text_at(status, &["name"]));
            let state = &status["state"];
            let terminated = &state["terminated"];
            if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = text_at(state, &["waiting", "reason"]);
            self.reason = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return true;
        }
        false
    }

    /// Walks the containers from last to first: the first one with something to tell has the last word.
    fn containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in items(&pod["status"]["containerStatuses"]).iter().rev() {
            self.count_restarts(status);
            let state = &status["state"];
            let waiting = text_at(state, &["waiting", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if state["terminated"].is_object() {
                self.reason = ended(&state["terminated"]);
            } else if status["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = condition(pod, "Ready") == "True";
            self.reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }

    fn deletion(&mut self, pod: &Value) {
        let finished = matches!(text_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
        if pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        if text_at(pod, &["status", "reason"]) == "NodeLost" {
            self.reason = "Unknown".into();
        } else if !finished {
            self.reason = "Terminating".into();
        }
    }

    fn count_restarts(&mut self, status: &Value) {
        self.restarts += status["restartCount"].as_i64().unwrap_or(0);
        let finished = text_at(status, &["lastState", "terminated", "finishedAt"]);
        // RFC 3339 in UTC and whole seconds sorts as text.
        if *finished > *self.last_restart {
            finished.clone_into(&mut self.last_restart);
        }
    }
}

/// How a container ended: its reason, or the signal or exit code.
fn ended(terminated: &Value) -> String {
    let reason = text_at(terminated, &["reason"]);
    let signal = terminated["signal"].as_i64().unwrap_or(0);
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{}, {}]}, "status": status})
    }

    #[test]
    fn t3_pod_status_tells_what_holds_it_up() {
        let ready = json!({"ready": true, "state": {"running": {}}});
        let crash =
            json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        let done = json!({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        let killed = json!({"state": {"terminated": {"signal": 9, "exitCode": 137}}});
        let cases = [
            (json!({"phase": "Pending"}), "0/2", "Pending"),
            (
                json!({"phase": "Running", "containerStatuses": [ready, ready]}),
                "2/2",
                "Running",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [crash, ready]}),
                "1/2",
                "CrashLoopBackOff",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [done, ready]}),
                "1/2",
                "NotReady",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [killed, killed]}),
                "0/2",
                "Signal:9",
            ),
        ];
        for (status, ready, reason) in cases {
            let summary = Summary::of(&pod(status));
            assert_eq!(format!("{}/{}", summary.ready, summary.total), ready);
            assert_eq!(summary.reason, reason);
        }
    }

    #[test]
    fn t3_terminating_pod_says_so() {
        let mut pod = pod(json!({"phase": "Running"}));
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(Summary::of(&pod).reason, "Terminating");
    }

    #[test]
    fn t3_init_containers_come_first() {
        let mut pod = pod(json!({
            "phase": "Pending",
            "initContainerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0}}},
                {"name": "b", "state": {"running": {}}},
            ],
        }));
        pod["spec"]["initContainers"] = json!([{"name": "a"}, {"name": "b"}]);
        assert_eq!(Summary::of(&pod).reason, "Init:1/2");
    }
}
