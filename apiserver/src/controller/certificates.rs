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
const RETRY: SignedDuration = SignedDuration::from_secs(1);

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
                tokio::time::sleep(RETRY.unsigned_abs()).await;
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
        let done = if left <= SignedDuration::ZERO {
            delete(registry, &csr).await
        } else {
            next = next.min(left);
            match is_ours_to_sign(&csr) {
                true => answer(registry, &csr, sign(pki, &csr)).await,
                false => Ok(()),
            }
        };
        // The others do not wait for it.
        if let Err(error) = done {
            let name = meta::text(&csr, "name");
            tracing::warn!(name, %error, "a request for a certificate cannot be answered: trying again");
            next = next.min(RETRY);
        }
    }
    Ok((list.revision, next.unsigned_abs()))
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
    let kept = match decided {
        Some(decided) => decided.saturating_add(KEPT_DECIDED),
        None => created.saturating_add(KEPT_PENDING),
    };
    // The times of conditions are whatever their author says.
    kept.unwrap_or(Timestamp::MAX)
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
    let read = csr;
    let written = registry.modify(kind, None, name, part, &options, |csr| {
        // Somebody may have denied it, or another may have asked under the name, since it was read.
        let is_another = meta::text(csr, "uid") != meta::text(read, "uid");
        if is_another || !is_ours_to_sign(csr) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pki::ServerNames,
        registry::Context,
        store::{EmbeddedStore, engine::MemoryEngine},
    };

    const KIND: &crate::registry::Kind = &CERTIFICATE_SIGNING_REQUESTS;

    fn pki() -> Pki {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path(), &ServerNames::default()).unwrap()
    }

    async fn registry(names: &[&str]) -> Registry {
        let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).unwrap();
        let registry = Registry::new(Arc::new(store), Context::default());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = rcgen::CertificateParams::default();
        let request = request.serialize_request(&key).unwrap().pem().unwrap();
        for name in names {
            let csr = json!({
                "metadata": {"name": name},
                "spec": {"request": STANDARD.encode(&request), "signerName": CLIENT_SIGNER, "usages": [CLIENT_AUTH]},
            });
            let options = WriteOptions::default();
            registry.create(KIND, None, csr, &options).await.unwrap();
        }
        registry
    }

    async fn approve(registry: &Registry, name: &str, message: &str) -> Result<Value, ApiError> {
        let approved = json!([{"type": "Approved", "status": "True", "message": message}]);
        let change = |csr: &mut Value| {
            csr["status"]["conditions"] = approved.clone();
            Ok(())
        };
        let options = WriteOptions::default();
        let written = registry.modify(KIND, None, name, Part::Approval, &options, change);
        Ok(written.await?.value())
    }

    async fn is_signed(registry: &Registry, name: &str) -> bool {
        let csr = registry.get(KIND, None, name).await.unwrap().value();
        !text_at(&csr, &["status", "certificate"]).is_empty()
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_answered_does_not_hold_up_the_others() {
        let registry = registry(&["a", "b"]).await;
        // So long that it can be stored, and not with a certificate.
        let mut long = "x".repeat(1536 << 10);
        while approve(&registry, "a", &long).await.is_err() {
            long.truncate(long.len() - 400);
        }
        approve(&registry, "b", "").await.unwrap();
        let (_, next) = look(&registry, &pki()).await.unwrap();
        assert!(!is_signed(&registry, "a").await);
        assert!(is_signed(&registry, "b").await);
        assert_eq!(next, RETRY.unsigned_abs(), "the first is tried again");
    }

    #[tokio::test]
    async fn a_certificate_does_not_go_to_another_request_of_the_same_name() {
        let registry = registry(&["a"]).await;
        let csr = approve(&registry, "a", "").await.unwrap();
        let mut gone = csr.clone();
        gone["metadata"]["uid"] = "another".into();
        let pki = pki();
        for (csr, signed) in [(gone, false), (csr, true)] {
            let signed_by_us = sign(&pki, &csr);
            assert!(signed_by_us.is_ok());
            answer(&registry, &csr, signed_by_us).await.unwrap();
            assert_eq!(is_signed(&registry, "a").await, signed);
        }
    }

    #[test]
    fn a_decision_at_the_end_of_time_is_kept_until_then() {
        let end = Timestamp::MAX.to_string();
        let csr = json!({"status": {"conditions": [{"type": "Approved", "lastUpdateTime": end}]}});
        assert_eq!(kept_until(&csr, Timestamp::now()), Timestamp::MAX);
    }
}
