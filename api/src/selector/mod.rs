//! Label and field selectors as query strings carry them.
//! Source: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/> and `.../field-selectors/`.

mod field;
mod label;
mod lexer;

pub use field::{FieldOperator, FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};

/// A selector that does not parse; the API answers 400 with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Something other than what the grammar asks for.
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Unexpected {
        /// The token at fault; empty at the end of the text.
        found: Box<str>,
        /// What would have been right.
        expected: &'static str,
    },
    /// The key is no qualified name.
    #[error("key: Invalid value: {key:?}: {reason}")]
    Key {
        /// The key.
        key: Box<str>,
        /// Why not.
        reason: Box<str>,
    },
    /// The value is no label value, or no number for `>` and `<`.
    #[error("values: Invalid value: {value:?}: {reason}")]
    Value {
        /// The value.
        value: Box<str>,
        /// Why not.
        reason: Box<str>,
    },
    /// An operator an object's selector may not hold.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(Box<str>),
    /// A term of a field selector without an operator.
    #[error("invalid field selector: can't understand '{0}'")]
    Term(Box<str>),
    /// A backslash before something else than backslash, comma or equals sign.
    #[error("invalid field selector: invalid escape sequence in '{0}'")]
    Escape(Box<str>),
}
