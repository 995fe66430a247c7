//! The administrator's kubeconfig, as JSON: every YAML reader takes it, and no YAML writer is needed.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::Leaf;

/// A kubeconfig with everything embedded.
pub(super) fn admin(server: &str, ca_pem: &str, admin: &Leaf) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "minik",
            "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca_pem)},
        }],
        "users": [{
            "name": "minik-admin",
            "user": {
                "client-certificate-data": STANDARD.encode(&admin.certificate_pem),
                "client-key-data": STANDARD.encode(&admin.key_pem),
            },
        }],
        "contexts": [{"name": "minik", "context": {"cluster": "minik", "user": "minik-admin"}}],
        "current-context": "minik",
    });
    format!("{config:#}\n")
}
