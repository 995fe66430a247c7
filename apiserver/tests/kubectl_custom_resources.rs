//! CustomResourceDefinitions and their objects through the real kubectl, in each version the machine has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::kubectl::each_version;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: crontabs.stable.example.com
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Schedule, type: string, jsonPath: .spec.schedule}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        description: A CronTab runs something again and again.
        type: object
        properties:
          spec:
            type: object
            required: [schedule]
            properties:
              schedule: {type: string, description: When it runs.}
              replicas: {type: integer, default: 1, maximum: 10}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, port: {type: integer}}
          status:
            type: object
            properties: {replicas: {type: integer}}
"#;

/// Several in one file, as people keep them.
const OBJECTS: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: first}
spec: {schedule: "1 * * * *", ports: [{name: a, port: 1}]}
---
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: second}
spec: {schedule: "2 * * * *", replicas: 2}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn f6_kubectl_works_with_custom_resources_from_their_definition_to_its_end() {
    each_version(async |_, kubectl| {
        kubectl.works_with("apply -f -", DEFINITION).await;
        kubectl
            .works("wait --for=condition=established crd/crontabs.stable.example.com --timeout=30s")
            .await;
        let text = kubectl.works("get crd").await;
        assert!(
            text.contains("CREATED AT") && text.contains("crontabs.stable.example.com"),
            "{text}"
        );
        let text = kubectl
            .works("api-resources --api-group=stable.example.com")
            .await;
        assert!(text.contains("ct") && text.contains("CronTab"), "{text}");

        let text = kubectl.works_with("apply -f -", OBJECTS).await;
        assert!(
            text.contains("crontab.stable.example.com/first created"),
            "{text}"
        );
        let text = kubectl.works_with("apply -f -", OBJECTS).await;
        assert!(
            text.contains("first unchanged") && text.contains("second unchanged"),
            "{text}"
        );
        let changed = OBJECTS.replace("1 * * * *", "3 * * * *");
        let text = kubectl.works_with("apply -f -", &changed).await;
        assert!(text.contains("first configured"), "{text}");
        let text = kubectl.works("get ct").await;
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(rows[0], ["NAME", "SCHEDULE", "REPLICAS", "AGE"]);
        assert_eq!(rows[1][..3], ["first", "3 * * * *", "1"]);
        assert_eq!(rows[2][..3], ["second", "2 * * * *", "2"]);

        let unknown = OBJECTS.replace("schedule: \"1", "colour: red, schedule: \"1");
        let (fine, text) = kubectl.with_input("apply -f -", &unknown).await;
        assert!(
            !fine && text.contains("unknown field \"spec.colour\""),
            "{text}"
        );
        let wrong = OBJECTS.replace("replicas: 2", "replicas: 20");
        let (fine, text) = kubectl.with_input("apply -f -", &wrong).await;
        assert!(
            !fine && text.contains("spec.replicas in body should be less than or equal to 10"),
            "{text}"
        );

        let text = kubectl.works("explain crontab.spec").await;
        assert!(
            text.contains("schedule") && text.contains("When it runs."),
            "{text}"
        );
        let text = kubectl.works("explain ct").await;
        assert!(
            text.contains("A CronTab runs something again and again."),
            "{text}"
        );
        kubectl.works("describe ct first").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a1_m12_kubectl_patches_applies_and_scales_custom_resources() {
    each_version(async |_, kubectl| {
        kubectl.works_with("create -f -", DEFINITION).await;
        kubectl.works("wait --for=condition=established crd/crontabs.stable.example.com --timeout=30s").await;
        kubectl.works_with("create -f -", OBJECTS).await;
        kubectl.works(r#"patch ct first --type=merge -p {"spec":{"replicas":4}}"#).await;
        kubectl.works(r#"patch ct first --type=json -p [{"op":"replace","path":"/spec/schedule","value":"@daily"}]"#).await;
        let (fine, text) = kubectl.run(r#"patch ct first -p {"spec":{"replicas":4}}"#).await;
        assert!(!fine, "a strategic patch was taken: {text}");
        let text = kubectl.works("get ct first -o jsonpath={.spec.replicas},{.spec.schedule}").await;
        assert_eq!(text, "4,@daily");
        kubectl.works("label ct first tier=x").await;
        kubectl.works("annotate ct first note=x").await;

        kubectl.works("scale ct first --replicas=6").await;
        let text = kubectl.works("get ct first -o jsonpath={.spec.replicas}").await;
        assert_eq!(text, "6");

        let part = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: first}
spec: {ports: [{name: b, port: 2}]}
"#;
        kubectl.works_with("apply --server-side --field-manager=other -f -", part).await;
        let text = kubectl.works("get ct first -o jsonpath={.spec.ports[*].name}").await;
        assert_eq!(text, "a b");
        let conflict = part.replace("name: b, port: 2", "name: a, port: 9");
        let (fine, text) = kubectl.with_input("apply --server-side --field-manager=other -f -", &conflict).await;
        assert!(!fine && text.contains(r#".spec.ports[name="a"].port"#), "{text}");
        let (differs, text) = kubectl.with_input("diff --server-side --field-manager=third -f -", part).await;
        assert!(differs, "{text}");

        let text = kubectl.works("delete crd crontabs.stable.example.com --timeout=60s").await;
        assert!(text.contains("deleted"), "{text}");
        let (fine, text) = kubectl.run("get ct").await;
        assert!(!fine, "{text}");
    })
    .await;
}
