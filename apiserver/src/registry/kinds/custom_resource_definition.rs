//! CustomResourceDefinition (apiextensions.k8s.io/v1).
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/{v1/defaults,validation}.go.

use api::names;
use serde_json::{Map, Value, json};

use super::{items, text_at};
use crate::registry::{
    causes::Causes,
    custom::{json_path::JsonPath, structural},
    kind::{ALL_VERBS, Kind, Rules, STATUS},
    meta,
    table::{CREATED_AT, NAME, Table},
};

/// The finalizer under which the objects of a definition are deleted before the definition.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// CustomResourceDefinition.
pub static CUSTOM_RESOURCE_DEFINITIONS: Kind = Kind {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[STATUS],
    rules: Rules {
        generation: true,
        has_status: true,
        default,
        prepare_create: |definition| {
            definition["status"] = json!({});
            remember_storage_version(definition);
        },
        prepare_update: |_, _, new| remember_storage_version(new),
        validate: |_, new, old, causes| validate(new, old, causes),
        warnings: Some(warnings),
        // Its objects go first.
        held_back: |definition| !meta::is_terminating(definition),
        on_terminating: |definition| {
            let metadata = meta::metadata_mut(definition);
            let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
            if let Some(finalizers) = finalizers.as_array_mut()
                && !finalizers.iter().any(|finalizer| finalizer == CLEANUP)
            {
                finalizers.push(CLEANUP.into());
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[NAME, CREATED_AT],
        cells: |object, row| {
            row.name(object);
            row.created(object);
        },
    },
};

fn default(definition: &mut Value) {
    let Some(spec) = definition["spec"].as_object_mut() else {
        return;
    };
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.shift_remove("preserveUnknownFields");
    }
    let conversion = spec.entry("conversion").or_insert_with(|| json!({}));
    if let Some(conversion) = conversion.as_object_mut() {
        conversion
            .entry("strategy")
            .or_insert_with(|| "None".into());
    }
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        default_names(names);
    }
}

fn default_names(names: &mut Map<String, Value>) {
    let kind = names.get("kind").and_then(Value::as_str);
    let kind = kind.unwrap_or_default().to_owned();
    if kind.is_empty() {
        return;
    }
    for (field, value) in [
        ("singular", kind.to_lowercase()),
        ("listKind", format!("{kind}List")),
    ] {
        if names
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            names.insert(field.into(), value.into());
        }
    }
}

/// Objects may be stored in this version from now on.
fn remember_storage_version(definition: &mut Value) {
    let versions = items(&definition["spec"]["versions"]).iter();
    let mut storage = versions.filter(|version| version["storage"] == true);
    let Some(name) = storage.next().map(|version| version["name"].clone()) else {
        return;
    };
    let mut stored = items(&definition["status"]["storedVersions"]).to_vec();
    if !stored.contains(&name) {
        stored.push(name);
        definition["status"]["storedVersions"] = stored.into();
    }
}

fn validate(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &new["spec"];
    let group = text_at(spec, &["group"]);
    let wanted = format!("{}.{group}", text_at(spec, &["names", "plural"]));
    if meta::text(new, "name") != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.invalid("metadata.name", meta::text(new, "name"), detail);
    }
    validate_group(new, group, causes);
    let scope = text_at(spec, &["scope"]);
    if scope.is_empty() {
        causes.required("spec.scope", "");
    } else if !matches!(scope, "Cluster" | "Namespaced") {
        causes.not_supported("spec.scope", scope, &["Cluster", "Namespaced"]);
    }
    validate_names(&spec["names"], causes);
    validate_versions(&spec["versions"], causes);
    validate_conversion(&spec["conversion"], causes);
    if spec["preserveUnknownFields"] == true {
        causes.invalid("spec.preserveUnknownFields", true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead");
    }
    let names: Vec<&Value> = items(&spec["versions"])
        .iter()
        .map(|version| &version["name"])
        .collect();
    for (index, stored) in items(&new["status"]["storedVersions"]).iter().enumerate() {
        if !names.contains(&stored) {
            let field = format!("status.storedVersions[{index}]");
            causes.invalid(field, stored.clone(), "must appear in spec.versions");
        }
    }
    for field in [&["group"][..], &["scope"], &["names", "kind"]] {
        let (before, after) = (
            old.map(|old| text_at(&old["spec"], field)),
            text_at(spec, field),
        );
        if before.is_some_and(|before| before != after) {
            causes.invalid(
                format!("spec.{}", field.join(".")),
                after,
                "field is immutable",
            );
        }
    }
}

fn validate_group(new: &Value, group: &str, causes: &mut Causes) {
    const APPROVED: &str = "api-approved.kubernetes.io";
    if group.is_empty() {
        return causes.required("spec.group", "");
    }
    causes.check("spec.group", group, names::dns1123_subdomain(group));
    if !group.contains('.') {
        causes.invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        );
    }
    let protected = [".k8s.io", ".kubernetes.io"]
        .iter()
        .any(|end| group.ends_with(end))
        || matches!(group, "k8s.io" | "kubernetes.io");
    if protected && new["metadata"]["annotations"].get(APPROVED).is_none() {
        causes.required(
            format!("metadata.annotations[{APPROVED}]"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        );
    }
}

fn validate_names(names: &Value, causes: &mut Causes) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let place = format!("spec.names.{field}");
        let name = text_at(names, &[field]);
        if name.is_empty() {
            causes.required(place, "");
        } else if field.ends_with("ural") || field == "singular" {
            causes.check(place, name, names::dns1035_label(name));
        } else if let Err(error) = names::dns1035_label(&name.to_lowercase()) {
            let detail = format!("may have mixed case, but should otherwise match: {error}");
            causes.invalid(place, name, &detail);
        }
    }
    if names["kind"] == names["listKind"] && names["kind"].is_string() {
        causes.invalid(
            "spec.names.listKind",
            names["listKind"].clone(),
            "kind and listKind may not be the same",
        );
    }
    for field in ["shortNames", "categories"] {
        for (index, name) in items(&names[field]).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            causes.check(
                format!("spec.names.{field}[{index}]"),
                name,
                names::dns1035_label(name),
            );
        }
    }
}

fn validate_versions(versions: &Value, causes: &mut Causes) {
    let versions = items(versions);
    if versions.is_empty() {
        return causes.required("spec.versions", "must have at least one version");
    }
    for (index, version) in versions.iter().enumerate() {
        let place = format!("spec.versions[{index}]");
        let name = text_at(version, &["name"]);
        causes.check(format!("{place}.name"), name, names::dns1035_label(name));
        if versions[..index]
            .iter()
            .any(|other| other["name"] == version["name"])
        {
            causes.duplicate(format!("{place}.name"), name);
        }
        structural::check(
            &format!("{place}.schema.openAPIV3Schema"),
            &version["schema"]["openAPIV3Schema"],
            causes,
        );
        validate_scale(
            &format!("{place}.subresources.scale"),
            version["subresources"].get("scale"),
            causes,
        );
        validate_columns(&place, version, causes);
        validate_selectable(&place, version, causes);
    }
    let storage = versions.iter().filter(|version| version["storage"] == true);
    if storage.count() != 1 {
        let listed: Vec<&Value> = versions.iter().map(|version| &version["name"]).collect();
        causes.invalid(
            "spec.versions",
            json!(listed),
            "must have exactly one version marked as storage version",
        );
    }
}

fn validate_scale(place: &str, scale: Option<&Value>, causes: &mut Causes) {
    let Some(scale) = scale.filter(|scale| !scale.is_null()) else {
        return;
    };
    let paths = [
        (
            "specReplicasPath",
            &["spec"][..],
            "should be a json path under .spec",
        ),
        (
            "statusReplicasPath",
            &["status"],
            "should be a json path under .status",
        ),
        (
            "labelSelectorPath",
            &["spec", "status"],
            "should be a json path under either .spec or .status",
        ),
    ];
    for (field, roots, detail) in paths {
        let text = text_at(scale, &[field]);
        let place = format!("{place}.{field}");
        if text.is_empty() {
            if field != "labelSelectorPath" {
                causes.required(place, "");
            }
            continue;
        }
        let path = text
            .parse::<JsonPath>()
            .ok()
            .filter(|_| text.starts_with('.'));
        let names = path.as_ref().and_then(JsonPath::names).unwrap_or_default();
        if names.len() < 2 || !roots.contains(&names[0]) {
            causes.invalid(place, text, detail);
        }
    }
}

fn validate_columns(place: &str, version: &Value, causes: &mut Causes) {
    for (index, column) in items(&version["additionalPrinterColumns"])
        .iter()
        .enumerate()
    {
        let place = format!("{place}.additionalPrinterColumns[{index}]");
        if text_at(column, &["name"]).is_empty() {
            causes.required(format!("{place}.name"), "");
        }
        let of = text_at(column, &["type"]);
        let known = ["boolean", "date", "integer", "number", "string"];
        if of.is_empty() {
            causes.required(
                format!("{place}.type"),
                &format!("must be one of {}", known.join(",")),
            );
        } else if !known.contains(&of) {
            causes.not_supported(format!("{place}.type"), of, &known);
        }
        validate_path(
            &format!("{place}.jsonPath"),
            text_at(column, &["jsonPath"]),
            causes,
        );
    }
}

fn validate_path(place: &str, text: &str, causes: &mut Causes) {
    if text.is_empty() {
        return causes.required(place, "");
    }
    match text.parse::<JsonPath>() {
        Ok(_) if text.starts_with('.') => {}
        Ok(_) => causes.invalid(place, text, "must be a simple json path starting with ."),
        Err(error) => causes.invalid(place, text, &format!("is an invalid jsonpath: {error}")),
    }
}

/// Selectable fields are scalars that the schema knows.
fn validate_selectable(place: &str, version: &Value, causes: &mut Causes) {
    const LIMIT: usize = 8;
    let fields = items(&version["selectableFields"]);
    if fields.len() > LIMIT {
        causes.too_many(format!("{place}.selectableFields"), fields.len(), LIMIT);
    }
    for (index, field) in fields.iter().enumerate() {
        let text = text_at(field, &["jsonPath"]);
        let place = format!("{place}.selectableFields[{index}].jsonPath");
        let path = text
            .parse::<JsonPath>()
            .ok()
            .filter(|_| text.starts_with('.'));
        let Some(names) = path
            .as_ref()
            .and_then(JsonPath::names)
            .filter(|names| !names.is_empty())
        else {
            causes.invalid(
                place,
                text,
                "is an invalid path: a field selector is a path of names such as .spec.color",
            );
            continue;
        };
        let schema = &version["schema"]["openAPIV3Schema"];
        let found = names
            .iter()
            .fold(schema, |schema, name| &schema["properties"][*name]);
        if names[0] == "metadata" {
            causes.invalid(place, text, "must not point to fields in metadata");
        } else if !matches!(
            found["type"].as_str(),
            Some("string" | "integer" | "boolean")
        ) {
            causes.invalid(
                place,
                text,
                "is an invalid path: must point to a field of type string, boolean or integer",
            );
        }
    }
}

fn validate_conversion(conversion: &Value, causes: &mut Causes) {
    let strategy = text_at(conversion, &["strategy"]);
    if strategy == "Webhook" {
        causes.forbidden("spec.conversion.strategy", "this server calls no webhooks: only None is supported, which changes nothing but apiVersion");
    } else if strategy != "None" {
        causes.not_supported("spec.conversion.strategy", strategy, &["None"]);
    } else if conversion.get("webhook").is_some() {
        causes.forbidden(
            "spec.conversion.webhook",
            "should not be set when strategy is not set to Webhook",
        );
    }
}

fn warnings(definition: &Value) -> Vec<String> {
    let has_rules = |version: &&Value| {
        version["schema"]
            .to_string()
            .contains("\"x-kubernetes-validations\":")
    };
    let versions = items(&definition["spec"]["versions"])
        .iter()
        .filter(has_rules);
    let warning = |version: &Value| {
        format!(
            "spec.versions[{}]: the CEL rules in x-kubernetes-validations are kept, but this server does not evaluate them",
            text_at(version, &["name"])
        )
    };
    versions.map(warning).collect()
}
