//! IP families (services.md 1.3).

use serde_json::{Value, json};

use crate::{
    Refused, Spec, cause, check_creates, check_updates,
    common::{Api, SERVICES, service},
    dual_stack, ip_is_taken, of_type,
};

#[tokio::test]
async fn headless_services_have_no_address() {
    let api = Api::new().await;
    let mut body = service("a");
    body["spec"]["clusterIP"] = "None".into();
    let made = api.made(SERVICES, body).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    let headless = json!({"metadata": {"name": "b"}, "spec": {"clusterIP": "None"}});
    let made = api.made(SERVICES, headless).await;
    assert_eq!(made["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let mut body = of_type("c", "NodePort");
    body["spec"]["clusterIP"] = "None".into();
    assert_eq!(api.post(SERVICES, body).await.0, 422);
}

#[tokio::test]
async fn families_the_cluster_does_not_have_are_refused() {
    let api = Api::new().await;
    for (field, value, wanted) in [
        (
            "ipFamilies",
            json!(["IPv6"]),
            "IPv6 is not configured on this cluster",
        ),
        (
            "ipFamilyPolicy",
            json!("RequireDualStack"),
            "this cluster is not configured for dual-stack services",
        ),
    ] {
        let mut body = service("a");
        body["spec"][field] = value;
        let (code, status) = api.post(SERVICES, body).await;
        assert_eq!(code, 422);
        assert!(cause(&status).1.ends_with(wanted), "{status}");
    }
    let mut body = service("a");
    body["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let made = api.made(SERVICES, body).await;
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn the_second_family_goes_only_when_asked_to_and_with_its_address() {
    let api = dual_stack().await;
    let mut body = service("a");
    body["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let made = api.made(SERVICES, body.clone()).await;
    let second = made["spec"]["clusterIPs"][1].clone();
    assert!(ip_is_taken(&api, &second).await, "{made}");
    let path = format!("{SERVICES}/a");
    for fewer in [
        json!({"clusterIPs": [made["spec"]["clusterIP"]]}),
        json!({"ipFamilies": ["IPv4"]}),
    ] {
        let (code, status) = api.merge(&path, json!({"spec": fewer})).await;
        assert_eq!(code, 422, "{status}");
        let (field, message) = cause(&status);
        assert_eq!(field, "spec.ipFamilyPolicy");
        assert!(
            message.contains("must be 'SingleStack' to release the secondary"),
            "{message}"
        );
    }
    // The manifest names neither families nor addresses.
    body["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    let (code, changed) = api.put(&path, body).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(
        changed["spec"]["clusterIPs"],
        json!([made["spec"]["clusterIP"]])
    );
    assert_eq!(changed["spec"]["ipFamilies"], json!(["IPv4"]));
    assert!(!ip_is_taken(&api, &second).await);
}

#[tokio::test]
async fn a_service_that_prefers_two_families_is_not_given_the_second_by_the_way() {
    let api = dual_stack().await;
    let made = api.made(SERVICES, service("a")).await;
    // As one that was made when the cluster had one family.
    let mut stored = made.clone();
    let metadata = stored["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "managedFields"));
    stored["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    crate::store(&api, "a", &stored).await;
    let other = json!({"spec": {"selector": {"app": "other"}}});
    let (code, changed) = api.merge(&format!("{SERVICES}/a"), other).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["clusterIPs"], made["spec"]["clusterIPs"]);
    assert_eq!(changed["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn s1_3_creates_on_a_single_stack_cluster() {
    let api = Api::new().await;
    let headless = |more: Value| {
        let mut spec = json!({"clusterIP": "None", "selector": null});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        spec
    };
    check_creates(
        &api,
        vec![
            ("an address of a family that is not configured", json!({"clusterIP": "fd00:96::8"}), Refused("spec.clusterIPs[0]", "IPv6 is not configured on this cluster")),
            ("such a family", json!({"ipFamilies": ["IPv6"]}), Refused("spec.ipFamilies[0]", "IPv6 is not configured on this cluster")),
            ("RequireDualStack", json!({"ipFamilyPolicy": "RequireDualStack"}), Refused("spec.ipFamilyPolicy", "this cluster is not configured for dual-stack services")),
            ("PreferDualStack has one family", json!({"ipFamilyPolicy": "PreferDualStack"}), Spec(json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack"}))),
            ("headless and selectorless has two", headless(json!({})), Spec(json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["None"]}))),
            ("also when it prefers them", headless(json!({"ipFamilyPolicy": "PreferDualStack"})), Spec(json!({"ipFamilies": ["IPv4", "IPv6"]}))),
            ("in the order it names", headless(json!({"ipFamilies": ["IPv6"]})), Spec(json!({"ipFamilies": ["IPv6", "IPv4"]}))),
            ("unless SingleStack", headless(json!({"ipFamilyPolicy": "SingleStack"})), Spec(json!({"ipFamilies": ["IPv4"]}))),
            ("which may be any", headless(json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]})), Spec(json!({"ipFamilies": ["IPv6"]}))),
            ("headless with a selector follows the cluster", json!({"clusterIP": "None", "ipFamilies": ["IPv6"]}), Refused("spec.ipFamilies[0]", "IPv6 is not configured")),
            ("ExternalName has no families", json!({"type": "ExternalName", "externalName": "a.b"}), Spec(json!({"ipFamilies": null, "ipFamilyPolicy": null, "clusterIPs": null}))),
            ("nor may ask for them", json!({"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"]}), Refused("spec.ipFamilies", "may not be set when `type` is 'ExternalName'")),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_3_creates_on_a_dual_stack_cluster() {
    let api = dual_stack().await;
    let two = "must be 'RequireDualStack' or 'PreferDualStack'";
    let (four, six) = ("10.96.0.8", "fd00:96::8");
    check_creates(
        &api,
        vec![
            ("one family, the primary, by default", json!({}), Spec(json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}))),
            ("or the one asked for", json!({"ipFamilies": ["IPv6"]}), Spec(json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}))),
            ("or that of the address", json!({"clusterIP": six}), Spec(json!({"ipFamilies": ["IPv6"], "clusterIPs": [six], "clusterIP": six}))),
            ("SingleStack with two families", json!({"ipFamilies": ["IPv4", "IPv6"]}), Refused("spec.ipFamilyPolicy", two)),
            ("SingleStack with two addresses", json!({"clusterIP": four, "clusterIPs": [four, six]}), Refused("spec.ipFamilyPolicy", two)),
            ("two addresses, their order", json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": six, "clusterIPs": [six, four]}), Spec(json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIPs": [six, four]}))),
            ("one address, the other found", json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": six}), Spec(json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": six}))),
            ("one family, the other appended", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}), Spec(json!({"ipFamilies": ["IPv6", "IPv4"]}))),
            ("an address not of its family", json!({"clusterIP": six, "ipFamilies": ["IPv4"]}), Refused("spec.clusterIPs[0]", "expected an IPv4 value as indicated by `ipFamilies[0]`")),
            ("headless with a selector, two families", json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"}), Spec(json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["None"]}))),
            ("headless with a selector, one by default", json!({"clusterIP": "None"}), Spec(json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}))),
        ],
    )
    .await;
    let mut body = service("a");
    body["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    let made = api.made(SERVICES, body).await;
    let ips = made["spec"]["clusterIPs"].as_array().unwrap();
    assert_eq!(ips.len(), 2);
    assert!(
        ips[0].as_str().unwrap().starts_with("10.96.")
            && ips[1].as_str().unwrap().starts_with("fd00:96::")
    );
    for (ip, family) in ips.iter().zip(["IPv4", "IPv6"]) {
        let path = format!(
            "/apis/networking.k8s.io/v1/ipaddresses/{}",
            ip.as_str().unwrap()
        );
        let (code, address) = api.get(&path).await;
        assert_eq!(code, 200);
        assert_eq!(
            address["metadata"]["labels"],
            json!({
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            })
        );
        assert_eq!(
            address["spec"]["parentRef"],
            json!({"group": "", "resource": "services", "namespace": "default", "name": "a"})
        );
    }
    api.delete(&format!("{SERVICES}/a")).await;
    for ip in ips {
        assert!(!ip_is_taken(&api, ip).await, "{ip}");
    }
}

#[tokio::test]
async fn s1_3_upgrades_and_downgrades() {
    let api = dual_stack().await;
    let (four, six) = ("10.96.0.8", "fd00:96::8");
    let one = json!({"clusterIP": four});
    let two =
        json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": four, "clusterIPs": [four, six]});
    let release = "must be 'SingleStack' to release the secondary";
    let families = |list: Value| Spec(json!({"ipFamilies": list}));
    check_updates(
        &api,
        vec![
            ("up by policy", one.clone(), json!({"ipFamilyPolicy": "PreferDualStack"}), families(json!(["IPv4", "IPv6"]))),
            ("up by the stricter policy", one.clone(), json!({"ipFamilyPolicy": "RequireDualStack"}), families(json!(["IPv4", "IPv6"]))),
            ("up by a second address", one.clone(), json!({"ipFamilyPolicy": "PreferDualStack", "clusterIPs": [four, six]}), Spec(json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": [four, six]}))),
            ("up by a second family", one.clone(), json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}), families(json!(["IPv4", "IPv6"]))),
            ("not without the policy", one.clone(), json!({"clusterIPs": [four, six]}), Refused("spec.ipFamilyPolicy", "must be 'RequireDualStack' or 'PreferDualStack'")),
            ("not to another primary", one.clone(), json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}), Refused("spec.ipFamilies[0]", "may not change once set")),
            ("down by policy", two.clone(), json!({"ipFamilyPolicy": "SingleStack"}), Spec(json!({"ipFamilies": ["IPv4"], "clusterIPs": [four], "clusterIP": four}))),
            ("down by policy and lists", two.clone(), json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": [four]}), Spec(json!({"ipFamilies": ["IPv4"], "clusterIPs": [four]}))),
            ("not by addresses alone", two.clone(), json!({"clusterIPs": [four]}), Refused("spec.ipFamilyPolicy", release)),
            ("nor by families alone", two.clone(), json!({"ipFamilies": ["IPv4"]}), Refused("spec.ipFamilyPolicy", release)),
            ("not to the secondary", two.clone(), json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"], "clusterIP": six, "clusterIPs": [six]}), Refused("spec.clusterIPs[0]", "may not change once set")),
            ("the secondary does not change", two.clone(), json!({"clusterIPs": [four, "fd00:96::9"]}), Refused("spec.clusterIPs[1]", "may not change once set")),
            ("the lists do not swap", two.clone(), json!({"clusterIP": six, "clusterIPs": [six, four], "ipFamilies": ["IPv6", "IPv4"]}), Refused("spec.ipFamilies[1]", "may not change once set")),
            ("from Require to Prefer nothing changes", two.clone(), json!({"ipFamilyPolicy": "PreferDualStack"}), Spec(json!({"clusterIPs": [four, six]}))),
            ("headless up", json!({"clusterIP": "None"}), json!({"ipFamilyPolicy": "RequireDualStack"}), families(json!(["IPv4", "IPv6"]))),
            ("headless down", json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}), json!({"ipFamilyPolicy": "SingleStack"}), families(json!(["IPv4"]))),
            ("headless and selectorless down", json!({"clusterIP": "None", "selector": null}), json!({"ipFamilyPolicy": "SingleStack"}), families(json!(["IPv4"]))),
            ("headless, families in another order", json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}), json!({"ipFamilies": ["IPv6", "IPv4"]}), families(json!(["IPv6", "IPv4"]))),
            ("a singular-only client keeps both", two.clone(), json!({"selector": {"app": "b"}}), Spec(json!({"clusterIPs": [four, six]}))),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_3_the_second_address_comes_and_goes_with_its_ip_address_object() {
    let api = dual_stack().await;
    let path = format!("{SERVICES}/a");
    let made = api.made(SERVICES, service("a")).await;
    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let (_, up) = api.merge(&path, policy("RequireDualStack")).await;
    assert_eq!(up["spec"]["clusterIPs"][0], made["spec"]["clusterIP"]);
    let second = up["spec"]["clusterIPs"][1].clone();
    assert!(ip_is_taken(&api, &second).await, "{up}");
    let (_, down) = api.merge(&path, policy("SingleStack")).await;
    assert_eq!(down["spec"]["clusterIPs"], made["spec"]["clusterIPs"]);
    assert!(!ip_is_taken(&api, &second).await);
    assert!(ip_is_taken(&api, &made["spec"]["clusterIP"]).await);
}

#[tokio::test]
async fn s1_3_a_put_of_the_original_manifest_keeps_both_addresses() {
    let api = dual_stack().await;
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let manifest = crate::with_spec("a", &json!({"ipFamilyPolicy": policy}));
        let made = api.made(SERVICES, manifest.clone()).await;
        for body in [manifest, service("a")] {
            let (code, put) = api.put(&format!("{SERVICES}/a"), body).await;
            assert_eq!(code, 200, "{put}");
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                assert_eq!(put["spec"][field], made["spec"][field], "{policy}: {field}");
            }
        }
        api.delete(&format!("{SERVICES}/a")).await;
    }
}
