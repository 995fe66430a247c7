//! JSON, merge and strategic merge patches.

use apiserver::{http::fuzz, registry::Catalog};
use serde_json::{Value, json};

/// Of a document `{"object": ..., "patch": ...}` the patch by each media type. Whatever it does, the object can be written.
pub fn run(bytes: &[u8]) {
    let Ok((mut document, _)) = api::json::parse(bytes) else {
        return;
    };
    let object = document["object"].take();
    let patch = document["patch"].to_string();
    let pods = Catalog::default()
        .find("", "v1", "pods")
        .expect("Pods are served");
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (group, _) = text("apiVersion").split_once('/').unwrap_or_default();
    let kind = Catalog::default()
        .named(group, text("kind"))
        .unwrap_or(pods);
    for media_type in [
        "json-patch+json",
        "merge-patch+json",
        "strategic-merge-patch+json",
    ] {
        let mut patched = object.clone();
        let media_type = format!("application/{media_type}");
        if fuzz::patch(&media_type, kind, &mut patched, patch.as_bytes()).is_ok() {
            assert!(
                api::json::size_bytes(&patched) <= 8 * 1024 * 1024 + 16 * bytes.len(),
                "a patch that grows"
            );
            let _: Value = json!({ "object": patched });
        }
    }
}
