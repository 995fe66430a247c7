//! Events: what happened to an object, for people.

use super::ObjectReference;
use crate::meta::{MicroTime, ObjectMeta, Time};
use crate::wire::wire;

wire! {
    /// One thing that happened, perhaps several times.
    kind("", "v1", "Event", "events")
    pub struct Event {
        [always] {
            metadata: ObjectMeta,
            involved_object: ObjectReference,
        }
        reason: Box<str>,
        message: Box<str>,
        source: EventSource,
        first_timestamp: Option<Time>,
        last_timestamp: Option<Time>,
        count: i32,
        r#type: Box<str>,
        event_time: Option<MicroTime>,
        series: Option<EventSeries>,
        action: Box<str>,
        related: Option<ObjectReference>,
        reporting_component: Box<str>,
        reporting_instance: Box<str>,
    }

    /// Who saw it.
    pub struct EventSource {
        component: Box<str>,
        host: Box<str>,
    }

    /// How often it happened in a row.
    pub struct EventSeries {
        count: i32,
        last_observed_time: Option<MicroTime>,
    }
}
