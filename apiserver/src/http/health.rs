//! `/healthz`, `/livez`, `/readyz` and the checks below them, `/version` (Q1, D7).

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, plain, route::Probe};

/// Something that must be well for the server to be ready.
pub struct Check {
    /// Its name, for example `store`.
    pub name: &'static str,
    /// Whether `/livez` and `/healthz` look at it too: when it fails, only a restart helps.
    pub live: bool,
    /// Looks; the error is for the log of whoever asks.
    pub run: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// `ok`, or which checks failed. `only` is the check that alone is asked for.
pub(super) fn serve(call: &Call, probe: Probe, only: Option<&str>) -> Response {
    let ping = Check {
        name: "ping",
        live: true,
        run: Box::new(|| Ok(())),
    };
    let checks = call.state.checks.iter();
    let checks = checks.filter(|check| check.live || probe == Probe::Ready);
    let checks: Vec<&Check> = std::iter::once(&ping).chain(checks).collect();
    if let Some(only) = only {
        let Some(check) = checks.iter().find(|check| check.name == only) else {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n".into());
        };
        return match (check.run)() {
            Ok(()) => plain(StatusCode::OK, "ok".into()),
            Err(reason) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("internal server error: {reason}\n"),
            ),
        };
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let (mut lines, mut failed) = (String::new(), false);
    for check in &checks {
        let name = check.name;
        lines += &match (check.run)() {
            _ if excluded.contains(&name) => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(reason) => {
                failed = true;
                format!("[-]{name} failed: {reason}\n")
            }
        };
    }
    for unknown in &excluded {
        if !checks.iter().any(|check| check.name == *unknown) {
            lines += &format!(
                "warn: some health checks cannot be excluded: no matches for \"{unknown}\"\n"
            );
        }
    }
    if failed {
        lines += &format!("{} check failed\n", probe.name());
        return plain(StatusCode::SERVICE_UNAVAILABLE, lines);
    }
    if call.query.flag("verbose") {
        lines += &format!("{} check passed\n", probe.name());
        return plain(StatusCode::OK, lines);
    }
    plain(StatusCode::OK, "ok".into())
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
