//! Whether what a signed token says still holds.
//! Source: kubernetes/kubernetes pkg/serviceaccount/claims.go, Validate.

use api::meta::{ObjectMeta, Time};
use jiff::{Timestamp, ToSpan as _};
use serde::Deserialize;

use super::{
    TokenError,
    claims::{Claims, Reference},
};
use crate::{
    auth::{AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, User},
    registry::{
        Kind, Registry,
        kinds::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS},
    },
};

/// The group of all ServiceAccounts.
pub const SERVICE_ACCOUNTS_GROUP: &str = "system:serviceaccounts";
/// How long after the end of its grace an object that is being deleted still counts.
const LEEWAY_SECS: i64 = 60;

/// The group of the ServiceAccounts of one namespace.
#[must_use]
pub fn namespace_group(namespace: &str) -> String {
    format!("{SERVICE_ACCOUNTS_GROUP}:{namespace}")
}

/// Judges issuer, times and audience; which of the wanted audiences it is for.
///
/// # Errors
/// [`TokenError`].
pub fn statement(
    claims: &Claims,
    issuer: &str,
    wanted: &[String],
    now: Timestamp,
) -> Result<Vec<String>, TokenError> {
    let at = |secs: i64| Timestamp::from_second(secs).unwrap_or(Timestamp::UNIX_EPOCH);
    let bound = &claims.kubernetes;
    let account = &bound.serviceaccount;
    let subject = format!(
        "{SERVICE_ACCOUNT_PREFIX}{}:{}",
        bound.namespace, account.name
    );
    let empty = bound.namespace.is_empty() || account.name.is_empty() || account.uid.is_empty();
    if claims.iss != issuer || empty || claims.sub != subject {
        return Err(TokenError::Incomplete);
    }
    if at(claims.exp) <= now {
        return Err(TokenError::Expired(at(claims.exp)));
    }
    if at(claims.nbf) > now {
        return Err(TokenError::TooEarly(at(claims.nbf)));
    }
    let both = wanted.iter().filter(|wanted| claims.aud.contains(wanted));
    let both: Vec<String> = both.cloned().collect();
    if both.is_empty() {
        return Err(TokenError::Audience {
            token: claims.aud.clone(),
            wanted: wanted.to_vec(),
        });
    }
    Ok(both)
}

/// Whoever the token is of, if the account and what it is bound to are there.
///
/// # Errors
/// [`TokenError::Gone`], or the store's.
pub async fn existence(
    registry: &Registry,
    claims: &Claims,
    now: Timestamp,
) -> Result<User, TokenError> {
    let bound = &claims.kubernetes;
    let namespace = Some(bound.namespace.as_str());
    let is_there = async |what: &'static str, kind, namespace, reference: &Reference| {
        let object = (what, kind);
        exists(registry, object, namespace, reference, now).await
    };
    let account = &bound.serviceaccount;
    is_there("service account", &SERVICE_ACCOUNTS, namespace, account).await?;
    if let Some(secret) = &bound.secret {
        is_there("secret", &SECRETS, namespace, secret).await?;
    }
    match (&bound.pod, &bound.node) {
        // A Pod goes with its node, sooner or later: the node is only told.
        (Some(pod), _) => is_there("pod", &PODS, namespace, pod).await?,
        (None, Some(node)) => is_there("node", &NODES, None, node).await?,
        (None, None) => {}
    }
    Ok(user(claims))
}

#[derive(Deserialize)]
struct Metadata {
    metadata: ObjectMeta,
}

async fn exists(
    registry: &Registry,
    (what, kind): (&'static str, &'static Kind),
    namespace: Option<&str>,
    wanted: &Reference,
    now: Timestamp,
) -> Result<(), TokenError> {
    let gone = |why| TokenError::Gone {
        what,
        name: match namespace {
            Some(namespace) => format!("{namespace}/{}", wanted.name),
            None => wanted.name.clone(),
        },
        why,
    };
    let object = match registry.get(kind, namespace, &wanted.name).await {
        Err(error) if error.is_not_found() => return Err(gone("has been deleted")),
        object => object?,
    };
    let metadata = object.decode::<Metadata>()?.metadata;
    if *metadata.uid != *wanted.uid {
        return Err(gone("is another one of that name"));
    }
    let ended = |at: &Time| at.timestamp() < now - LEEWAY_SECS.seconds();
    if metadata.deletion_timestamp.as_ref().is_some_and(ended) {
        return Err(gone("is being deleted"));
    }
    Ok(())
}

fn user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut user = User {
        name: claims.sub.clone(),
        groups: vec![
            SERVICE_ACCOUNTS_GROUP.into(),
            namespace_group(&bound.namespace),
            AUTHENTICATED.into(),
        ],
        uid: bound.serviceaccount.uid.clone(),
        ..User::default()
    };
    let mut tell = |key: &str, value: String| {
        let key = format!("authentication.kubernetes.io/{key}");
        user.extra.insert(key, vec![value]);
    };
    if !claims.jti.is_empty() {
        tell("credential-id", format!("JTI={}", claims.jti));
    }
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        let Some(reference) = reference else { continue };
        tell(&format!("{kind}-name"), reference.name.clone());
        if !reference.uid.is_empty() {
            tell(&format!("{kind}-uid"), reference.uid.clone());
        }
    }
    user
}
