//! What a Pod's status says, from what is known of its containers. Pure.

use api::{
    core::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIp, Pod, PodCondition, PodIp, PodStatus,
    },
    meta::Time,
};
use jiff::Timestamp;

use super::container::{Exit, Life, RestartPolicy, State};
use crate::Addresses;

/// Whether somebody else has declared the Pod over (evicted it, say) although its containers would run on: such a Pod is stopped
/// and never started again, and its status is theirs.
pub(super) fn is_overruled(pod: &Pod, lives: &[Life]) -> bool {
    let policy = RestartPolicy::parse(&pod.spec.restart_policy);
    matches!(&*pod.status.phase, "Succeeded" | "Failed")
        && lives.iter().any(|life| life.ended(policy).is_none())
}

/// What the worker knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) lives: &'a [Life],
    pub(super) pod_ips: Option<Addresses>,
    pub(super) host_ips: Addresses,
    /// What the container runtime calls the image, by the image's name in the Pod.
    pub(super) image_id: fn(&str) -> String,
    pub(super) now: Timestamp,
}

/// The status to report. Times of conditions that did not change, and conditions of others, are kept.
pub(super) fn status(pod: &Pod, facts: &Facts<'_>) -> PodStatus {
    let policy = RestartPolicy::parse(&pod.spec.restart_policy);
    let phase = phase(facts.lives, policy);
    let mut status = PodStatus {
        phase: phase.into(),
        host_ip: facts.host_ips.primary().to_string().into(),
        host_ips: facts
            .host_ips
            .into_iter()
            .map(|ip| HostIp {
                ip: ip.to_string().into(),
            })
            .collect(),
        start_time: pod.status.start_time.or(Some(facts.now.into())),
        container_statuses: container_statuses(pod, facts, policy),
        qos_class: pod.status.qos_class.clone(),
        ..PodStatus::default()
    };
    if let Some(ips) = facts.pod_ips {
        status.pod_ip = ips.primary().to_string().into();
        let ips = ips.into_iter().map(|ip| PodIp {
            ip: ip.to_string().into(),
        });
        status.pod_ips = ips.collect();
    }
    status.conditions = conditions(pod, facts, &status);
    status
}

/// `Succeeded` or `Failed` when all have ended for good, `Running` when all have started once, else `Pending`.
fn phase(lives: &[Life], policy: RestartPolicy) -> &'static str {
    let ended: Option<Vec<&Exit>> = lives.iter().map(|life| life.ended(policy)).collect();
    match ended {
        Some(exits) if exits.iter().all(|exit| exit.code == 0) => "Succeeded",
        Some(_) => "Failed",
        None if lives.iter().all(has_run) => "Running",
        None => "Pending",
    }
}

/// Whether it has started once. Until the postStart hook is over, the first attempt has not.
fn has_run(life: &Life) -> bool {
    match life.attempt {
        Some(0) => !life.is_running() || life.is_hooked,
        attempt => attempt.is_some(),
    }
}

/// `containerID`: each attempt is a container of its own.
pub(super) fn container_id(pod: &Pod, container: &str, attempt: u32) -> String {
    format!("minik://{}/{container}/{attempt}", pod.metadata.uid)
}

fn container_statuses(pod: &Pod, facts: &Facts<'_>, policy: RestartPolicy) -> Vec<ContainerStatus> {
    let containers = pod.spec.containers.iter().zip(facts.lives);
    containers
        .map(|(container, life)| {
            let container_id = life
                .attempt
                .map(|attempt| container_id(pod, &life.name, attempt))
                .unwrap_or_default();
            let (state, last_state) = states(pod, life, policy, &container_id);
            ContainerStatus {
                name: container.name.clone(),
                state,
                last_state,
                ready: life.is_ready(),
                restart_count: i32::try_from(life.restart_count()).unwrap_or(i32::MAX),
                image: container.image.clone(),
                image_id: life
                    .attempt
                    .map(|_| (facts.image_id)(&container.image))
                    .unwrap_or_default()
                    .into(),
                container_id: container_id.into(),
                started: Some(life.is_started()),
            }
        })
        .collect()
}

/// `state` and `lastState`. A container that waits for its restart shows `CrashLoopBackOff`, and its end as the last state.
fn states(
    pod: &Pod,
    life: &Life,
    policy: RestartPolicy,
    container_id: &str,
) -> (ContainerState, ContainerState) {
    let ended = |exit: &Exit| ContainerState {
        terminated: Some(terminated(exit, container_id)),
        ..ContainerState::default()
    };
    let waiting = |reason: &str, message: &str| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: reason.into(),
            message: message.into(),
        }),
        ..ContainerState::default()
    };
    let last = life.last_exit.as_ref().map(ended).unwrap_or_default();
    match &life.state {
        State::Waiting {
            reason, message, ..
        } => (waiting(reason, message), last),
        State::Running { .. } if !life.is_hooked => (waiting("ContainerCreating", ""), last),
        State::Running { started_at } => {
            let running = Some(ContainerStateRunning {
                started_at: Some((*started_at).into()),
            });
            (
                ContainerState {
                    running,
                    ..ContainerState::default()
                },
                last,
            )
        }
        State::Exited(exit) if life.ended(policy).is_some() => (ended(exit), last),
        State::Exited(exit) => {
            let message = format!(
                "back-off {}s restarting failed container={} pod={}_{}({})",
                life.backoff().as_secs(),
                life.name,
                pod.metadata.name,
                pod.metadata.namespace,
                pod.metadata.uid,
            );
            (waiting("CrashLoopBackOff", &message), ended(exit))
        }
    }
}

fn terminated(exit: &Exit, container_id: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: exit.code,
        signal: exit.signal,
        reason: exit.reason.into(),
        started_at: exit.started_at.map(Time::from),
        finished_at: Some(exit.finished_at.into()),
        container_id: container_id.into(),
        ..ContainerStateTerminated::default()
    }
}

fn conditions(pod: &Pod, facts: &Facts<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let (containers_ready, reason, message) = readiness(status);
    let gates = pod.spec.readiness_gates.iter();
    let closed: Vec<String> = gates
        .filter_map(|gate| closed_gate(pod, &gate.condition_type))
        .collect();
    let ready = if containers_ready && !closed.is_empty() {
        (false, "ReadinessGatesNotReady", closed.join(", "))
    } else {
        (containers_ready, reason, message.clone())
    };
    let own = [
        (
            "PodReadyToStartContainers",
            facts.pod_ips.is_some(),
            "",
            String::new(),
        ),
        ("Initialized", true, "", String::new()),
        ("Ready", ready.0, ready.1, ready.2),
        ("ContainersReady", containers_ready, reason, message),
        ("PodScheduled", true, "", String::new()),
    ];
    let foreign = pod
        .status
        .conditions
        .iter()
        .filter(|condition| own.iter().all(|(name, ..)| *name != &*condition.r#type))
        .cloned();
    let made = own.iter().map(|(name, is, reason, message)| {
        let status = if *is { "True" } else { "False" };
        let before = pod
            .status
            .condition(name)
            .filter(|before| &*before.status == status);
        PodCondition {
            r#type: (*name).into(),
            status: status.into(),
            reason: (*reason).into(),
            message: message.as_str().into(),
            last_transition_time: before
                .and_then(|before| before.last_transition_time)
                .or(Some(facts.now.into())),
            ..PodCondition::default()
        }
    });
    made.chain(foreign).collect()
}

/// Why a readiness gate is closed, if it is.
fn closed_gate(pod: &Pod, name: &str) -> Option<String> {
    match pod.status.condition(name) {
        None => Some(format!(
            "corresponding condition of pod readiness gate {name:?} does not exist."
        )),
        Some(condition) if &*condition.status != "True" => Some(format!(
            "the status of pod readiness gate {name:?} is not \"True\", but {}",
            condition.status
        )),
        Some(_) => None,
    }
}

/// Whether every container is ready, and if not, why.
fn readiness(status: &PodStatus) -> (bool, &'static str, String) {
    match &*status.phase {
        "Succeeded" => return (false, "PodCompleted", String::new()),
        "Failed" => return (false, "PodFailed", String::new()),
        _ => {}
    }
    let unready: Vec<&str> = status
        .container_statuses
        .iter()
        .filter(|container| !container.ready)
        .map(|container| &*container.name)
        .collect();
    if unready.is_empty() {
        return (true, "", String::new());
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    (false, "ContainersNotReady", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::net::IpAddr;

    use super::super::container::Report;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("time")
    }

    fn pod(restart_policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": restart_policy, "containers": [{"name": "c", "image": "minik.dev/echo"}]},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "example.org/gate", "status": "True"},
            ]},
        }))
        .expect("pod")
    }

    fn of(pod: &Pod, life: &Life) -> PodStatus {
        status(
            pod,
            &Facts {
                lives: std::slice::from_ref(life),
                pod_ips: Some(IpAddr::from([10, 244, 1, 2]).into()),
                host_ips: IpAddr::from([172, 30, 0, 11]).into(),
                image_id: str::to_owned,
                now: at(100),
            },
        )
    }

    fn exit(code: i32) -> Report {
        let state = State::Exited(Exit {
            code,
            signal: 0,
            reason: "Error",
            started_at: Some(at(0)),
            finished_at: at(1),
        });
        Report { attempt: 0, state }
    }

    #[test]
    fn phase_and_readiness_follow_the_containers() {
        let mut created = Life::new("c");
        created.started(0, at(0));
        let mut hooked = created.clone();
        hooked.is_hooked = true;
        let mut started = hooked.clone();
        started.has_started = true;
        let mut ready = started.clone();
        ready.is_healthy = true;
        let with = |code| {
            let mut life = ready.clone();
            life.observe(exit(code));
            life
        };
        let cases = [
            (Life::new("c"), "Always", "Pending", "False"),
            (created, "Always", "Pending", "False"),
            (hooked, "Always", "Running", "False"),
            (started, "Always", "Running", "False"),
            (ready.clone(), "Always", "Running", "True"),
            (with(1), "Always", "Running", "False"),
            (with(1), "Never", "Failed", "False"),
            (with(0), "OnFailure", "Succeeded", "False"),
        ];
        for (life, policy, phase, ready) in cases {
            let status = of(&pod(policy), &life);
            let condition = status.condition("Ready").expect("Ready");
            assert_eq!(
                (&*status.phase, &*condition.status),
                (phase, ready),
                "{policy} {life:?}"
            );
        }
    }

    #[test]
    fn what_probes_and_gates_say_is_in_the_conditions() {
        let mut life = Life::new("c");
        life.started(0, at(0));
        life.is_hooked = true;
        let mut pod = pod("Always");
        let gates =
            json!([{"conditionType": "example.org/gate"}, {"conditionType": "example.org/b"}]);
        pod.spec.readiness_gates = serde_json::from_value(gates).expect("gates");
        let mut seen = Vec::new();
        for (has_started, is_healthy) in [(false, true), (true, false), (true, true)] {
            (life.has_started, life.is_healthy) = (has_started, is_healthy);
            let status = of(&pod, &life);
            let container = &status.container_statuses[0];
            let ready = status.condition("Ready").expect("Ready");
            seen.push((
                (container.started, container.ready),
                ready.reason.to_string(),
                ready.message.to_string(),
            ));
        }
        let unready = "containers with unready status: [c]";
        let gate =
            "corresponding condition of pod readiness gate \"example.org/b\" does not exist.";
        let wanted = [
            ((Some(false), false), "ContainersNotReady", unready),
            ((Some(true), false), "ContainersNotReady", unready),
            ((Some(true), true), "ReadinessGatesNotReady", gate),
        ];
        let wanted =
            wanted.map(|(flags, reason, text)| (flags, reason.to_owned(), text.to_owned()));
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_pod_that_was_declared_over_is_over() {
        let mut running = Life::new("c");
        running.started(0, at(0));
        let mut ended = running.clone();
        ended.observe(exit(1));
        let cases = [
            ("Running", "Always", &running, false),
            ("Failed", "Always", &running, true),
            ("Failed", "Always", &ended, true),
            ("Succeeded", "Never", &Life::new("c"), true),
            ("Failed", "Never", &ended, false),
        ];
        for (phase, policy, life, wanted) in cases {
            let mut pod = pod(policy);
            pod.status.phase = phase.into();
            let got = is_overruled(&pod, std::slice::from_ref(life));
            assert_eq!(got, wanted, "{phase} {policy} {life:?}");
        }
    }

    #[test]
    fn a_crash_loop_shows_its_wait_and_its_last_end() {
        let mut life = Life::new("c");
        life.started(0, at(0));
        life.observe(exit(3));
        let status = of(&pod("Always"), &life);
        let container = &status.container_statuses[0];
        assert_eq!(
            container
                .state
                .waiting
                .as_ref()
                .map(|waiting| &*waiting.reason),
            Some("CrashLoopBackOff")
        );
        assert_eq!(
            container
                .last_state
                .terminated
                .as_ref()
                .map(|exit| exit.exit_code),
            Some(3)
        );
    }

    #[test]
    fn unchanged_conditions_keep_their_time_and_foreign_ones_stay() {
        let mut life = Life::new("c");
        life.started(0, at(0));
        let mut pod = pod("Always");
        pod.status = of(&pod, &life);
        let scheduled = pod
            .status
            .condition("PodScheduled")
            .and_then(|condition| condition.last_transition_time);
        assert_eq!(
            scheduled.map(|time| time.to_string()).as_deref(),
            Some("2026-01-01T00:00:00Z")
        );
        assert!(pod.status.condition("example.org/gate").is_some());
        let mut later = pod.clone();
        later.status = PodStatus::default();
        assert_eq!(
            of(&pod, &life),
            pod.status,
            "computed again it is the same, so nothing is written"
        );
        assert_ne!(of(&later, &life).conditions, Vec::new());
    }
}
