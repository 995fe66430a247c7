//! Watches on the wire: one JSON event per line, each sent as soon as it is there (W1, W6, W7, W10, W15).

use std::convert::Infallible;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};

use super::{accept::Shape, json_bytes, render::View};
use crate::registry::{ApiError, Change, Kind, WatchItem, WatchStream, watch::Encoding};

/// The encoder of one stream.
struct Lines {
    kind: &'static Kind,
    view: View,
    watch: WatchStream,
    /// Whether a Table has carried the column definitions yet.
    columns_sent: bool,
    over: bool,
}

/// The response that lasts as long as the watch.
pub(super) fn respond(kind: &'static Kind, view: View, watch: WatchStream) -> Response {
    let lines = Lines {
        kind,
        view,
        watch,
        columns_sent: false,
        over: false,
    };
    let stream = stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    json_bytes(StatusCode::OK, Body::from_stream(stream))
}

/// A watch that cannot even begin says so in its stream, as one that breaks later does (W10).
pub(super) fn refuse(error: &ApiError) -> Response {
    json_bytes(StatusCode::OK, error_line(error))
}

fn error_line(error: &ApiError) -> Bytes {
    line("ERROR", error.to_status().to_string().as_bytes())
}

fn line(event: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        Some(match self.watch.next().await? {
            Ok(WatchItem::Change(change)) => self.change(&change),
            Ok(WatchItem::Bookmark {
                revision,
                initial_end,
            }) => {
                let mut meta = json!({"resourceVersion": revision.0.to_string()});
                if initial_end {
                    meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                }
                let object: Value = self.view.bookmark(self.kind, &meta);
                line("BOOKMARK", object.to_string().as_bytes())
            }
            Err(error) => {
                self.over = true;
                error_line(&error)
            }
        })
    }

    /// Encoded once for all watchers that want the same; Tables are for eyes and encoded for each.
    fn change(&mut self, change: &Change) -> Bytes {
        let event = change.kind.as_str();
        let first = !std::mem::replace(&mut self.columns_sent, true);
        let encode = || line(event, &self.view.object(&change.object, first));
        let encoding = match self.view.shape() {
            Shape::Object => Encoding::Full,
            Shape::Content => Encoding::Content,
            Shape::Metadata("meta.k8s.io/v1") => Encoding::Metadata,
            Shape::Metadata(_) | Shape::Table(_) => return encode(),
        };
        match &change.shared {
            Some(shared) => shared.line(change.kind, encoding, encode),
            None => encode(),
        }
    }
}
