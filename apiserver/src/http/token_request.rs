//! `POST serviceaccounts/X/token`: a token for that account (U4). Nothing is stored.

use axum::response::Response;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, accept, json_value, options, resource::object_body, route::Target};
use crate::{
    auth::{
        node::restriction,
        service_account::request::{self, Spec},
    },
    registry::{ApiError, kinds::TOKEN_REQUESTS, meta, object},
};

/// Answers a TokenRequest.
pub(super) async fn create(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    accept::shape(call.header(header::ACCEPT), false)?;
    // There is nothing to leave undone, but a value that is none is refused.
    options::write(call)?;
    let (mut body, _) = object_body(call, &TOKEN_REQUESTS).await?;
    let (namespace, name) = (target.scope().unwrap_or_default(), target.object_name());
    meta::match_path(&TOKEN_REQUESTS, Some(namespace), Some(name), &mut body)?;
    let mut spec = body["spec"].clone();
    object::drop_nulls(&mut spec);
    let spec: Spec = match spec {
        Value::Null => Spec::default(),
        spec => serde_json::from_value(spec)
            .map_err(|error| ApiError::BadRequest(format!("spec: {error}")))?,
    };
    let state = &call.state;
    let issuer = state.tokens.issuer();
    let now = Timestamp::now();
    let account = (namespace, name);
    let claims = request::claims(&state.registry, issuer, account, &spec, now).await?;
    restriction::check_token(&call.user, &state.registry, &spec, &claims).await?;
    let token = state
        .tokens
        .sign(&claims)
        .map_err(|error| ApiError::Exhausted(format!("the token cannot be signed: {error}")))?;
    let ends = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
    body["metadata"]["creationTimestamp"] = json!(meta::timestamp(now));
    body["spec"]["audiences"] = json!(claims.aud);
    body["spec"]["expirationSeconds"] = json!(claims.exp - claims.iat);
    body["status"] = json!({"token": token, "expirationTimestamp": meta::timestamp(ends)});
    Ok(json_value(StatusCode::CREATED, &body))
}
