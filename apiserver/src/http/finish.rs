//! What every answer gets at the end: an id for the audit log, and indentation for eyes (N11).

use axum::{body::Body, response::Response};
use http::{HeaderName, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::{Call, plain};

/// The header by which a client names a request it asks about.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Whether JSON is for eyes: `pretty=true`, or a program people type commands to.
pub(super) fn is_pretty(call: &Call) -> bool {
    let agent = call.header(header::USER_AGENT);
    let eyes = ["curl", "Wget", "Mozilla/5.0"];
    match call.query.get("pretty") {
        Some(_) => call.query.flag("pretty"),
        None => eyes.iter().any(|program| agent.starts_with(program)),
    }
}

/// Finishes an answer. Streams are not indented: their events are lines.
pub(super) async fn finish(mut response: Response, pretty: bool) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(AUDIT_ID, id);
    }
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let json = media_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    let whole = response.body().size_hint().exact().is_some();
    if !(pretty && json && whole) {
        return response;
    }
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => Response::from_parts(parts, Body::from(indented(&body.to_bytes()))),
        Err(error) => plain(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            format!("{error}\n"),
        ),
    }
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
    fn n11_indentation_is_what_serde_writes() {
        let value = json!({"a": {}, "b": [], "c": [1, {"d": "x,{}[]:\"\\"}], "e\\": null});
        let wanted = serde_json::to_string_pretty(&value).unwrap() + "\n";
        let got = indented(value.to_string().as_bytes());
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    }
}
