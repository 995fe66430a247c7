//! Watches: the statements W of the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::time::Duration;

use apiserver::{
    registry::{Bookmarks, WatchItem, WatchQuery, WatchStart, kinds},
    store::Revision,
};
use common::{Api, CONFIG_MAPS, PODS, config_map, pod};
use serde_json::json;

#[tokio::test]
async fn w2_a_watch_without_revision_begins_with_the_state() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    for query in ["watch=true", "watch=1&resourceVersion=0"] {
        let mut watch = api
            .watch(&format!("{CONFIG_MAPS}?{query}&timeoutSeconds=20"))
            .await;
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "ADDED");
        assert_eq!(event["object"]["kind"], "ConfigMap");
        assert_eq!(event["object"]["apiVersion"], "v1", "W1");
    }
}

#[tokio::test]
async fn w2_a_watch_from_a_revision_tells_what_came_after_it() {
    let api = Api::new().await;
    let first = api.made(CONFIG_MAPS, config_map("a")).await;
    api.made(CONFIG_MAPS, config_map("b")).await;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api
        .watch(&format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={revision}"
        ))
        .await;
    assert_eq!(watch.told().await, "ADDED b");
    api.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"x": "y"}}))
        .await;
    assert_eq!(watch.told().await, "MODIFIED a");
    api.delete(&format!("{CONFIG_MAPS}/b")).await;
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["data"]["key"], "value");
    let current = api.get(CONFIG_MAPS).await.1["metadata"]["resourceVersion"].clone();
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], current, "W5");
}

#[tokio::test]
async fn w3_watchers_see_the_same_bytes_in_the_same_order() {
    let api = Api::new().await;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=1");
    let mut watches = [api.watch(&path).await, api.watch(&path).await];
    for index in 0..20 {
        api.made(CONFIG_MAPS, config_map(&format!("m{index}")))
            .await;
    }
    let mut seen = [Vec::new(), Vec::new()];
    for (watch, seen) in watches.iter_mut().zip(&mut seen) {
        for _ in 0..20 {
            seen.push(watch.next().await.unwrap());
        }
    }
    assert_eq!(seen[0], seen[1]);
    let revisions: Vec<u64> = seen[0]
        .iter()
        .map(|e| {
            e["object"]["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(revisions.is_sorted());
}

#[tokio::test]
async fn w4_objects_come_and_go_with_their_labels() {
    let api = Api::new().await;
    let mut watch = api
        .watch(&format!("{PODS}?watch=true&labelSelector=tier=front"))
        .await;
    api.made(PODS, pod("a")).await;
    let path = format!("{PODS}/a");
    api.merge(&path, json!({"metadata": {"labels": {"tier": "front"}}}))
        .await;
    assert_eq!(watch.told().await, "ADDED a");
    api.merge(&path, json!({"metadata": {"labels": {"x": "y"}}}))
        .await;
    assert_eq!(watch.told().await, "MODIFIED a");
    let (_, changed) = api
        .merge(&path, json!({"metadata": {"labels": {"tier": "back"}}}))
        .await;
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"]["tier"], "front");
    assert_eq!(
        gone["object"]["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn w6_bookmarks_come_when_asked_for_and_before_the_end() {
    let api = Api::new().await;
    let first = api.made(CONFIG_MAPS, config_map("a")).await;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}&timeoutSeconds=1");
    let mut with = api.watch(&format!("{path}&allowWatchBookmarks=true")).await;
    let mut without = api.watch(&path).await;
    let other = api.made(PODS, pod("p")).await;
    let bookmark = with.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"],
        json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"resourceVersion": other["metadata"]["resourceVersion"]},
        })
    );
    assert!(
        with.next().await.is_none(),
        "W12: the server ends the watch"
    );
    assert!(without.next().await.is_none());
}

#[tokio::test]
async fn w6_a_bookmark_comes_shortly_before_the_end_and_one_at_the_end() {
    let api = Api::new().await;
    let first = api.made(CONFIG_MAPS, config_map("a")).await;
    let query = WatchQuery {
        start: WatchStart::After(revision(&first)),
        bookmarks: Bookmarks::Every(Duration::from_secs(60)),
        timeout: Duration::from_secs(3),
        ..WatchQuery::default()
    };
    let watch = api.registry.watch(&kinds::CONFIG_MAPS, None, &query);
    let mut watch = watch.await.unwrap();
    for name in ["p", "q"] {
        // Before the second Pod the watch has said all it had to say, and goes on.
        let pod = revision(&api.made(PODS, pod(name)).await);
        match watch.next().await {
            Some(Ok(WatchItem::Bookmark { revision, .. })) => assert_eq!(revision, pod),
            told => panic!("{told:?}"),
        }
    }
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn w14_the_old_form_of_a_watch_works() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let path = "/api/v1/watch/namespaces/default/configmaps";
    assert_eq!(api.watch(path).await.told().await, "ADDED a");
    let mut one = api.watch(&format!("{path}/a")).await;
    assert_eq!(one.told().await, "ADDED a");
    api.made(CONFIG_MAPS, config_map("b")).await;
    api.delete(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!(one.told().await, "DELETED a");
}

fn revision(object: &serde_json::Value) -> Revision {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap();
    Revision(text.parse().unwrap())
}

#[tokio::test]
async fn w12_a_watch_whose_time_is_up_ends_also_when_there_is_more_to_tell() {
    let api = Api::new().await;
    let start = revision(&api.made(CONFIG_MAPS, config_map("a")).await);
    api.made(CONFIG_MAPS, config_map("b")).await;
    let query = WatchQuery {
        start: WatchStart::After(start),
        timeout: Duration::ZERO,
        ..WatchQuery::default()
    };
    let watch = api.registry.watch(&kinds::CONFIG_MAPS, None, &query);
    let mut watch = watch.await.unwrap();
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_node_that_is_waited_for_tells_at_once_how_far_it_is() {
    let api = Api::new().await;
    let hourly = Duration::from_secs(3600);
    let start = revision(&api.made(CONFIG_MAPS, config_map("a")).await);
    let watch = async |bookmarks| {
        let query = WatchQuery {
            start: WatchStart::After(start),
            bookmarks,
            ..WatchQuery::default()
        };
        api.registry
            .watch(&kinds::PODS, None, &query)
            .await
            .unwrap()
    };
    let mut node = watch(Bookmarks::AwaitedOrEvery(hourly)).await;
    let mut other = watch(Bookmarks::Every(hourly)).await;
    for name in ["b", "c"] {
        let made = revision(&api.made(CONFIG_MAPS, config_map(name)).await);
        // One from the future is as good as the newest.
        api.registry.await_applied(Revision(made.0 + 1000));
        match node.next().await.unwrap().unwrap() {
            WatchItem::Bookmark {
                revision,
                initial_end: false,
            } => assert_eq!(revision, made),
            item => panic!("{item:?}"),
        }
    }
    api.made(PODS, pod("p")).await;
    for watch in [&mut node, &mut other] {
        let item = watch.next().await.unwrap().unwrap();
        assert!(matches!(item, WatchItem::Change(_)), "{item:?}");
    }
}

#[tokio::test]
async fn w7_streaming_list_ends_with_annotated_bookmark() {
    let api = Api::new().await;
    let made = api.made(CONFIG_MAPS, config_map("a")).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = api.watch(&path).await;
    assert_eq!(watch.told().await, "ADDED a");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(
        bookmark["object"]["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    api.made(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(watch.told().await, "ADDED b");
}

#[tokio::test]
async fn w7_initial_events_need_a_match() {
    let api = Api::new().await;
    let (code, status) = api
        .get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true"))
        .await;
    assert_eq!((code.as_u16(), &status["reason"]), (422, &json!("Invalid")));
}

#[tokio::test]
async fn w10_compacted_history_is_told_as_an_error_event() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.made(CONFIG_MAPS, config_map(name)).await;
    }
    let backend = api.registry.backend();
    backend.compact(backend.current()).await.unwrap();
    let mut watch = api
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=1"))
        .await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn w11_a_watch_from_the_future_waits_for_it() {
    let api = Api::new().await;
    let future = api.registry.backend().current().0 + 2;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={future}");
    let mut watch = api.watch(&path).await;
    for name in ["first", "second", "third"] {
        api.made(CONFIG_MAPS, config_map(name)).await;
    }
    assert_eq!(watch.told().await, "ADDED third", "the others are not news");
}

#[tokio::test]
async fn w14_one_object_is_watched_by_its_path() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    api.made(CONFIG_MAPS, config_map("b")).await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}/b?watch=true")).await;
    assert_eq!(watch.told().await, "ADDED b");
}

#[tokio::test]
async fn w15_table_watches_define_columns_once() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    api.made(CONFIG_MAPS, config_map("b")).await;
    let request = http::Request::get(format!("{CONFIG_MAPS}?watch=true"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let response = api
        .send(request.body(axum::body::Body::empty()).unwrap())
        .await;
    let mut events = common::Events::new(response.into_body());
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(
        first["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let second = events.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], json!([]));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn w16_a_watch_over_a_websocket_has_an_event_in_each_message() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::{client_async, tungstenite::Message};

    let api = Api::new().await;
    let address = api.listen().await;
    let connect = async |query: &str| {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        client_async(format!("ws://{address}{CONFIG_MAPS}?{query}"), stream).await
    };
    let (mut socket, response) = connect("watch=true&labelSelector=app=a").await.unwrap();
    assert_eq!(response.headers().get("sec-websocket-protocol"), None);
    socket.send(Message::Ping("p".into())).await.unwrap();
    api.made(CONFIG_MAPS, config_map("a")).await;
    api.delete(&format!("{CONFIG_MAPS}/a")).await;
    let mut told = Vec::new();
    let read = async {
        while told.len() < 2 {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                let event: serde_json::Value = serde_json::from_str(&text).unwrap();
                told.push(format!(
                    "{} {}",
                    event["type"].as_str().unwrap(),
                    event["object"]["metadata"]["name"].as_str().unwrap()
                ));
            }
        }
    };
    let wait = Duration::from_secs(10);
    tokio::time::timeout(wait, read).await.expect("two events");
    assert_eq!(told, ["ADDED a", "DELETED a"]);

    // It ends as the watch does, and what cannot be watched is no WebSocket.
    let (mut socket, _) = connect("watch=true&timeoutSeconds=1").await.unwrap();
    let end = tokio::time::timeout(wait, async {
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                return true;
            }
        }
        false
    });
    assert!(end.await.expect("it ends"), "a close frame is the last");
    let Err(refused) = connect("watch=true&fieldSelector=nonsense=1").await else {
        panic!("it was upgraded");
    };
    assert!(refused.to_string().contains("400"), "{refused}");
}
