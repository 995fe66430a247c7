//! CertificateSigningRequest (certificates.k8s.io/v1).

use serde_json::{Value, json};

use super::{items, text_at};
use crate::registry::{
    causes::Causes,
    kind::{ALL_VERBS, Kind, NameRule, Rules, STATUS, Subresource},
    table::{AGE, Column, NAME, Table, human_duration},
};

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
        validate: |_, new, old, causes| {
            if old.is_none() {
                validate(&new["spec"], causes);
            }
            conditions(&new["status"], causes);
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
    if request.is_empty() {
        causes.required("spec.request", "");
    }
    if items(&spec["usages"]).is_empty() {
        causes.required("spec.usages", "usages must be specified");
    }
    let signer = text_at(spec, &["signerName"]);
    let fine = signer.split_once('/').is_some_and(|(domain, path)| {
        api::names::dns1123_subdomain(domain).is_ok()
            && domain.contains('.')
            && api::names::dns1123_subdomain(path).is_ok()
    });
    if signer.is_empty() {
        causes.required("spec.signerName", "");
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
        if decided && state != "True" {
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
