//! Create, replace, patch: the statements M, N, P, V, E of the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, service};
use serde_json::{Value, json};

#[tokio::test]
async fn m1_create_answers_201_with_what_the_server_set() {
    let api = Api::new().await;
    let mut body = config_map("a");
    body["metadata"]["uid"] = "mine".into();
    body["metadata"]["creationTimestamp"] = Value::Null;
    let made = api.made(CONFIG_MAPS, body).await;
    let metadata = &made["metadata"];
    assert_ne!(metadata["uid"], "mine");
    assert!(
        metadata["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    assert!(
        metadata["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    assert_eq!(
        (&made["kind"], &made["apiVersion"]),
        (&json!("ConfigMap"), &json!("v1"))
    );
    assert_eq!(metadata["namespace"], "default");
    let mut again = config_map("b");
    again["metadata"]["resourceVersion"] = "5".into();
    let (code, status) = api.post(CONFIG_MAPS, again).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "resourceVersion should not be set on objects to be created"
    );
}

#[tokio::test]
async fn m2_generated_names_have_the_prefix_and_five_characters() {
    let api = Api::new().await;
    let made = api
        .made(CONFIG_MAPS, json!({"metadata": {"generateName": "run-"}}))
        .await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("run-") && name.len() == 9, "{name}");
    let (code, status) = api.post(CONFIG_MAPS, json!({"metadata": {}})).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "FieldValueRequired"
    );
}

#[tokio::test]
async fn m3_taken_names_missing_namespaces_and_contradictions() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let (code, status) = api.post(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (409, &json!("AlreadyExists"))
    );
    assert_eq!(status["message"], "configmaps \"a\" already exists");
    let (code, status) = api
        .post("/api/v1/namespaces/x/configmaps", config_map("a"))
        .await;
    assert_eq!(
        (code.as_u16(), &status["message"]),
        (404, &json!("namespaces \"x\" not found"))
    );
    let mut body = config_map("b");
    body["metadata"]["namespace"] = "other".into();
    assert_eq!(api.post(CONFIG_MAPS, body).await.0, 400);
    let (code, _) = api.put(&format!("{CONFIG_MAPS}/a"), config_map("b")).await;
    assert_eq!(code, 400);
    let (code, _) = api
        .post(
            CONFIG_MAPS,
            json!({"kind": "Secret", "metadata": {"name": "c"}}),
        )
        .await;
    assert_eq!(code, 400, "N3");
}

#[tokio::test]
async fn m4_bad_names_are_refused_by_field() {
    let api = Api::new().await;
    for (path, body) in [
        (CONFIG_MAPS, config_map("Not_a_name")),
        (SERVICES, service("has.dot")),
        (
            "/api/v1/namespaces",
            json!({"metadata": {"name": "has.dot"}}),
        ),
    ] {
        let (code, status) = api.post(path, body).await;
        assert_eq!((code.as_u16(), &status["reason"]), (422, &json!("Invalid")));
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["field"], "metadata.name");
        assert_eq!(cause["reason"], "FieldValueInvalid");
    }
}

#[tokio::test]
async fn m5_stale_writes_conflict_and_m6_missing_ones_are_not_found() {
    let api = Api::new().await;
    let made = api.made(PODS, pod("a")).await;
    let path = format!("{PODS}/a");
    let (code, _) = api
        .merge(&path, json!({"metadata": {"labels": {"x": "y"}}}))
        .await;
    assert_eq!(code, 200);
    let (code, status) = api.put(&path, made.clone()).await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (409, &json!("Conflict"))
    );
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let mut unconditional = made.clone();
    unconditional["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert_eq!(api.put(&path, unconditional).await.0, 200);
    let (code, _) = api.put(&format!("{PODS}/b"), pod("b")).await;
    assert_eq!(code, 404);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let body = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    assert_eq!(
        api.put(lease, body.clone()).await.0,
        422,
        "leases need a resourceVersion"
    );
}

#[tokio::test]
async fn m7_what_never_changes() {
    let api = Api::new().await;
    let made = api.made(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (code, _) = api
        .merge(&path, json!({"metadata": {"uid": "other"}}))
        .await;
    assert_eq!(code, 409);
    let body = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9, "deletionTimestamp": "2001-01-01T00:00:00Z"}});
    let (code, changed) = api.merge(&path, body).await;
    assert_eq!(code, 200);
    assert_eq!(changed, made, "and M8: nothing was written");
}

#[tokio::test]
async fn m8_writes_without_a_change_keep_the_revision() {
    let api = Api::new().await;
    let made = api.made(SERVICES, service("a")).await;
    let (code, same) = api.put(&format!("{SERVICES}/a"), made.clone()).await;
    assert_eq!((code.as_u16(), &same), (200, &made));
    let (_, same) = api.put(&format!("{SERVICES}/a"), service("a")).await;
    assert_eq!(
        same["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn m9_generation_counts_changes_of_the_spec_only() {
    let api = Api::new().await;
    let made = api.made(PODS, pod("a")).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{PODS}/a");
    let (_, labelled) = api
        .merge(&path, json!({"metadata": {"labels": {"x": "y"}}}))
        .await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let limit = json!({"spec": {"activeDeadlineSeconds": 9}});
    let (_, limited) = api.merge(&path, limit).await;
    assert_eq!(limited["metadata"]["generation"], 2);
    let status = json!({"status": {"phase": "Running"}});
    let (_, running) = api.merge(&format!("{path}/status"), status).await;
    assert_eq!(running["metadata"]["generation"], 2);
    assert_eq!(running["status"]["phase"], "Running");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4"});
    api.made(slices, slice).await;
    let both = json!({
        "metadata": {"labels": {"a": "b"}},
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    });
    let (_, changed) = api.merge(&format!("{slices}/s"), both).await;
    assert_eq!(changed["metadata"]["generation"], 2, "one write, one step");
}

#[tokio::test]
async fn m10_each_endpoint_changes_its_own_part() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["status"] = json!({"phase": "Running"});
    let made = api.made(PODS, body).await;
    assert_eq!(made["status"]["phase"], "Pending");
    let path = format!("{PODS}/a");
    let (_, main) = api
        .merge(&path, json!({"status": {"phase": "Running"}}))
        .await;
    assert_eq!(main["status"]["phase"], "Pending");
    let both = json!({"metadata": {"annotations": {"n": "1"}}, "spec": {"nodeName": "x"}, "status": {"phase": "Running"}});
    let (_, status) = api.merge(&format!("{path}/status"), both).await;
    assert_eq!(status["status"]["phase"], "Running");
    assert_eq!(status["metadata"]["annotations"]["n"], "1");
    assert!(status["spec"]["nodeName"].is_null());
    assert_eq!(
        api.get(&format!("{path}/status")).await.1["status"]["phase"],
        "Running"
    );
}

#[tokio::test]
async fn m11_dry_runs_change_nothing() {
    let api = Api::new().await;
    let (code, dry) = api
        .post(&format!("{SERVICES}?dryRun=All"), service("a"))
        .await;
    assert_eq!(code, 201);
    assert_eq!(dry["spec"]["clusterIP"], "10.96.0.0");
    assert_eq!(api.get(&format!("{SERVICES}/a")).await.0, 404);
    assert_eq!(
        api.post(&format!("{SERVICES}?dryRun=Some"), service("a"))
            .await
            .0,
        422
    );
    api.made(SERVICES, service("a")).await;
    let (code, _) = api
        .call(
            "DELETE",
            &format!("{SERVICES}/a"),
            json!({"dryRun": ["All"]}),
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(api.get(&format!("{SERVICES}/a")).await.0, 200);
}

#[tokio::test]
async fn m13_pods_get_the_defaults_clients_rely_on() {
    let api = Api::new().await;
    let made = api.made(PODS, pod("a")).await;
    let spec = &made["spec"];
    for (field, wanted) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
        ("serviceAccountName", json!("default")),
    ] {
        assert_eq!(spec[field], wanted, "{field}");
    }
    let container = &spec["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(made["status"]["qosClass"], "BestEffort");
}

#[tokio::test]
async fn m14_string_data_becomes_data_and_sizes_are_limited() {
    let api = Api::new().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let body = json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}});
    let made = api.made(secrets, body).await;
    assert_eq!(made["data"]["a"], "Yg==");
    assert!(made["stringData"].is_null());
    assert_eq!(made["type"], "Opaque");
    let body = json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(1_100_000)}});
    assert_eq!(api.post(CONFIG_MAPS, body).await.0, 422);
    // Of base64 counts what it stands for.
    let of = |size_bytes| json!({"metadata": {"name": "big"}, "stringData": {"a": "x".repeat(size_bytes)}});
    assert_eq!(api.post(secrets, of(1024 * 1024 + 1)).await.0, 422);
    api.made(secrets, of(1024 * 1024)).await;
}

#[tokio::test]
async fn m15_owner_references_are_whole_and_have_one_controller() {
    let api = Api::new().await;
    let owner =
        json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
    let mut other = owner.clone();
    other["uid"] = "v".into();
    let mut body = config_map("a");
    body["metadata"]["ownerReferences"] = json!([owner, other]);
    assert_eq!(api.post(CONFIG_MAPS, body.clone()).await.0, 422);
    body["metadata"]["ownerReferences"] = json!([{"name": "p"}]);
    let (_, status) = api.post(CONFIG_MAPS, body).await;
    assert_eq!(status["details"]["causes"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn m15_owner_references_that_come_twice_are_folded_with_a_warning() {
    let api = Api::new().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-1"});
    let mut body = config_map("a");
    body["metadata"]["ownerReferences"] = json!([owner, owner]);
    let request = http::Request::post(CONFIG_MAPS).header("content-type", "application/json");
    let request = request.body(axum::body::Body::from(body.to_string()));
    let response = api.send(request.unwrap()).await;
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(
        warning.contains("duplicate UID(s) observed: u-1"),
        "{warning}"
    );
    let (_, made) = api.get(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!(made["metadata"]["ownerReferences"], json!([owner]));
    let event = json!({"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"});
    let mut body = config_map("b");
    body["metadata"]["ownerReferences"] = json!([event]);
    assert_eq!(api.post(CONFIG_MAPS, body).await.0, 422);
}

#[tokio::test]
async fn n9_large_bodies_are_refused() {
    let api = Api::new().await;
    let body = json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(3_200_000)}});
    let (code, status) = api.post(CONFIG_MAPS, body).await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (413, &json!("RequestEntityTooLarge"))
    );
}

#[tokio::test]
async fn n1_unknown_media_types_are_refused_with_those_that_are_not() {
    let api = Api::new().await;
    let (code, status) = api
        .call_as("POST", CONFIG_MAPS, "text/xml", config_map("a"))
        .await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (415, &json!("UnsupportedMediaType"))
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("application/vnd.kubernetes.protobuf")
    );
    let (code, _) = api
        .call_as(
            "POST",
            CONFIG_MAPS,
            "application/json; charset=utf-8",
            config_map("a"),
        )
        .await;
    assert_eq!(code, 201);
    let (code, _) = api
        .call_as("POST", CONFIG_MAPS, "application/yaml", config_map("b"))
        .await;
    assert_eq!(code, 201);
}

#[tokio::test]
async fn p1_patches_of_each_type_and_415_for_others() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (_, merged) = api
        .merge(&path, json!({"data": {"key": null, "b": "c"}}))
        .await;
    assert_eq!(merged["data"], json!({"b": "c"}));
    let operations = json!([{"op": "replace", "path": "/data/b", "value": "d"}]);
    let json_patch = "application/json-patch+json";
    let (_, patched) = api.call_as("PATCH", &path, json_patch, operations).await;
    assert_eq!(patched["data"], json!({"b": "d"}));
    let (code, status) = api
        .call_as("PATCH", &path, "application/json", json!({}))
        .await;
    assert_eq!(code, 415);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("application/merge-patch+json")
    );
    let failing = json!([{"op": "test", "path": "/data/b", "value": "x"}]);
    assert_eq!(
        api.call_as("PATCH", &path, json_patch, failing).await.0,
        422,
        "P3"
    );
    assert_eq!(
        api.call_as("PATCH", &path, json_patch, json!({})).await.0,
        400,
        "P3"
    );
    assert_eq!(
        api.merge(&format!("{CONFIG_MAPS}/none"), json!({})).await.0,
        404,
        "P3"
    );
}

#[tokio::test]
async fn p2_a_patch_with_an_old_resource_version_conflicts() {
    let api = Api::new().await;
    let made = api.made(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    api.merge(&path, json!({"data": {"x": "y"}})).await;
    let version = &made["metadata"]["resourceVersion"];
    let stale = json!({"metadata": {"resourceVersion": version}, "data": {"x": "z"}});
    assert_eq!(api.merge(&path, stale).await.0, 409);
}

#[tokio::test]
async fn p5_strategic_merge_removes_list_items_by_key() {
    let api = Api::new().await;
    let mut body = service("a");
    body["spec"]["ports"] = json!([{"name": "x", "port": 80}, {"name": "y", "port": 81}]);
    api.made(SERVICES, body).await;
    let patch = json!({"spec": {"ports": [{"$patch": "delete", "port": 80}], "$setElementOrder/ports": [{"port": 81}]}});
    let strategic = "application/strategic-merge-patch+json";
    let (code, patched) = api
        .call_as("PATCH", &format!("{SERVICES}/a"), strategic, patch)
        .await;
    assert_eq!(code, 200, "{patched}");
    let ports = patched["spec"]["ports"].as_array().unwrap();
    assert_eq!((ports.len(), &ports[0]["port"]), (1, &json!(81)));
}

#[tokio::test]
async fn v2_unknown_fields_are_refused_when_strict_and_dropped_otherwise() {
    let api = Api::new().await;
    let mut body = service("a");
    body["spec"]["colour"] = "red".into();
    let (code, status) = api
        .post(&format!("{SERVICES}?fieldValidation=Strict"), body.clone())
        .await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"spec.colour\""
    );
    let request = http::Request::post(SERVICES).body(axum::body::Body::from(body.to_string()));
    let response = api.send(request.unwrap()).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert_eq!(warning, r#"299 - "unknown field \"spec.colour\"""#, "V3");
    let (_, stored) = api.get(&format!("{SERVICES}/a")).await;
    assert!(stored["spec"]["colour"].is_null(), "V4");
    assert_eq!(
        api.post(&format!("{SERVICES}?fieldValidation=No"), body)
            .await
            .0,
        422,
        "V1"
    );
}

#[tokio::test]
async fn v5_duplicate_keys_are_seen() {
    let api = Api::new().await;
    let text = r#"{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#;
    let request = http::Request::post(format!("{CONFIG_MAPS}?fieldValidation=Strict"));
    let response = api
        .send(request.body(axum::body::Body::from(text)).unwrap())
        .await;
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn v6_broken_rules_are_told_all_at_once() {
    let api = Api::new().await;
    let body = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}});
    let (code, status) = api.post(PODS, body).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Pod \"a\" is invalid: spec.containers[0].image: Required value"
    );
    assert_eq!(status["details"]["kind"], "Pod");
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.containers[0].image"
    );
}

#[tokio::test]
async fn e3_forbidden_says_who_may_not_do_what() {
    let api = Api::new().await;
    let mut request = http::Request::get(format!("{PODS}/x"))
        .body(axum::body::Body::empty())
        .unwrap();
    request.extensions_mut().insert(apiserver::auth::User {
        name: "nobody".into(),
        groups: Vec::new(),
        ..Default::default()
    });
    let response = api.send(request).await;
    assert_eq!(response.status(), 403);
    let bytes = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        status["message"],
        "pods \"x\" is forbidden: User \"nobody\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(status["reason"], "Forbidden");
}

#[tokio::test]
async fn e5_wrong_verbs_are_405_with_allow() {
    let api = Api::new().await;
    let (code, status) = api.put(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (405, &json!("MethodNotAllowed"))
    );
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    assert_eq!(
        api.post(addresses, json!({"metadata": {"name": "x"}}))
            .await
            .0,
        405
    );
}

#[tokio::test]
async fn pods_keep_their_containers() {
    let api = Api::new().await;
    api.made(PODS, pod("a")).await;
    let (code, _) = api
        .merge(&format!("{PODS}/a"), json!({"spec": {"hostname": "x"}}))
        .await;
    assert_eq!(code, 422);
    let image =
        json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "minik.dev/echo:2"}]);
    let json_patch = "application/json-patch+json";
    let (code, status) = api
        .call_as("PATCH", &format!("{PODS}/a"), json_patch, image)
        .await;
    assert_eq!(code, 200, "{status}");
    let none = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": ""}]);
    let (code, status) = api
        .call_as("PATCH", &format!("{PODS}/a"), json_patch, none)
        .await;
    assert_eq!(code, 422);
    let field = &status["details"]["causes"][0]["field"];
    assert_eq!(field, "spec.containers[0].image");
}

#[tokio::test]
async fn a_pod_range_is_a_range_and_stays_once_given() {
    let api = Api::new().await;
    let nodes = "/api/v1/nodes";
    let of = |ranges: &[&str]| json!({"metadata": {"name": "n"}, "spec": {"podCIDR": ranges[0], "podCIDRs": ranges}});
    for (ranges, wanted) in [
        (
            &["10.244.0.1/24"][..],
            "must not have bits set beyond the prefix length",
        ),
        (
            &["10.244.0.0/24", "10.244.1.0/24"],
            "no more than one CIDR for each IP family",
        ),
        (&["all"], "must be a valid CIDR value"),
    ] {
        let (code, status) = api.post(nodes, of(ranges)).await;
        assert_eq!(code, 422);
        assert!(
            status["message"].as_str().unwrap().contains(wanted),
            "{status}"
        );
    }
    let mut two = of(&["10.244.0.0/24"]);
    two["spec"]["podCIDR"] = "10.244.9.0/24".into();
    assert_eq!(api.post(nodes, two).await.0, 422);
    api.made(nodes, of(&["10.244.0.0/24"])).await;
    let more = json!({"spec": {"podCIDRs": ["10.244.0.0/24", "fd00::/64"]}});
    let (code, status) = api.merge("/api/v1/nodes/n", more).await;
    assert_eq!(code, 422);
    assert_eq!(status["details"]["causes"][0]["field"], "spec.podCIDRs");
}

#[tokio::test]
async fn bodies_of_wrong_types_are_refused_for_every_kind() {
    let api = Api::new().await;
    let wrong = [
        json!("x"),
        json!(7),
        json!(["x"]),
        json!({"x": "y"}),
        json!({"x": [{"y": 1}]}),
        json!([[]]),
    ];
    for kind in apiserver::registry::kinds::ALL {
        if !kind.verbs.contains(&"create") {
            continue;
        }
        let root = if kind.group.is_empty() {
            "/api/v1".into()
        } else {
            format!("/apis/{}", kind.api_version())
        };
        let scope = if kind.namespaced {
            "/namespaces/default"
        } else {
            ""
        };
        let path = format!("{root}{scope}/{}", kind.plural);
        for value in &wrong {
            for field in [
                "spec",
                "status",
                "data",
                "metadata",
                "subsets",
                "endpoints",
                "ports",
                "stringData",
                "type",
                "involvedObject",
            ] {
                let mut body = json!({"metadata": {"name": "a"}});
                body[field] = value.clone();
                let (code, _) = api.post(&path, body).await;
                let code = code.as_u16();
                assert!(
                    matches!(code, 201 | 400 | 409 | 422),
                    "{path} {field} {value}: {code}"
                );
            }
            for field in [
                "labels",
                "annotations",
                "finalizers",
                "ownerReferences",
                "name",
            ] {
                let mut body = json!({"metadata": {"name": "a"}});
                body["metadata"][field] = value.clone();
                let (code, _) = api.post(&path, body).await;
                let code = code.as_u16();
                assert!(
                    matches!(code, 201 | 400 | 409 | 422),
                    "{path} {field} {value}: {code}"
                );
            }
        }
    }
    for field in [
        "ports",
        "selector",
        "clusterIPs",
        "ipFamilies",
        "externalIPs",
        "sessionAffinityConfig",
        "type",
    ] {
        for value in &wrong {
            let mut body = service("s");
            body["spec"][field] = value.clone();
            let (code, _) = api.post(SERVICES, body).await;
            assert!(
                matches!(code.as_u16(), 201 | 400 | 409 | 422),
                "{field} {value}: {code}"
            );
        }
    }
    for field in [
        "containers",
        "initContainers",
        "securityContext",
        "nodeSelector",
        "restartPolicy",
    ] {
        for value in &wrong {
            let mut body = pod("p");
            body["spec"][field] = value.clone();
            let (code, _) = api.post(PODS, body).await;
            assert!(
                matches!(code.as_u16(), 201 | 400 | 409 | 422),
                "{field} {value}: {code}"
            );
        }
    }
}
