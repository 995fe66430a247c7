//! What others must know to check ServiceAccount tokens themselves (U9).

use axum::response::Response;
use http::StatusCode;

use super::{Call, json_value, respond};

/// `/.well-known/openid-configuration`.
pub(super) fn configuration(call: &Call) -> Response {
    json_value(StatusCode::OK, &call.state.tokens.discovery())
}

/// `/openid/v1/jwks`.
pub(super) fn keys(call: &Call) -> Response {
    let keys = call.state.tokens.keys().jwks().to_string();
    respond(StatusCode::OK, "application/jwk-set+json", keys)
}
