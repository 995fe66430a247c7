//! What may be asked for in a TokenRequest, and the claims that come of it (U4).
//! Source: kubernetes/kubernetes pkg/registry/core/serviceaccount/storage/token.go,
//! pkg/apis/authentication/validation/validation.go.

use api::core::{Node, Pod, ServiceAccount};
use jiff::Timestamp;
use serde::Deserialize;

use super::claims::{Bound, Claims, Reference};
use crate::{
    auth::SERVICE_ACCOUNT_PREFIX,
    registry::{
        ApiError, Causes, Kind, Registry,
        kinds::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS, TOKEN_REQUESTS},
        meta,
    },
};

/// How long a token holds unless the request says: an hour.
const DEFAULT_SECS: i64 = 3600;
/// The shortest life of a token.
const MIN_SECS: i64 = 600;
/// The longest: 2^32 seconds, as upstream.
const MAX_SECS: i64 = 1 << 32;

/// `spec` of a TokenRequest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// For whom; nobody named is this API.
    pub audiences: Vec<String>,
    /// For how long.
    pub expiration_seconds: Option<i64>,
    /// With what it ends.
    pub bound_object_ref: Option<ObjectRef>,
}

/// A BoundObjectReference.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// Its name.
    pub name: String,
    /// Its uid, if it must be that one.
    pub uid: String,
}

impl Spec {
    /// How long the token is to hold.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for less than ten minutes or more than 2^32 seconds.
    pub fn life_secs(&self) -> Result<i64, ApiError> {
        let secs = self.expiration_seconds.unwrap_or(DEFAULT_SECS);
        let mut causes = Causes::default();
        let field = "spec.expirationSeconds";
        if secs < MIN_SECS {
            let detail = "may not specify a duration less than 10 minutes";
            causes.invalid(field, secs, detail);
        }
        if secs > MAX_SECS {
            let detail = "may not specify a duration larger than 2^32 seconds";
            causes.invalid(field, secs, detail);
        }
        causes.into_result(&TOKEN_REQUESTS, "")?;
        Ok(secs)
    }
}

/// The claims of a token that is made now.
///
/// # Errors
/// [`ApiError::NotFound`] for the account or what it is to be bound to, [`ApiError::Conflict`] when that has another uid,
/// [`ApiError::BadRequest`] when that is not the account's, [`ApiError::Invalid`].
pub async fn claims(
    registry: &Registry,
    issuer: &str,
    (namespace, name): (&str, &str),
    spec: &Spec,
    now: Timestamp,
) -> Result<Claims, ApiError> {
    let life_secs = spec.life_secs()?;
    let account = registry
        .get(&SERVICE_ACCOUNTS, Some(namespace), name)
        .await?
        .decode::<ServiceAccount>()?;
    let mut bound = Bound {
        namespace: namespace.into(),
        serviceaccount: Reference::new(name, &account.metadata.uid),
        ..Bound::default()
    };
    if let Some(reference) = &spec.bound_object_ref {
        bind(registry, &mut bound, reference).await?;
    }
    let audiences = match spec.audiences.as_slice() {
        [] => vec![issuer.to_owned()],
        named => named.to_vec(),
    };
    let now = now.as_second();
    Ok(Claims {
        aud: audiences,
        exp: now + life_secs,
        iat: now,
        iss: issuer.into(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: bound,
        nbf: now,
        sub: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
    })
}

async fn bind(registry: &Registry, bound: &mut Bound, wanted: &ObjectRef) -> Result<(), ApiError> {
    let namespace = bound.namespace.clone();
    match (wanted.api_version.as_str(), wanted.kind.as_str()) {
        ("v1", "Pod") => {
            let pod = registry.get(&PODS, Some(&namespace), &wanted.name).await?;
            let pod: Pod = pod.decode()?;
            same(&PODS, wanted, &pod.metadata.uid)?;
            let account = &bound.serviceaccount.name;
            if *pod.spec.service_account_name != **account {
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
                )));
            }
            bound.pod = Some(Reference::to_pod(&pod));
            bound.node = node_of(registry, &pod).await?;
        }
        ("v1", "Secret") => {
            let secret = registry.get(&SECRETS, Some(&namespace), &wanted.name);
            let secret = secret.await?.value();
            let uid = meta::text(&secret, "uid");
            same(&SECRETS, wanted, uid)?;
            bound.secret = Some(Reference::new(&wanted.name, uid));
        }
        ("v1", "Node") => {
            let node = registry.get(&NODES, None, &wanted.name).await?.value();
            let uid = meta::text(&node, "uid");
            same(&NODES, wanted, uid)?;
            bound.node = Some(Reference::new(&wanted.name, uid));
        }
        (version, kind) => {
            return Err(ApiError::BadRequest(format!(
                "cannot bind token for object of type {version}, Kind={kind}: spec.boundObjectRef may be a Pod, a Secret or a Node of apiVersion v1"
            )));
        }
    }
    Ok(())
}

fn same(kind: &'static Kind, wanted: &ObjectRef, uid: &str) -> Result<(), ApiError> {
    if wanted.uid.is_empty() || wanted.uid == uid {
        return Ok(());
    }
    Err(ApiError::Conflict {
        kind,
        name: wanted.name.clone(),
        detail: format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            wanted.uid
        ),
    })
}

/// The node a Pod is on; by its name only when there is no such Node.
async fn node_of(registry: &Registry, pod: &Pod) -> Result<Option<Reference>, ApiError> {
    let name = &*pod.spec.node_name;
    if name.is_empty() {
        return Ok(None);
    }
    Ok(Some(match registry.get(&NODES, None, name).await {
        Ok(node) => Reference::new(name, &node.decode::<Node>()?.metadata.uid),
        Err(error) if error.is_not_found() => Reference::new(name, ""),
        Err(error) => return Err(error),
    }))
}
