//! Lists and the events of a watch, as clients read them.

use serde::{Deserialize, Serialize};

use super::ListMeta;

/// What happened to the object of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventType {
    /// The object is new to this watch.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone, or no longer matches the watch's selector; the event carries its last state.
    Deleted,
    /// Only `metadata.resourceVersion` counts: everything up to it has been sent.
    Bookmark,
    /// The object is a [`Status`](super::Status); the watch ends.
    Error,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchEvent<T> {
    /// What happened.
    pub r#type: EventType,
    /// The object after it happened.
    pub object: T,
}

/// A list of objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct List<T> {
    /// Where a watch continues, and the token of the next page.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects; a Go server writes an empty list as `null`.
    #[serde(default = "Vec::new", deserialize_with = "items")]
    pub items: Vec<T>,
}

fn items<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_lists_read_as_a_server_writes_them() {
        let event: WatchEvent<u8> =
            serde_json::from_str(r#"{"type":"BOOKMARK","object":1}"#).unwrap();
        assert_eq!(event.r#type, EventType::Bookmark);
        let list: List<u8> =
            serde_json::from_str(r#"{"metadata":{"resourceVersion":"7"},"items":null}"#).unwrap();
        assert_eq!(
            (&*list.metadata.resource_version, list.items),
            ("7", vec![])
        );
    }
}
