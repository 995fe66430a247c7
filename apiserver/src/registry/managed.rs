//! `metadata.managedFields` of ordinary writes (A3, A8): who owns what a create, an update or a patch sets.
//!
//! They are kept as text beside the object and read only as far as a write needs them: a status that the same writer wrote
//! before costs a look at its own entry.

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
};

use api::schema::{
    self, Type,
    apply::{Author, Element, FieldSet, Managers, Operation},
};
use serde_json::{Value, json};

use super::{Kind, Part, WriteOptions, custom::Custom};

/// The managers of an object before a write.
#[derive(Debug)]
pub(super) enum Before<'a> {
    /// As they are stored; without any the object is not tracked.
    Stored(Option<&'a str>),
    /// As the client sent them: it changed them.
    Sent(String),
}

impl<'a> Before<'a> {
    /// Takes the managedFields out of what a client wants to be stored. Those it only sends back, and those that make no
    /// sense, count as stored; a list of one empty entry forgets all managers. Subresources do not take any.
    pub(super) fn take(new: &mut Value, stored: Option<&'a str>, part: Part) -> Self {
        let sent = super::meta::metadata_mut(new).shift_remove("managedFields");
        let stored = Self::Stored(stored);
        let Some(sent) = sent.filter(|_| part == Part::Main) else {
            return stored;
        };
        if sent == json!([{}]) {
            return Self::Sent("[]".to_owned());
        }
        let text = sent.to_string();
        let same = matches!(stored, Self::Stored(Some(before)) if before == text);
        match Managers::read_all(&text) {
            Ok(managers) if !managers.is_empty() && !same => Self::Sent(managers.to_json()),
            _ => stored,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Stored(text) => *text,
            Self::Sent(text) => Some(text),
        }
    }

    /// Whether there is anything to store although the object itself stays as it is.
    pub(super) fn differs_from(&self, stored: Option<&str>) -> bool {
        let Self::Sent(text) = self else {
            return false;
        };
        let read = |text| Managers::read(text).unwrap_or_default();
        !read(text).same_but_for_times(&read(stored.unwrap_or("[]")))
    }

    /// The managers after a write that made `new` of `old`.
    pub(super) fn after(
        &self,
        kind: &Kind,
        part: Part,
        (old, new): (&Value, &Value),
        options: &WriteOptions,
        now: &str,
    ) -> Option<String> {
        let before = self.text()?;
        let tracked = type_of(kind).filter(|_| part != Part::Binding && before != "[]");
        let text = match (tracked, Managers::read(before)) {
            (Some(of), Ok(mut managers)) => {
                let difference = of.compare(old, new).without(unwritten(kind, part));
                let api_version = kind.api_version();
                let author = author(&options.manager, Operation::Update, &api_version, part);
                managers.update(&author, difference, now);
                managers.to_json()
            }
            _ => before.to_owned(),
        };
        (text != "[]").then_some(text)
    }
}

/// The managers of a new object.
pub(super) fn of_new(
    kind: &Kind,
    value: &Value,
    options: &WriteOptions,
    now: &str,
) -> Option<String> {
    let everything = type_of(kind)?.compare(&json!({}), value);
    let everything = everything.without(unwritten(kind, Part::Main));
    let mut managers = Managers::default();
    let api_version = kind.api_version();
    let author = author(
        &options.manager,
        Operation::Update,
        &api_version,
        Part::Main,
    );
    managers.update(&author, everything, now);
    (!managers.is_empty()).then(|| managers.to_json())
}

/// What the schema says of a kind.
pub(super) enum TypeOf {
    /// It is built in.
    Known(&'static Type),
    /// A CustomResourceDefinition says it.
    Custom(Arc<Custom>),
}

impl Deref for TypeOf {
    type Target = Type;

    fn deref(&self) -> &Type {
        match self {
            Self::Known(of) => of,
            Self::Custom(custom) => &custom.of,
        }
    }
}

/// What the schema says of a kind. The table knows every built-in kind.
pub(super) fn type_of(kind: &Kind) -> Option<TypeOf> {
    if kind.is_custom() {
        return kind.custom().map(TypeOf::Custom);
    }
    let known = schema::lookup(kind.group, kind.version, kind.kind);
    known.map(TypeOf::Known)
}

/// Who writes to a part of an object.
pub(super) fn author<'m>(
    manager: &'m str,
    operation: Operation,
    api_version: &'m str,
    part: Part,
) -> Author<'m> {
    Author {
        manager: if manager.is_empty() {
            "unknown"
        } else {
            manager
        },
        operation,
        api_version,
        subresource: match part {
            Part::Main | Part::Binding => "",
            Part::Status => "status",
            Part::Approval => "approval",
            Part::Finalize => "finalize",
            Part::Scale => "scale",
        },
    }
}

/// The fields that an ordinary write to a part does not write although the object it was made from may have them.
fn unwritten(kind: &Kind, part: Part) -> &'static FieldSet {
    static NOTHING: LazyLock<FieldSet> = LazyLock::new(FieldSet::default);
    static STATUS: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&[&["status"]]));
    match part {
        Part::Main | Part::Scale if kind.rules.has_status => &STATUS,
        Part::Main
        | Part::Scale
        | Part::Binding
        | Part::Approval
        | Part::Finalize
        | Part::Status => &NOTHING,
    }
}

/// The fields a part does not write, so that a configuration that has them does not make its manager their owner.
pub(super) fn ignored(kind: &Kind, part: Part) -> FieldSet {
    let mut ignored = unwritten(kind, part).clone();
    let Some(of) = type_of(kind).filter(|_| part == Part::Status) else {
        return ignored;
    };
    for field in of.fields.iter().filter(|field| field.name != "status") {
        match field.shape.message().filter(|_| field.name == "metadata") {
            None => ignored.insert(&[Element::Field(field.name.clone())]),
            Some(metadata) => {
                let kept = ["labels", "annotations", "finalizers"];
                for field in metadata.fields.iter().filter(|f| !kept.contains(&&*f.name)) {
                    ignored.insert(&["metadata".into(), Element::Field(field.name.clone())]);
                }
            }
        }
    }
    ignored
}
