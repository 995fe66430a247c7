//! The real kubectl, in each version the machine has, against the API.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::process::Stdio;

use common::{PODS, kubectl::each_version, pod};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A manifest as people write it.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: my-service
spec:
  selector:
    app: MyApp
  ports:
  - port: 80
    targetPort: 9376
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_changes_and_deletes() {
    each_version(async |_, kubectl| {
        let made = kubectl.works_with("apply -f -", SERVICE).await;
        assert!(made.contains("service/my-service created"), "{made}");
        let same = kubectl.works_with("apply -f -", SERVICE).await;
        assert!(same.contains("unchanged"), "{same}");
        let changed = SERVICE.replace("port: 80", "port: 81");
        let made = kubectl.works_with("apply -f -", &changed).await;
        assert!(made.contains("configured"), "{made}");
        let ports = kubectl
            .works("get svc my-service -o jsonpath={.spec.ports[*].port}")
            .await;
        assert_eq!(ports, "81");
        let gone = kubectl.works("delete svc my-service").await;
        assert!(gone.contains("deleted"), "{gone}");
        let (fine, text) = kubectl.run("get svc my-service").await;
        assert!(!fine);
        assert!(
            text.contains("(NotFound): services \"my-service\" not found"),
            "{text}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_in_every_form() {
    each_version(async |api, kubectl| {
        api.made(PODS, pod("a")).await;
        api.made(
            "/api/v1/nodes",
            serde_json::json!({"metadata": {"name": "node1"}}),
        )
        .await;
        kubectl.works_with("create -f -", SERVICE).await;
        let text = kubectl.works("get pods -o wide --show-labels").await;
        for word in ["READINESS GATES", "Pending", "app=web", "0/1"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let text = kubectl
            .works("get svc,ep,endpointslices,nodes,ns,cm,secrets,sa,leases,events -A")
            .await;
        assert!(
            text.contains("my-service") && text.contains("80/TCP"),
            "{text}"
        );
        let text = kubectl.works("get pod a -o yaml").await;
        assert!(text.contains("restartPolicy: Always"), "{text}");
        let text = kubectl.works("describe pod a").await;
        assert!(text.contains("minik.dev/echo:1"), "{text}");
        let text = kubectl.works("describe svc my-service").await;
        assert!(text.contains("9376/TCP"), "{text}");
        kubectl.works("describe node node1").await;
        kubectl.works("describe ns default").await;
        let text = kubectl
            .works("get pods --sort-by=.metadata.name -o name")
            .await;
        assert_eq!(text.trim(), "pod/a");
        let text = kubectl.works("api-resources").await;
        assert!(text.contains("endpointslices"), "{text}");
        kubectl.works("version").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_labels_annotates_patches_and_replaces() {
    each_version(async |api, kubectl| {
        api.made(PODS, pod("a")).await;
        kubectl.works("label pod a tier=web").await;
        kubectl.works("annotate pod a note=x").await;
        kubectl.works("patch pod a --type=merge -p {\"metadata\":{\"labels\":{\"a\":\"b\"}}}").await;
        kubectl
            .works("patch pod a --type=json -p [{\"op\":\"add\",\"path\":\"/metadata/labels/c\",\"value\":\"d\"}]")
            .await;
        let text = kubectl.works("get pod a -o jsonpath={.metadata.labels}").await;
        for pair in [r#""tier":"web""#, r#""a":"b""#, r#""c":"d""#] {
            assert!(text.contains(pair), "{pair}: {text}");
        }
        kubectl.works_with("create -f -", SERVICE).await;
        let changed = SERVICE.replace("port: 80", "port: 82");
        let text = kubectl.works_with("replace -f -", &changed).await;
        assert!(text.contains("replaced"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches_tables() {
    each_version(async |api, kubectl| {
        api.made(PODS, pod("a")).await;
        let mut child = kubectl
            .command("get pods -w")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = async |wanted: &str| {
            let wait = std::time::Duration::from_secs(30);
            loop {
                let line = tokio::time::timeout(wait, lines.next_line()).await;
                let line = line
                    .expect("kubectl tells nothing")
                    .unwrap()
                    .expect("kubectl ended");
                if line.contains(wanted) {
                    return;
                }
            }
        };
        told("a ").await;
        api.made(PODS, pod("b")).await;
        told("b ").await;
        let running = serde_json::json!({"status": {"phase": "Running"}});
        api.merge(&format!("{PODS}/b/status"), running).await;
        told("Running").await;
        child.kill().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_kubectl_patches_strategically_and_explains() {
    each_version(async |_, kubectl| {
        kubectl.works_with("create -f -", SERVICE).await;
        let patch = r#"{"spec":{"ports":[{"name":"b","port":81}]}}"#;
        let (fine, text) = kubectl
            .run(&format!("patch svc my-service -p {patch}"))
            .await;
        assert!(
            !fine && text.contains("spec.ports[1].name: Required value"),
            "{text}"
        );
        let patch = r#"{"spec":{"ports":[{"name":"a","port":80},{"name":"b","port":81}]}}"#;
        kubectl
            .works(&format!("patch svc my-service -p {patch}"))
            .await;
        let text = kubectl
            .works("get svc my-service -o jsonpath={.spec.ports[*].port}")
            .await;
        assert_eq!(text.split_whitespace().count(), 2, "{text}");
        let text = kubectl.works("explain service.spec.ports").await;
        assert!(text.contains("nodePort"), "{text}");
        let text = kubectl.works("explain pod.spec.containers").await;
        let says = ["image\t<string>", "Container image name. More info:"];
        assert!(says.iter().all(|words| text.contains(words)), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_kubectl_tells_unknown_fields() {
    each_version(async |_, kubectl| {
        let wrong = SERVICE.replace("selector:", "colour: red\n  selector:");
        let (fine, text) = kubectl.with_input("apply -f -", &wrong).await;
        assert!(
            !fine && text.contains("unknown field \"spec.colour\""),
            "{text}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_kubectl_generators_create() {
    each_version(async |_, kubectl| {
        kubectl.works("create ns team").await;
        kubectl
            .works("create cm settings --from-literal=a=b -n team")
            .await;
        kubectl
            .works("create secret generic keys --from-literal=a=b -n team")
            .await;
        kubectl.works("create sa robot -n team").await;
        let text = kubectl
            .works("get secret keys -n team -o jsonpath={.data.a}")
            .await;
        assert_eq!(text, "Yg==");
    })
    .await;
}
