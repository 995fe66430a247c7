//! Who may decide on requests for certificates: whoever approves one for a signer must have a say with that signer, whatever
//! his right to write the request's `approval` or `status`.
//! Source: kubernetes/kubernetes plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Attributes, Authorizer, MASTERS, User};
use crate::{
    pki::CertificateRequest,
    registry::{
        ApiError,
        kinds::{
            CERTIFICATE_SIGNING_REQUESTS, certificate_signing_request::CLIENT_SIGNER, text_at,
        },
    },
};

const GROUP: &str = "certificates.k8s.io";

/// The verb on `signers` that a subresource of a request asks for.
#[must_use]
pub fn verb_of(subresource: &str) -> Option<&'static str> {
    match subresource {
        "approval" => Some("approve"),
        "status" => Some("sign"),
        _ => None,
    }
}

/// Refuses who has no say with this signer: neither by its name nor by `domain/*`.
///
/// # Errors
/// [`ApiError::Forbidden`].
pub async fn check(
    authorizer: &dyn Authorizer,
    user: &User,
    verb: &'static str,
    (request, signer): (&str, &str),
) -> Result<(), ApiError> {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer, &format!("{domain}/*")] {
        let question = Attributes {
            verb,
            group: GROUP,
            resource: "signers",
            name: Some(name),
            ..Attributes::default()
        };
        if authorizer.authorize(user, &question).await.is_allowed() {
            return Ok(());
        }
    }
    Err(forbidden(
        request,
        &format!("user not permitted to {verb} requests with signerName \"{signer}\""),
    ))
}

/// Nobody becomes an administrator by a certificate that somebody approved.
///
/// # Errors
/// [`ApiError::Forbidden`].
pub fn check_subject(csr: &Value) -> Result<(), ApiError> {
    if csr["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let text = STANDARD.decode(text_at(csr, &["spec", "request"]));
    let request = text.map(|text| CertificateRequest::from_pem(&text));
    // What is no request at all is refused for that, by validation.
    let Ok(Ok(request)) = request else {
        return Ok(());
    };
    if request.organizations().iter().any(|group| group == MASTERS) {
        return Err(forbidden(
            text_at(csr, &["metadata", "name"]),
            &format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"),
        ));
    }
    Ok(())
}

fn forbidden(name: &str, reason: &str) -> ApiError {
    let resource = CERTIFICATE_SIGNING_REQUESTS.plural;
    ApiError::Forbidden {
        message: format!("{resource}.{GROUP} \"{name}\" is forbidden: {reason}"),
        resource: resource.to_owned(),
        group: GROUP.to_owned(),
        name: name.to_owned(),
    }
}
