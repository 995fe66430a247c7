//! How objects leave: as they are, as metadata, or as a Table (N6, T1-T5).

use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Call,
    accept::{self, Shape},
    json_bytes,
};
use crate::registry::{ApiError, Kind, List, Object, table::Row};

/// What of the object a table row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// What the client asked to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    shape: Shape,
    include: Include,
}

impl View {
    /// From Accept and `includeObject`.
    pub(super) fn of(call: &Call) -> Result<Self, ApiError> {
        let include = match call.query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::None,
            "Object" => Include::Object,
            other => {
                return Err(ApiError::BadRequest(format!(
                    "includeObject: \"{other}\" is not one of None, Metadata, Object"
                )));
            }
        };
        Ok(Self {
            shape: accept::shape(call.header(header::ACCEPT), true)?,
            include,
        })
    }

    pub(super) fn shape(self) -> Shape {
        self.shape
    }

    /// One object as a response, with warnings.
    pub(super) fn respond(
        self,
        code: StatusCode,
        object: &Object,
        warnings: &[String],
    ) -> Response {
        let mut response = json_bytes(code, self.object(object, true));
        warn(&mut response, warnings);
        response
    }

    /// One object. `columns` is whether a Table carries its column definitions.
    pub(super) fn object(self, object: &Object, columns: bool) -> Bytes {
        match self.shape {
            Shape::Object => object.bytes(),
            Shape::Content => {
                let mut out = Vec::new();
                object.write_content(&mut out);
                out.into()
            }
            Shape::Metadata(version) => metadata(object, version).into(),
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": object.revision().0.to_string()});
                let rows = vec![self.row(object, version)];
                table(object.kind(), version, &meta, columns, rows).into()
            }
        }
    }

    /// A list.
    pub(super) fn list(self, kind: &'static Kind, list: &List) -> Response {
        let mut meta = json!({"resourceVersion": list.revision.0.to_string()});
        if let Some(token) = &list.continue_token {
            meta["continue"] = json!(token);
        }
        if let Some(remaining) = list.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        let body = match self.shape {
            Shape::Object | Shape::Content => {
                let head = format!(
                    r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
                    kind.list_kind(),
                    kind.api_version()
                );
                if self.shape == Shape::Content {
                    joined(head, &list.objects, Object::write_content)
                } else {
                    joined(head, &list.objects, Object::write_to)
                }
            }
            Shape::Metadata(version) => {
                let head = format!(
                    r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{version}","metadata":{meta},"items":["#
                );
                joined(head, &list.objects, |object, out| {
                    out.extend_from_slice(metadata(object, version).as_bytes());
                })
            }
            Shape::Table(version) => {
                let rows = list.objects.iter().map(|object| self.row(object, version));
                table(kind, version, &meta, true, rows.collect()).into_bytes()
            }
        };
        json_bytes(StatusCode::OK, body)
    }

    fn row(self, object: &Object, version: &str) -> Value {
        let value = object.value();
        let mut row = Row::new(Timestamp::now());
        object.kind().fill(&value, &mut row);
        let mut json = json!({"cells": row.cells});
        if !row.conditions.is_empty() {
            json["conditions"] = row.conditions.into();
        }
        match self.include {
            Include::None => {}
            Include::Object => json["object"] = value,
            Include::Metadata => {
                json["object"] = json!({
                    "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": value["metadata"],
                });
            }
        }
        json
    }

    /// What a bookmark carries: an object of the watched kind with nothing but a resourceVersion (W6).
    pub(super) fn bookmark(self, kind: &Kind, meta: &Value) -> Value {
        match self.shape {
            Shape::Object | Shape::Content => {
                json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta})
            }
            Shape::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta})
            }
            Shape::Table(version) => json!({
                "kind": "Table", "apiVersion": version, "metadata": meta,
                "columnDefinitions": [], "rows": [],
            }),
        }
    }
}

/// `head`, the items with commas between them, `]}`.
fn joined(head: String, objects: &[Object], write: impl Fn(&Object, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = head.into_bytes();
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(object, &mut out);
    }
    out.extend_from_slice(b"]}");
    out
}

fn table(kind: &Kind, version: &str, meta: &Value, columns: bool, rows: Vec<Value>) -> String {
    let columns: Vec<Value> = if columns {
        kind.column_definitions()
    } else {
        Vec::new()
    };
    json!({
        "kind": "Table", "apiVersion": version, "metadata": meta,
        "columnDefinitions": columns, "rows": rows,
    })
    .to_string()
}

/// The metadata as text, taken out of the object without reading the rest.
fn metadata(object: &Object, version: &str) -> String {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let bytes = object.bytes();
    let head: Result<Head<'_>, _> = serde_json::from_slice(&bytes);
    let metadata = head.as_ref().map_or("{}", |head| head.metadata.get());
    format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{version}","metadata":{metadata}}}"#)
}

/// Puts warnings into the head of an answer (V3).
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for text in warning_texts(warnings) {
        if let Ok(text) = header::HeaderValue::from_str(&text) {
            response.headers_mut().append(header::WARNING, text);
        }
    }
}

/// As many warnings as clients read: they refuse an answer with headers beyond their limit, and V3 sets ours at 4 KiB.
fn warning_texts(warnings: &[String]) -> Vec<String> {
    const LIMIT_BYTES: usize = 4096;
    let mut texts = Vec::new();
    let mut size_bytes = 0;
    for (index, warning) in warnings.iter().enumerate() {
        let text = warning_text(warning);
        size_bytes += text.len();
        if size_bytes > LIMIT_BYTES - 64 {
            let more = warnings.len() - index;
            texts.push(warning_text(&format!("and {more} more warnings")));
            break;
        }
        texts.push(text);
    }
    texts
}

/// `299 - "text"`, without control characters, quotes and backslashes escaped (V3).
fn warning_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text
        .chars()
        .filter(|c| !c.is_control() && c.is_ascii())
        .take(1000)
    {
        if matches!(c, '"' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    format!("299 - \"{escaped}\"")
}
