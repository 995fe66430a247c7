//! What a container's probes and lifecycle hooks must be.
//!
//! Source: kubernetes/kubernetes pkg/apis/core/v1/defaults.go, pkg/apis/core/validation/validation.go (`validateProbe`,
//! `validateLifecycle`).

use serde_json::{Value, json};

use super::{items, pod::set_if_absent, text_at};
use crate::registry::causes::Causes;

/// Every field that says what a probe or hook does; exactly one is set.
const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Fills in what a container's probes and hooks leave open.
pub(super) fn fill(container: &mut Value) {
    for probe in PROBES {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else {
            continue;
        };
        for (field, value) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            if probe[field].as_i64().unwrap_or(0) == 0 {
                probe[field] = value.into();
            }
        }
        if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
            set_if_absent(grpc, "service", json!(""));
        }
        fill_http(probe);
    }
    for hook in HOOKS {
        let lifecycle = container.get_mut("lifecycle");
        if let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.get_mut(hook)) {
            fill_http(hook);
        }
    }
}

fn fill_http(handler: &mut Value) {
    let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) else {
        return;
    };
    for (field, value) in [("path", "/"), ("scheme", "HTTP")] {
        if text_at(get, &[field]).is_empty() {
            get[field] = value.into();
        }
    }
}

/// Checks them. `grace` is what the Pod gives its containers to stop.
pub(super) fn validate(path: &str, container: &Value, grace: i64, causes: &mut Causes) {
    for field in PROBES {
        let probe = &container[field];
        if !probe.is_null() {
            validate_probe(&format!("{path}.{field}"), field, probe, causes);
        }
    }
    for hook in HOOKS {
        let handler = &container["lifecycle"][hook];
        if handler.is_null() {
            continue;
        }
        let path = format!("{path}.lifecycle.{hook}");
        validate_handler(&path, handler, HOOK_HANDLERS, causes);
        if let Some(seconds) = handler["sleep"]["seconds"].as_i64()
            && !(0..=grace).contains(&seconds)
        {
            let detail = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            );
            causes.invalid(format!("{path}.sleep"), seconds, &detail);
        }
    }
}

/// An init container ends before the others start, so there is nothing to probe, unless it is a sidecar.
pub(super) fn forbid(path: &str, container: &Value, causes: &mut Causes) {
    let detail = "may not be set for init containers without restartPolicy=Always";
    for field in PROBES.iter().chain(&["lifecycle"]) {
        if !container[*field].is_null() {
            causes.forbidden(format!("{path}.{field}"), detail);
        }
    }
}

fn validate_probe(path: &str, kind: &str, probe: &Value, causes: &mut Causes) {
    validate_handler(path, probe, PROBE_HANDLERS, causes);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(number) = probe[field].as_i64().filter(|number| *number < 0) {
            let detail = "must be greater than or equal to 0";
            causes.invalid(format!("{path}.{field}"), number, detail);
        }
    }
    let successes = probe["successThreshold"].as_i64().unwrap_or(1);
    if kind != "readinessProbe" && successes != 1 {
        causes.invalid(format!("{path}.successThreshold"), successes, "must be 1");
    }
    if let Some(grace) = probe["terminationGracePeriodSeconds"].as_i64() {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if grace <= 0 {
            causes.invalid(&path, grace, "must be greater than 0");
        }
        if kind == "readinessProbe" {
            causes.invalid(&path, grace, "must not be set for readinessProbes");
        }
    }
}

fn validate_handler(path: &str, handler: &Value, supported: &[&str], causes: &mut Causes) {
    let mut set = supported.iter().filter(|field| !handler[**field].is_null());
    let Some(action) = set.next() else {
        return causes.required(path, "must specify a handler type");
    };
    for more in set {
        let detail = "may not specify more than 1 handler type";
        causes.forbidden(format!("{path}.{more}"), detail);
    }
    let (path, action) = (format!("{path}.{action}"), (*action, &handler[*action]));
    match action {
        ("exec", exec) if items(&exec["command"]).is_empty() => {
            causes.required(format!("{path}.command"), "");
        }
        ("httpGet", get) => validate_http(&path, get, causes),
        ("tcpSocket" | "grpc", action) => validate_port(&path, &action["port"], causes),
        _ => {}
    }
}

fn validate_http(path: &str, get: &Value, causes: &mut Causes) {
    validate_port(path, &get["port"], causes);
    let (scheme, supported) = (text_at(get, &["scheme"]), &["HTTP", "HTTPS"]);
    if !supported.contains(&scheme) {
        causes.not_supported(format!("{path}.scheme"), scheme, supported);
    }
    for header in items(&get["httpHeaders"]) {
        let name = text_at(header, &["name"]);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_word) {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            causes.invalid(format!("{path}.httpHeaders"), name, detail);
        }
    }
}

/// A number, or the name of one of the container's ports.
fn validate_port(path: &str, port: &Value, causes: &mut Causes) {
    let path = format!("{path}.port");
    match port {
        Value::String(name) => causes.check(path, name, api::names::port_name(name)),
        port => {
            let number = port.as_i64().unwrap_or(0);
            if !(1..=65535).contains(&number) {
                let detail = "must be between 1 and 65535, inclusive";
                causes.invalid(path, number, detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(container: &Value) -> Vec<String> {
        let mut container = container.clone();
        fill(&mut container);
        let mut causes = Causes::default();
        validate("c", &container, 30, &mut causes);
        let causes = causes.0.into_iter();
        causes
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect()
    }

    #[test]
    fn what_a_probe_leaves_open_is_filled_in() {
        let mut container = json!({
            "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 0},
            "livenessProbe": {"grpc": {"port": 1}, "timeoutSeconds": 7},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
        });
        fill(&mut container);
        let wanted = json!({
            "readinessProbe": {
                "httpGet": {"port": "http", "path": "/", "scheme": "HTTP"}, "periodSeconds": 10,
                "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
            },
            "livenessProbe": {
                "grpc": {"port": 1, "service": ""}, "timeoutSeconds": 7,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
            },
            "lifecycle": {"preStop": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}}},
        });
        assert_eq!(container, wanted);
    }

    #[test]
    fn each_rule_of_a_probe_names_its_field() {
        let tcp = |fields: Value| {
            let mut probe = json!({"tcpSocket": {"port": 80}});
            for (field, value) in fields.as_object().expect("fields") {
                probe[field] = value.clone();
            }
            probe
        };
        let live = |probe: Value| json!({"livenessProbe": probe});
        let ready = |probe: Value| json!({"readinessProbe": probe});
        let cases = [
            (
                live(json!({})),
                "c.livenessProbe: Required value: must specify a handler type",
            ),
            (
                live(tcp(json!({"grpc": {"port": 1}}))),
                "c.livenessProbe.grpc: Forbidden: may not specify more than 1 handler type",
            ),
            (
                live(json!({"exec": {}})),
                "c.livenessProbe.exec.command: Required value",
            ),
            (
                live(tcp(json!({"successThreshold": 2}))),
                "c.livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                live(tcp(json!({"terminationGracePeriodSeconds": 0}))),
                "c.livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                ready(tcp(json!({"terminationGracePeriodSeconds": 1}))),
                "c.readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
            ),
            (
                ready(tcp(json!({"periodSeconds": -1}))),
                "c.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                ready(json!({"tcpSocket": {"port": 65536}})),
                "c.readinessProbe.tcpSocket.port: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ),
            (
                ready(json!({"httpGet": {"port": 80, "scheme": "FTP"}})),
                "c.readinessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ),
            (
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
                "c.lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ),
            (
                json!({"lifecycle": {"postStart": {}}}),
                "c.lifecycle.postStart: Required value: must specify a handler type",
            ),
        ];
        for (container, wanted) in cases {
            assert_eq!(refused(&container), [wanted], "{container}");
        }
        let with_header = |name: &str| {
            let headers = json!([{"name": name, "value": "v"}]);
            ready(json!({"httpGet": {"port": "http", "httpHeaders": headers}}))
        };
        let bad = refused(&with_header("X_A"));
        assert!(
            bad[0].starts_with("c.readinessProbe.httpGet.httpHeaders: Invalid value: \"X_A\""),
            "{bad:?}"
        );
        let bad = refused(&ready(json!({"httpGet": {"port": "a--b"}})));
        assert!(
            bad[0].starts_with("c.readinessProbe.httpGet.port: Invalid value"),
            "{bad:?}"
        );
        let good = [
            with_header("X-A"),
            ready(tcp(json!({"successThreshold": 3}))),
            live(json!({"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 5})),
            json!({"startupProbe": {"grpc": {"port": 9, "service": "s"}}}),
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 0}}}}),
        ];
        for container in good {
            assert_eq!(refused(&container), Vec::<String>::new(), "{container}");
        }
    }
}
