//! Label selectors.

use std::str::FromStr;

use super::SelectorError;
use super::lexer::{Lexer, Token};
use crate::meta::{self, StringMap};
use crate::names;

/// Requirements that must all hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// What must hold of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: Box<str>,
    /// What is asked of its value.
    pub operator: Operator,
}

/// What is asked of a label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Present with one of these values.
    In(Vec<Box<str>>),
    /// Absent, or present with another value than these.
    NotIn(Vec<Box<str>>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present, a number, and greater.
    GreaterThan(i64),
    /// Present, a number, and less.
    LessThan(i64),
}

impl LabelSelector {
    /// The selector of Services and ReplicationControllers: every label equal.
    pub fn from_map(labels: &StringMap) -> Self {
        let mut requirements = Vec::with_capacity(labels.len());
        for (key, value) in labels {
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.clone()]),
            });
        }
        Self { requirements }
    }

    /// True when every requirement holds.
    pub fn matches(&self, labels: &StringMap) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }

    /// True when it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements, in the order they were written.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl TryFrom<&meta::LabelSelector> for LabelSelector {
    type Error = SelectorError;

    /// The selector of Deployments, policies and so on.
    fn try_from(selector: &meta::LabelSelector) -> Result<Self, SelectorError> {
        let mut result = Self::from_map(&selector.match_labels);
        for expression in &selector.match_expressions {
            let values = expression.values.clone();
            let operator = match &*expression.operator {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Err(SelectorError::Operator(expression.operator.clone())),
            };
            result.requirements.push(Requirement {
                key: expression.key.clone(),
                operator,
            });
        }
        result
            .requirements
            .iter()
            .try_for_each(Requirement::check)?;
        Ok(result)
    }
}

impl Requirement {
    fn matches(&self, labels: &StringMap) -> bool {
        let value = labels.get(&self.key);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }

    fn check(&self) -> Result<(), SelectorError> {
        names::qualified_name(&self.key).map_err(|reason| SelectorError::Key {
            key: self.key.clone(),
            reason: reason.into(),
        })?;
        let (Operator::In(values) | Operator::NotIn(values)) = &self.operator else {
            return Ok(());
        };
        if values.is_empty() {
            let reason = "for 'in', 'notin' operators, values set can't be empty".into();
            return Err(SelectorError::Value {
                value: "".into(),
                reason,
            });
        }
        values.iter().try_for_each(|value| {
            names::label_value(value).map_err(|reason| SelectorError::Value {
                value: value.clone(),
                reason: reason.into(),
            })
        })
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    /// Reads `k`, `!k`, `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k>1`, `k<1`, joined by commas.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut lexer = Lexer::new(text);
        let mut requirements = Vec::new();
        if lexer.peek() == Token::End {
            return Ok(Self::default());
        }
        loop {
            let requirement = parse_requirement(&mut lexer)?;
            requirement.check()?;
            requirements.push(requirement);
            match lexer.next() {
                Token::End => return Ok(Self { requirements }),
                Token::Symbol(",") => {}
                found => return Err(unexpected(found, "',' or 'end of string'")),
            }
        }
    }
}

fn unexpected(found: Token<'_>, expected: &'static str) -> SelectorError {
    SelectorError::Unexpected {
        found: found.text().into(),
        expected,
    }
}

fn parse_requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, SelectorError> {
    let absent = lexer.peek() == Token::Symbol("!");
    if absent {
        lexer.next();
    }
    let key = match lexer.next() {
        Token::Word(key) => Box::from(key),
        found => return Err(unexpected(found, "!, identifier, or 'end of string'")),
    };
    let operator = if absent {
        Operator::DoesNotExist
    } else {
        parse_operator(lexer)?
    };
    Ok(Requirement { key, operator })
}

fn parse_operator(lexer: &mut Lexer<'_>) -> Result<Operator, SelectorError> {
    if matches!(lexer.peek(), Token::End | Token::Symbol(",")) {
        return Ok(Operator::Exists);
    }
    match lexer.next() {
        Token::Symbol("=" | "==") => Ok(Operator::In(vec![parse_value(lexer).into()])),
        Token::Symbol("!=") => Ok(Operator::NotIn(vec![parse_value(lexer).into()])),
        Token::Symbol(">") => parse_number(lexer).map(Operator::GreaterThan),
        Token::Symbol("<") => parse_number(lexer).map(Operator::LessThan),
        Token::Word("in") => parse_values(lexer).map(Operator::In),
        Token::Word("notin") => parse_values(lexer).map(Operator::NotIn),
        found => Err(unexpected(found, "in, notin, =, ==, !=, gt, lt")),
    }
}

/// A word, or nothing: `k=` asks for the empty value.
fn parse_value<'a>(lexer: &mut Lexer<'a>) -> &'a str {
    match lexer.peek() {
        Token::Word(word) => {
            lexer.next();
            word
        }
        Token::Symbol(_) | Token::End => "",
    }
}

fn parse_number(lexer: &mut Lexer<'_>) -> Result<i64, SelectorError> {
    let value = parse_value(lexer);
    let reason = "for 'Gt', 'Lt' operators, the value must be an integer";
    value.parse().map_err(|_| SelectorError::Value {
        value: value.into(),
        reason: reason.into(),
    })
}

fn parse_values(lexer: &mut Lexer<'_>) -> Result<Vec<Box<str>>, SelectorError> {
    match lexer.next() {
        Token::Symbol("(") => {}
        found => return Err(unexpected(found, "'('")),
    }
    let mut values = Vec::new();
    loop {
        values.push(parse_value(lexer).into());
        match lexer.next() {
            Token::Symbol(",") => {}
            Token::Symbol(")") => return Ok(values),
            found => return Err(unexpected(found, "',' or ')'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> StringMap {
        pairs
            .iter()
            .map(|(key, value)| (Box::from(*key), Box::from(*value)))
            .collect()
    }

    #[test]
    fn selectors_match_as_the_documentation_says() {
        let web = labels(&[("app", "web"), ("tier", "3"), ("empty", "")]);
        let cases = [
            ("", true),
            ("  ", true),
            ("app", true),
            ("!app", false),
            ("!none", true),
            ("! none", true),
            ("app=web", true),
            ("app == web", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("none!=x", true),
            ("none=x", false),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db,web)", false),
            ("none notin (a)", true),
            ("none in (a)", false),
            ("app=web,tier in (3),!none", true),
            ("app=web,none", false),
            ("empty=", true),
            ("empty in (,a)", true),
            ("app=", false),
            ("tier>2", true),
            ("tier > 3", false),
            ("tier<4", true),
            ("app>1", false),
            ("in in (in)", false),
            ("notin", false),
        ];
        for (text, wanted) in cases {
            let selector: LabelSelector = text
                .parse()
                .unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(selector.matches(&web), wanted, "{text:?}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        let cases = [
            ",",
            "a,",
            "a,,b",
            "a=b=c",
            "a in",
            "a in (",
            "a in (b",
            "a in b",
            "a b",
            "=a",
            "a=b c",
            "(a)",
            "!a=b",
            "a>b",
            "-a",
            "a=-b",
            "x y=z",
            "a in (b))",
            "a/b/c=d",
            "a=$",
        ];
        for text in cases {
            assert!(text.parse::<LabelSelector>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn selectors_of_objects_match_like_their_text() {
        let json = r#"{"matchLabels":{"a":"1"},"matchExpressions":[{"key":"b","operator":"NotIn","values":["2"]}]}"#;
        let stored: meta::LabelSelector = serde_json::from_str(json).unwrap();
        assert_eq!(
            LabelSelector::try_from(&stored).unwrap(),
            "a=1,b notin (2)".parse().unwrap()
        );
    }

    #[test]
    fn an_unknown_operator_of_an_object_is_refused() {
        let json = r#"{"matchExpressions":[{"key":"b","operator":"Gt","values":["2"]}]}"#;
        let stored: meta::LabelSelector = serde_json::from_str(json).unwrap();
        assert_eq!(
            LabelSelector::try_from(&stored),
            Err(SelectorError::Operator("Gt".into()))
        );
    }
}
