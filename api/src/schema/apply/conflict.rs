//! Fields that an applied configuration sets to another value, and that somebody else owns.

use std::fmt;

use super::FieldSet;
use super::Operation;
use super::managers::Entry;

/// The conflicts of an applied configuration, by manager. Prints as the message of the API's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts(Vec<(String, FieldSet)>);

impl Conflicts {
    /// Adds the fields of a manager.
    pub(super) fn add(&mut self, entry: &Entry<'_>, fields: FieldSet) {
        if !fields.is_empty() {
            self.0.push((name(entry), fields));
            self.0.sort_by(|a, b| a.0.cmp(&b.0));
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are not about these fields.
    pub(super) fn without(&self, fields: &FieldSet) -> Self {
        let rest = self
            .0
            .iter()
            .map(|(name, conflicting)| (name.clone(), conflicting.difference(fields)));
        Self(rest.filter(|(_, fields)| !fields.is_empty()).collect())
    }

    /// Each field: the manager that owns it, as messages print it, and its path.
    pub fn each(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().flat_map(|(name, fields)| {
            fields
                .paths()
                .into_iter()
                .map(move |path| (name.as_str(), path))
        })
    }
}

/// `"m"`, `"m" with subresource "status"`, `"m" using apps/v1`.
fn name(entry: &Entry<'_>) -> String {
    let mut name = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        name = format!("{name} with subresource {:?}", entry.subresource);
    }
    if entry.operation == Operation::Update {
        name = format!("{name} using {}", entry.api_version);
    }
    name
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<(&str, String)> = self.each().collect();
        if let [(manager, path)] = all.as_slice() {
            return write!(
                f,
                "Apply failed with 1 conflict: conflict with {manager}: {path}"
            );
        }
        write!(f, "Apply failed with {} conflicts: ", all.len())?;
        for (index, (manager, fields)) in self.0.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}conflicts with {manager}:")?;
            for path in fields.paths() {
                write!(f, "\n- {path}")?;
            }
        }
        Ok(())
    }
}
