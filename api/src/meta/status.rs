//! The answer to a request that returns no object: `meta/v1.Status`.

use super::ListMeta;
use crate::wire::wire;

wire! {
    /// Success or failure of a request, in words and in machine-readable details.
    pub struct Status {
        [always] {
            kind: Box<str>,
            api_version: Box<str>,
            metadata: ListMeta,
            status: Box<str>,
        }
        message: Box<str>,
        reason: Box<str>,
        details: Option<StatusDetails>,
        code: u16,
    }

    /// What the status is about, and each cause.
    pub struct StatusDetails {
        name: Box<str>,
        group: Box<str>,
        kind: Box<str>,
        uid: Box<str>,
        causes: Vec<StatusCause>,
        retry_after_seconds: i32,
    }

    /// One cause: `reason` such as `FieldValueInvalid`, `field` such as `spec.ports[0].port`.
    pub struct StatusCause {
        reason: Box<str>,
        message: Box<str>,
        field: Box<str>,
    }
}

impl Status {
    /// A failure with its HTTP code and one of Kubernetes' reasons, such as `NotFound`.
    pub fn failure(code: u16, reason: &str, message: impl Into<Box<str>>) -> Self {
        Self {
            message: message.into(),
            reason: reason.into(),
            code,
            ..Self::new("Failure")
        }
    }

    /// The plain success a DELETE or an eviction answers.
    pub fn success() -> Self {
        Self {
            code: 200,
            ..Self::new("Success")
        }
    }

    fn new(status: &str) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            status: status.into(),
            ..Self::default()
        }
    }
}
