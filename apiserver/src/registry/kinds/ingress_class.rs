//! IngressClass (networking.k8s.io/v1).

use serde_json::{Value, json};

use super::{pod::set_if_absent, template, text_at};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, Rules},
    table::{AGE, Column, NAME, Table},
};

/// IngressClass.
pub static INGRESS_CLASSES: Kind = Kind {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    rules: Rules {
        generation: true,
        unconditional_update: false,
        default: |class| {
            if let Some(parameters) = class["spec"].get_mut("parameters") {
                set_if_absent(parameters, "scope", json!("Cluster"));
            }
        },
        validate: |_, new, old, causes| {
            validate(&new["spec"], causes);
            if let Some(old) = old {
                let controller = |class: &Value| class["spec"]["controller"].clone();
                template::immutable(
                    "spec.controller",
                    &controller(old),
                    &controller(new),
                    causes,
                );
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            Column::text("Controller", "Who acts on Ingresses of the class."),
            Column::text("Parameters", "Where its settings are."),
            AGE,
        ],
        cells: |object, row| {
            row.name(object);
            row.text(text_at(object, &["spec", "controller"]));
            let parameters = &object["spec"]["parameters"];
            let part = |field: &str| text_at(parameters, &[field]);
            row.or_none(&match (parameters.is_null(), part("apiGroup")) {
                (true, _) => String::new(),
                (_, "") => format!("{}/{}", part("kind"), part("name")),
                (_, group) => format!("{}.{group}/{}", part("kind"), part("name")),
            });
            row.age(object);
        },
    },
};

/// Source: kubernetes/kubernetes pkg/apis/networking/validation/validation.go, ValidateIngressClass.
fn validate(spec: &Value, causes: &mut Causes) {
    let controller = text_at(spec, &["controller"]);
    let qualified = controller.split_once('/').is_some_and(|(domain, path)| {
        api::names::dns1123_subdomain(domain).is_ok() && !path.is_empty()
    });
    if controller.is_empty() {
        causes.required("spec.controller", "");
    } else if controller.len() > 250 {
        causes.too_long("spec.controller", 250);
    } else if !qualified {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        causes.invalid("spec.controller", controller, detail);
    }
    let parameters = &spec["parameters"];
    if parameters.is_null() {
        return;
    }
    for field in ["kind", "name"] {
        if text_at(parameters, &[field]).is_empty() {
            causes.required(format!("spec.parameters.{field}"), "");
        }
    }
    let namespace = text_at(parameters, &["namespace"]);
    match text_at(parameters, &["scope"]) {
        "Cluster" if !namespace.is_empty() => {
            let detail =
                "parameters.namespace cannot be set when parameters.scope is set to 'Cluster'";
            causes.forbidden("spec.parameters.namespace", detail);
        }
        "Namespace" if namespace.is_empty() => {
            let detail = "parameters.scope is set to 'Namespace'";
            causes.required("spec.parameters.namespace", detail);
        }
        "Cluster" | "Namespace" => {}
        other => causes.not_supported("spec.parameters.scope", other, &["Cluster", "Namespace"]),
    }
}
