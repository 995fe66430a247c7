//! What the client wants to read (N4-N6).

use crate::registry::ApiError;

/// What an answer is turned into before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// The object as it is.
    #[default]
    Object,
    /// The object without its managedFields, for those who never look at them: our agents. Asked for with the parameter
    /// `managedFields=false`, which other servers ignore.
    Content,
    /// A `Table` of meta.k8s.io, of this version.
    Table(&'static str),
    /// `PartialObjectMetadata` or its list, of this version.
    Metadata(&'static str),
}

/// One clause of an Accept header.
#[derive(Debug)]
pub(crate) struct Clause<'a> {
    pub(crate) media_type: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
            .collect();
        let quality = parameters.iter().find(|(key, _)| *key == "q");
        let quality = quality
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(1.0);
        Self {
            media_type,
            quality,
            parameters,
        }
    }

    pub(crate) fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, value)| *value)
    }

    /// Whether JSON answers this clause.
    pub(crate) fn takes_json(&self) -> bool {
        matches!(
            self.media_type,
            "application/json" | "application/*" | "*/*"
        )
    }

    fn shape(&self) -> Option<Shape> {
        if !self.takes_json() {
            return None;
        }
        let Some(shape) = self.parameter("as") else {
            return Some(match self.parameter("managedFields") {
                Some("false") => Shape::Content,
                _ => Shape::Object,
            });
        };
        let version = match (self.parameter("g"), self.parameter("v")) {
            (Some("meta.k8s.io"), Some("v1")) => "meta.k8s.io/v1",
            (Some("meta.k8s.io"), Some("v1beta1")) => "meta.k8s.io/v1beta1",
            _ => return None,
        };
        match shape {
            "Table" => Some(Shape::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Metadata(version)),
            _ => None,
        }
    }
}

/// The clauses, best first.
pub(crate) fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .map(str::trim)
        .filter(|clause| !clause.is_empty())
        .map(Clause::parse)
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// The first clause that can be served. A transform this endpoint cannot do is skipped, not failed.
///
/// # Errors
/// [`ApiError::NotAcceptable`] when no clause fits.
pub fn shape(accept: &str, tables: bool) -> Result<Shape, ApiError> {
    let clauses = clauses(accept);
    if clauses.is_empty() {
        return Ok(Shape::Object);
    }
    clauses
        .iter()
        .filter_map(Clause::shape)
        .find(|shape| tables || matches!(shape, Shape::Object | Shape::Content))
        .ok_or(ApiError::NotAcceptable("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n4_the_first_clause_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            ("", Some(Shape::Object)),
            ("*/*", Some(Shape::Object)),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Shape::Object),
            ),
            (
                "application/vnd.kubernetes.protobuf, */*",
                Some(Shape::Object),
            ),
            (table, Some(Shape::Table("meta.k8s.io/v1"))),
            (
                "application/json;q=0.5,application/json;as=Table;v=v1beta1;g=meta.k8s.io",
                Some(Shape::Table("meta.k8s.io/v1beta1")),
            ),
            (
                "application/json;as=Unknown;v=v1;g=meta.k8s.io,application/json",
                Some(Shape::Object),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Shape::Metadata("meta.k8s.io/v1")),
            ),
            ("application/json;pretty=1;profile=x", Some(Shape::Object)),
            ("application/json;managedFields=false", Some(Shape::Content)),
            ("application/cbor", None),
        ];
        for (accept, wanted) in cases {
            assert_eq!(shape(accept, true).ok(), wanted, "{accept}");
        }
        assert!(shape(table, false).is_err(), "N5: a table of what has none");
    }
}
