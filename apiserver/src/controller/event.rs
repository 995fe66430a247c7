//! Events: what a controller did to an object, or could not, for people.

use api::{
    core::{Event, EventSource, ObjectReference},
    meta::{ObjectMeta, Time},
    names::random_suffix,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As it should be.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

/// An event about an object, as `kubectl describe` shows it.
pub(super) fn new(
    about: ObjectReference,
    component: &str,
    level: Level,
    reason: &str,
    message: String,
) -> Event {
    let suffix = random_suffix(10, &mut rand::rng());
    let level = match level {
        Level::Normal => "Normal",
        Level::Warning => "Warning",
    };
    // What has no namespace has its events in `default`.
    let namespace = if about.namespace.is_empty() {
        "default".into()
    } else {
        about.namespace.clone()
    };
    Event {
        metadata: ObjectMeta {
            name: format!("{}.{suffix}", about.name).into(),
            namespace,
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: reason.into(),
        message: message.into(),
        source: EventSource {
            component: component.into(),
            ..EventSource::default()
        },
        first_timestamp: Some(Time::now()),
        last_timestamp: Some(Time::now()),
        count: 1,
        r#type: level.into(),
        reporting_component: component.into(),
        ..Event::default()
    }
}
