//! Events, by both of their names: core/v1 and events.k8s.io/v1 (D1, R9, T3, appendix C).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Api, kubectl::each_version};
use serde_json::{Value, json};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// As the recorder of client-go's events package writes it.
fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000001Z",
        "reportingController": "example.com/controller", "reportingInstance": "controller-1",
        "action": "Binding", "reason": "Bound", "type": "Normal", "note": "it is bound",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "p", "uid": "u"},
    })
}

fn core_event(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "q"},
        "reason": "Started", "message": "it runs", "type": "Warning", "count": 3,
        "source": {"component": "agent", "host": "n"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:05:00Z",
    })
}

#[tokio::test]
async fn an_event_has_the_names_of_the_version_it_is_read_in() {
    let api = Api::new().await;
    let made = api.made(NEW, event("a")).await;
    assert_eq!(made["apiVersion"], "events.k8s.io/v1");
    assert_eq!(made["note"], "it is bound");
    let (_, core) = api.get(&format!("{CORE}/a")).await;
    assert_eq!(
        (&core["apiVersion"], &core["kind"]),
        (&json!("v1"), &json!("Event"))
    );
    assert_eq!(core["message"], "it is bound");
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["reportingComponent"], "example.com/controller");
    assert_eq!(core["eventTime"], "2026-01-01T00:00:00.000001Z");
    assert_eq!(core.get("note"), None);

    api.made(CORE, core_event("b")).await;
    let (_, new) = api.get(&format!("{NEW}/b")).await;
    assert_eq!(new["note"], "it runs");
    assert_eq!(new["regarding"]["name"], "q");
    assert_eq!(new["deprecatedCount"], 3);
    assert_eq!(new["deprecatedSource"]["host"], "n");
    assert_eq!(new["deprecatedFirstTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(new["deprecatedLastTimestamp"], "2026-01-01T00:05:00Z");
    for path in [CORE, NEW] {
        let (_, list) = api.get(path).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 2, "{path}");
    }
    let (_, cells) = api
        .get_as(CORE, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await;
    let (_, same) = api
        .get_as(NEW, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await;
    let of = |table: &Value| -> Vec<Value> {
        let rows = table["rows"].as_array().unwrap().iter();
        rows.map(|row| row["cells"].as_array().unwrap()[1..].to_vec().into())
            .collect()
    };
    assert_eq!(same["columnDefinitions"], cells["columnDefinitions"]);
    // The first column is an age.
    let text = |table: &Value| {
        of(table)
            .iter()
            .map(|cells| cells[2].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(text(&same), text(&cells));
}

#[tokio::test]
async fn a_series_goes_on_by_a_patch_and_the_rest_stays() {
    let api = Api::new().await;
    api.made(NEW, event("a")).await;
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    let (code, patched) = api.merge(&format!("{NEW}/a"), series).await;
    assert_eq!(
        (code.as_u16(), &patched["series"]["count"]),
        (200, &json!(2)),
        "{patched}"
    );
    let (_, core) = api.get(&format!("{CORE}/a")).await;
    assert_eq!(core["series"]["count"], 2);
    assert_eq!(core["message"], "it is bound");
    let (code, answer) = api
        .merge(&format!("{NEW}/a"), json!({"note": "other"}))
        .await;
    assert_eq!(code, 422, "{answer}");
    assert_eq!(api.delete(&format!("{NEW}/a")).await.0, 200);
    assert_eq!(api.get(&format!("{CORE}/a")).await.0, 404);
}

#[tokio::test]
async fn the_newer_version_is_stricter() {
    let api = Api::new().await;
    for (field, value) in [
        ("eventTime", Value::Null),
        ("reportingController", Value::Null),
        ("reportingInstance", Value::Null),
        ("action", Value::Null),
        ("reason", Value::Null),
        ("type", json!("Odd")),
        ("note", json!("n".repeat(1025))),
        ("deprecatedCount", json!(1)),
    ] {
        let mut body = event("a");
        body[field] = value;
        let (code, answer) = api.post(NEW, body).await;
        assert_eq!(code, 422, "{field}: {answer}");
        let causes = answer["details"]["causes"].as_array().unwrap();
        assert!(
            causes.iter().any(|cause| cause["field"] == field),
            "{field}: {answer}"
        );
    }
}

#[tokio::test]
async fn r9_each_version_selects_by_its_own_names_and_watches_tell_them() {
    let api = Api::new().await;
    let mut core = api.watch(&format!("{CORE}?watch=true")).await;
    let selected = format!(
        "{NEW}?watch=true&fieldSelector=regarding.name%3Dp,reportingController%3Dexample.com/controller"
    );
    let mut new = api.watch(&selected).await;
    api.made(CORE, core_event("b")).await;
    api.made(NEW, event("a")).await;
    let told = new.next().await.unwrap();
    assert_eq!(told["object"]["regarding"]["name"], "p");
    assert_eq!(told["object"]["apiVersion"], "events.k8s.io/v1");
    assert_eq!(core.told().await, "ADDED b");
    let told = core.next().await.unwrap();
    assert_eq!(told["object"]["involvedObject"]["name"], "p");
    assert_eq!(told["object"]["apiVersion"], "v1");
    let (_, list) = api
        .get(&format!("{NEW}?fieldSelector=regarding.name%3Dq"))
        .await;
    assert_eq!(list["items"][0]["note"], "it runs");
    let (code, _) = api
        .get(&format!("{NEW}?fieldSelector=involvedObject.name%3Dq"))
        .await;
    assert_eq!(code, 400);
    let (code, _) = api
        .get(&format!("{CORE}?fieldSelector=regarding.name%3Dq"))
        .await;
    assert_eq!(code, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_events_of_both_versions() {
    each_version(async |api, kubectl| {
        api.made(NEW, event("a")).await;
        api.made(CORE, core_event("b")).await;
        for command in ["get events", "get events.events.k8s.io", "events"] {
            let shown = kubectl.works(command).await;
            for wanted in ["Bound", "it is bound", "Started", "it runs"] {
                assert!(shown.contains(wanted), "{command}: {shown}");
            }
        }
        let of_one = kubectl.works("events --for pod/q").await;
        assert!(
            of_one.contains("it runs") && !of_one.contains("it is bound"),
            "{of_one}"
        );
    })
    .await;
}
