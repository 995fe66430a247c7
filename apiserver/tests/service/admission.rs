//! The rules that answer the known CVEs of Services.

use apiserver::auth::{Attributes, Authorizer, Decision, User};
use async_trait::async_trait;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    Context, Refused, Spec, cause, check_creates, check_updates,
    common::{Api, SERVICES},
    of_type, with_external_ips, with_spec,
};

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Addresses that lead nowhere, or to each node's own loopback and link, which nothing else keeps a Pod from. Slices were not held
/// to it once, and such an endpoint with `route_localnet` reached what a node keeps to itself (CVE-2020-8558).
#[tokio::test]
async fn cve_2021_25737_loopback_and_link_local_addresses_are_no_endpoints() {
    let api = Api::new().await;
    let cases = [
        (
            "10.96.0.10",
            "may not be a ClusterIP: it is in the service range 10.96.0.0/16",
        ),
        ("127.0.0.1", "may not be in the loopback range"),
        ("127.8.9.10", "may not be in the loopback range"),
        ("::1", "may not be in the loopback range"),
        ("169.254.1.1", "may not be in the link-local range"),
        ("169.254.169.254", "may not be in the link-local range"),
        ("fe80::1", "may not be in the link-local range"),
        ("0.0.0.0", "may not be unspecified"),
        ("::", "may not be unspecified"),
        ("224.0.0.1", "may not be in the link-local multicast range"),
        ("database", "must be a valid IP address"),
        ("10.0.0.01", "must not have leading 0s"),
        (
            "::ffff:127.0.0.1",
            "must not be an IPv4-mapped IPv6 address",
        ),
    ];
    for family in ["IPv4", "IPv6"] {
        let harmless = if family == "IPv4" {
            "192.0.2.42"
        } else {
            "2001:db8::42"
        };
        let name = family.to_lowercase();
        api.made(ENDPOINTS, endpoints(&name, harmless)).await;
        api.made(SLICES, slice(&name, harmless)).await;
    }
    for (ip, wanted) in cases {
        let refused = |(code, status): (StatusCode, Value), field: &str| {
            assert_eq!(code, 422, "{ip}: {status}");
            let (got, message) = cause(&status);
            assert_eq!(got, field, "{ip}");
            assert!(
                message.contains(wanted) && message.contains(ip),
                "{message}"
            );
        };
        let field = "subsets[0].addresses[0].ip";
        refused(api.post(ENDPOINTS, endpoints("a", ip)).await, field);
        let mut not_ready = endpoints("a", ip);
        let addresses = not_ready["subsets"][0]["addresses"].take();
        not_ready["subsets"][0] = json!({"notReadyAddresses": addresses});
        let field = "subsets[0].notReadyAddresses[0].ip";
        refused(api.post(ENDPOINTS, not_ready).await, field);
        let field = "endpoints[0].addresses[0]";
        refused(api.post(SLICES, slice("a", ip)).await, field);
        // What was harmless does not become it.
        let name = if ip.contains(':') { "ipv6" } else { "ipv4" };
        for (path, body, field) in [
            (ENDPOINTS, endpoints(name, ip), "subsets[0].addresses[0].ip"),
            (SLICES, slice(name, ip), field),
        ] {
            let path = format!("{path}/{name}");
            refused(api.put(&path, body.clone()).await, field);
            refused(api.merge(&path, body).await, field);
        }
    }
}

#[tokio::test]
async fn cve_2020_8554_external_ips_are_refused_unless_allowed() {
    let field = "spec.externalIPs[0]";
    let unclaimable = "is not among the external IPs that Services may claim";
    let api = Api::new().await;
    let ips = |ip: &str| json!({"externalIPs": [ip]});
    check_creates(
        &api,
        vec![
            (
                "none is allowed by default",
                ips("198.51.100.7"),
                Refused(field, unclaimable),
            ),
            (
                "an IPv6 one neither",
                ips("2001:db8:5::7"),
                Refused(field, "--allow-external-ips 2001:db8:5::7/128"),
            ),
        ],
    )
    .await;
    check_updates(
        &api,
        vec![(
            "nor by an update",
            json!({}),
            ips("198.51.100.7"),
            Refused(field, unclaimable),
        )],
    )
    .await;
    let api = with_external_ips().await;
    check_creates(
        &api,
        vec![
            (
                "one in the ranges is",
                ips("198.51.100.7"),
                Spec(ips("198.51.100.7")),
            ),
            (
                "of either family",
                ips("2001:db8:5::7"),
                Spec(ips("2001:db8:5::7")),
            ),
            (
                "one beside them is not",
                ips("198.51.101.7"),
                Refused(field, unclaimable),
            ),
            (
                "nor one in the clothes of another family",
                ips("::ffff:198.51.100.7"),
                Refused(field, "IPv4-mapped"),
            ),
            (
                "each counts",
                json!({"externalIPs": ["198.51.100.7", "192.0.2.1"]}),
                Refused("spec.externalIPs[1]", unclaimable),
            ),
        ],
    )
    .await;
}

/// A cluster with a node, an API address, and a host that is neither.
async fn with_node(context: Context) -> Api {
    let api = Api::with(context).await;
    api.made("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let status = json!({"status": {"addresses": [
        {"type": "Hostname", "address": "n1"},
        {"type": "InternalIP", "address": "192.0.2.11"},
        {"type": "ExternalIP", "address": "2001:db8::11"},
    ]}});
    let (code, answer) = api.merge("/api/v1/nodes/n1/status", status).await;
    assert_eq!(code, 200, "{answer}");
    api.made(ENDPOINTS, endpoints("kubernetes", "192.0.2.10"))
        .await;
    api
}

fn endpoints(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name}, "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 42}]}]})
}

fn slice(name: &str, ip: &str) -> Value {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    json!({"metadata": {"name": name}, "addressType": family, "endpoints": [{"addresses": [ip]}]})
}

#[tokio::test]
async fn cve_2021_25740_endpoints_and_slices_by_hand_do_not_name_nodes_or_the_api() {
    let api = with_node(Context::default()).await;
    for (ip, owner) in [
        ("192.0.2.11", "node n1"),
        ("2001:db8::11", "node n1"),
        ("2001:0db8:0:0::11", "node n1"),
        ("192.0.2.10", "the API server"),
    ] {
        let words = format!("is an address of {owner}");
        for (path, body, field) in [
            (ENDPOINTS, endpoints("a", ip), "subsets[0].addresses[0].ip"),
            (SLICES, slice("a", ip), "endpoints[0].addresses[0]"),
        ] {
            let refused = |(code, status): (StatusCode, Value)| {
                assert_eq!(code, 422, "{ip}: {status}");
                let (got, message) = cause(&status);
                assert_eq!(got, field);
                assert!(message.contains(&words), "{message}");
            };
            refused(api.post(path, body.clone()).await);
            let apply = "application/apply-patch+yaml";
            let mut config = body.clone();
            config["apiVersion"] = if path == SLICES {
                "discovery.k8s.io/v1"
            } else {
                "v1"
            }
            .into();
            config["kind"] = if path == SLICES {
                "EndpointSlice"
            } else {
                "Endpoints"
            }
            .into();
            let target = format!("{path}/a?fieldManager=me");
            refused(api.call_as("PATCH", &target, apply, config).await);
            // The family of a slice does not change, so the other address is of the same one.
            let other = if ip.contains(':') {
                "2001:db8::99"
            } else {
                "192.0.2.99"
            };
            let harmless = if path == SLICES {
                slice("a", other)
            } else {
                endpoints("a", other)
            };
            api.made(path, harmless).await;
            let target = format!("{path}/a");
            refused(api.put(&target, body.clone()).await);
            refused(api.merge(&target, body).await);
            api.delete(&target).await;
        }
    }
    let not_ready = json!({"metadata": {"name": "a"}, "subsets": [{"notReadyAddresses": [{"ip": "192.0.2.11"}]}]});
    assert_eq!(api.post(ENDPOINTS, not_ready).await.0, 422);
    // PUT creates Endpoints: by that way neither.
    let (code, _) = api
        .put(&format!("{ENDPOINTS}/b"), endpoints("b", "192.0.2.11"))
        .await;
    assert_eq!(code, 422);
    // What is there already does not stand in the way of other changes.
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let (code, answer) = api.merge(&format!("{ENDPOINTS}/kubernetes"), labels).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn cve_2021_25740_node_addresses_in_allowed_ranges_may_be_named() {
    let api = with_node(Context {
        allowed_endpoint_ips: vec!["192.0.2.11/32".parse().unwrap()],
        ..Context::default()
    })
    .await;
    api.made(ENDPOINTS, endpoints("a", "192.0.2.11")).await;
    assert_eq!(api.post(SLICES, slice("b", "192.0.2.10")).await.0, 422);
}

/// Some may do everything, and all may do everything with Services.
struct Tenants;

#[async_trait]
impl Authorizer for Tenants {
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if attributes.resource == "services" || user.is_master() {
            Decision::allow()
        } else {
            Decision::Deny(String::new())
        }
    }

    fn rules(&self, _user: &User, _namespace: Option<&str>) -> Vec<api::rbac::PolicyRule> {
        Vec::new()
    }
}

#[tokio::test]
async fn cve_2020_8554_only_load_balancer_controllers_and_administrators_write_the_status_of_services()
 {
    const CONTROLLER: &str = "system:serviceaccount:lb-system:controller";
    let context = Context {
        load_balancer_controllers: vec![CONTROLLER.into()],
        ..Context::default()
    };
    let api = Api::with_authorizer(context, Tenants).await;
    api.made(SERVICES, of_type("lb", "LoadBalancer")).await;
    let user = |name: &str, group: &str| User {
        name: name.into(),
        groups: vec![group.into()],
        ..User::default()
    };
    let status = |ip: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
    let path = format!("{SERVICES}/lb/status");
    let (code, answer) = api
        .merge_by(user("tenant", "tenants"), &path, status("192.0.2.1"))
        .await;
    assert_eq!(code, 403, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("--load-balancer-controller tenant"),
        "{message}"
    );
    // By no other way of writing, and neither with a dry run.
    let mut whole = of_type("lb", "LoadBalancer");
    whole["status"] = status("192.0.2.1")["status"].clone();
    whole["apiVersion"] = "v1".into();
    whole["kind"] = "Service".into();
    let tenant = || user("tenant", "tenants");
    for (method, media_type, query) in [
        ("PUT", "application/json", ""),
        ("PUT", "application/json", "?dryRun=All"),
        ("PATCH", "application/strategic-merge-patch+json", ""),
        (
            "PATCH",
            "application/apply-patch+yaml",
            "?fieldManager=me&force=true",
        ),
    ] {
        let path = format!("{path}{query}");
        let (code, answer) = api
            .call_by(tenant(), method, &path, media_type, whole.clone())
            .await;
        assert_eq!(code, 403, "{method} {media_type}: {answer}");
    }
    let patch = json!([{"op": "replace", "path": "/status", "value": whole["status"]}]);
    let media_type = "application/json-patch+json";
    let (code, answer) = api
        .call_by(tenant(), "PATCH", &path, media_type, patch)
        .await;
    assert_eq!(code, 403, "{answer}");
    // By the main path the status does not change, whoever writes.
    let main = format!("{SERVICES}/lb");
    let (code, answer) = api
        .merge_by(user("tenant", "tenants"), &main, status("192.0.2.1"))
        .await;
    assert_eq!(
        (code.as_u16(), &answer["status"]),
        (200, &json!({"loadBalancer": {}}))
    );
    for (writer, ip) in [
        (user(CONTROLLER, "system:serviceaccounts"), "192.0.2.2"),
        (user("root", "system:masters"), "192.0.2.3"),
    ] {
        let (code, answer) = api.merge_by(writer, &path, status(ip)).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(answer["status"]["loadBalancer"]["ingress"][0]["ip"], ip);
    }
    let mut made = with_spec("b", &json!({"type": "LoadBalancer"}));
    made["status"] = status("192.0.2.1")["status"].clone();
    let made = api.made(SERVICES, made).await;
    assert_eq!(
        made["status"],
        json!({"loadBalancer": {}}),
        "nor by creating it"
    );
}
