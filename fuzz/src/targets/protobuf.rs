//! Bodies in protobuf.

use super::{body, named};

/// With its envelope, and without as a message of a few types.
pub fn run(bytes: &[u8]) {
    if let Ok(envelope) = api::schema::unwrap_envelope(bytes) {
        decode(envelope.api_version, envelope.kind, envelope.raw);
    }
    for (api_version, kind) in [
        ("v1", "Pod"),
        ("v1", "Service"),
        ("apps/v1", "Deployment"),
        ("v1", "DeleteOptions"),
    ] {
        decode(api_version, kind, bytes);
    }
}

fn decode(api_version: &str, kind: &str, raw: &[u8]) {
    if let Ok(value) = named(api_version, kind).from_protobuf(raw) {
        // Two bytes can be a field with a long name.
        let most = 4096 + 128 * raw.len();
        assert!(
            api::json::size_bytes(&value) <= most,
            "a message that grows"
        );
        body::settle(value);
    }
}
