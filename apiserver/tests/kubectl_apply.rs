//! Server-side apply, diff and dry runs through the real kubectl, in each version the machine has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{
    Api, CONFIG_MAPS,
    kubectl::{Kubectl, each_version},
};
use serde_json::{Value, json};

fn config_map(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{k: {value}, l: same}}\n"
    )
}

async fn stored(api: &Api) -> Value {
    api.get(&format!("{CONFIG_MAPS}/c")).await.1
}

fn managers(object: &Value) -> Vec<(&str, &str)> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| {
            (
                entry["manager"].as_str().unwrap(),
                entry["operation"].as_str().unwrap(),
            )
        })
        .collect()
}

/// A1, A6, A12.
#[tokio::test(flavor = "multi_thread")]
async fn a1_a6_a12_kubectl_applies_on_the_server() {
    each_version(async |api, kubectl| {
        let apply = "apply --server-side -f -";
        let made = kubectl.works_with(apply, &config_map("one")).await;
        assert!(made.contains("configmap/c serverside-applied"), "{made}");
        let before = stored(api).await;
        kubectl.works_with(apply, &config_map("one")).await;
        assert_eq!(stored(api).await, before, "applying again writes nothing");
        assert_eq!(managers(&before), [("kubectl", "Apply")]);

        api.merge(
            &format!("{CONFIG_MAPS}/c?fieldManager=editor"),
            json!({"data": {"k": "edited"}}),
        )
        .await;
        let (fine, text) = kubectl.with_input(apply, &config_map("two")).await;
        assert!(!fine);
        for words in [
            r#"Apply failed with 1 conflict: conflict with "editor" using v1: .data.k"#,
            "--force-conflicts",
            "Please review the fields above",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        kubectl
            .works_with(&format!("{apply} --force-conflicts"), &config_map("two"))
            .await;
        let forced = stored(api).await;
        assert_eq!(forced["data"]["k"], "two");
        assert_eq!(managers(&forced), [("kubectl", "Apply")]);

        // What is no longer applied goes; another manager's part stays.
        let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {other: x}\n";
        kubectl
            .works_with(&format!("{apply} --field-manager=other"), other)
            .await;
        let less = config_map("two").replace(", l: same", "");
        kubectl.works_with(apply, &less).await;
        assert_eq!(stored(api).await["data"], json!({"k": "two", "other": "x"}));
    })
    .await;
}

/// A4: hidden unless asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a4_kubectl_shows_managed_fields_when_asked() {
    each_version(async |_, kubectl| {
        kubectl
            .works_with("apply --server-side -f -", &config_map("one"))
            .await;
        let text = kubectl.works("get cm c -o yaml").await;
        assert!(!text.contains("managedFields"), "{text}");
        let text = kubectl
            .works("get cm c -o yaml --show-managed-fields")
            .await;
        for line in [
            "  managedFields:",
            "    fieldsType: FieldsV1",
            "        f:k: {}",
            "    manager: kubectl",
            "    operation: Apply",
        ] {
            assert!(
                text.lines().any(
                    |found| found.ends_with(line.trim_start()) && found.starts_with(&line[..2])
                ),
                "{line}: {text}"
            );
        }
    })
    .await;
}

/// A10: from client-side to server-side apply and back.
#[tokio::test(flavor = "multi_thread")]
async fn a10_kubectl_goes_over_and_back() {
    each_version(async |api, kubectl| {
        kubectl.works_with("apply -f -", &config_map("one")).await;
        assert_eq!(
            managers(&stored(api).await),
            [("kubectl-client-side-apply", "Update")]
        );
        kubectl
            .works_with("apply --server-side -f -", &config_map("two"))
            .await;
        let object = stored(api).await;
        assert_eq!(object["data"]["k"], "two");
        let last =
            object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
                .as_str();
        let last: Value = serde_json::from_str(last.unwrap()).unwrap();
        assert_eq!(last["data"]["k"], "two");
        let owners = managers(&object);
        assert!(owners.contains(&("kubectl", "Apply")), "{owners:?}");
        // A field that is left out now goes, although it was first applied by merging on the client.
        let less = config_map("two").replace(", l: same", "");
        kubectl.works_with("apply --server-side -f -", &less).await;
        assert_eq!(stored(api).await["data"], json!({"k": "two"}));
        let text = kubectl.works_with("apply -f -", &config_map("three")).await;
        assert!(text.contains("configured"), "{text}");
        assert_eq!(
            stored(api).await["data"],
            json!({"k": "three", "l": "same"})
        );
    })
    .await;
}

async fn differs(kubectl: &Kubectl, arguments: &str, input: &str) -> String {
    let (fine, text) = kubectl.with_input(arguments, input).await;
    assert!(
        !fine && text.contains("-  k: one") && text.contains("+  k: two"),
        "{text}"
    );
    text
}

/// M11: diff and dry runs show the merged object and store nothing.
#[tokio::test(flavor = "multi_thread")]
async fn m11_kubectl_diffs_and_dry_runs() {
    each_version(async |api, kubectl| {
        for (apply, diff) in [
            ("apply -f -", "diff -f -"),
            ("apply --server-side -f -", "diff --server-side -f -"),
        ] {
            let dry = format!("{apply} --dry-run=server");
            let text = kubectl.works_with(&dry, &config_map("one")).await;
            assert!(text.contains("(server dry run)"), "{text}");
            assert_eq!(stored(api).await["code"], 404);

            kubectl.works_with(apply, &config_map("one")).await;
            let before = stored(api).await;
            let same = kubectl.works_with(diff, &config_map("one")).await;
            assert_eq!(same, "");
            differs(kubectl, diff, &config_map("two")).await;
            let text = kubectl
                .works_with(&format!("{dry} -o yaml"), &config_map("two"))
                .await;
            assert!(text.contains("k: two"), "{text}");
            assert_eq!(stored(api).await, before);
            kubectl.works("delete cm c").await;
        }
    })
    .await;
}
