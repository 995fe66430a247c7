//! Pages that outlive their history, selectors on every verb, watchers that fall behind, collections deleted in parts: the
//! statements R, W, X that `read.rs`, `watch.rs` and `delete.rs` do not hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Api, CONFIG_MAPS, PODS, config_map, pod};
use serde_json::{Value, json};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn three() -> Api {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.made(CONFIG_MAPS, config_map(name)).await;
    }
    api
}

/// Forgets everything that is not now.
async fn compact(api: &Api) {
    let backend = api.registry.backend();
    backend.compact(backend.current()).await.unwrap();
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn r3_a_future_revision_is_waited_for_and_then_says_when_to_come_again() {
    let api = three().await;
    let (code, status) = api.get(&format!("{CONFIG_MAPS}?resourceVersion=999")).await;
    assert_eq!(code, 504);
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    let next = api.registry.backend().current().0 + 1;
    let path = format!("{CONFIG_MAPS}?resourceVersion={next}");
    let (read, _) = tokio::join!(api.get(&path), api.made(CONFIG_MAPS, config_map("d")));
    assert_eq!(names(&read.1), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn r4_a_past_that_is_gone_is_410_and_not_older_than_reads_on() {
    let api = three().await;
    let then = api.get(CONFIG_MAPS).await.1["metadata"]["resourceVersion"].clone();
    let then = then.as_str().unwrap();
    api.delete(&format!("{CONFIG_MAPS}/a")).await;
    compact(&api).await;
    let exact = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact");
    let (code, status) = api.get(&exact).await;
    assert_eq!((code.as_u16(), &status["reason"]), (410, &json!("Expired")));
    let newer = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan");
    let (_, list) = api.get(&newer).await;
    assert_eq!(names(&list), ["b", "c"]);
}

#[tokio::test]
async fn r6_an_outlived_token_is_410_with_one_that_goes_on_now() {
    let api = three().await;
    let (_, first) = api.get(&format!("{CONFIG_MAPS}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    api.made(CONFIG_MAPS, config_map("d")).await;
    compact(&api).await;
    let (code, status) = api
        .get(&format!("{CONFIG_MAPS}?limit=1&continue={token}"))
        .await;
    assert_eq!((code.as_u16(), &status["reason"]), (410, &json!("Expired")));
    let token = status["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = api.get(&format!("{CONFIG_MAPS}?continue={token}")).await;
    assert_eq!(code, 200);
    assert_eq!(names(&rest), ["b", "c", "d"]);
}

#[tokio::test]
async fn r9_unknown_field_labels_are_refused_by_every_verb_that_selects() {
    let api = three().await;
    let wanted =
        "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
    for (method, query) in [("GET", ""), ("GET", "&watch=true"), ("DELETE", "")] {
        let path = format!("{CONFIG_MAPS}?fieldSelector=data.x=y{query}");
        let (code, status) = api.call(method, &path, Value::Null).await;
        assert_eq!(
            (code.as_u16(), &status["message"]),
            (400, &json!(wanted)),
            "{method}{query}"
        );
    }
    assert_eq!(names(&api.get(CONFIG_MAPS).await.1).len(), 3);
    let escaped = format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Da%5C%2Cb");
    let (code, list) = api.get(&escaped).await;
    assert_eq!(
        (code.as_u16(), names(&list).len()),
        (200, 0),
        "a name with a comma"
    );
}

#[tokio::test]
async fn r10_selectors_come_before_the_projection() {
    let api = three().await;
    let (_, table) = api
        .get_as(&format!("{CONFIG_MAPS}?labelSelector=app%3Db"), TABLE)
        .await;
    let rows = table["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["cells"][0]), (1, &json!("b")));
    api.made(PODS, pod("p")).await;
    let path = format!("{PODS}?fieldSelector=status.phase=Pending&includeObject=None");
    let (_, table) = api.get_as(&path, TABLE).await;
    assert_eq!(table["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn w7_a_streaming_list_comes_as_tables_too() {
    let api = three().await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let request = http::Request::get(format!("{CONFIG_MAPS}?{query}")).header("accept", TABLE);
    let request = request.body(axum::body::Body::empty()).unwrap();
    let mut events = common::Events::new(api.send(request).await.into_body());
    for name in ["a", "b", "c"] {
        let event = events.next().await.unwrap();
        assert_eq!(event["object"]["rows"][0]["cells"][0], name, "W15");
    }
    let end = events.next().await.unwrap();
    assert_eq!(
        (&end["type"], &end["object"]["kind"]),
        (&json!("BOOKMARK"), &json!("Table"))
    );
    let annotations = &end["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn w12_a_limit_means_nothing_to_a_watch() {
    let api = three().await;
    let mut watch = api
        .watch(&format!("{CONFIG_MAPS}?watch=true&limit=1"))
        .await;
    for name in ["a", "b", "c"] {
        assert_eq!(watch.told().await, format!("ADDED {name}"));
    }
}

#[tokio::test]
async fn w13_a_watcher_that_falls_behind_the_history_is_told_and_nothing_is_skipped() {
    let api = Api::new().await;
    let start = api.registry.backend().current().0;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}");
    let mut slow = api.watch(&path).await;
    for name in ["a", "b", "c"] {
        api.made(CONFIG_MAPS, config_map(name)).await;
    }
    compact(&api).await;
    let event = slow.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn x2_a_negative_grace_is_one_second() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["spec"]["nodeName"] = "node1".into();
    api.made(PODS, body).await;
    let path = format!("{PODS}/a?gracePeriodSeconds=-5");
    let (_, going) = api.delete(&path).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 1);
}

#[tokio::test]
async fn x6_a_collection_is_deleted_in_parts_and_in_dry_runs_not_at_all() {
    let api = three().await;
    let (code, list) = api.delete(&format!("{CONFIG_MAPS}?dryRun=All")).await;
    assert_eq!((code.as_u16(), names(&list).len()), (200, 3));
    assert_eq!(names(&api.get(CONFIG_MAPS).await.1).len(), 3, "M11");
    let (_, part) = api.delete(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(names(&part), ["a", "b"]);
    assert!(part["metadata"]["continue"].is_string());
    assert_eq!(names(&api.get(CONFIG_MAPS).await.1), ["c"]);
}
