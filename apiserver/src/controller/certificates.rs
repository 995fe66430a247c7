//! CertificateSigningRequests: those of our signer that somebody approved are signed, and old ones go.
//!
//! The signer is `kubernetes.io/kube-apiserver-client`: client certificates of users, by the cluster's CA. Other signers'
//! requests are left to them. Nodes get their certificates when they join, without such requests.
//! Source: kubernetes/kubernetes pkg/controller/certificates/{signer,cleaner}.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::service_cidr::changed;
use crate::{
    pki::{CertificateRequest, ClientCertificate, Pki},
    registry::{
        ApiError, DeleteOptions, ListQuery, Part, Registry, WriteOptions,
        kinds::{
            CERTIFICATE_SIGNING_REQUESTS, certificate_signing_request::CLIENT_SIGNER, items,
            text_at,
        },
        meta,
    },
};

/// How long a certificate holds, unless less is asked for.
const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How long a request is kept once it was approved or denied, and how long it waits for that.
const KEPT_DECIDED: SignedDuration = SignedDuration::from_hours(1);
const KEPT_PENDING: SignedDuration = SignedDuration::from_hours(24);
/// The usages that a client certificate may have; it must have the first.
const CLIENT_AUTH: &str = "client auth";
const KEY_ENCIPHERMENT: &str = "key encipherment";
const USAGES: [&str; 3] = [CLIENT_AUTH, KEY_ENCIPHERMENT, "digital signature"];
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Answers requests for ever.
pub(super) async fn run(registry: Registry, pki: Arc<Pki>) {
    let kind = &CERTIFICATE_SIGNING_REQUESTS;
    loop {
        match look(&registry, &pki).await {
            Ok((revision, next)) => {
                let seen = [(kind, revision)];
                let _ = tokio::time::timeout(next, changed(&registry, &seen)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "requests for certificates cannot be answered: trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Answers what can be answered; the state that was looked at, and in how long the next one is too old.
async fn look(
    registry: &Registry,
    pki: &Pki,
) -> Result<(crate::store::Revision, Duration), ApiError> {
    let kind = &CERTIFICATE_SIGNING_REQUESTS;
    let list = registry.list(kind, None, &ListQuery::default()).await?;
    let now = Timestamp::now();
    let mut next = KEPT_PENDING;
    for csr in list.objects.iter().map(crate::registry::Object::value) {
        let left = kept_until(&csr, now).duration_since(now);
        if left <= SignedDuration::ZERO {
            delete(registry, &csr).await?;
            continue;
        }
        next = next.min(left);
        if is_ours_to_sign(&csr) {
            answer(registry, &csr, sign(pki, &csr)).await?;
        }
    }
    let next = Duration::try_from(next).unwrap_or(RETRY);
    Ok((list.revision, next))
}

fn condition<'a>(csr: &'a Value, wanted: &str) -> Option<&'a Value> {
    let mut conditions = items(&csr["status"]["conditions"]).iter();
    conditions.find(|condition| condition["type"] == wanted)
}

fn is_ours_to_sign(csr: &Value) -> bool {
    csr["spec"]["signerName"] == CLIENT_SIGNER
        && condition(csr, "Approved").is_some()
        && condition(csr, "Denied").is_none()
        && condition(csr, "Failed").is_none()
        && text_at(csr, &["status", "certificate"]).is_empty()
}

/// When a request has been kept long enough.
fn kept_until(csr: &Value, now: Timestamp) -> Timestamp {
    let time = |text: &Value| text.as_str()?.parse::<Timestamp>().ok();
    let created = time(&csr["metadata"]["creationTimestamp"]).unwrap_or(now);
    let conditions = items(&csr["status"]["conditions"]).iter();
    let decided = conditions
        .map(|one| time(&one["lastUpdateTime"]).unwrap_or(created))
        .max();
    match decided {
        Some(decided) => decided + KEPT_DECIDED,
        None => created + KEPT_PENDING,
    }
}

/// The certificate in PEM, or why there is none.
fn sign(pki: &Pki, csr: &Value) -> Result<String, String> {
    let spec = &csr["spec"];
    let usages: Vec<&str> = items(&spec["usages"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if !usages.contains(&CLIENT_AUTH) || usages.iter().any(|usage| !USAGES.contains(usage)) {
        return Err(format!(
            "usages {usages:?} are not for a client: \"client auth\" must be there, and only \"digital signature\" and \"key encipherment\" may be beside it"
        ));
    }
    let request = request(spec)?;
    let lifetime = spec["expirationSeconds"].as_i64().map_or(LIFETIME, |secs| {
        LIFETIME.min(SignedDuration::from_secs(secs))
    });
    let wanted = ClientCertificate {
        request: &request,
        key_encipherment: usages.contains(&KEY_ENCIPHERMENT),
        lifetime,
    };
    pki.sign_client(wanted).map_err(|error| error.to_string())
}

fn request(spec: &Value) -> Result<CertificateRequest, String> {
    let text = STANDARD
        .decode(text_at(spec, &["request"]))
        .map_err(|error| format!("spec.request: {error}"))?;
    CertificateRequest::from_pem(&text).map_err(|reason| format!("spec.request: {reason}"))
}

async fn answer(
    registry: &Registry,
    csr: &Value,
    answer: Result<String, String>,
) -> Result<(), ApiError> {
    let name = meta::text(csr, "name");
    let now = meta::timestamp(Timestamp::now());
    let options = WriteOptions::default();
    let (kind, part) = (&CERTIFICATE_SIGNING_REQUESTS, Part::Status);
    let written = registry.modify(kind, None, name, part, &options, |csr| {
        // Somebody may have denied it, or another may have asked under the name, since it was read.
        if !is_ours_to_sign(csr) {
            return Ok(());
        }
        match &answer {
            Ok(pem) => csr["status"]["certificate"] = STANDARD.encode(pem).into(),
            Err(reason) => {
                let failed = json!({
                    "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": reason,
                    "lastUpdateTime": now, "lastTransitionTime": now,
                });
                if let Some(conditions) = csr["status"]["conditions"].as_array_mut() {
                    conditions.push(failed);
                }
            }
        }
        Ok(())
    });
    match written.await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

async fn delete(registry: &Registry, csr: &Value) -> Result<(), ApiError> {
    let options = DeleteOptions {
        uid: Some(meta::text(csr, "uid").to_owned()),
        resource_version: Some(meta::text(csr, "resourceVersion").to_owned()),
        ..DeleteOptions::default()
    };
    let name = meta::text(csr, "name");
    let deleted = registry.delete(&CERTIFICATE_SIGNING_REQUESTS, None, name, &options);
    match deleted.await {
        // It is gone or has just changed: looked at again.
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}
