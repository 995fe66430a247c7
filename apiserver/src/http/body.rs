//! Request bodies: JSON, YAML, protobuf (N1-N3, N9).

use std::{sync::PoisonError, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::header;
use serde_json::Value;

use super::{Call, schema};
use crate::registry::ApiError;

/// The largest body read, as upstream.
const LIMIT_BYTES: usize = 3 * 1024 * 1024;
/// How long a client may take to send a body.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The media types of bodies.
pub(super) const ACCEPTED: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// A decoded body.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) value: Value,
    /// Keys that came twice.
    pub(super) duplicates: Vec<String>,
}

/// Reads the whole body.
pub(super) async fn read(call: &mut Call) -> Result<Bytes, ApiError> {
    let unread = call.body.get_mut().unwrap_or_else(PoisonError::into_inner);
    let body = std::mem::replace(unread, Body::empty());
    let announced = call.header(header::CONTENT_LENGTH).parse::<usize>();
    if announced.is_ok_and(|length| length > LIMIT_BYTES) {
        return Err(ApiError::TooLarge {
            limit_bytes: LIMIT_BYTES,
        });
    }
    collect(body, LIMIT_BYTES, PATIENCE).await
}

/// Reads a body of at most so many bytes, and waits no longer than that for all of it.
///
/// # Errors
/// [`ApiError::TooLarge`], [`ApiError::BadRequest`].
pub(crate) async fn collect(
    body: Body,
    limit_bytes: usize,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let reading = tokio::time::timeout(patience, axum::body::to_bytes(body, limit_bytes));
    let Ok(read) = reading.await else {
        return Err(ApiError::BadRequest(format!(
            "the request body did not arrive within {} s: send it again",
            patience.as_secs()
        )));
    };
    read.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            ApiError::TooLarge { limit_bytes }
        } else {
            ApiError::BadRequest(format!("reading the request body: {error}"))
        }
    })
}

/// The media type of the body without parameters, lower case. A missing one counts as JSON.
pub(super) fn media_type(call: &Call) -> String {
    let text = call.header(header::CONTENT_TYPE);
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() {
        "application/json".into()
    } else {
        essence.to_ascii_lowercase()
    }
}

/// Reads and decodes the body.
/// `expected` is the group, version and kind a protobuf body is of when it does not say.
pub(super) async fn decode(
    call: &mut Call,
    expected: (&str, &str, &str),
) -> Result<Document, ApiError> {
    let media_type = media_type(call);
    let bytes = read(call).await?;
    document(&media_type, &bytes, expected)
}

/// Decodes a body that has been read.
pub(super) fn document(
    media_type: &str,
    bytes: &[u8],
    expected: (&str, &str, &str),
) -> Result<Document, ApiError> {
    match media_type {
        "application/json" => json(bytes),
        "application/yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" => Ok(Document {
            value: schema::from_protobuf(bytes, expected)?,
            duplicates: Vec::new(),
        }),
        _ => Err(ApiError::UnsupportedMediaType { accepted: ACCEPTED }),
    }
}

/// JSON, with an eye on keys that come twice (V5).
pub(super) fn json(bytes: &[u8]) -> Result<Document, ApiError> {
    let (value, duplicates) = api::json::parse(bytes).map_err(|error| {
        ApiError::BadRequest(format!("the request body is not valid JSON: {error}"))
    })?;
    Ok(Document { value, duplicates })
}

/// YAML, which JSON is too, with the same eye.
pub(super) fn yaml(bytes: &[u8]) -> Result<Document, ApiError> {
    let (value, duplicates) = api::yaml::parse(bytes).map_err(|error| {
        ApiError::BadRequest(format!("the request body is not valid YAML: {error}"))
    })?;
    Ok(Document { value, duplicates })
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let started = stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = Body::from_stream(started.chain(stream::pending()));
        let error = collect(body, 100, Duration::from_millis(10)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did not arrive"), "{error}");
    }
}
