//! What a node may create: its own Node and its own Lease. The name of a new object stands in the body, where the
//! [`policy`](super::policy) does not look.

use axum::body::{Body, Bytes, to_bytes};
use http::{Method, Request};
use serde::Deserialize;

use super::User;
use crate::registry::ApiError;

/// More than any Node or Lease needs.
const LIMIT_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// The request, with its body looked at when it has to be.
///
/// # Errors
/// [`ApiError::Forbidden`] when a node creates an object of another node; [`ApiError::TooLarge`].
pub async fn check(user: &User, request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let Some(node) = user.node() else {
        return Ok(request);
    };
    let Some(resource) = restricted(request.method(), request.uri().path()) else {
        return Ok(request);
    };
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LIMIT_BYTES)
        .await
        .map_err(|_| ApiError::TooLarge {
            limit_bytes: LIMIT_BYTES,
        })?;
    if name(&body).as_deref() != Some(node) {
        return Err(ApiError::Forbidden {
            message: format!(
                "{resource} is forbidden: User \"{}\" cannot create resource \"{resource}\": node {node} may create \
                 its own object only, named in a JSON body",
                user.name
            ),
            resource: resource.to_owned(),
            group: String::new(),
            name: name(&body).unwrap_or_default(),
        });
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn restricted(method: &Method, path: &str) -> Option<&'static str> {
    if method != Method::POST {
        return None;
    }
    match path.trim_matches('/').rsplit('/').next()? {
        "nodes" => Some("nodes"),
        "leases" => Some("leases"),
        _ => None,
    }
}

fn name(body: &Bytes) -> Option<String> {
    let named: Named = serde_json::from_slice(body).ok()?;
    Some(named.metadata.name)
}
