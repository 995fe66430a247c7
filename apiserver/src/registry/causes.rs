//! What is wrong with the fields of an object, collected before answering.

use serde_json::Value;

use super::{error::ApiError, kind::Kind};

/// Why a value was refused; the names are those of Kubernetes' `details.causes[].reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CauseReason {
    /// A required field is missing.
    Required,
    /// The value is not acceptable.
    Invalid,
    /// The value is not one of a fixed set.
    NotSupported,
    /// The field may not be set here.
    Forbidden,
    /// The value occurs twice in a list that wants distinct ones.
    Duplicate,
    /// The JSON type is wrong.
    TypeInvalid,
    /// The value is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
}

impl CauseReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The path of the field, for example `spec.ports[0].port`.
    pub field: String,
    /// The kind of objection.
    pub reason: CauseReason,
    /// The objection in words, for example `Invalid value: 0: must be between 1 and 65535, inclusive`.
    pub message: String,
}

/// The refusals found in one object, collected before answering so that a user sees them all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes(pub Vec<Cause>);

impl Causes {
    fn push(&mut self, field: impl Into<String>, reason: CauseReason, message: String) {
        self.0.push(Cause {
            field: field.into(),
            reason,
            message,
        });
    }

    /// The field must be set.
    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        self.push(field, CauseReason::Required, message);
    }

    /// The value breaks a rule, told in `detail`.
    pub fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: &str) {
        let message = format!("Invalid value: {}: {detail}", value.into());
        self.push(field, CauseReason::Invalid, message);
    }

    /// The value is not one of `supported`.
    pub fn not_supported(&mut self, field: impl Into<String>, value: &str, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let message = format!(
            "Unsupported value: \"{value}\": supported values: {}",
            list.join(", ")
        );
        self.push(field, CauseReason::NotSupported, message);
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push(
            field,
            CauseReason::Forbidden,
            format!("Forbidden: {detail}"),
        );
    }

    /// The value stands in the list already.
    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        let message = format!("Duplicate value: {}", value.into());
        self.push(field, CauseReason::Duplicate, message);
    }

    /// The JSON type is wrong.
    pub fn type_invalid(&mut self, field: impl Into<String>, detail: &str) {
        self.push(
            field,
            CauseReason::TypeInvalid,
            format!("Invalid value: {detail}"),
        );
    }

    /// The value is longer than `limit` bytes.
    pub fn too_long(&mut self, field: impl Into<String>, limit: usize) {
        let message = format!("Too long: may not be more than {limit} bytes");
        self.push(field, CauseReason::TooLong, message);
    }

    /// The list has more than `limit` items.
    pub fn too_many(&mut self, field: impl Into<String>, got: usize, limit: usize) {
        let message = format!("Too many: {got}: must have at most {limit} items");
        self.push(field, CauseReason::TooMany, message);
    }

    /// Refuses `name` at `field` when the validator objects.
    pub fn check<E: std::fmt::Display>(
        &mut self,
        field: impl Into<String>,
        value: &str,
        verdict: Result<(), E>,
    ) {
        if let Err(detail) = verdict {
            self.invalid(field, value, &detail.to_string());
        }
    }

    /// An `Invalid` error for this object, if anything was refused.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when there is at least one cause.
    pub fn into_result(self, kind: &'static Kind, name: &str) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(ApiError::Invalid {
            group: kind.group,
            kind: kind.kind,
            name: name.to_owned(),
            causes: self.0,
        })
    }
}
