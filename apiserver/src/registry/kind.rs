//! What the generic code needs to know of a kind: names, scope, and the few rules that are its own.

use std::{fmt, time::Duration};

use serde_json::Value;

use super::{Context, Part, causes::Causes, custom::Slot, table::Table};
use crate::store::Durability;

/// A kind of object the API serves. Every kind is one `static` in [`super::kinds`].
pub struct Kind {
    /// The API group; empty for core.
    pub group: &'static str,
    /// The version, for example `v1`.
    pub version: &'static str,
    /// The name of the kind, for example `Pod`.
    pub kind: &'static str,
    /// The name in paths, for example `pods`.
    pub plural: &'static str,
    /// The singular, for example `pod`.
    pub singular: &'static str,
    /// Abbreviations kubectl accepts.
    pub short_names: &'static [&'static str],
    /// Groups of resources kubectl accepts; `all` is the usual one.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// The verbs served, in alphabetical order.
    pub verbs: &'static [&'static str],
    /// What hangs below an object's path.
    pub subresources: &'static [Subresource],
    /// The rules of its own.
    pub rules: Rules,
    /// How `kubectl get` shows it.
    pub table: Table,
}

/// A path below an object's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its name, for example `status`.
    pub name: &'static str,
    /// Group, version and kind of its bodies when they differ from the object's.
    pub body: Option<(&'static str, &'static str, &'static str)>,
    /// The verbs served.
    pub verbs: &'static [&'static str],
}

/// The `status` subresource, as nearly every kind with a status has it.
pub const STATUS: Subresource = Subresource {
    name: "status",
    body: None,
    verbs: &["get", "patch", "update"],
};

/// The `scale` subresource, for kinds with `spec.replicas`.
pub const SCALE: Subresource = Subresource {
    name: "scale",
    body: Some(("autoscaling", "v1", "Scale")),
    verbs: &["get", "patch", "update"],
};

/// What a client connects to; the body kind is that of its options. Asked by GET or POST, and a creation to RBAC.
const fn connection(name: &'static str, options: &'static str) -> Subresource {
    Subresource {
        name,
        body: Some(("", "v1", options)),
        verbs: &["create", "get"],
    }
}

/// The streams of a container's own process.
pub const ATTACH: Subresource = connection("attach", "PodAttachOptions");
/// A program in a container.
pub const EXEC: Subresource = connection("exec", "PodExecOptions");
/// Connections to a Pod's ports.
pub const PORT_FORWARD: Subresource = connection("portforward", "PodPortForwardOptions");
/// A container's log.
pub const LOG: Subresource = Subresource {
    name: "log",
    body: None,
    verbs: &["get"],
};

/// The `proxy` subresource: requests that are passed on.
#[must_use]
pub const fn proxy(options: &'static str) -> Subresource {
    Subresource {
        name: "proxy",
        body: Some(("", "v1", options)),
        verbs: &["create", "delete", "get", "patch", "update"],
    }
}

/// The verbs of an ordinary resource.
pub const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// How names are checked (M4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, 253 characters: the usual rule.
    Subdomain,
    /// DNS-1123 label, 63 characters.
    Label,
    /// Anything the kind's own validation accepts.
    Own,
}

/// A selectable field: its label and how to read it from an object.
pub type SelectableField = (&'static str, fn(&Value) -> String);

/// The objects of another kind, with other names for some of their fields. Only that kind is stored.
pub struct Renamed {
    /// The group of the kind that is stored.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Fields of the object itself: the stored name, the served one.
    pub fields: &'static [(&'static str, &'static str)],
}

impl Renamed {
    /// Makes an object as it is stored one as it is served.
    pub fn serve(&self, object: &mut Value, api_version: &str) {
        let names = self.fields.iter().copied();
        rename(object, names, api_version);
    }

    /// The other way round.
    pub fn store(&self, object: &mut Value) {
        let names = self
            .fields
            .iter()
            .map(|(stored, served)| (*served, *stored));
        rename(object, names, &api_version(self.group, self.version));
    }
}

/// Gives fields their other names, each in its place.
fn rename(
    object: &mut Value,
    names: impl Iterator<Item = (&'static str, &'static str)>,
    api_version: &str,
) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let names: Vec<_> = names.collect();
    let fields = std::mem::take(map);
    for (field, value) in fields {
        let named = names.iter().find(|(from, _)| *from == field);
        let name = named.map_or(field, |(_, to)| (*to).to_owned());
        map.insert(name, value);
    }
    map.insert("apiVersion".into(), api_version.into());
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Where a kind differs from the generic way.
pub struct Rules {
    /// What its CustomResourceDefinition says; none for built-in kinds.
    pub custom: Option<&'static Slot>,
    /// Whether its objects are those of another kind. What reads stored bytes (`fields`) then sees that kind's names, the
    /// other rules see its own.
    pub renamed: Option<&'static Renamed>,
    /// How names are checked.
    pub name: NameRule,
    /// Whether `metadata.generation` is kept (M9).
    pub generation: bool,
    /// Whether `status` is protected from the main endpoint (M10).
    pub has_status: bool,
    /// Whether a PUT to a missing name creates it (M6).
    pub create_on_update: bool,
    /// Whether a PUT may come without a resourceVersion (M5).
    pub unconditional_update: bool,
    /// Whether DELETE answers with the object instead of a Status (X1).
    pub delete_returns_object: bool,
    /// Names that cannot be deleted (F2).
    pub permanent: &'static [&'static str],
    /// Whether an acknowledged write is on stable storage.
    pub durability: Durability,
    /// After this time without a write the object goes away.
    pub ttl: Option<Duration>,
    /// Field selectors beyond `metadata.name` and `metadata.namespace` (appendix C).
    pub fields: &'static [SelectableField],
    /// Fills what a new object has and a client does not say: initial status, labels that are always there.
    pub prepare_create: fn(&mut Value),
    /// Adds what the cluster's configuration asks for: (context, old when there is one, new). Runs before validation, on
    /// creates and on writes that are not to a subresource, as admission plugins do.
    pub admit: fn(&Context, Option<&Value>, &mut Value),
    /// Keeps or clears fields when an object changes: (context, old, new).
    pub prepare_update: fn(&Context, &Value, &mut Value),
    /// The same for a write to a subresource, and refuses what that one may not write: (which, old, new, refusals).
    pub prepare_part: fn(Part, &Value, &mut Value, &mut Causes),
    /// Defaults that depend on other fields. Runs on every write, after the schema's own defaults.
    pub default: fn(&mut Value),
    /// Refuses what breaks the kind's rules: (context, new, old when there is one, refusals).
    pub validate: fn(&Context, &Value, Option<&Value>, &mut Causes),
    /// What is legal but worth a `Warning:` header, for an object that is written by its main path.
    pub warnings: Option<fn(&Value) -> Vec<String>>,
    /// What to use instead: said in the `Warning:` header of every answer (V7).
    pub deprecated: Option<&'static str>,
    /// Whether something besides `metadata.finalizers` holds back a deletion.
    pub held_back: fn(&Value) -> bool,
    /// Seconds of grace a deletion gives: (object, asked for). Zero removes at once.
    pub grace: fn(&Value, Option<i64>) -> i64,
    /// Changes the object when its deletion begins, for example a phase.
    pub on_terminating: fn(&mut Value),
}

impl Rules {
    /// The generic way.
    pub const GENERIC: Self = Self {
        custom: None,
        renamed: None,
        name: NameRule::Subdomain,
        generation: false,
        has_status: false,
        create_on_update: false,
        unconditional_update: true,
        delete_returns_object: false,
        permanent: &[],
        durability: Durability::Strict,
        ttl: None,
        fields: &[],
        prepare_create: |_| {},
        admit: |_, _, _| {},
        prepare_update: |_, _, _| {},
        prepare_part: |_, _, _, _| {},
        default: |_| {},
        validate: |_, _, _, _| {},
        warnings: None,
        deprecated: None,
        held_back: |_| false,
        grace: |_, _| 0,
        on_terminating: |_| {},
    };
}

impl Kind {
    /// What is to be said of an object whose part is written.
    pub(super) fn warnings(&self, part: Part, value: &Value) -> Vec<String> {
        let of_kind = self.rules.warnings.filter(|_| part == Part::Main);
        of_kind.map_or_else(Vec::new, |of_kind| of_kind(value))
    }

    /// `v1` or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The group that its objects are stored in.
    #[must_use]
    pub fn stored_group(&self) -> &'static str {
        self.rules.renamed.map_or(self.group, |stored| stored.group)
    }

    /// The resource as messages print it: `pods`, `endpointslices.discovery.k8s.io`.
    #[must_use]
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The subresource of this name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Where the objects of this kind are stored, all of them or those of one namespace; ends with `/`.
    #[must_use]
    pub fn key_prefix(&self, namespace: Option<&str>) -> String {
        let group = match self.stored_group() {
            "" => "core",
            group => group,
        };
        match namespace {
            Some(namespace) => format!("/registry/{group}/{}/{namespace}/", self.plural),
            None => format!("/registry/{group}/{}/", self.plural),
        }
    }

    /// The key of one object.
    #[must_use]
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        self.key_prefix(namespace) + name
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({} {})", self.api_version(), self.kind)
    }
}

impl PartialEq for Kind {
    /// Kinds are statics: the same group, version and kind is the same value.
    fn eq(&self, other: &Self) -> bool {
        self.group == other.group && self.kind == other.kind && self.version == other.version
    }
}

impl Eq for Kind {}
