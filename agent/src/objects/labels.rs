//! Labels, of which only few mean anything to the agent.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// On the EndpointSlices of a headless Service: they are for DNS only.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The labels that are kept.
const KEPT: [&str; 3] = [PROXY_NAME_LABEL, SERVICE_NAME_LABEL, HEADLESS_LABEL];

/// The labels of a Service or an EndpointSlice that decide something here. The others are not kept: a large cluster has tens
/// of thousands of objects with a handful of labels each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    values: [Option<Box<str>>; KEPT.len()],
}

impl Labels {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values[place(name)?].as_deref()
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a label, if it is one that is kept.
    #[cfg(test)]
    pub(crate) fn insert(&mut self, name: Box<str>, value: Box<str>) {
        if let Some(place) = place(&name) {
            self.values[place] = Some(value);
        }
    }
}

/// Where a label is kept.
fn place(name: &str) -> Option<usize> {
    KEPT.iter().position(|kept| *kept == name)
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut labels = Labels::default();
        while let Some(Place(place)) = map.next_key()? {
            match place {
                Some(place) => labels.values[place] = Some(map.next_value()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(labels)
    }
}

/// A label's name, read without keeping it.
struct Place(Option<usize>);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(PlaceVisitor)
    }
}

struct PlaceVisitor;

impl Visitor<'_> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Place, E> {
        Ok(Place(place(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_that_decide_something_are_kept() {
        let text = r#"{"app": "web", "kubernetes.io/service-name": "a\u0062", "service.kubernetes.io/headless": ""}"#;
        let labels: Labels = serde_json::from_str(text).expect("labels");
        assert_eq!(labels.get(SERVICE_NAME_LABEL), Some("ab"));
        assert!(labels.contains_key(HEADLESS_LABEL) && !labels.contains_key(PROXY_NAME_LABEL));
        assert_eq!(labels.get("app"), None);
    }
}
