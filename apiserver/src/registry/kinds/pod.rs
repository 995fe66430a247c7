//! Pod (core/v1).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{items, pod_cells, pod_probes, pod_warnings, text_at};
use crate::registry::{
    Context, DefaultTolerations,
    causes::Causes,
    kind::{ALL_VERBS, ATTACH, EXEC, Kind, LOG, PORT_FORWARD, Rules, STATUS, Subresource, proxy},
    meta,
    table::{AGE, Column, NAME, Table},
};

/// Pod.
pub static PODS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        ATTACH,
        Subresource {
            name: "binding",
            body: Some(("", "v1", "Binding")),
            verbs: &["create"],
        },
        Subresource {
            name: "eviction",
            body: Some(("policy", "v1", "Eviction")),
            verbs: &["create"],
        },
        EXEC,
        LOG,
        PORT_FORWARD,
        proxy("PodProxyOptions"),
        STATUS,
    ],
    rules: Rules {
        generation: true,
        has_status: true,
        delete_returns_object: true,
        fields: &[
            ("spec.nodeName", |p| spec(p, "nodeName")),
            ("spec.host", |p| spec(p, "nodeName")),
            ("spec.restartPolicy", |p| spec(p, "restartPolicy")),
            ("spec.schedulerName", |p| spec(p, "schedulerName")),
            ("spec.serviceAccountName", |p| spec(p, "serviceAccountName")),
            ("spec.hostNetwork", |p| {
                (p["spec"]["hostNetwork"] == true).to_string()
            }),
            ("status.phase", |p| status(p, "phase")),
            ("status.podIP", |p| status(p, "podIP")),
            // Accepted, and never matches, as upstream.
            ("status.podIPs", |_| String::new()),
            ("status.nominatedNodeName", |p| {
                status(p, "nominatedNodeName")
            }),
        ],
        default: fill,
        prepare_create: |pod| {
            pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
            if !items(&pod["spec"]["schedulingGates"]).is_empty() {
                pod["status"]["conditions"] = json!([gated(Timestamp::now())]);
            }
        },
        admit: |context, _, pod| tolerate_for_a_while(&context.default_tolerations, pod),
        validate,
        warnings: Some(pod_warnings::of),
        grace,
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Ready", "How many of its containers are ready."),
            Column::text("Status", "What it is doing."),
            Column::text("Restarts", "How often its containers were started again."),
            AGE,
            Column::wide("IP", "Its address."),
            Column::wide("Node", "Where it runs."),
            Column::wide("Nominated Node", "Where it may run once room is made."),
            Column::wide("Readiness Gates", "How many further conditions hold."),
        ],
        cells: pod_cells::fill,
    },
};

/// Lets a Pod that does not say otherwise stay for a while on a node that is not ready, or not reachable.
/// Source: kubernetes/kubernetes plugin/pkg/admission/defaulttolerationseconds.
fn tolerate_for_a_while(defaults: &DefaultTolerations, pod: &mut Value) {
    for (key, secs) in [
        ("node.kubernetes.io/not-ready", defaults.not_ready_secs),
        ("node.kubernetes.io/unreachable", defaults.unreachable_secs),
    ] {
        let says = items(&pod["spec"]["tolerations"]).iter().any(|toleration| {
            let own = text_at(toleration, &["key"]);
            let effect = text_at(toleration, &["effect"]);
            (own.is_empty() || own == key) && matches!(effect, "" | "NoExecute")
        });
        if says {
            continue;
        }
        let toleration = json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": secs,
        });
        match pod["spec"]["tolerations"].as_array_mut() {
            Some(tolerations) => tolerations.push(toleration),
            None => pod["spec"]["tolerations"] = json!([toleration]),
        }
    }
}

/// Why nothing schedules the Pod.
fn gated(now: Timestamp) -> Value {
    json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
        "lastTransitionTime": meta::timestamp(now),
    })
}

fn spec(pod: &Value, field: &str) -> String {
    text_at(pod, &["spec", field]).to_owned()
}

fn status(pod: &Value, field: &str) -> String {
    text_at(pod, &["status", field]).to_owned()
}

pub(super) fn set_if_absent(object: &mut Value, field: &str, value: Value) {
    let empty = object[field].is_null() || object[field] == "";
    if empty && object.is_object() {
        object[field] = value;
    }
}

/// What upstream fills in (M13).
fn fill(pod: &mut Value) {
    if !pod["spec"].is_object() {
        pod["spec"] = json!({});
    }
    let spec = &mut pod["spec"];
    name_account(spec);
    for (field, value) in [
        ("serviceAccountName", json!("default")),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
        ("priority", json!(0)),
    ] {
        set_if_absent(spec, field, value);
    }
    fill_spec(spec);
    for list in ["initContainers", "containers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            fill_requests(&mut container["resources"]);
        }
    }
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    fill_addresses(&mut pod["status"]);
}

/// `podIP` is the first of `podIPs`, whichever of the two a client writes; when they differ, `podIP` counts.
/// Source: kubernetes/kubernetes pkg/apis/core/v1/conversion.go.
fn fill_addresses(status: &mut Value) {
    let first = text_at(&status["podIPs"][0], &["ip"]).to_owned();
    let own = text_at(status, &["podIP"]).to_owned();
    if own == first {
        return;
    }
    if own.is_empty() {
        status["podIP"] = first.into();
    } else {
        status["podIPs"] = json!([{"ip": own}]);
    }
}

/// `serviceAccount` is the older spelling of `serviceAccountName`.
fn name_account(spec: &mut Value) {
    let old = text_at(spec, &["serviceAccount"]).to_owned();
    if !old.is_empty() {
        set_if_absent(spec, "serviceAccountName", old.into());
    }
}

/// What a template fills in as well: what admission adds to Pods only is not here.
pub(super) fn fill_spec(spec: &mut Value) {
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        set_if_absent(spec, field, value);
    }
    name_account(spec);
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set_if_absent(spec, "serviceAccount", account);
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            fill_container(container, host_network);
        }
    }
}

fn fill_container(container: &mut Value, host_network: bool) {
    let image = text_at(container, &["image"]).to_owned();
    set_if_absent(container, "imagePullPolicy", pull_policy(&image).into());
    for (field, value) in [
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("resources", json!({})),
    ] {
        set_if_absent(container, field, value);
    }
    for port in container["ports"].as_array_mut().into_iter().flatten() {
        set_if_absent(port, "protocol", json!("TCP"));
        if host_network {
            let number = port["containerPort"].clone();
            set_if_absent(port, "hostPort", number);
        }
    }
    pod_probes::fill(container);
    if let Some(map) = container.as_object_mut() {
        map.retain(|_, field| !field.is_null());
    }
}

/// A limit without a request is the request too.
fn fill_requests(resources: &mut Value) {
    let limits = resources["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        if resources["requests"][&name].is_null() {
            resources["requests"][&name] = limit;
        }
    }
    if let Some(map) = resources.as_object_mut() {
        map.retain(|_, field| !field.is_null());
    }
}

/// `latest`, or no tag, may mean something else tomorrow.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let pinned = last.contains('@');
    match last.split_once(':') {
        _ if pinned => "IfNotPresent",
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn qos_class(spec: &Value) -> &'static str {
    let containers = items(&spec["containers"]);
    let has = |container: &Value, which: &str| {
        ["cpu", "memory"].map(|name| !container["resources"][which][name].is_null())
    };
    let equal = |container: &Value| {
        let resources = &container["resources"];
        ["cpu", "memory"]
            .iter()
            .all(|name| resources["requests"][name] == resources["limits"][name])
    };
    let any = |c: &Value| has(c, "limits") != [false; 2] || has(c, "requests") != [false; 2];
    if !containers.iter().any(any) {
        "BestEffort"
    } else if containers
        .iter()
        .all(|c| has(c, "limits") == [true; 2] && equal(c))
    {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn validate(_context: &Context, new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &new["spec"];
    if let Some(old) = old {
        unchanged(&old["spec"], spec, causes);
        for list in ["initContainers", "containers"] {
            images(list, spec, causes);
        }
        return;
    }
    validate_spec("spec", spec, causes);
}

/// The rules of a Pod's spec at `at`, which may be in a template.
pub(super) fn validate_spec(at: &str, spec: &Value, causes: &mut Causes) {
    if items(&spec["containers"]).is_empty() {
        causes.required(format!("{at}.containers"), "");
    }
    let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    let mut names = std::collections::HashSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let path = format!("{at}.{list}[{index}]");
            check_container(&path, container, causes);
            if list == "containers" || text_at(container, &["restartPolicy"]) == "Always" {
                pod_probes::validate(&path, container, grace, causes);
            } else {
                pod_probes::forbid(&path, container, causes);
            }
            let name = text_at(container, &["name"]);
            if !name.is_empty() && !names.insert(name) {
                causes.duplicate(format!("{path}.name"), name);
            }
        }
    }
    let restart = text_at(spec, &["restartPolicy"]);
    let supported = &["Always", "Never", "OnFailure"];
    if !supported.contains(&restart) {
        causes.not_supported(format!("{at}.restartPolicy"), restart, supported);
    }
    let dns = text_at(spec, &["dnsPolicy"]);
    let supported = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    if !supported.contains(&dns) {
        causes.not_supported(format!("{at}.dnsPolicy"), dns, supported);
    }
    if grace < 0 {
        let detail = "must be greater than or equal to 0";
        causes.invalid(format!("{at}.terminationGracePeriodSeconds"), grace, detail);
    }
    for field in ["hostname", "subdomain"] {
        let name = text_at(spec, &[field]);
        if !name.is_empty() {
            let verdict = api::names::dns1123_label(name);
            causes.check(format!("{at}.{field}"), name, verdict);
        }
    }
    crate::registry::meta::labels(&format!("{at}.nodeSelector"), &spec["nodeSelector"], causes);
}

/// An image may change, and not go.
fn images(list: &str, spec: &Value, causes: &mut Causes) {
    for (index, container) in items(&spec[list]).iter().enumerate() {
        if text_at(container, &["image"]).is_empty() {
            causes.required(format!("spec.{list}[{index}].image"), "");
        }
    }
}

fn check_container(path: &str, container: &Value, causes: &mut Causes) {
    let name = text_at(container, &["name"]);
    if name.is_empty() {
        causes.required(format!("{path}.name"), "");
    } else {
        let verdict = api::names::dns1123_label(name);
        causes.check(format!("{path}.name"), name, verdict);
    }
    if text_at(container, &["image"]).is_empty() {
        causes.required(format!("{path}.image"), "");
    }
    let policy = text_at(container, &["imagePullPolicy"]);
    let supported = &["Always", "IfNotPresent", "Never"];
    if !supported.contains(&policy) {
        causes.not_supported(format!("{path}.imagePullPolicy"), policy, supported);
    }
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let number = port["containerPort"].as_i64().unwrap_or(0);
        if !(1..=65535).contains(&number) {
            let detail = "must be between 1 and 65535, inclusive";
            causes.invalid(format!("{path}.containerPort"), number, detail);
        }
        let name = text_at(port, &["name"]);
        if !name.is_empty() {
            let verdict = api::names::port_name(name);
            causes.check(format!("{path}.name"), name, verdict);
        }
    }
    for (index, variable) in items(&container["env"]).iter().enumerate() {
        if text_at(variable, &["name"]).is_empty() {
            causes.required(format!("{path}.env[{index}].name"), "");
        }
    }
}

/// A running Pod stays as it is, but for a few fields.
fn unchanged(old: &Value, new: &Value, causes: &mut Causes) {
    let mut allowed = new.clone();
    for field in [
        "activeDeadlineSeconds",
        "terminationGracePeriodSeconds",
        "tolerations",
    ] {
        copy(&mut allowed, old, field);
    }
    if !items(&old["schedulingGates"]).is_empty() {
        copy(&mut allowed, old, "schedulingGates");
        copy(&mut allowed, old, "nodeSelector");
    }
    for list in ["containers", "initContainers"] {
        let images = items(&old[list])
            .iter()
            .map(|container| container["image"].clone());
        for (index, image) in images.enumerate() {
            if !allowed[list][index].is_null() {
                allowed[list][index]["image"] = image;
            }
        }
        if allowed[list].is_null() {
            allowed.as_object_mut().map(|map| map.shift_remove(list));
        }
    }
    if allowed != *old {
        causes.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

fn copy(target: &mut Value, source: &Value, field: &str) {
    match source.get(field) {
        Some(value) => target[field] = value.clone(),
        None => {
            target.as_object_mut().map(|map| map.shift_remove(field));
        }
    }
}

/// How long the containers get to stop (X5): none when nothing runs.
fn grace(pod: &Value, asked_secs: Option<i64>) -> i64 {
    let unscheduled = text_at(pod, &["spec", "nodeName"]).is_empty();
    let phase = text_at(pod, &["status", "phase"]);
    if unscheduled || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    asked_secs.or(own).unwrap_or(0).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m13_pull_policy_follows_the_tag() {
        for (image, wanted) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.29", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), wanted, "{image}");
        }
    }

    #[test]
    fn a_pod_tolerates_an_unfit_node_for_a_while_unless_it_says_otherwise() {
        let defaults = DefaultTolerations {
            not_ready_secs: 30,
            unreachable_secs: 60,
        };
        let own =
            |key: &str, effect: &str| json!({"key": key, "operator": "Exists", "effect": effect});
        let (not_ready, unreachable) = (
            ("node.kubernetes.io/not-ready", Some(30)),
            ("node.kubernetes.io/unreachable", Some(60)),
        );
        for (before, wanted) in [
            (Value::Null, vec![not_ready, unreachable]),
            (
                json!([own("k", "")]),
                vec![("k", None), not_ready, unreachable],
            ),
            (
                json!([own(not_ready.0, "")]),
                vec![(not_ready.0, None), unreachable],
            ),
            (
                json!([own(unreachable.0, "NoSchedule")]),
                vec![(unreachable.0, None), not_ready, unreachable],
            ),
            (json!([own("", "")]), vec![("", None)]),
            (
                json!([own("", "NoSchedule")]),
                vec![("", None), not_ready, unreachable],
            ),
        ] {
            let mut pod = json!({"spec": {"tolerations": before}});
            tolerate_for_a_while(&defaults, &mut pod);
            let once = pod.clone();
            tolerate_for_a_while(&defaults, &mut pod);
            assert_eq!(pod, once, "a second time changes nothing");
            let got: Vec<_> = items(&pod["spec"]["tolerations"])
                .iter()
                .map(|t| (text_at(t, &["key"]), t["tolerationSeconds"].as_i64()))
                .collect();
            assert_eq!(got, wanted);
        }
    }

    #[test]
    fn pod_ip_and_pod_ips_say_the_same() {
        let dual = json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]);
        for (written, pod_ip, pod_ips) in [
            (json!({}), Value::Null, Value::Null),
            (
                json!({"podIP": "10.1.0.1"}),
                json!("10.1.0.1"),
                json!([{"ip": "10.1.0.1"}]),
            ),
            (json!({"podIPs": dual}), json!("10.1.0.1"), dual.clone()),
            (
                json!({"podIP": "10.1.0.2", "podIPs": dual}),
                json!("10.1.0.2"),
                json!([{"ip": "10.1.0.2"}]),
            ),
        ] {
            let mut status = written;
            fill_addresses(&mut status);
            assert_eq!((&status["podIP"], &status["podIPs"]), (&pod_ip, &pod_ips));
        }
    }

    #[test]
    fn x5_grace_is_zero_when_nothing_runs() {
        let mut pod = json!({"spec": {"terminationGracePeriodSeconds": 30}, "status": {}});
        assert_eq!(grace(&pod, Some(10)), 0);
        pod["spec"]["nodeName"] = "node1".into();
        assert_eq!(grace(&pod, None), 30);
        assert_eq!(grace(&pod, Some(5)), 5);
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(grace(&pod, None), 0);
    }
}
