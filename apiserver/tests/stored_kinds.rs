//! Job, PodDisruptionBudget, ResourceQuota, LimitRange, PriorityClass, RuntimeClass, IngressClass and
//! CertificateSigningRequest: defaults, validation, columns.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{Api, kubectl::each_version};
use serde_json::{Value, json};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const RUNTIMES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const LIMITS: &str = "/api/v1/namespaces/default/limitranges";

/// Made by `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=jane/O=dev`.
const CSR: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIWE1IOENBUUF3SFRFTk1Bc0dBMVVFQXd3RWFtRnVaVEVNTUFvR0ExVUVDZ3dEWkdWMk1Ga3dFd1lIS29aSQp6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUUzOVZFYlZycksrdUppQlFFSWlobkx0WGNrRGdZY2d5K0dleWdCdUZPCnc1bXJyekhsekxST1RmNENMN1dkZFcydVprVm5PbW1FNVVnVkYzaUpBQktCRWFBQU1Bb0dDQ3FHU000OUJBTUMKQTBnQU1FVUNJUUNzVWdXY0NlMUI4V3h6SC9DV3VlanhOMDkrYkF3cGhiZXJkZ1lFQW1veW93SWdPNGpCV0g3bworSW1xcU42ZzFZK29JY1J4eFZuR2k0SVI2b29lVHJ3N1plcz0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

fn job(restart: &str) -> Value {
    json!({
        "metadata": {"name": "j"},
        "spec": {"template": {"spec": {
            "restartPolicy": restart, "containers": [{"name": "c", "image": "minik.dev/echo:1"}],
        }}},
    })
}

fn request(signer: &str) -> Value {
    json!({"metadata": {"name": "r"}, "spec": {
        "request": CSR, "signerName": signer, "usages": ["client auth"], "username": "root",
    }})
}

/// A request with one field changed.
fn asks(field: &str, value: Value) -> Value {
    let mut request = request("example.com/signer");
    request["spec"][field] = value;
    request
}

#[tokio::test]
async fn m13_a_job_is_filled_in_and_tied_to_its_pods() {
    let api = Api::new().await;
    let made = api.made(JOBS, job("Never")).await;
    let (spec, uid) = (&made["spec"], &made["metadata"]["uid"]);
    for (field, wanted) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        (
            "selector",
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        ),
    ] {
        assert_eq!(spec[field], wanted, "{field}");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(labels["batch.kubernetes.io/job-name"], "j");
    assert_eq!(labels["controller-uid"], *uid);
    let path = format!("{JOBS}/j");
    let image = json!({"spec": {"template": {"spec": {"priority": 1}}}});
    assert_eq!(api.merge(&path, image).await.0, 422);
    let (code, _) = api.merge(&path, json!({"spec": {"parallelism": 3}})).await;
    assert_eq!(code, 200);
    let status = json!({"status": {"succeeded": 1}});
    assert_eq!(api.merge(&format!("{path}/status"), status).await.0, 200);
    let (_, found) = api
        .get(&format!("{JOBS}?fieldSelector=status.successful=1"))
        .await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn v6_wrong_objects_are_refused() {
    let api = Api::new().await;
    let forged = String::from_utf8(STANDARD.decode(CSR).unwrap()).unwrap();
    let forged = forged.replace("uejxN09", "uejxN08");
    let named = |rest: Value| {
        let mut object = json!({"metadata": {"name": "x"}});
        for (field, value) in rest.as_object().unwrap() {
            object[field] = value.clone();
        }
        object
    };
    let mut indexed = job("Never");
    indexed["spec"]["completionMode"] = json!("Indexed");
    indexed["spec"]["parallelism"] = json!(2);
    let both = json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}});
    let twice = json!({"spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}});
    for (path, object, field) in [
        (JOBS, job("Always"), "spec.template.spec.restartPolicy"),
        (JOBS, indexed, "spec.completions"),
        (BUDGETS, named(both), "spec"),
        (
            BUDGETS,
            named(json!({"spec": {"minAvailable": "x"}})),
            "spec.minAvailable",
        ),
        (
            BUDGETS,
            named(json!({"spec": {"maxUnavailable": "101%"}})),
            "spec.maxUnavailable",
        ),
        (CLASSES, named(json!({"value": 1_000_000_001})), "value"),
        (
            CLASSES,
            json!({"metadata": {"name": "system-x"}, "value": 1}),
            "metadata.name",
        ),
        (
            CLASSES,
            named(json!({"value": 1, "preemptionPolicy": "x"})),
            "preemptionPolicy",
        ),
        (RUNTIMES, named(json!({"handler": "A_"})), "handler"),
        (RUNTIMES, named(json!({"handler": ""})), "handler"),
        (
            INGRESSES,
            named(json!({"spec": {"controller": "x"}})),
            "spec.controller",
        ),
        (
            QUOTAS,
            named(json!({"spec": {"hard": {"pods": "-1"}}})),
            "spec.hard[pods]",
        ),
        (LIMITS, named(twice), "spec.limits[1].type"),
        (REQUESTS, request("x"), "spec.signerName"),
        (
            REQUESTS,
            request("kubernetes.io/legacy-unknown"),
            "spec.signerName",
        ),
        (REQUESTS, asks("request", json!("eA==")), "spec.request"),
        // A bit of the signature: it does not fit the key any more.
        (
            REQUESTS,
            asks("request", json!(STANDARD.encode(forged))),
            "spec.request",
        ),
        (REQUESTS, asks("usages", json!(["x"])), "spec.usages[0]"),
        (
            REQUESTS,
            asks("usages", json!(["client auth", "client auth"])),
            "spec.usages[1]",
        ),
        (
            REQUESTS,
            named(json!({"spec": {"signerName": "a.b/c"}})),
            "spec.request",
        ),
    ] {
        let (code, refused) = api.post(path, object.clone()).await;
        assert_eq!(code, 422, "{path} {object}: {refused}");
        let causes = refused["details"]["causes"].as_array().unwrap();
        assert!(
            causes.iter().any(|cause| cause["field"] == field),
            "{field}: {refused}"
        );
    }
}

#[tokio::test]
async fn m13_limits_and_classes_are_filled_in() {
    let api = Api::new().await;
    let limits = json!({"metadata": {"name": "x"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}});
    let made = api.made(LIMITS, limits).await;
    let item = &made["spec"]["limits"][0];
    assert_eq!(item["default"], json!({"cpu": "2"}));
    assert_eq!(item["defaultRequest"], json!({"cpu": "2"}));
    let made = api
        .made(CLASSES, json!({"metadata": {"name": "x"}, "value": 5}))
        .await;
    assert_eq!(made["preemptionPolicy"], "PreemptLowerPriority");
    let change = json!({"value": 6});
    assert_eq!(api.merge(&format!("{CLASSES}/x"), change).await.0, 422);
    let class = json!({"metadata": {"name": "x"}, "handler": "h"});
    let _ = api.made(RUNTIMES, class).await;
    let change = json!({"handler": "other"});
    assert_eq!(api.merge(&format!("{RUNTIMES}/x"), change).await.0, 422);
}

#[tokio::test]
async fn a_certificate_request_says_who_asked_and_is_approved_on_a_path_of_its_own() {
    let api = Api::new().await;
    let made = api.made(REQUESTS, request("example.com/signer")).await;
    assert_eq!(made["spec"]["username"], "system:anonymous");
    let mut applied = request("example.com/signer");
    applied["apiVersion"] = json!("certificates.k8s.io/v1");
    applied["kind"] = json!("CertificateSigningRequest");
    applied["metadata"]["name"] = json!("applied");
    let path = format!("{REQUESTS}/applied?fieldManager=m");
    let media = "application/apply-patch+yaml";
    let (code, applied) = api.call_as("PATCH", &path, media, applied).await;
    assert_eq!(code, 201, "{applied}");
    assert_eq!(applied["spec"]["username"], "system:anonymous");
    let path = format!("{REQUESTS}/r");
    let mut approved = json!({"type": "Approved", "status": "True", "reason": "r", "message": "m"});
    let decision = json!({"status": {"conditions": [approved], "certificate": "eA=="}, "spec": {"username": "root"}});
    let (_, ignored) = api.merge(&path, decision.clone()).await;
    assert_eq!(ignored["status"], json!({}));
    assert_eq!(ignored["spec"]["username"], "system:anonymous");
    let (code, refused) = api.merge(&format!("{path}/status"), decision.clone()).await;
    assert_eq!(code, 422, "who signs does not approve: {refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("may not add a condition of type \"Approved\""),
        "{message}"
    );
    let (code, mut changed) = api.merge(&format!("{path}/approval"), decision).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["username"], "system:anonymous");
    let decided = changed["status"]["conditions"].clone();
    let condition = changed["status"]["conditions"][0].as_object_mut().unwrap();
    for time in ["lastTransitionTime", "lastUpdateTime"] {
        let time = condition.remove(time);
        assert!(time.is_some_and(|time| time.is_string()));
    }
    assert_eq!(changed["status"], json!({"conditions": [approved]}));
    let both =
        json!({"status": {"conditions": [decided[0], {"type": "Denied", "status": "True"}]}});
    assert_eq!(api.merge(&format!("{path}/approval"), both).await.0, 422);
    let status = format!("{path}/status");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default();
    let certificate = certificate.self_signed(&key).unwrap().pem();
    for (given, why) in [
        (
            key.serialize_pem(),
            "only CERTIFICATE PEM blocks are allowed",
        ),
        (certificate[..60].to_owned(), "broken"),
        (
            "-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n".into(),
            "holds no certificate",
        ),
        (
            "x".into(),
            "must contain at least one CERTIFICATE PEM block",
        ),
    ] {
        let given = json!({"status": {"certificate": STANDARD.encode(given)}});
        let (code, refused) = api.merge(&status, given).await;
        let message = refused["message"].as_str().unwrap();
        assert!(code == 422 && message.contains(why), "{code} {message}");
    }
    // A decision that somebody sends along with a certificate stays what it was.
    approved["message"] = json!("another");
    let given = STANDARD.encode(format!("{certificate}{certificate}"));
    let signed = json!({"status": {"conditions": [approved], "certificate": given}});
    let (_, signed) = api.merge(&status, signed).await;
    let wanted = json!({"conditions": decided, "certificate": given});
    assert_eq!(signed["status"], wanted);
    let other = json!({"status": {"certificate": STANDARD.encode(certificate)}});
    let (code, refused) = api.merge(&status, other).await;
    assert_eq!(code, 422, "{refused}");
    for state in ["", "Maybe"] {
        let own = json!({"type": "Own", "status": state});
        let own = json!({"status": {"conditions": [decided[0], own]}});
        let (code, refused) = api.merge(&status, own).await;
        let message = refused["message"].as_str().unwrap();
        let named = message.contains("status.conditions[1].status");
        assert!(code == 422 && named, "{code} {message}");
    }
}

const MANIFEST: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: x}
spec: {controller: example.com/c, parameters: {apiGroup: example.com, kind: P, name: p}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: x}
handler: h
---
apiVersion: v1
kind: LimitRange
metadata: {name: x}
spec: {limits: [{type: Pod, max: {cpu: 1}}]}
---
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: x}
spec: {request: $CSR, signerName: example.com/signer, usages: [client auth], expirationSeconds: 3600}
";

#[tokio::test(flavor = "multi_thread")]
async fn t3_kubectl_creates_shows_and_deletes_them() {
    let manifest = MANIFEST.replace("$CSR", CSR);
    each_version(async |api, kubectl| {
        let _ = kubectl.works_with("apply -f -", &manifest).await;
        let same = kubectl.works_with("apply -f -", &manifest).await;
        assert_eq!(same.matches("unchanged").count(), 4, "{same}");
        // Generators send protobuf from kubectl 1.32 on (N2).
        for command in [
            "create job x --image=minik.dev/echo:1",
            "create poddisruptionbudget x --selector=app=web --min-available=50%",
            "create quota x --hard=pods=5,limits.cpu=2",
            "create priorityclass x --value=7 --description=d",
        ] {
            let _ = kubectl.works(command).await;
        }
        let status =
            json!({"status": {"hard": {"pods": "5", "limits.cpu": "2"}, "used": {"pods": "1"}}});
        let (code, _) = api.merge(&format!("{QUOTAS}/x/status"), status).await;
        assert_eq!(code, 200);
        let _ = kubectl.works("certificate approve x").await;
        for (kind, wanted) in [
            (
                "job",
                "NAME STATUS COMPLETIONS DURATION AGE CONTAINERS IMAGES SELECTOR|x Running 0/1",
            ),
            (
                "pdb",
                "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE|x 50% N/A 0",
            ),
            (
                "pc",
                "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY|x 7 false",
            ),
            ("runtimeclass", "NAME HANDLER AGE|x h"),
            (
                "ingressclass",
                "NAME CONTROLLER PARAMETERS AGE|x example.com/c P.example.com/p",
            ),
            ("limits", "NAME CREATED AT|x"),
            (
                "csr",
                "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION|x",
            ),
        ] {
            let table = kubectl.works(&format!("get {kind} -o wide")).await;
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let lines: Vec<String> = table.lines().map(words).collect();
            let (head, row) = wanted.split_once('|').unwrap();
            assert_eq!(lines[0], head);
            assert!(lines[1].starts_with(row), "{table}");
        }
        let csr = kubectl.works("get csr x").await;
        assert!(
            csr.contains("example.com/signer") && csr.contains(" 60m ") && csr.contains("Approved"),
            "{csr}"
        );
        let quota = kubectl.works("get quota x").await;
        assert!(
            quota.contains("pods: 1/5") && quota.contains("limits.cpu: 0/2"),
            "{quota}"
        );
        for kind in [
            "job",
            "pdb",
            "quota",
            "pc",
            "runtimeclass",
            "ingressclass",
            "limits",
            "csr",
        ] {
            let _ = kubectl.works(&format!("describe {kind} x")).await;
            let _ = kubectl.works(&format!("delete {kind} x")).await;
        }
    })
    .await;
}
