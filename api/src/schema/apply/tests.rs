//! Server-side apply by example. A1, A2, ...: the statements of the API's contract they check.

use serde_json::{Value, json};

use super::{ApplyError, Author, Config, FieldSet, Managers, Operation};
use crate::schema::{Type, lookup};

const NOW: &str = "2026-01-01T00:00:00Z";

fn kind(kind: &str) -> &'static Type {
    let group = if kind == "Deployment" { "apps" } else { "" };
    lookup(group, "v1", kind).unwrap()
}

fn by(manager: &str, operation: Operation) -> Author<'_> {
    Author {
        manager,
        operation,
        api_version: "v1",
        subresource: "",
    }
}

fn config<'c>(manager: &'c str, value: &'c Value, ignored: &'c FieldSet) -> Config<'c> {
    Config {
        value,
        author: by(manager, Operation::Apply),
        force: false,
        ignored,
        now: NOW,
    }
}

/// The fields of each manager, by name.
fn owned(managers: &Managers<'_>, manager: &str) -> Value {
    let entries: Value = serde_json::from_str(&managers.to_json()).unwrap();
    let entry = entries.as_array().unwrap().iter();
    let mut found = entry.filter(|entry| entry["manager"] == manager);
    found
        .next()
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn created(of: &'static Type, value: &Value) -> Managers<'static> {
    let mut managers = Managers::default();
    managers.update(
        &by("creator", Operation::Update),
        of.compare(&json!({}), value),
        "2025-01-01T00:00:00Z",
    );
    managers
}

/// A4, A7: as kubectl shows it for a Deployment it created upstream.
#[test]
fn a_new_deployment_is_owned_field_by_field() {
    let deployment = json!({
        "kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": {"name": "d", "namespace": "default", "uid": "u", "generation": 1, "labels": {"app": "d"},
                     "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "x"}],
                     "finalizers": ["example.com/f"]},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}},
        },
    });
    let fields = owned(&created(kind("Deployment"), &deployment), "creator");
    let wanted = json!({
        "f:metadata": {
            "f:finalizers": {".": {}, "v:\"example.com/f\"": {}},
            "f:labels": {".": {}, "f:app": {}},
            "f:ownerReferences": {".": {}, "k:{\"uid\":\"x\"}": {}},
        },
        "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    "f:resources": {},
                }}},
            },
        },
    });
    assert_eq!(fields, wanted);
    assert_eq!(
        created(kind("Deployment"), &deployment).to_json(),
        format!(
            r#"[{{"manager":"creator","operation":"Update","apiVersion":"v1","time":"2025-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{}}}]"#,
            FieldSet::from_json(&wanted.to_string()).unwrap().to_json()
        )
    );
}

/// A4: an applied map has no entry of its own, and what is left out of a key is its default.
#[test]
fn an_applied_service_owns_what_it_says() {
    let service = json!({
        "kind": "Service", "metadata": {"name": "s", "labels": {"a": "b"}},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}], "externalIPs": []},
    });
    let nothing = FieldSet::default();
    let applied =
        config("m", &service, &nothing).apply(kind("Service"), &json!({}), Managers::default());
    let (object, managers) = applied.unwrap();
    assert_eq!(object, service);
    assert_eq!(
        owned(&managers, "m"),
        json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {
                "f:externalIPs": {}, "f:selector": {},
                "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
            },
        })
    );
}

/// A6: the words clients print.
#[test]
fn conflicts_name_manager_and_field() {
    let live = json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "ports": [{"port": 80, "protocol": "TCP", "name": "a"}]}});
    let managers = created(kind("Service"), &live);
    let nothing = FieldSet::default();
    let one = json!({"spec": {"type": "NodePort", "sessionAffinity": "None"}});
    let error = config("m", &one, &nothing).apply(kind("Service"), &live, managers.clone());
    assert_eq!(
        error.unwrap_err().to_string(),
        r#"Apply failed with 1 conflict: conflict with "creator" using v1: .spec.type"#
    );
    let two = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "name": "b"}]}});
    let ApplyError::Conflict(conflicts) = config("m", &two, &nothing)
        .apply(kind("Service"), &live, managers.clone())
        .unwrap_err()
    else {
        panic!("no conflict");
    };
    assert_eq!(
        conflicts.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"creator\" using v1:\n- .spec.type\n- .spec.ports[port=80,protocol=\"TCP\"].name"
    );
    let each: Vec<_> = conflicts.each().collect();
    assert_eq!(each[0], (r#""creator" using v1"#, ".spec.type".to_owned()));

    // Force takes them over; the former owner keeps the rest.
    let forced = Config {
        force: true,
        ..config("m", &two, &nothing)
    };
    let (object, managers) = forced.apply(kind("Service"), &live, managers).unwrap();
    assert_eq!(object["spec"]["type"], "NodePort");
    assert_eq!(object["spec"]["ports"][0]["protocol"], "TCP");
    let left = owned(&managers, "creator");
    assert!(left["f:spec"].get("f:type").is_none(), "{left}");
    assert!(left["f:spec"].get("f:sessionAffinity").is_some(), "{left}");
}

/// A6: an applier of the same value shares the field, and letting go of it leaves it to the others.
#[test]
fn equal_values_are_shared() {
    let nothing = FieldSet::default();
    let data = json!({"data": {"a": "1", "b": "2"}});
    let of = kind("ConfigMap");
    let first = config("one", &data, &nothing);
    let (live, managers) = first.apply(of, &json!({}), Managers::default()).unwrap();
    let (live, managers) = config("two", &data, &nothing)
        .apply(of, &live, managers)
        .unwrap();
    assert_eq!(owned(&managers, "one"), owned(&managers, "two"));
    let less = json!({"data": {"a": "1"}});
    let (live, managers) = config("one", &less, &nothing)
        .apply(of, &live, managers)
        .unwrap();
    assert_eq!(live, data);
    let (live, _) = config("two", &less, &nothing)
        .apply(of, &live, managers)
        .unwrap();
    assert_eq!(live, less);
}

/// A5: an item of a list goes with all that is in it, unless somebody else owns the item itself: then its part stays.
#[test]
fn items_no_longer_applied_go() {
    let nothing = FieldSet::default();
    let of = kind("Service");
    let both = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 443, "name": "b"}]}});
    let (live, managers) = config("m", &both, &nothing)
        .apply(of, &json!({}), Managers::default())
        .unwrap();
    let mut edited = live.clone();
    edited["spec"]["ports"][0]["nodePort"] = json!(30000);
    let mut by_editor = managers.clone();
    by_editor.update(
        &by("editor", Operation::Update),
        of.compare(&live, &edited),
        NOW,
    );
    let one = json!({"spec": {"ports": [{"port": 443, "name": "b"}]}});
    let (object, left) = config("m", &one, &nothing)
        .apply(of, &edited, by_editor)
        .unwrap();
    assert_eq!(object, one);
    assert_eq!(owned(&left, "editor"), Value::Null);

    let part = json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}]}});
    let (shared, managers) = config("n", &part, &nothing)
        .apply(of, &live, managers)
        .unwrap();
    let (object, _) = config("m", &one, &nothing)
        .apply(of, &shared, managers)
        .unwrap();
    assert_eq!(
        object["spec"]["ports"],
        json!([{"port": 80, "nodePort": 30000}, {"port": 443, "name": "b"}])
    );
}

/// A5: live items keep their place, those of the configuration their order.
#[test]
fn merged_lists_keep_their_order() {
    let of = kind("Pod");
    let list = |names: &[&str]| json!({"spec": {"containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}});
    for (live, wanted, merged) in [
        (&["a", "b"][..], &["a", "b"][..], &["a", "b"][..]),
        (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
        (
            &["x", "a", "y", "b", "z"],
            &["a", "b"],
            &["x", "a", "y", "b", "z"],
        ),
        (&["a", "x"], &["a", "c"], &["a", "x", "c"]),
        (&["a", "b", "x"], &["b", "a", "c"], &["b", "x", "a", "c"]),
        (&[], &["b", "a"], &["b", "a"]),
    ] {
        assert_eq!(
            of.merge(&list(live), &list(wanted)),
            list(merged),
            "{live:?} {wanted:?}"
        );
    }
}

/// A8: what a write changes changes hands, what it removes nobody owns.
#[test]
fn ordinary_writes_move_fields() {
    let of = kind("ConfigMap");
    let nothing = FieldSet::default();
    let applied = json!({"data": {"a": "1", "b": "2", "c": "3"}});
    let (live, managers) = config("applier", &applied, &nothing)
        .apply(of, &json!({}), Managers::default())
        .unwrap();
    let text = managers.to_json();
    let mut managers = Managers::read(&text).unwrap();
    let changed = json!({"data": {"a": "1", "b": "x", "d": "4"}});
    managers.update(
        &by("editor", Operation::Update),
        of.compare(&live, &changed),
        NOW,
    );
    assert_eq!(owned(&managers, "applier"), json!({"f:data": {"f:a": {}}}));
    assert_eq!(
        owned(&managers, "editor"),
        json!({"f:data": {"f:b": {}, "f:d": {}}})
    );
    // Who has nothing left is gone; the time is that of the last change.
    let all = json!({"data": {"a": "9"}});
    managers.update(
        &by("last", Operation::Update),
        of.compare(&changed, &all),
        "2026-02-02T00:00:00Z",
    );
    assert_eq!(
        managers.to_json(),
        r#"[{"manager":"last","operation":"Update","apiVersion":"v1","time":"2026-02-02T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}}]"#
    );
    let before = managers.to_json();
    managers.update(
        &by("idle", Operation::Update),
        of.compare(&all, &all),
        "2027-01-01T00:00:00Z",
    );
    assert_eq!(managers.to_json(), before);
}

/// A3, A8: the status has managers of its own.
#[test]
fn status_writes_are_entries_of_their_own() {
    let of = kind("Service");
    let live = json!({"spec": {"type": "LoadBalancer"}});
    let managers = created(of, &live).to_json();
    let mut managers = Managers::read(&managers).unwrap();
    let new = json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let status = Author {
        subresource: "status",
        ..by("creator", Operation::Update)
    };
    managers.update(&status, of.compare(&live, &new), NOW);
    let entries: Value = serde_json::from_str(&managers.to_json()).unwrap();
    assert_eq!(entries.as_array().unwrap().len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(
        entries[1]["fieldsV1"],
        json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}})
    );
}

/// A9.
#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let of = kind("ConfigMap");
    let nothing = FieldSet::default();
    let live = json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}});
    let value = json!({"data": {"a": "x"}});
    let error = config("m", &value, &nothing).apply(of, &live, Managers::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a"#
    );
    let same = json!({"data": {"a": "1"}});
    let (_, managers) = config("m", &same, &nothing)
        .apply(of, &live, Managers::default())
        .unwrap();
    let before = owned(&managers, "before-first-apply");
    assert_eq!(before, json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
}

/// A10: kubectl does not conflict with what kubectl applied by merging itself, unless it was changed since.
#[test]
fn last_applied_fields_are_kubectls() {
    const KEY: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let of = kind("ConfigMap");
    let nothing = FieldSet::default();
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}});
    let mut live = last.clone();
    live["metadata"]["annotations"] = json!({KEY: last.to_string()});
    let managers = created(of, &live);
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "x", "b": "2"}});
    assert!(
        config("other", &value, &nothing)
            .apply(of, &live, managers.clone())
            .is_err()
    );
    let kubectl = config("kubectl", &value, &nothing);
    let (object, _) = kubectl.apply(of, &live, managers.clone()).unwrap();
    assert_eq!(object["data"], json!({"a": "x", "b": "2"}));
    let kept = object["metadata"]["annotations"][KEY].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(kept).unwrap(), value);

    live["data"]["a"] = "changed".into();
    let error = kubectl.apply(of, &live, managers).unwrap_err();
    assert!(error.to_string().ends_with(".data.a"), "{error}");
}

/// A11.
#[test]
fn old_writers_are_folded() {
    let of = kind("ConfigMap");
    let mut managers = Managers::default();
    let mut live = json!({});
    for index in 0..14 {
        let mut new = live.clone();
        new["data"][format!("k{index}")] = json!("v");
        let time = format!("2026-01-01T00:00:{index:02}Z");
        managers.update(
            &by(&format!("m{index}"), Operation::Update),
            of.compare(&live, &new),
            &time,
        );
        live = new;
    }
    let entries: Value = serde_json::from_str(&managers.to_json()).unwrap();
    assert_eq!(entries.as_array().unwrap().len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["time"], "2026-01-01T00:00:04Z");
    assert_eq!(
        entries[0]["fieldsV1"],
        json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}, "f:k4": {}}})
    );
    assert_eq!(entries[1]["manager"], "m5");
}

/// A13.
#[test]
fn what_the_schema_does_not_know_is_refused() {
    let nothing = FieldSet::default();
    for (value, wanted) in [
        (
            json!({"spec": {"foo": 1}}),
            ".spec.foo: field not declared in schema",
        ),
        (
            json!({"spec": {"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]}}),
            r#".spec.ports: duplicate entries for key [port=80,protocol="TCP"]"#,
        ),
        (
            json!({"metadata": {"finalizers": ["a", "a"]}}),
            r#".metadata.finalizers: duplicate entries for key [="a"]"#,
        ),
        (
            json!({"status": {"conditions": [{"status": "True"}]}}),
            r#".status.conditions: element 0: associative list with keys has an element that omits all key fields ["type"] (and doesn't have default values for any key fields)"#,
        ),
    ] {
        let applied =
            config("m", &value, &nothing).apply(kind("Service"), &json!({}), Managers::default());
        assert_eq!(applied.unwrap_err().to_string(), wanted);
    }
}

/// Defaults that somebody fills in after the merge are nobody's, so that a later apply can set them without a conflict.
#[test]
fn fields_without_owner_conflict_with_nobody() {
    let nothing = FieldSet::default();
    let of = kind("Service");
    let first = json!({"spec": {"selector": {"a": "b"}}});
    let (mut live, managers) = config("m", &first, &nothing)
        .apply(of, &json!({}), Managers::default())
        .unwrap();
    live["spec"]["type"] = "ClusterIP".into();
    let second = json!({"spec": {"selector": {"a": "b"}, "type": "NodePort"}});
    let (object, _) = config("n", &second, &nothing)
        .apply(of, &live, managers)
        .unwrap();
    assert_eq!(object["spec"]["type"], "NodePort");
}

/// A3: what clients send back is read whole, and nonsense is refused.
#[test]
fn managed_fields_are_checked() {
    let entry = |change: fn(&mut Value)| {
        let mut entry = json!({"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                               "fieldsV1": {"f:data": {}}});
        change(&mut entry);
        json!([entry]).to_string()
    };
    assert!(Managers::read_all(&entry(|_| {})).is_ok());
    for broken in [
        entry(|entry| entry["operation"] = "Patch".into()),
        entry(|entry| entry["apiVersion"] = "".into()),
        entry(|entry| entry["fieldsType"] = "FieldsV2".into()),
        entry(|entry| entry["fieldsV1"] = json!({"data": {}})),
        entry(|entry| entry["fieldsV1"] = json!({"v:{": {}})),
        "[{}]".to_owned(),
        "{}".to_owned(),
    ] {
        assert!(Managers::read_all(&broken).is_err(), "{broken}");
    }
}
