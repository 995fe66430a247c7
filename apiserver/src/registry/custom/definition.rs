//! A CustomResourceDefinition: the kinds it makes, and the conditions it is in.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/controller/{status,establish}.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    Custom, ScalePaths, columns::Column, json_path::JsonPath, openapi::OpenApi, schema::Schema,
};
use crate::registry::{
    kinds::{self, items, text_at},
    meta,
};

/// A CustomResourceDefinition as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a>(pub &'a Value);

/// What of a version other objects and paths see: as long as it stays the same, the kind is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    pub(super) has_status: bool,
    pub(super) has_scale: bool,
}

impl<'a> Definition<'a> {
    /// Its name: `<plural>.<group>`.
    #[must_use]
    pub fn name(self) -> &'a str {
        meta::text(self.0, "name")
    }

    pub(super) fn group(self) -> &'a str {
        text_at(self.0, &["spec", "group"])
    }

    /// Whether its objects are served: its names have been accepted once.
    pub(super) fn is_established(self) -> bool {
        let conditions = items(&self.0["status"]["conditions"]).iter();
        let mut established = conditions.filter(|condition| condition["type"] == "Established");
        established.any(|condition| condition["status"] == "True")
    }

    /// Which definition this is, and which version of it: what it says is the same as long as this is.
    pub(super) fn edition(self) -> (String, i64, bool) {
        let generation = self.0["metadata"]["generation"].as_i64();
        (
            meta::text(self.0, "uid").to_owned(),
            generation.unwrap_or(0),
            meta::is_terminating(self.0),
        )
    }

    /// The versions that are served.
    pub(super) fn versions(self) -> impl Iterator<Item = (Identity, &'a Value)> {
        let versions = items(&self.0["spec"]["versions"]).iter();
        let served = versions.filter(|version| version["served"] == true);
        served.map(move |version| (self.identity(version), version))
    }

    fn identity(self, version: &Value) -> Identity {
        let spec = &self.0["spec"];
        let names = &spec["names"];
        let strings = |list: &Value| -> Vec<String> {
            let texts = items(list).iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        Identity {
            group: self.group().to_owned(),
            version: word(&version["name"]),
            kind: word(&names["kind"]),
            plural: word(&names["plural"]),
            singular: word(&names["singular"]),
            short_names: strings(&names["shortNames"]),
            categories: strings(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            has_status: version["subresources"].get("status").is_some(),
            has_scale: scale(version).is_some(),
        }
    }

    /// What a version says of its objects.
    pub(super) fn custom(self, identity: &Identity, version: &Value) -> Custom {
        let spec = &self.0["spec"];
        let json_schema = &version["schema"]["openAPIV3Schema"];
        let schema = Schema::read(json_schema);
        let stored = items(&spec["versions"])
            .iter()
            .find(|version| version["storage"] == true);
        let selectable = items(&version["selectableFields"])
            .iter()
            .filter_map(|field| {
                let text = field["jsonPath"].as_str()?;
                Some((
                    text.trim_start_matches('.').to_owned(),
                    text.parse::<JsonPath>().ok()?,
                ))
            });
        Custom {
            of: schema.apply_type(),
            has_defaults: schema.has_defaults(),
            columns: Column::read(&version["additionalPrinterColumns"]),
            selectable: selectable.collect(),
            scale: scale(version),
            stored_api_version: format!(
                "{}/{}",
                identity.group,
                word(&stored.unwrap_or(version)["name"])
            ),
            deprecation: (version["deprecated"] == true).then(|| deprecation(identity, version)),
            list_kind: spec["names"]["listKind"]
                .as_str()
                .map_or_else(|| format!("{}List", identity.kind), str::to_owned),
            openapi: OpenApi::new(identity, json_schema),
            terminating: meta::is_terminating(self.0),
            schema,
        }
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn deprecation(identity: &Identity, version: &Value) -> String {
    let own = version["deprecationWarning"].as_str();
    own.map_or_else(
        || {
            format!(
                "{}/{} {} is deprecated",
                identity.group, identity.version, identity.kind
            )
        },
        str::to_owned,
    )
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version["subresources"].get("scale")?;
    let path = |name: &str| -> Option<Vec<String>> {
        let path: JsonPath = scale[name].as_str()?.parse().ok()?;
        Some(path.names()?.into_iter().map(str::to_owned).collect())
    };
    Some(ScalePaths {
        wanted: path("specReplicasPath")?,
        current: path("statusReplicasPath")?,
        selector: path("labelSelectorPath").unwrap_or_default(),
    })
}

/// The names of a definition that must not be another's in its group, and what to say when they are.
const NAMES: [(&str, &str); 4] = [
    ("plural", "PluralConflict"),
    ("singular", "SingularConflict"),
    ("kind", "KindConflict"),
    ("listKind", "ListKindConflict"),
];

/// What the status of a definition must become, given all of them: its names are accepted when nobody else in the group has
/// them, and it is established with the first names that are. `None` when it is so already.
#[must_use]
pub fn conditions(definition: &Value, all: &[Value], now: &str) -> Option<Value> {
    let names = &definition["spec"]["names"];
    let taken = taken_names(Definition(definition), all);
    let conflict = conflict(names, &taken);
    let established = Definition(definition).is_established();
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let (accepted, reason, message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, name)) => ("False", *reason, format!("\"{name}\" is already in use")),
    };
    if conflict.is_none() {
        status["acceptedNames"] = names.clone();
    } else if status["acceptedNames"].is_null() {
        status["acceptedNames"] = json!({"kind": "", "plural": ""});
    }
    set(
        &mut status,
        "NamesAccepted",
        accepted,
        reason,
        &message,
        now,
    );
    if established || conflict.is_none() {
        let message = "the initial names have been accepted";
        set(
            &mut status,
            "Established",
            "True",
            "InitialNamesAccepted",
            message,
            now,
        );
    } else {
        set(
            &mut status,
            "Established",
            "False",
            "NotAccepted",
            "not all names are accepted",
            now,
        );
    }
    (status != definition["status"]).then_some(status)
}

/// The names that others in the group have been given, and those of built-in kinds.
fn taken_names(definition: Definition<'_>, all: &[Value]) -> HashSet<String> {
    let group = definition.group();
    let mut taken = HashSet::new();
    for kind in kinds::ALL.iter().filter(|kind| kind.group == group) {
        let own = [kind.plural, kind.singular, kind.kind];
        taken.extend(
            own.iter()
                .chain(kind.short_names)
                .map(|&name| name.to_owned()),
        );
    }
    let others = all.iter().map(Definition);
    for other in others.filter(|other| other.group() == group && other.name() != definition.name())
    {
        let accepted = &other.0["status"]["acceptedNames"];
        let own = NAMES
            .iter()
            .filter_map(|(name, _)| accepted[*name].as_str());
        let short = items(&accepted["shortNames"])
            .iter()
            .filter_map(Value::as_str);
        taken.extend(
            own.chain(short)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        );
    }
    taken
}

fn conflict(names: &Value, taken: &HashSet<String>) -> Option<(&'static str, String)> {
    let own = NAMES
        .iter()
        .filter_map(|(name, reason)| Some((*reason, names[*name].as_str()?)));
    let short = items(&names["shortNames"]).iter().filter_map(Value::as_str);
    let mut all = own.chain(short.map(|name| ("ShortNamesConflict", name)));
    let (reason, name) = all.find(|(_, name)| taken.contains(*name))?;
    Some((reason, name.to_owned()))
}

fn set(status: &mut Value, of: &str, value: &str, reason: &str, message: &str, now: &str) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    let at = conditions
        .iter()
        .position(|condition| condition["type"] == of);
    let since = at.filter(|at| conditions[*at]["status"] == value);
    let since = since.and_then(|at| conditions[at]["lastTransitionTime"].as_str());
    let condition = json!({
        "lastTransitionTime": since.unwrap_or(now), "message": message, "reason": reason, "status": value, "type": of,
    });
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, kind: &str, short: &str) -> Value {
        json!({
            "metadata": {"name": format!("{name}.example.com")},
            "spec": {"group": "example.com", "names": {"plural": name, "singular": kind.to_lowercase(), "kind": kind,
                "listKind": format!("{kind}List"), "shortNames": [short]}},
        })
    }

    #[test]
    fn the_first_with_a_name_has_it() {
        let mut first = definition("tabs", "Tab", "t");
        let status = conditions(&first, std::slice::from_ref(&first), "now").unwrap();
        assert_eq!(status["acceptedNames"], first["spec"]["names"]);
        let told: Vec<_> = items(&status["conditions"])
            .iter()
            .map(|one| (&one["type"], &one["status"]))
            .collect();
        assert_eq!(
            json!(told),
            json!([["NamesAccepted", "True"], ["Established", "True"]])
        );
        first["status"] = status;
        assert_eq!(
            conditions(&first, std::slice::from_ref(&first), "later"),
            None
        );

        let second = definition("tables", "Table", "t");
        let all = [first, second];
        let status = conditions(&all[1], &all, "now").unwrap();
        assert_eq!(status["conditions"][0]["reason"], "ShortNamesConflict");
        assert_eq!(
            status["conditions"][0]["message"],
            "\"t\" is already in use"
        );
        assert_eq!(status["conditions"][1]["status"], "False");
        assert_eq!(status["acceptedNames"], json!({"kind": "", "plural": ""}));
    }
}
