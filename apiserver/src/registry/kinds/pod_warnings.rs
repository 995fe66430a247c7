//! What a Pod, or the template of one, may say but had better not: the texts of `Warning:` headers (V3).
//! Source: kubernetes/kubernetes pkg/api/pod/warnings.go.

use std::collections::HashSet;

use api::quantity::Quantity;
use serde_json::Value;

use super::{items, text_at};

/// Annotations that do nothing any more, and what does it now.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

/// The warnings for a Pod.
pub(super) fn of(pod: &Value) -> Vec<String> {
    below("", pod)
}

/// The warnings for the Pods of a workload.
pub(super) fn of_template(workload: &Value) -> Vec<String> {
    below("spec.template.", &workload["spec"]["template"])
}

/// The warnings for a Pod at this place.
fn below(at: &str, pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut warnings = Vec::new();
    let annotations = &pod["metadata"]["annotations"];
    for (name, instead) in ANNOTATIONS {
        if annotations.get(name).is_some() {
            warnings.push(format!("{at}metadata.annotations[{name}]: {instead}"));
        }
    }
    let at = &format!("{at}spec");
    for (index, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = format!("{at}.topologySpreadConstraints[{index}]");
        selects(&path, constraint, &mut warnings);
    }
    twice(at, spec, ("hostAliases", "ip"), &mut warnings);
    twice(at, spec, ("imagePullSecrets", "name"), &mut warnings);
    for (index, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text_at(secret, &["name"]).is_empty() {
            warnings.push(format!(
                "{at}.imagePullSecrets[{index}].name: invalid empty name \"\""
            ));
        }
    }
    let mut ports = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let path = format!("{at}.{list}[{index}]");
            fractions(&path, &container["resources"], &mut warnings);
            hidden(&path, items(&container["env"]), &mut warnings);
            for (index, port) in items(&container["ports"]).iter().enumerate() {
                ports.push((format!("{path}.ports[{index}]"), port));
            }
        }
    }
    same_ports(&ports, &mut warnings);
    let grace = &spec["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|seconds| seconds < 0) {
        let text = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{at}.terminationGracePeriodSeconds: {text}"));
    }
    affinity(at, &spec["affinity"], &mut warnings);
    warnings
}

/// Items of a list that are told apart by a field, and are not.
fn twice(at: &str, spec: &Value, (list, field): (&str, &str), warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, item) in items(&spec[list]).iter().enumerate() {
        let value = text_at(item, &[field]);
        if !seen.insert(value) {
            warnings.push(format!(
                "{at}.{list}[{index}].{field}: duplicate {field} {value:?}"
            ));
        }
    }
}

/// Parts of a byte.
fn fractions(at: &str, resources: &Value, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let amount = &resources[list][name];
            let Some(text) = amount.as_str() else {
                continue;
            };
            let amount = Quantity(text.into()).amount();
            if amount.is_ok_and(|amount| amount.millis() % 1000 != 0) {
                warnings.push(format!(
                    "{at}.resources.{list}[{name}]: fractional byte value {text:?} is invalid, must be an integer"
                ));
            }
        }
    }
}

/// A variable that takes the place of an earlier one without building on it: who applies such a list may lose one of the two.
fn hidden(at: &str, variables: &[Value], warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, variable) in variables.iter().enumerate() {
        let name = text_at(variable, &["name"]);
        let reference = format!("$({name})");
        let value = text_at(variable, &["value"]);
        let builds_on =
            variable["valueFrom"].is_null() && value != reference && value.contains(&reference);
        if !seen.insert(name) && !builds_on {
            warnings.push(format!(
                "{at}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// The same port of the Pod declared twice.
fn same_ports(ports: &[(String, &Value)], warnings: &mut Vec<String>) {
    let number = |port: &Value, field: &str| port[field].as_i64().unwrap_or(0);
    let protocol = |port| match text_at(port, &["protocol"]) {
        "" => "TCP",
        protocol => protocol,
    };
    for (at, (path, port)) in ports.iter().enumerate() {
        for (other_path, other) in &ports[..at] {
            if number(port, "containerPort") != number(other, "containerPort")
                || protocol(port) != protocol(other)
            {
                continue;
            }
            let host_ports = [number(port, "hostPort"), number(other, "hostPort")];
            let host_ips = [text_at(port, &["hostIP"]), text_at(other, &["hostIP"])];
            let same_port = host_ports[0] == host_ports[1];
            let how = if same_port && host_ips[0] == host_ips[1] {
                "duplicate"
            } else if host_ports.contains(&0) {
                "overlapping"
            } else if same_port && host_ips.contains(&"") {
                "dangerously ambiguous"
            } else {
                continue;
            };
            warnings.push(format!("{path}: {how} port definition with {other_path}"));
        }
    }
}

fn affinity(at: &str, affinity: &Value, warnings: &mut Vec<String>) {
    for which in ["podAffinity", "podAntiAffinity"] {
        for (list, term) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", None),
            (
                "preferredDuringSchedulingIgnoredDuringExecution",
                Some("podAffinityTerm"),
            ),
        ] {
            for (index, item) in items(&affinity[which][list]).iter().enumerate() {
                let path = format!("{at}.affinity.{which}.{list}[{index}]");
                match term {
                    Some(term) => selects(&format!("{path}.{term}"), &item[term], warnings),
                    None => selects(&path, item, warnings),
                }
            }
        }
    }
}

/// Without a selector, nothing is meant.
fn selects(at: &str, term: &Value, warnings: &mut Vec<String>) {
    if term["labelSelector"].is_null() {
        warnings.push(format!(
            "{at}.labelSelector: a null labelSelector results in matching no pod"
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn v3_what_is_legal_but_questionable_is_said() {
        let port = |rest: Value| {
            let mut port = json!({"containerPort": 80});
            let rest = rest.as_object().unwrap().clone();
            port.as_object_mut().unwrap().extend(rest);
            port
        };
        let ports = |a: Value, b: Value| json!({"initContainers": [{"ports": [port(a)]}], "containers": [{"ports": [port(b)]}]});
        let env =
            |second: Value| json!({"containers": [{"env": [{"name": "X", "value": "1"}, second]}]});
        let hides = "spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when using apply";
        for (spec, wanted) in [
            (json!({}), &[][..]),
            (env(json!({"name": "Y", "value": "2"})), &[]),
            (env(json!({"name": "X", "value": "2"})), &[hides]),
            (env(json!({"name": "X", "value": "$(X)2"})), &[]),
            (env(json!({"name": "X", "value": "$(X)"})), &[hides]),
            (env(json!({"name": "X", "valueFrom": {}})), &[hides]),
            (
                ports(json!({}), json!({"protocol": "TCP"})),
                &[
                    "spec.containers[0].ports[0]: duplicate port definition with spec.initContainers[0].ports[0]",
                ],
            ),
            (ports(json!({}), json!({"protocol": "UDP"})), &[]),
            (
                ports(json!({"hostPort": 1}), json!({})),
                &[
                    "spec.containers[0].ports[0]: overlapping port definition with spec.initContainers[0].ports[0]",
                ],
            ),
            (
                ports(
                    json!({"hostPort": 1}),
                    json!({"hostPort": 1, "hostIP": "192.0.2.1"}),
                ),
                &[
                    "spec.containers[0].ports[0]: dangerously ambiguous port definition with spec.initContainers[0].ports[0]",
                ],
            ),
            (ports(json!({"hostPort": 1}), json!({"hostPort": 2})), &[]),
            (
                json!({"containers": [{"resources": {"limits": {"memory": "1.5", "cpu": "0.5"}, "requests": {"memory": "1.5Gi", "ephemeral-storage": "1m"}}}]}),
                &[
                    "spec.containers[0].resources.limits[memory]: fractional byte value \"1.5\" is invalid, must be an integer",
                    "spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value \"1m\" is invalid, must be an integer",
                ],
            ),
            (
                json!({"hostAliases": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}, {"ip": "192.0.2.1"}]}),
                &["spec.hostAliases[2].ip: duplicate ip \"192.0.2.1\""],
            ),
            (
                json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}),
                &[
                    "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                    "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                ],
            ),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                &[
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
            (
                json!({"topologySpreadConstraints": [{"labelSelector": {}}, {}],
                       "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]}}}),
                &[
                    "spec.topologySpreadConstraints[1].labelSelector: a null labelSelector results in matching no pod",
                    "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: \
                     a null labelSelector results in matching no pod",
                ],
            ),
        ] {
            let pod = json!({"metadata": {}, "spec": spec});
            assert_eq!(of(&pod), wanted, "{spec}");
            let wanted: Vec<_> = wanted
                .iter()
                .map(|text| text.replace("spec.", "spec.template.spec."))
                .collect();
            let said = of_template(&json!({"spec": {"template": pod}}));
            // A second place in a text is one of the template, too.
            assert_eq!(said, wanted, "{spec}");
        }
        let old = json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}}});
        assert_eq!(
            of(&old),
            [
                "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead"
            ]
        );
    }
}
