//! What every answer gets at the end: an id for the audit log, indentation for eyes (N11), compression when it is large (N8).

use std::io::Write as _;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderName, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::{Call, plain};

/// The header by which a client names a request it asks about.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Smaller answers are not worth compressing. Source: kubernetes/apiserver pkg/endpoints/handlers/responsewriters/writers.go.
const COMPRESSED_FROM: u64 = 128 * 1024;

/// In which form an answer is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Whether JSON is for eyes.
    pretty: bool,
    /// Whether a large answer may be compressed (N8).
    gzip: bool,
}

impl Form {
    pub(super) fn of(call: &Call) -> Self {
        Self {
            pretty: is_pretty(call),
            gzip: accepts_gzip(call.header(header::ACCEPT_ENCODING)),
        }
    }
}

/// `pretty=true`, or a program people type commands to.
fn is_pretty(call: &Call) -> bool {
    let agent = call.header(header::USER_AGENT);
    let eyes = ["curl", "Wget", "Mozilla/5.0"];
    match call.query.get("pretty") {
        Some(_) => call.query.flag("pretty"),
        None => eyes.iter().any(|program| agent.starts_with(program)),
    }
}

/// Whether `gzip` is named, and not as what is unwanted (RFC 9110, section 12.5.3).
fn accepts_gzip(accept_encoding: &str) -> bool {
    accept_encoding.split(',').any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let unwanted = weight.and_then(|weight| weight.parse().ok()) == Some(0.0_f32);
        named && !unwanted
    })
}

/// Gives an answer an id, unless it has one.
pub(crate) fn identify(response: &mut Response) {
    let id = uuid::Uuid::new_v4().to_string();
    let id = HeaderValue::from_str(&id).expect("a UUID is plain text");
    response.headers_mut().entry(AUDIT_ID).or_insert(id);
}

/// Finishes an answer. Streams are neither indented nor compressed: each of their events leaves at once.
pub(super) async fn finish(mut response: Response, form: Form) -> Response {
    identify(&mut response);
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let json = media_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    let Some(size) = response.body().size_hint().exact() else {
        return response;
    };
    let pretty = form.pretty && json;
    let large = size > COMPRESSED_FROM;
    if !pretty && !large {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let mut body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return plain(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                format!("{error}\n"),
            );
        }
    };
    if pretty {
        body = indented(&body).into();
    }
    if large {
        let vary = HeaderValue::from_static("Accept-Encoding");
        parts.headers.append(header::VARY, vary);
        if form.gzip
            && !parts.headers.contains_key(header::CONTENT_ENCODING)
            && let Some(compressed) = compressed(body.clone()).await
        {
            let gzip = HeaderValue::from_static("gzip");
            parts.headers.insert(header::CONTENT_ENCODING, gzip);
            body = compressed;
        }
    }
    Response::from_parts(parts, Body::from(body))
}

/// The bytes in gzip's format (RFC 1952), apart from the threads that serve; `None` when that thread is gone.
async fn compressed(body: Bytes) -> Option<Bytes> {
    let compress = move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
        encoder.write_all(&body).ok()?;
        encoder.finish().ok().map(Bytes::from)
    };
    tokio::task::spawn_blocking(compress).await.ok().flatten()
}

/// JSON with two blanks per level and everything else as it was.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if let Some(end) = bytes.next_if(|&next| matches!(next, b'}' | b']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                in_text = byte == b'"';
                out.push(byte);
            }
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn n8_gzip_is_named_and_not_unwanted() {
        for (header, wanted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.0, br", false),
        ] {
            assert_eq!(accepts_gzip(header), wanted, "{header}");
        }
    }

    #[test]
    fn n11_indentation_is_what_serde_writes() {
        let value = json!({"a": {}, "b": [], "c": [1, {"d": "x,{}[]:\"\\"}], "e\\": null});
        let wanted = serde_json::to_string_pretty(&value).unwrap() + "\n";
        let got = indented(value.to_string().as_bytes());
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    }
}
