//! What workloads share: the Pod template, the label selector that must match it, and their columns.

use api::{meta, selector::LabelSelector};
use serde_json::{Value, json};

use super::{items, pod, text_at};
use crate::registry::{
    causes::Causes,
    meta::labels,
    table::{Column, Row},
};

/// The wide columns of workloads.
pub(super) const CONTAINERS: Column = Column::wide("Containers", "The names of its containers.");
/// The images of the same.
pub(super) const IMAGES: Column = Column::wide("Images", "The images of its containers.");
/// Which Pods are its own.
pub(super) const SELECTOR: Column = Column::wide("Selector", "Which Pods are its own.");

/// What upstream fills into a template (M13). It has no account, priority or requests: Pods get those when they are made.
pub(crate) fn fill(template: &mut Value) {
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["spec"].is_object() {
        template["spec"] = json!({});
    }
    pod::fill_spec(&mut template["spec"]);
}

/// What a workload of one kind asks of its template.
pub(super) struct Workload {
    /// The kind in messages about selectors, for example `deployment`.
    pub(super) noun: &'static str,
    /// The kind in messages about Pods, for example `ReplicaSet`.
    pub(super) pods_of: &'static str,
}

impl Workload {
    /// Checks `spec.selector` and `spec.template`, and that the one matches the other.
    pub(super) fn validate(&self, new: &Value, old: Option<&Value>, causes: &mut Causes) {
        let spec = &new["spec"];
        let selector = &spec["selector"];
        if selector.is_null() {
            causes.required("spec.selector", "");
        } else {
            selector_rules("spec.selector", selector, causes);
            if selects_everything(selector) {
                let detail = format!("empty selector is invalid for {}", self.noun);
                causes.invalid("spec.selector", selector.clone(), &detail);
            }
        }
        let template = &spec["template"];
        let own = &template["metadata"]["labels"];
        if !selector.is_null() && !selects_everything(selector) && !matches(selector, own) {
            let detail = "`selector` does not match template `labels`";
            causes.invalid("spec.template.metadata.labels", own.clone(), detail);
        }
        template_rules(template, causes);
        let pod = &template["spec"];
        let restart = text_at(pod, &["restartPolicy"]);
        if restart != "Always" {
            causes.not_supported("spec.template.spec.restartPolicy", restart, &["Always"]);
        }
        if !pod["activeDeadlineSeconds"].is_null() {
            let detail = format!("activeDeadlineSeconds in {} is not Supported", self.pods_of);
            causes.forbidden("spec.template.spec.activeDeadlineSeconds", &detail);
        }
        if let Some(old) = old {
            immutable("spec.selector", &old["spec"]["selector"], selector, causes);
        }
    }
}

/// Checks the labels and the Pod of `spec.template`.
pub(super) fn template_rules(template: &Value, causes: &mut Causes) {
    labels(
        "spec.template.metadata.labels",
        &template["metadata"]["labels"],
        causes,
    );
    pod::validate_spec("spec.template.spec", &template["spec"], causes);
}

/// Checks a label selector with expressions.
/// Source: kubernetes/kubernetes staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go.
pub(super) fn selector_rules(at: &str, selector: &Value, causes: &mut Causes) {
    labels(
        &format!("{at}.matchLabels"),
        &selector["matchLabels"],
        causes,
    );
    for (index, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = format!("{at}.matchExpressions[{index}]");
        let (key, operator) = (
            text_at(expression, &["key"]),
            text_at(expression, &["operator"]),
        );
        let values = items(&expression["values"]);
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.required(format!("{path}.values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.forbidden(format!("{path}.values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                causes.invalid(format!("{path}.operator"), other, detail);
            }
        }
        causes.check(format!("{path}.key"), key, api::names::qualified_name(key));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            let verdict = api::names::label_value(value);
            causes.check(format!("{path}.values[{index}]"), value, verdict);
        }
    }
}

/// Whether nothing is asked for.
pub(super) fn selects_everything(selector: &Value) -> bool {
    let labels = selector["matchLabels"].as_object();
    labels.is_none_or(serde_json::Map::is_empty) && items(&selector["matchExpressions"]).is_empty()
}

/// The selector as values; `None` when it is none.
pub(crate) fn read_selector(selector: &Value) -> Option<LabelSelector> {
    let selector: meta::LabelSelector = serde_json::from_value(selector.clone()).ok()?;
    LabelSelector::try_from(&selector).ok()
}

/// Whether the selector matches these labels.
pub(in crate::registry) fn matches(selector: &Value, labels: &Value) -> bool {
    let labels = match labels {
        Value::Null => meta::StringMap::default(),
        labels => serde_json::from_value(labels.clone()).unwrap_or_default(),
    };
    read_selector(selector).is_some_and(|selector| selector.matches(&labels))
}

/// The selector in the notation of `kubectl get -l`, sorted by key; nothing asked for is empty.
pub(in crate::registry) fn selector_text(selector: &Value) -> String {
    let pairs = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<(&str, String)> = pairs
        .map(|(key, value)| {
            let value = value.as_str().unwrap_or_default();
            (key.as_str(), format!("{key}={value}"))
        })
        .collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text_at(expression, &["key"]);
        let values = items(&expression["values"]).iter();
        let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push((
            key,
            match text_at(expression, &["operator"]) {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "DoesNotExist" => format!("!{key}"),
                _ => key.to_owned(),
            },
        ));
    }
    parts.sort_unstable();
    let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
    texts.join(",")
}

/// The cells of [`CONTAINERS`] and [`IMAGES`].
pub(super) fn cells(row: &mut Row, template: &Value) {
    let of = |field: &str| {
        let containers = items(&template["spec"]["containers"]).iter();
        let texts: Vec<&str> = containers.map(|c| text_at(c, &[field])).collect();
        texts.join(",")
    };
    row.text(&of("name"));
    row.text(&of("image"));
}

/// A number of the status or spec; absent is zero.
pub(crate) fn count(object: &Value, path: [&str; 2]) -> i64 {
    object[path[0]][path[1]].as_i64().unwrap_or(0)
}

/// Numbers that must not be negative, by their place below `spec`.
pub(super) fn not_negative(spec: &Value, fields: &[&str], causes: &mut Causes) {
    for field in fields {
        if let Some(number) = spec[*field].as_i64().filter(|number| *number < 0) {
            let detail = "must be greater than or equal to 0";
            causes.invalid(format!("spec.{field}"), number, detail);
        }
    }
}

/// A number, or a percentage, neither negative.
pub(super) fn int_or_percent(field: &str, value: &Value, causes: &mut Causes) {
    match value {
        Value::String(text) if percent(text).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            causes.invalid(field, text.as_str(), detail);
        }
        value if value.as_i64().is_some_and(|number| number < 0) => {
            causes.invalid(field, value.clone(), "must be greater than or equal to 0");
        }
        _ => {}
    }
}

/// A percentage of at most a hundred.
pub(super) fn at_most_everything(field: &str, value: &Value, causes: &mut Causes) {
    if value
        .as_str()
        .and_then(percent)
        .is_some_and(|part| part > 100)
    {
        causes.invalid(field, value.clone(), "must not be greater than 100%");
    }
}

/// The number in `25%`.
fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than fit are more than everything.
    numeric.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Whether nothing is left of a number or percentage.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => percent(text) == Some(0),
        value => value.as_i64().unwrap_or(0) == 0,
    }
}

/// Refuses a change.
pub(super) fn immutable(field: &str, old: &Value, new: &Value, causes: &mut Causes) {
    if old != new {
        causes.invalid(field, new.clone(), "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_kubectl_prints_them() {
        for (selector, wanted) in [
            (json!({}), ""),
            (json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2"),
            (
                json!({"matchLabels": {"m": "1"}, "matchExpressions": [
                    {"key": "z", "operator": "NotIn", "values": ["y", "x"]},
                    {"key": "a", "operator": "DoesNotExist"},
                    {"key": "e", "operator": "Exists"},
                    {"key": "i", "operator": "In", "values": ["v"]},
                ]}),
                "!a,e,i in (v),m=1,z notin (x,y)",
            ),
        ] {
            assert_eq!(selector_text(&selector), wanted);
        }
    }
}
