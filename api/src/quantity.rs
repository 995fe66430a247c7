//! Amounts of resources: `250m`, `1.5Gi`, `2e3`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// An amount as it was written. JSON may carry it as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub Box<str>);

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Text(Box<str>),
            Number(serde_json::Number),
        }
        Ok(match Spelling::deserialize(deserializer)? {
            Spelling::Text(text) => Self(text),
            Spelling::Number(number) => Self(number.to_string().into()),
        })
    }
}
