//! What selectors look at.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::registry::{ApiError, Kind, Selection, custom::Custom, kind::SelectableField};

/// The labels and selectable fields of one version of one object.
#[derive(Debug, Default)]
pub(crate) struct Selectable {
    namespace: String,
    name: String,
    labels: BTreeMap<Box<str>, Box<str>>,
    own: &'static [SelectableField],
    custom: Option<Arc<Custom>>,
    json: Bytes,
    /// The values of the kind's own fields, in the order of its table; read when a selector first asks for one.
    fields: OnceLock<Vec<String>>,
}

/// The part of an object every kind has; the rest is skipped while parsing.
#[derive(Deserialize)]
struct Head {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
    labels: BTreeMap<Box<str>, Box<str>>,
}

impl Selectable {
    /// Reads it from stored JSON.
    #[must_use]
    pub(crate) fn read(kind: &'static Kind, json: &Bytes) -> Self {
        let metadata = serde_json::from_slice::<Head>(json)
            .map(|head| head.metadata)
            .unwrap_or_default();
        Self {
            namespace: metadata.namespace,
            name: metadata.name,
            labels: metadata.labels,
            own: kind.rules.fields,
            custom: kind.custom(),
            json: json.clone(),
            fields: OnceLock::new(),
        }
    }

    pub(crate) fn labels(&self) -> &BTreeMap<Box<str>, Box<str>> {
        &self.labels
    }

    fn own_fields(&self) -> &[String] {
        self.fields.get_or_init(|| {
            let value: Value = serde_json::from_slice(&self.json).unwrap_or_default();
            match &self.custom {
                Some(custom) => {
                    let labels = custom.field_labels();
                    labels.map(|label| custom.field(&value, label)).collect()
                }
                None => self.own.iter().map(|(_, read)| read(&value)).collect(),
            }
        })
    }

    fn field(&self, label: &str) -> Cow<'_, str> {
        match label {
            "metadata.name" => Cow::Borrowed(&self.name),
            "metadata.namespace" => Cow::Borrowed(&self.namespace),
            label => {
                let index = match &self.custom {
                    Some(custom) => custom.field_labels().position(|name| name == label),
                    None => self.own.iter().position(|(name, _)| *name == label),
                };
                let value = index.and_then(|index| self.own_fields().get(index));
                Cow::Borrowed(value.map_or("", String::as_str))
            }
        }
    }
}

impl Selection {
    pub(crate) fn matches(&self, object: &Selectable) -> bool {
        let labels = self.labels.as_ref();
        let fields = self.fields.as_ref();
        labels.is_none_or(|selector| selector.matches(&object.labels))
            && fields.is_none_or(|selector| selector.matches(|field| object.field(field)))
    }

    /// The value a field must have, when the selector pins it to one.
    pub(crate) fn exact_field(&self, label: &str) -> Option<&str> {
        let selector = self.fields.as_ref()?;
        selector
            .required_value(label)
            .filter(|value| !value.is_empty())
    }

    /// Refuses field labels this kind cannot select by (R9).
    ///
    /// # Errors
    /// [`ApiError::BadRequest`].
    pub fn check(&self, kind: &Kind) -> Result<(), ApiError> {
        let requirements = self
            .fields
            .iter()
            .flat_map(|selector| &selector.requirements);
        for requirement in requirements {
            let label = &*requirement.field;
            let custom = kind.custom();
            let known = matches!(label, "metadata.name" | "metadata.namespace")
                || kind.rules.fields.iter().any(|(name, _)| *name == label)
                || custom.is_some_and(|custom| custom.field_labels().any(|name| name == label));
            if known {
                continue;
            }
            return Err(ApiError::BadRequest(
                if kind.rules.fields.is_empty() && !kind.is_custom() {
                    format!(
                        "\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {label}")
                },
            ));
        }
        Ok(())
    }
}
