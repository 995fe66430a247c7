//! CertificateSigningRequest (certificates.k8s.io/v1).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::{items, text_at};
use crate::{
    pki::CertificateRequest,
    registry::{
        Part,
        causes::Causes,
        kind::{ALL_VERBS, Kind, NameRule, Rules, STATUS, Subresource},
        meta,
        table::{AGE, Column, NAME, Table, human_duration},
    },
};

/// The signer whose client certificates the cluster's CA makes.
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// What a key may be used for, in the words of the API.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// What a condition that decides nothing may say.
const STATES: &[&str] = &["False", "True", "Unknown"];

/// CertificateSigningRequest.
pub static CERTIFICATE_SIGNING_REQUESTS: Kind = Kind {
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "approval",
            ..STATUS
        },
        STATUS,
    ],
    rules: Rules {
        name: NameRule::Subdomain,
        has_status: true,
        fields: &[("spec.signerName", |csr| {
            text_at(csr, &["spec", "signerName"]).to_owned()
        })],
        prepare_create: |new| new["status"] = json!({}),
        default: |csr| {
            if !csr["spec"].is_object() {
                csr["spec"] = json!({});
            }
        },
        // What is asked for, and by whom, stays as it was.
        prepare_update: |_, old, new| new["spec"] = old["spec"].clone(),
        prepare_part,
        validate: |_, new, old, causes| {
            if old.is_none() {
                validate(&new["spec"], causes);
            }
            conditions(&new["status"], causes);
            if let Some(old) = old {
                kept_decisions(&old["status"], &new["status"], causes);
                certificate(&old["status"], &new["status"], causes);
            }
        },
        ..Rules::GENERIC
    },
    table: Table {
        columns: &[
            NAME,
            AGE,
            Column::text("SignerName", "Who is asked to sign."),
            Column::text("Requestor", "Who asks."),
            Column::text("RequestedDuration", "For how long."),
            Column::text("Condition", "What became of it."),
        ],
        cells: |object, row| {
            row.name(object);
            row.age(object);
            let spec = &object["spec"];
            row.or_none(text_at(spec, &["signerName"]));
            row.text(text_at(spec, &["username"]));
            let secs = spec["expirationSeconds"].as_i64();
            row.or_none(&secs.map_or_else(String::new, human_duration));
            row.text(&state(object));
        },
    },
};

fn state(csr: &Value) -> String {
    let conditions = items(&csr["status"]["conditions"]);
    let has = |wanted: &str| {
        conditions
            .iter()
            .any(|condition| condition["type"] == wanted)
    };
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state += ",Failed";
    }
    if !text_at(csr, &["status", "certificate"]).is_empty() {
        state += ",Issued";
    }
    state
}

/// Source: kubernetes/kubernetes pkg/apis/certificates/validation/validation.go.
fn validate(spec: &Value, causes: &mut Causes) {
    let request = text_at(spec, &["request"]);
    // Its schema wants base64.
    let pem = STANDARD.decode(request).unwrap_or_default();
    if request.is_empty() {
        causes.required("spec.request", "");
    } else if let Err(reason) = CertificateRequest::from_pem(&pem) {
        causes.invalid("spec.request", request, reason);
    }
    let usages = items(&spec["usages"]);
    if usages.is_empty() {
        causes.required("spec.usages", "usages must be specified");
    }
    for (index, usage) in usages.iter().enumerate() {
        let (path, usage) = (format!("spec.usages[{index}]"), usage.as_str());
        let usage = usage.unwrap_or_default();
        if !USAGES.contains(&usage) {
            causes.not_supported(path, usage, USAGES);
        } else if usages[..index].iter().any(|other| other == usage) {
            causes.duplicate(path, usage);
        }
    }
    let signer = text_at(spec, &["signerName"]);
    let fine = signer.split_once('/').is_some_and(|(domain, path)| {
        api::names::dns1123_subdomain(domain).is_ok()
            && domain.contains('.')
            && api::names::dns1123_subdomain(path).is_ok()
    });
    if signer.is_empty() {
        causes.required("spec.signerName", "");
    } else if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        causes.invalid("spec.signerName", signer, detail);
    } else if !fine {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        causes.invalid("spec.signerName", signer, detail);
    }
    if let Some(secs) = spec["expirationSeconds"]
        .as_i64()
        .filter(|secs| *secs < 600)
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.invalid("spec.expirationSeconds", secs, detail);
    }
}

fn conditions(status: &Value, causes: &mut Causes) {
    let conditions = items(&status["conditions"]);
    for (index, condition) in conditions.iter().enumerate() {
        let path = format!("status.conditions[{index}]");
        let kind = text_at(condition, &["type"]);
        let state = text_at(condition, &["status"]);
        if kind.is_empty() {
            causes.required(format!("{path}.type"), "");
        }
        let decided = matches!(kind, "Approved" | "Denied" | "Failed");
        if state.is_empty() {
            causes.required(format!("{path}.status"), "");
        } else if !decided && !STATES.contains(&state) {
            causes.not_supported(format!("{path}.status"), state, STATES);
        } else if decided && state != "True" {
            causes.not_supported(format!("{path}.status"), state, &["True"]);
        }
        if conditions[..index]
            .iter()
            .any(|other| other["type"] == condition["type"])
        {
            causes.duplicate(format!("{path}.type"), kind);
        }
    }
    let has = |wanted: &str| {
        conditions
            .iter()
            .any(|condition| condition["type"] == wanted)
    };
    if has("Approved") && has("Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        causes.invalid("status.conditions", "Denied", detail);
    }
}

/// Times of conditions are filled in. Who signs does not decide: through `status`, decisions are neither made nor changed. A
/// certificate that was given stays.
/// Source: kubernetes/kubernetes pkg/registry/certificates/certificates/strategy.go.
fn prepare_part(part: Part, old: &Value, new: &mut Value, causes: &mut Causes) {
    let before = items(&old["status"]["conditions"]);
    let now = meta::timestamp(Timestamp::now());
    let conditions = new.pointer_mut("/status/conditions");
    let conditions = conditions.and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let kind = text_at(condition, &["type"]);
        let known = before.iter().find(|known| known["type"] == kind);
        if part == Part::Status && matches!(kind, "Approved" | "Denied") {
            match known {
                Some(known) => *condition = known.clone(),
                None => {
                    let detail = format!(
                        "updates may not add a condition of type {kind:?}: write it to the subresource approval"
                    );
                    causes.forbidden("status.conditions", &detail);
                }
            }
        }
        if before.contains(condition) {
            continue;
        }
        let same = known.filter(|known| known["status"] == condition["status"]);
        let since = same.map(|known| text_at(known, &["lastTransitionTime"]));
        let since = since.filter(|since| !since.is_empty()).unwrap_or(&now);
        for (field, time) in [("lastUpdateTime", &*now), ("lastTransitionTime", since)] {
            if text_at(condition, &[field]).is_empty() {
                condition[field] = time.into();
            }
        }
    }
    let given = text_at(old, &["status", "certificate"]);
    if !given.is_empty() && given != text_at(new, &["status", "certificate"]) {
        let detail = "updates may not modify existing certificate content";
        causes.forbidden("status.certificate", detail);
    }
}

/// What is given is certificates in PEM: clients use it as it is.
fn certificate(old: &Value, new: &Value, causes: &mut Causes) {
    let text = text_at(new, &["certificate"]);
    if text.is_empty() || text == text_at(old, &["certificate"]) {
        return;
    }
    let pem = STANDARD.decode(text).unwrap_or_default();
    let mut blocks = Pem::iter_from_buffer(&pem).peekable();
    let refused = if blocks.peek().is_none() {
        Some("must contain at least one CERTIFICATE PEM block")
    } else {
        blocks.find_map(|block| match block {
            Err(_) => Some("holds a broken PEM block"),
            Ok(block) if block.label != "CERTIFICATE" => {
                Some("only CERTIFICATE PEM blocks are allowed")
            }
            Ok(block) => block
                .parse_x509()
                .is_err()
                .then_some("a CERTIFICATE PEM block holds no certificate"),
        })
    };
    if let Some(reason) = refused {
        causes.invalid("status.certificate", "<certificate data>", reason);
    }
}

/// What was decided stays so.
fn kept_decisions(old: &Value, new: &Value, causes: &mut Causes) {
    let new = items(&new["conditions"]);
    for condition in items(&old["conditions"]) {
        let kind = text_at(condition, &["type"]);
        let decided = matches!(kind, "Approved" | "Denied" | "Failed");
        if decided && !new.contains(condition) {
            let detail = format!("updates may not remove or change a condition of type {kind:?}");
            causes.forbidden("status.conditions", &detail);
        }
    }
}
