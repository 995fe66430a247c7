//! Pods and their ServiceAccounts: the token in each container, and what it opens. And the other files volumes give.

use std::{fs, path::PathBuf};

use integration::{DEADLINE, Lab, echo_pod, eventually};

const API: &str = "https://kubernetes.default/api/v1/namespaces/default";

/// Where the node keeps a volume of a Pod, by a part of the volume's name.
fn volume(lab: &Lab, pod: &str, part: &str) -> PathBuf {
    let pod = lab.get(&["pod", pod]);
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let volumes = lab.dir().join(format!("node1/run/pods/{uid}/volumes"));
    let entries = fs::read_dir(volumes).expect("volumes of the Pod");
    entries
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().contains(part))
        .expect("a volume of that name")
}

#[test]
fn u5_a_pod_asks_the_api_as_its_account_and_roles_decide() {
    let lab = Lab::up(1, &[]);
    let _ = lab.kubectl(&["create", "serviceaccount", "reader"]).ok();
    let role = ["create", "role", "reader", "--verb=list", "--resource=pods"];
    let _ = lab.kubectl(&role).ok();
    let binding = [
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        "--serviceaccount=default:reader",
    ];
    let _ = lab.kubectl(&binding).ok();
    let reader =
        echo_pod("reader", "a", "node1").replace("spec:", "spec:\n  serviceAccountName: reader");
    let none = echo_pod("none", "a", "node1")
        .replace("spec:", "spec:\n  automountServiceAccountToken: false");
    let _ = lab.apply(&[reader, none].join("---\n")).ok();
    let ready = [
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/reader",
        "pod/none",
    ];
    let _ = lab.kubectl(&ready).ok();
    let fetch = |pod: &str, url: &str| {
        lab.minik_in(
            "node1",
            pod,
            &[
                "fetch",
                "--json",
                "--retry",
                "10",
                "--service-account",
                "--",
                url,
            ],
        )
    };
    let pods = fetch("reader", &format!("{API}/pods")).ok();
    assert!(
        pods.contains("\"PodList\"") && pods.contains("\"none\""),
        "{pods}"
    );
    // KUBERNETES_SERVICE_HOST.
    let by_address = API.replace("kubernetes.default", "10.96.0.1");
    assert!(
        fetch("reader", &format!("{by_address}/pods"))
            .ok()
            .contains("PodList")
    );
    let refused = fetch("reader", &format!("{API}/secrets")).refused();
    assert!(
        refused.contains("system:serviceaccount:default:reader"),
        "{refused}"
    );
    let without = fetch("none", &format!("{API}/pods")).refused();
    assert!(without.contains("ca.crt"), "{without}");

    let namespace = fs::read_to_string(volume(&lab, "reader", "kube-api-access").join("namespace"));
    assert_eq!(namespace.expect("the namespace's file"), "default");
    let _ = lab.kubectl(&["delete", "pod", "reader", "--now"]).ok();
    let left = lab.dir().join("node1/run/pods");
    eventually(
        "nothing of the Pod is left",
        DEADLINE,
        || match fs::read_dir(&left).map(Iterator::count) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

#[test]
fn volumes_hold_what_config_maps_secrets_and_the_pod_say() {
    let lab = Lab::up(1, &[]);
    let _ = lab
        .kubectl(&[
            "create",
            "configmap",
            "settings",
            "--from-literal=colour=blue",
        ])
        .ok();
    let pod = echo_pod("files", "a", "node1")
        + "    volumeMounts:\n    \
           - {name: settings, mountPath: /settings}\n    \
           - {name: secret, mountPath: /keys}\n    \
           - {name: own, mountPath: /own}\n  \
           volumes:\n  \
           - {name: settings, configMap: {name: settings}}\n  \
           - {name: secret, secret: {secretName: keys, defaultMode: 0400}}\n  \
           - {name: own, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}\n";
    let _ = lab.apply(&pod).ok();
    eventually("the Pod waits for the Secret", DEADLINE, || {
        let pod = lab.get(&["pod", "files"]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        if message.contains("secret \"keys\" not found") {
            return Ok(());
        }
        Err(waiting.to_string())
    });
    let _ = lab
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "keys",
            "--from-literal=key=hidden",
        ])
        .ok();
    let ready = [
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/files",
    ];
    let _ = lab.kubectl(&ready).ok();
    let read = |part: &str, file: &str| {
        fs::read_to_string(volume(&lab, "files", part).join(file)).expect("a file")
    };
    assert_eq!(read("settings", "colour"), "blue");
    assert_eq!(read("secret", "key"), "hidden");
    assert_eq!(read("own", "labels"), "app=\"a\"");
    // A field that changes is written again, all at once.
    let _ = lab.kubectl(&["label", "pod", "files", "tier=web"]).ok();
    eventually("the new label is in the file", DEADLINE, || {
        match read("own", "labels") {
            labels if labels == "app=\"a\"\ntier=\"web\"" => Ok(()),
            labels => Err(labels),
        }
    });

    let becomes = |part: &str, file: &str, wanted: &str| {
        eventually(&format!("{file} is {wanted}"), DEADLINE, || {
            match read(part, file) {
                content if content == wanted => Ok(()),
                content => Err(content),
            }
        });
    };
    let patch = |kind: &str, name: &str, patch: &str| {
        let _ = lab
            .kubectl(&["patch", kind, name, "--type=merge", "-p", patch])
            .ok();
    };
    patch("configmap", "settings", r#"{"data": {"colour": "red"}}"#);
    becomes("settings", "colour", "red");
    patch("secret", "keys", r#"{"stringData": {"key": "other"}}"#);
    becomes("secret", "key", "other");
    // What an agent has missed while it was away, it finds; what goes leaves its files, and what comes again is followed.
    let _ = lab.lab(&["kill", "node1"]).ok();
    patch("configmap", "settings", r#"{"data": {"colour": "green"}}"#);
    let _ = lab.lab(&["start", "node1"]).ok();
    becomes("settings", "colour", "green");
    let _ = lab.kubectl(&["delete", "configmap", "settings"]).ok();
    patch("secret", "keys", r#"{"stringData": {"key": "third"}}"#);
    let _ = lab
        .kubectl(&[
            "create",
            "configmap",
            "settings",
            "--from-literal=colour=grey",
        ])
        .ok();
    becomes("settings", "colour", "grey");
    becomes("secret", "key", "third");
}
