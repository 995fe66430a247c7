//! Subresources that lead to a node: logs, exec, attach, port-forward and proxy (S1-S11).
//!
//! ```text
//! client --- HTTP, WebSocket or SPDY --- this module --- the node's tunnel --- agent --- container
//! ```
//!
//! Every protocol of clients ends here; what goes through the tunnel is simple ([`api::tunnel`]). Before a connection is
//! upgraded every error is an ordinary `Status` (S6).

mod channels;
pub(super) mod frames;
mod location;
mod log;
mod pod;
mod port_channels;
mod port_forward;
mod proxy;
mod proxy_target;
mod proxy_tls;
mod remote;
mod remote_spdy;
mod upgrade;

use axum::response::Response;
use http::Method;

use super::{Call, route::Target};
use crate::registry::ApiError;

/// The name of a subresource that is served here.
fn name(target: &Target) -> Option<&'static str> {
    let name = target.subresource?.name;
    matches!(name, "attach" | "exec" | "log" | "portforward" | "proxy").then_some(name)
}

/// Whether a target leads to a node. Such requests take no place in a lane and have no time limit: they last as long as
/// both ends want.
pub(super) fn is_connection(target: &Target) -> bool {
    name(target).is_some()
}

/// The verb of such a request, as RBAC knows it (S1): to connect is to create, whatever the method.
pub(super) fn verb(call: &Call, target: &Target) -> Option<Result<&'static str, ApiError>> {
    let verb = match (name(target)?, &call.method) {
        ("proxy", method) => match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            Method::OPTIONS => "options",
            _ => return Some(Err(not_allowed("GET, POST, PUT, PATCH, DELETE"))),
        },
        ("log", &Method::GET | &Method::HEAD) => "get",
        ("log", _) => return Some(Err(not_allowed("GET"))),
        (_, &Method::GET | &Method::POST) => "create",
        _ => return Some(Err(not_allowed("GET, POST"))),
    };
    Some(Ok(verb))
}

fn not_allowed(allow: &'static str) -> ApiError {
    ApiError::MethodNotAllowed {
        allow: allow.to_owned(),
    }
}

/// Answers a request that is permitted.
pub(super) async fn serve(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    match name(target) {
        Some("log") => {
            let log = log::serve(call, target).await?;
            frames::of_log(call, log)
        }
        Some("exec") => remote::exec(call, target).await,
        Some("attach") => remote::attach(call, target).await,
        Some("portforward") => port_forward::serve(call, target).await,
        Some("proxy") => proxy::serve(call, target).await,
        _ => Err(ApiError::UnknownPath),
    }
}
