//! The small part of JSONPath that CustomResourceDefinitions use, in columns, selectable fields and the paths of a scale.
//! Source: kubernetes.io/docs/reference/kubectl/jsonpath.

use std::str::FromStr;

use serde_json::Value;

/// A path such as `.spec.replicas`, `.metadata.labels['app']`, `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// `[-1:]`, `[0:2]`: from which item on, and before which it ends.
    Slice(Option<i64>, Option<i64>),
    /// `[*]` and `.*`.
    All,
    /// `[?(@.type=="Ready")]`: the path below the item, whether it must be equal, the value.
    Filter(Vec<String>, bool, Value),
}

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct JsonPathError(&'static str);

impl FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        let mut rest = inner.unwrap_or(text);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, behind) = match rest.strip_prefix('[') {
                Some(inside) => bracket(inside)?,
                None => field(
                    rest.strip_prefix('.')
                        .ok_or(JsonPathError("a path begins with a dot"))?,
                )?,
            };
            steps.push(step);
            rest = behind;
        }
        Ok(Self(steps))
    }
}

fn field(rest: &str) -> Result<(Step, &str), JsonPathError> {
    let mut name = String::new();
    let mut chars = rest.char_indices();
    let mut end = rest.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c if c.is_whitespace() => return Err(JsonPathError("a name has no spaces")),
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => Err(JsonPathError("a name is missing behind a dot")),
        "*" => Ok((Step::All, &rest[end..])),
        _ => Ok((Step::Field(name), &rest[end..])),
    }
}

fn bracket(inside: &str) -> Result<(Step, &str), JsonPathError> {
    const OPEN: JsonPathError = JsonPathError("a bracket is not closed");
    if let Some(filter) = inside.strip_prefix("?(") {
        let (condition, rest) = filter.split_once(")]").ok_or(OPEN)?;
        return Ok((read_filter(condition)?, rest));
    }
    for quote in ['\'', '"'] {
        if let Some(quoted) = inside.strip_prefix(quote) {
            let (name, rest) = quoted.split_once(&format!("{quote}]")).ok_or(OPEN)?;
            return Ok((Step::Field(name.to_owned()), rest));
        }
    }
    let (index, rest) = inside.split_once(']').ok_or(OPEN)?;
    if index == "*" {
        return Ok((Step::All, rest));
    }
    const SHAPE: JsonPathError =
        JsonPathError("between brackets stands a number, a range, *, a quoted name or a filter");
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| SHAPE);
    let end = |text: &str| match text.trim() {
        "" => Ok(None),
        text => number(text).map(Some),
    };
    let step = match index.split_once(':') {
        Some((from, to)) => Step::Slice(end(from)?, end(to)?),
        None => Step::Index(number(index)?),
    };
    Ok((step, rest))
}

fn read_filter(condition: &str) -> Result<Step, JsonPathError> {
    const SHAPE: JsonPathError = JsonPathError("a filter is like ?(@.name==\"value\")");
    let (path, equal, value) = match (condition.split_once("=="), condition.split_once("!=")) {
        (Some((path, value)), _) => (path, true, value),
        (None, Some((path, value))) => (path, false, value),
        (None, None) => return Err(SHAPE),
    };
    let path = path.trim().strip_prefix("@.").ok_or(SHAPE)?;
    let value = value.trim();
    let text = value
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    let value = match text {
        Some(text) => text.into(),
        None => serde_json::from_str(value).map_err(|_| SHAPE)?,
    };
    Ok(Step::Filter(
        path.split('.').map(str::to_owned).collect(),
        equal,
        value,
    ))
}

impl JsonPath {
    /// What stands there: nothing, one value, or several where the path has a star or a filter.
    pub(crate) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.find(value))
                .collect();
        }
        found
    }

    /// The names of a path that has nothing but names.
    pub(crate) fn names(&self) -> Option<Vec<&str>> {
        self.0.iter().map(Step::name).collect()
    }
}

impl Step {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            _ => None,
        }
    }

    fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = || -> Vec<&'v Value> {
            match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            }
        };
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let list = value.as_array().map_or(&[][..], Vec::as_slice);
                let at = position(*index, list.len());
                at.and_then(|at| list.get(at)).into_iter().collect()
            }
            Self::Slice(from, to) => {
                let list = value.as_array().map_or(&[][..], Vec::as_slice);
                let from = from.map_or(Some(0), |from| position(from, list.len()));
                let to = to.map_or(Some(list.len()), |to| position(to, list.len()));
                let range = from.zip(to).and_then(|(from, to)| list.get(from..to));
                range.into_iter().flatten().collect()
            }
            Self::All => items(),
            Self::Filter(path, equal, wanted) => {
                let at =
                    |item: &'v Value| path.iter().try_fold(item, |value, name| value.get(name));
                let fits = |item: &&'v Value| at(item).is_some_and(|got| (got == wanted) == *equal);
                items().into_iter().filter(fits).collect()
            }
        }
    }
}

/// Where in a list of so many an index points; negative ones count from the end.
fn position(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    usize::try_from(if index < 0 { length + index } else { index }).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_they_name() {
        let value = json!({
            "spec": {"replicas": 3, "a.b": 1},
            "metadata": {"labels": {"app.kubernetes.io/name": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Done", "status": "False"}], "names": ["a", "b"]},
        });
        let cases = [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec.a\\.b", json!([1])),
            (".spec['a.b']", json!([1])),
            (".metadata.labels.app\\.kubernetes\\.io/name", json!(["x"])),
            (".metadata.labels['app.kubernetes.io/name']", json!(["x"])),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!(["True"]),
            ),
            (
                ".status.conditions[?(@.type=='Done')].status",
                json!(["False"]),
            ),
            (
                ".status.conditions[?(@.type!='Done')].status",
                json!(["True"]),
            ),
            (".status.names[0]", json!(["a"])),
            (".status.names[-1]", json!(["b"])),
            (".status.names[*]", json!(["a", "b"])),
            (".status.conditions[-1:].type", json!(["Done"])),
            (".status.names[:1]", json!(["a"])),
            (".status.names[0:2]", json!(["a", "b"])),
            (".status.names[:]", json!(["a", "b"])),
            (".status.names[1:0]", json!([])),
            (".status.names[-3:]", json!([])),
            (".status.names[0:3]", json!([])),
            (".status.missing.more", json!([])),
        ];
        for (path, wanted) in cases {
            let parsed: JsonPath = path.parse().unwrap();
            assert_eq!(json!(parsed.find(&value)), wanted, "{path}");
        }
        for path in ["spec", ".", ".a[", ".a[x]", ".a[?(b)]", ".a b"] {
            assert!(path.parse::<JsonPath>().is_err(), "{path}");
        }
    }
}
