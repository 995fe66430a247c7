//! Label and field selectors of query parameters.

use api::{
    meta::StringMap,
    selector::{FieldSelector, LabelSelector},
};

/// A selector on the first line, labels to match on the others.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (selector, labels) = text.split_once('\n').unwrap_or((text, "app=web"));
    let labels: StringMap = labels
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    if let Ok(selector) = selector.parse::<LabelSelector>() {
        let matches = selector.matches(&labels);
        assert!(
            matches || !selector.is_empty(),
            "an empty selector selects all"
        );
    }
    if let Ok(selector) = selector.parse::<FieldSelector>() {
        let value = |field: &str| labels.get(field).map_or("", |value| value);
        let each = selector
            .requirements
            .iter()
            .all(|one| one.matches(value(&one.field)));
        assert_eq!(selector.matches(|field| value(field).into()), each);
    }
}
