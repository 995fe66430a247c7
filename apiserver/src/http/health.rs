//! `/livez`, `/readyz`, `/version` (Q1, D7).

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, plain, route::Probe};

/// Something that must be well for the server to be ready.
pub struct Check {
    /// Its name, for example `store`.
    pub name: &'static str,
    /// Looks; the error is for the log of whoever asks.
    pub run: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// `ok`, or which checks failed.
pub(super) fn serve(call: &Call, probe: Probe) -> Response {
    let mut lines = String::from("[+]ping ok\n");
    let mut failed = false;
    if probe == Probe::Ready {
        for check in call.state.checks.iter() {
            match (check.run)() {
                Ok(()) => lines += &format!("[+]{} ok\n", check.name),
                Err(reason) => {
                    failed = true;
                    lines += &format!("[-]{} failed: {reason}\n", check.name);
                }
            }
        }
    }
    if failed {
        return plain(StatusCode::SERVICE_UNAVAILABLE, lines);
    }
    let text = if call.query.flag("verbose") {
        lines
    } else {
        "ok".into()
    };
    plain(StatusCode::OK, text)
}

/// What `/version` says: the Kubernetes release whose API this is, and ours.
#[must_use]
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": concat!("v1.33.0+minik-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    })
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
