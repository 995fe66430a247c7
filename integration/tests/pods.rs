//! What becomes of Pods when something under them dies, and what they leave: nothing.

use std::{collections::BTreeSet, fs};

use integration::{DEADLINE, Lab, echo_pod, eventually};

/// The names in a directory of node1.
fn entries(lab: &Lab, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(lab.dir().join("node1").join(dir)).expect("a directory of the node");
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn phase(lab: &Lab, pod: &str) -> String {
    let pod = lab.get(&["pod", pod]);
    pod["status"]["phase"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn is_phase(lab: &Lab, pod: &str, wanted: &str) {
    eventually(&format!("{pod} is {wanted}"), DEADLINE, || {
        match phase(lab, pod) {
            phase if phase == wanted => Ok(()),
            other => Err(other),
        }
    });
}

fn nothing_in(lab: &Lab, dir: &str) {
    eventually(&format!("{dir} is empty"), DEADLINE, || {
        match entries(lab, dir) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("left: {left:?}")),
        }
    });
}

#[test]
fn a_pod_whose_shim_dies_leaves_nothing_and_a_pod_declared_over_stays_over() {
    let lab = Lab::up(1, &[]);
    let never = echo_pod("never", "a", "node1").replace("spec:", "spec:\n  restartPolicy: Never");
    let _ = lab.apply(&never).ok();
    is_phase(&lab, "never", "Running");
    let uid = lab.get(&["pod", "never"])["metadata"]["uid"].clone();
    let uid = uid.as_str().expect("a uid");
    let kill = format!(
        "kill -9 $(cat {})",
        lab.dir()
            .join(format!("node1/run/pods/{uid}/shim.pid"))
            .display()
    );
    let _ = lab.on("node1", &["sh", "-c", &kill]).ok();
    is_phase(&lab, "never", "Failed");
    nothing_in(&lab, "run/pods");
    assert_eq!(entries(&lab, "pods").len(), 1, "its log stays");
    let _ = lab.kubectl(&["delete", "pod", "never"]).ok();
    nothing_in(&lab, "pods");

    let _ = lab.apply(&echo_pod("evicted", "a", "node1")).ok();
    is_phase(&lab, "evicted", "Running");
    let patch = r#"{"status": {"phase": "Failed", "reason": "Evicted"}}"#;
    let patch = [
        "patch",
        "pod",
        "evicted",
        "--subresource=status",
        "--type=merge",
        "-p",
        patch,
    ];
    let _ = lab.kubectl(&patch).ok();
    nothing_in(&lab, "run/pods");
    assert_eq!(phase(&lab, "evicted"), "Failed");
}

#[test]
fn an_agent_killed_while_it_makes_pods_leaves_none_behind() {
    let lab = Lab::up(1, &[]);
    let mut names = Vec::new();
    for round in 0..4 {
        let batch: Vec<String> = (0..4).map(|number| format!("p{round}-{number}")).collect();
        let manifests = batch.iter().map(|name| echo_pod(name, "a", "node1"));
        let _ = lab.apply(&manifests.collect::<Vec<_>>().join("---\n")).ok();
        // The kill comes while their shims and cables are made: one round finds more of them, another fewer.
        let begun = names.len() + round;
        eventually("some are begun", DEADLINE, || {
            match entries(&lab, "run/pods").len() {
                found if found >= begun => Ok(()),
                found => Err(format!("{found} of {begun}")),
            }
        });
        let _ = lab.lab(&["kill", "node1"]).ok();
        let _ = lab.lab(&["start", "node1"]).ok();
        names.extend(batch);
    }
    names
        .iter()
        .for_each(|name| is_phase(&lab, name, "Running"));
    let pods = lab.get(&["pods"]);
    let addresses: BTreeSet<_> = pods["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pod| pod["status"]["podIP"].as_str().expect("an address"))
        .collect();
    assert_eq!(addresses.len(), names.len(), "no address twice");
    let links = || {
        lab.on("node1", &["ip", "-o", "link", "show", "type", "veth"])
            .ok()
    };
    assert_eq!(
        links().lines().count(),
        names.len() + 1,
        "a cable each, and the node's own"
    );

    let _ = lab.kubectl(&["delete", "pods", "--all", "--now"]).ok();
    nothing_in(&lab, "run/pods");
    nothing_in(&lab, "pods");
    eventually("the cables go", DEADLINE, || {
        match links().lines().count() {
            1 => Ok(()),
            count => Err(format!("{count} links")),
        }
    });
}
