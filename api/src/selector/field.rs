//! Field selectors. Which fields a kind knows is for the kind to say.

use std::str::FromStr;

use super::SelectorError;

/// Requirements that must all hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The requirements, in the order they were written.
    pub requirements: Vec<FieldRequirement>,
}

/// What must hold of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, such as `spec.nodeName`.
    pub field: Box<str>,
    /// Equal or not.
    pub operator: FieldOperator,
    /// The value, escapes resolved.
    pub value: Box<str>,
}

/// How a field compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOperator {
    /// `=` or `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

impl FieldSelector {
    /// True when it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// True when every requirement holds of the object whose fields `value_of` reads; a field it has not reads as empty.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(&value_of(&requirement.field)))
    }

    /// The value this field must equal, if the selector says so: `metadata.name=x` makes a list a single look-up.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        let equals =
            |r: &&FieldRequirement| &*r.field == field && r.operator == FieldOperator::Equals;
        self.requirements
            .iter()
            .find(equals)
            .map(|requirement| &*requirement.value)
    }
}

impl FieldRequirement {
    /// True when a field with this value satisfies it.
    pub fn matches(&self, value: &str) -> bool {
        (*self.value == *value) == (self.operator == FieldOperator::Equals)
    }
}

impl FromStr for FieldSelector {
    type Err = SelectorError;

    /// Reads `f=v`, `f==v`, `f!=v`, joined by commas; `\,`, `\=` and `\\` stand for themselves in values.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let terms = split_terms(text)
            .into_iter()
            .filter(|term| !term.is_empty());
        Ok(Self {
            requirements: terms.map(parse_term).collect::<Result<_, _>>()?,
        })
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        if byte == b',' && !escaped {
            terms.push(&text[start..at]);
            start = at + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    terms.push(&text[start..]);
    terms
}

fn parse_term(term: &str) -> Result<FieldRequirement, SelectorError> {
    let at = term
        .find(['!', '='])
        .ok_or_else(|| SelectorError::Term(term.into()))?;
    let (field, rest) = term.split_at(at);
    let (operator, value) = if let Some(value) = rest.strip_prefix("!=") {
        (FieldOperator::NotEquals, value)
    } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        (FieldOperator::Equals, value)
    } else {
        return Err(SelectorError::Term(term.into()));
    };
    Ok(FieldRequirement {
        field: field.into(),
        operator,
        value: unescape(value)?,
    })
}

fn unescape(value: &str) -> Result<Box<str>, SelectorError> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => text.push(escaped),
                _ => return Err(SelectorError::Escape(value.into())),
            },
            '=' => return Err(SelectorError::Term(value.into())),
            c => text.push(c),
        }
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<(String, bool, String)> {
        let selector: FieldSelector = text
            .parse()
            .unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let plain = |r: FieldRequirement| {
            (
                r.field.into(),
                r.operator == FieldOperator::Equals,
                r.value.into(),
            )
        };
        selector.requirements.into_iter().map(plain).collect()
    }

    #[test]
    fn terms_operators_and_escapes_are_read() {
        let term = |field: &str, equals, value: &str| (field.to_owned(), equals, value.to_owned());
        assert_eq!(parse(""), []);
        assert_eq!(
            parse("a=b,c!=d,e==f"),
            [
                term("a", true, "b"),
                term("c", false, "d"),
                term("e", true, "f")
            ]
        );
        assert_eq!(
            parse("involvedObject.namespace="),
            [term("involvedObject.namespace", true, "")]
        );
        assert_eq!(parse(r"a=x\,y\=z\\"), [term("a", true, r"x,y=z\")]);
        assert_eq!(parse("a=b,"), [term("a", true, "b")]);
    }

    #[test]
    fn malformed_terms_are_refused() {
        for text in ["a", "a!b", "a=b=c", r"a=\x", r"a=\", "a=b,c"] {
            assert!(text.parse::<FieldSelector>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn requirements_compare_values() {
        let selector: FieldSelector = "spec.nodeName=n1,status.phase!=Failed".parse().unwrap();
        let on = |node: &'static str, phase: &'static str| {
            selector.matches(|field| {
                if field == "spec.nodeName" {
                    node.into()
                } else {
                    phase.into()
                }
            })
        };
        assert!(on("n1", "Running"));
        assert!(!on("n1", "Failed"));
        assert!(!on("", "Running"));
        assert_eq!(selector.required_value("spec.nodeName"), Some("n1"));
        assert_eq!(selector.required_value("status.phase"), None);
    }
}
