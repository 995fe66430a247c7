//! Defaults, limits, and what is refused (services.md 1.1).

use serde_json::{Value, json};

use crate::{
    Refused, Spec, cause, check_creates,
    common::{Api, SERVICES, service},
    ip_is_taken, of_type, with_external_ips, with_spec,
};

#[tokio::test]
async fn m13_a_service_gets_its_defaults() {
    let api = Api::new().await;
    let made = api.made(SERVICES, service("a")).await;
    let spec = &made["spec"];
    for (field, wanted) in [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
        (
            "ports",
            json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]),
        ),
        ("externalTrafficPolicy", Value::Null),
    ] {
        assert_eq!(spec[field], wanted, "{field}");
    }
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let ip: std::net::Ipv4Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    let offset = u32::from(ip) - u32::from(std::net::Ipv4Addr::new(10, 96, 0, 0));
    assert!(
        (257..65_535).contains(&offset),
        "{ip} is not from the dynamic band"
    );
    assert!(ip_is_taken(&api, &spec["clusterIP"]).await);
}

#[tokio::test]
async fn s1_1_type_and_ports() {
    let api = Api::new().await;
    let port = |port: Value| json!({"ports": [port]});
    let ports = |ports: Value| json!({"ports": ports});
    let none = |field: &str| json!({field: null});
    let defaulted = |changes: Value| {
        let mut port = json!({"port": 80, "protocol": "TCP", "targetPort": 80});
        port.as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        json!({"ports": [port]})
    };
    let label = "a lowercase RFC 1123 label";
    check_creates(
        &api,
        vec![
            ("type is ClusterIP by default", none("type"), Spec(json!({"type": "ClusterIP"}))),
            ("other types are refused", json!({"type": "Magic"}), Refused("spec.type", "Unsupported value: \"Magic\"")),
            ("ports are required", none("ports"), Refused("spec.ports", "Required value")),
            ("but not when headless", json!({"ports": null, "clusterIP": "None"}), Spec(none("ports"))),
            ("nor for ExternalName", json!({"ports": null, "type": "ExternalName", "externalName": "a.b"}), Spec(none("ports"))),
            ("names are required with two ports", ports(json!([{"port": 80, "name": "a"}, {"port": 81}])), Refused("spec.ports[1].name", "Required value")),
            ("a name is a DNS label", port(json!({"port": 80, "name": "A"})), Refused("spec.ports[0].name", label)),
            ("of up to 63 characters", port(json!({"port": 80, "name": "a".repeat(64)})), Refused("spec.ports[0].name", "63")),
            ("63 are fine", port(json!({"port": 80, "name": "a".repeat(63)})), Spec(defaulted(json!({"name": "a".repeat(63)})))),
            ("names are unique", ports(json!([{"port": 80, "name": "a"}, {"port": 81, "name": "a"}])), Refused("spec.ports[1].name", "Duplicate value")),
            ("protocol is TCP by default", port(json!({"port": 80})), Spec(defaulted(json!({})))),
            ("SCTP is one", port(json!({"port": 80, "protocol": "SCTP"})), Spec(defaulted(json!({"protocol": "SCTP"})))),
            ("ICMP is none", port(json!({"port": 80, "protocol": "ICMP"})), Refused("spec.ports[0].protocol", "Unsupported value")),
            ("port 0 is none", port(json!({"port": 0})), Refused("spec.ports[0].port", "between 1 and 65535")),
            ("port 65536 is none", port(json!({"port": 65536})), Refused("spec.ports[0].port", "between 1 and 65535")),
            ("(protocol, port) is unique", ports(json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}])), Refused("spec.ports[1]", "Duplicate value")),
            ("one port under two protocols is two", ports(json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}])), Spec(json!({}))),
            ("targetPort 0 is unset", port(json!({"port": 80, "targetPort": 0})), Spec(defaulted(json!({})))),
            ("targetPort \"\" is unset", port(json!({"port": 80, "targetPort": ""})), Spec(defaulted(json!({})))),
            ("targetPort is a port", port(json!({"port": 80, "targetPort": 65536})), Refused("spec.ports[0].targetPort", "between 1 and 65535")),
            ("or a name", port(json!({"port": 80, "targetPort": "web-1"})), Spec(defaulted(json!({"targetPort": "web-1"})))),
            ("of at most 15 characters", port(json!({"port": 80, "targetPort": "abcdefghijklmnop"})), Refused("spec.ports[0].targetPort", "15")),
            ("with a letter", port(json!({"port": 80, "targetPort": "12-3"})), Refused("spec.ports[0].targetPort", "letter")),
            ("no double hyphen", port(json!({"port": 80, "targetPort": "a--b"})), Refused("spec.ports[0].targetPort", "consecutive hyphens")),
            ("no hyphen at the end", port(json!({"port": 80, "targetPort": "ab-"})), Refused("spec.ports[0].targetPort", "hyphen")),
            ("lower case", port(json!({"port": 80, "targetPort": "Web"})), Refused("spec.ports[0].targetPort", "")),
            ("targetPort is tolerated when headless", json!({"clusterIP": "None", "ports": [{"port": 80, "targetPort": 81}]}), Spec(defaulted(json!({"targetPort": 81})))),
            ("nodePort is forbidden for ClusterIP", port(json!({"port": 80, "nodePort": 30000})), Refused("spec.ports[0].nodePort", "may not be used when `type` is 'ClusterIP'")),
            ("(protocol, nodePort) is unique in a Service", json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}]}), Refused("spec.ports[1].nodePort", "Duplicate value")),
            ("one nodePort serves two protocols", json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000, "protocol": "UDP"}]}), Spec(json!({}))),
            ("appProtocol may be the server's word", port(json!({"port": 80, "appProtocol": "kubernetes.io/h2c"})), Spec(defaulted(json!({"appProtocol": "kubernetes.io/h2c"})))),
            ("or IANA's", port(json!({"port": 80, "appProtocol": "http"})), Spec(defaulted(json!({"appProtocol": "http"})))),
            ("appProtocol is a qualified name", port(json!({"port": 80, "appProtocol": "a/b/c"})), Refused("spec.ports[0].appProtocol", "qualified name")),
            ("a selector is labels", json!({"selector": {"a": "b c"}}), Refused("spec.selector", "")),
            ("and optional", none("selector"), Spec(none("selector"))),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_1_addresses_and_families() {
    let api = Api::new().await;
    check_creates(
        &api,
        vec![
            ("clusterIP is an IP or None", json!({"clusterIP": "10.96"}), Refused("spec.clusterIPs[0]", "must be a valid IP address")),
            ("clusterIPs[0] is clusterIP", json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.9"]}), Refused("spec.clusterIPs", "first value must match `clusterIP`")),
            ("clusterIPs alone are refused", json!({"clusterIPs": ["10.96.0.9"]}), Refused("spec.clusterIPs", "must be empty when `clusterIP` is not specified")),
            ("at most two", json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00:96::1", "fd00:96::2"]}), Refused("spec.clusterIPs", "Too many")),
            ("one of each family", json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "10.96.0.9"]}), Refused("spec.clusterIPs", "no more than one IP for each IP family")),
            ("None is alone", json!({"clusterIP": "None", "clusterIPs": ["None", "10.96.0.8"]}), Refused("spec.clusterIPs[0]", "'None' must be the first and only value")),
            ("None is not for NodePort", json!({"type": "NodePort", "clusterIP": "None"}), Refused("spec.clusterIPs[0]", "may not be set to 'None' for NodePort services")),
            ("nor for LoadBalancer", json!({"type": "LoadBalancer", "clusterIP": "None"}), Refused("spec.clusterIPs[0]", "may not be set to 'None' for LoadBalancer services")),
            ("new addresses have no leading zeros", json!({"clusterIP": "10.96.0.08"}), Refused("spec.clusterIPs[0]", "must not have leading 0s")),
            ("and no other family's clothes", json!({"clusterIP": "::ffff:10.96.0.8"}), Refused("spec.clusterIPs[0]", "must not be an IPv4-mapped IPv6 address")),
            ("ipFamilies is the primary by default", json!({}), Spec(json!({"ipFamilies": ["IPv4"]}))),
            ("a family is IPv4 or IPv6", json!({"ipFamilies": ["IPv5"]}), Refused("spec.ipFamilies[0]", "Unsupported value")),
            ("families are distinct", json!({"ipFamilies": ["IPv4", "IPv4"]}), Refused("spec.ipFamilies[1]", "Duplicate value")),
            ("at most two families", json!({"ipFamilies": ["IPv4", "IPv6", "IPv4"]}), Refused("spec.ipFamilies", "Too many")),
            ("ipFamilyPolicy is SingleStack by default", json!({}), Spec(json!({"ipFamilyPolicy": "SingleStack"}))),
            ("RequireDualStack when headless and selectorless", json!({"clusterIP": "None", "selector": null}), Spec(json!({"ipFamilyPolicy": "RequireDualStack"}))),
            ("but not with a selector", json!({"clusterIP": "None"}), Spec(json!({"ipFamilyPolicy": "SingleStack"}))),
            ("other policies are refused", json!({"ipFamilyPolicy": "Both"}), Refused("spec.ipFamilyPolicy", "Unsupported value")),
            ("externalIPs are addresses", json!({"externalIPs": ["a"]}), Refused("spec.externalIPs[0]", "must be a valid IP address")),
            ("of this network, not this host", json!({"externalIPs": ["127.0.0.1"]}), Refused("spec.externalIPs[0]", "loopback")),
            ("nor this link", json!({"externalIPs": ["fe80::1"]}), Refused("spec.externalIPs[0]", "link-local")),
            ("nor all links", json!({"externalIPs": ["224.0.0.1"]}), Refused("spec.externalIPs[0]", "link-local multicast")),
            ("nor any host", json!({"externalIPs": ["::"]}), Refused("spec.externalIPs[0]", "unspecified")),
            ("externalName is required for ExternalName", json!({"type": "ExternalName"}), Refused("spec.externalName", "Required value")),
            ("it is a DNS name", json!({"type": "ExternalName", "externalName": "-a.b"}), Refused("spec.externalName", "subdomain")),
            ("with a dot at the end if need be", json!({"type": "ExternalName", "externalName": "a.b."}), Spec(json!({"externalName": "a.b."}))),
            ("but not two", json!({"type": "ExternalName", "externalName": "a.b.."}), Refused("spec.externalName", "subdomain")),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_1_traffic_policies_and_affinity() {
    let api = with_external_ips().await;
    let external = "spec.externalTrafficPolicy";
    let timeout = |secs: i64| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": secs}}});
    let timeout_field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    check_creates(
        &api,
        vec![
            ("no externalTrafficPolicy for ClusterIP", json!({}), Spec(json!({"externalTrafficPolicy": null}))),
            ("refused there", json!({"externalTrafficPolicy": "Local"}), Refused(external, "may only be set for externally-accessible services")),
            ("Cluster with externalIPs", json!({"externalIPs": ["198.51.100.1"]}), Spec(json!({"externalTrafficPolicy": "Cluster"}))),
            ("or Local", json!({"externalIPs": ["198.51.100.1"], "externalTrafficPolicy": "Local"}), Spec(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": null}))),
            ("Cluster for NodePort", json!({"type": "NodePort"}), Spec(json!({"externalTrafficPolicy": "Cluster"}))),
            ("Cluster for LoadBalancer", json!({"type": "LoadBalancer"}), Spec(json!({"externalTrafficPolicy": "Cluster"}))),
            ("nothing else", json!({"type": "NodePort", "externalTrafficPolicy": "Nearby"}), Refused(external, "Unsupported value")),
            ("internalTrafficPolicy is Cluster", json!({}), Spec(json!({"internalTrafficPolicy": "Cluster"}))),
            ("or Local", json!({"internalTrafficPolicy": "Local"}), Spec(json!({"internalTrafficPolicy": "Local"}))),
            ("nothing else", json!({"internalTrafficPolicy": "Nearby"}), Refused("spec.internalTrafficPolicy", "Unsupported value")),
            ("ExternalName shows none", json!({"type": "ExternalName", "externalName": "a.b", "internalTrafficPolicy": "Local"}), Spec(json!({"internalTrafficPolicy": null}))),
            ("sessionAffinity is None", json!({}), Spec(json!({"sessionAffinity": "None", "sessionAffinityConfig": null}))),
            ("or ClientIP, for three hours", json!({"sessionAffinity": "ClientIP"}), Spec(timeout(10800))),
            ("nothing else", json!({"sessionAffinity": "Cookie"}), Refused("spec.sessionAffinity", "Unsupported value")),
            ("a day is the most", timeout(86400), Spec(timeout(86400))),
            ("more is refused", timeout(86401), Refused(timeout_field, "must be greater than 0 and less than 86400")),
            ("so is nothing", timeout(0), Refused(timeout_field, "must be greater than 0")),
            ("a config without clientIP is replaced", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {}}), Spec(timeout(10800))),
            ("so is one without a timeout", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}), Spec(timeout(10800))),
            ("with None the config is dropped", json!({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}), Spec(json!({"sessionAffinityConfig": null}))),
            ("publishNotReadyAddresses is as given", json!({"publishNotReadyAddresses": true}), Spec(json!({"publishNotReadyAddresses": true}))),
            ("trafficDistribution PreferClose", json!({"trafficDistribution": "PreferClose"}), Spec(json!({"trafficDistribution": "PreferClose"}))),
            ("PreferSameZone", json!({"trafficDistribution": "PreferSameZone"}), Spec(json!({"trafficDistribution": "PreferSameZone"}))),
            ("PreferSameNode", json!({"trafficDistribution": "PreferSameNode"}), Spec(json!({"trafficDistribution": "PreferSameNode"}))),
            ("nothing else", json!({"trafficDistribution": "Random"}), Refused("spec.trafficDistribution", "Unsupported value")),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_1_load_balancers() {
    let api = Api::new().await;
    let only = "may only be used when `type` is 'LoadBalancer'";
    let balanced = |field: &str, value: Value| json!({"type": "LoadBalancer", field: value});
    let ranges = |list: Value| balanced("loadBalancerSourceRanges", list);
    let kept = |field: &str, value: Value| Spec(json!({field: value}));
    check_creates(
        &api,
        vec![
            ("no healthCheckNodePort for Cluster", balanced("healthCheckNodePort", json!(30001)), Refused("spec.healthCheckNodePort", "may only be set when")),
            ("nor for other types", json!({"healthCheckNodePort": 30001}), Refused("spec.healthCheckNodePort", "may only be set when")),
            ("one asked for is had", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001}), kept("healthCheckNodePort", json!(30001))),
            ("allocateLoadBalancerNodePorts is true", json!({"type": "LoadBalancer"}), kept("allocateLoadBalancerNodePorts", json!(true))),
            ("false gives no nodePort", balanced("allocateLoadBalancerNodePorts", json!(false)), kept("ports", json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]))),
            ("explicit ones are honoured", json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80, "nodePort": 30002}]}), kept("ports", json!([{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30002}]))),
            ("LoadBalancer only", json!({"type": "NodePort", "allocateLoadBalancerNodePorts": true}), Refused("spec.allocateLoadBalancerNodePorts", only)),
            ("loadBalancerClass is a qualified name", balanced("loadBalancerClass", json!("a/b/c")), Refused("spec.loadBalancerClass", "qualified name")),
            ("as this", balanced("loadBalancerClass", json!("example.com/fast")), kept("loadBalancerClass", json!("example.com/fast"))),
            ("LoadBalancer only", json!({"loadBalancerClass": "example.com/fast"}), Refused("spec.loadBalancerClass", only)),
            ("loadBalancerIP is free text", balanced("loadBalancerIP", json!("whatever")), kept("loadBalancerIP", json!("whatever"))),
            ("source ranges are CIDRs", ranges(json!(["10.0.0.0"])), Refused("spec.LoadBalancerSourceRanges[0]", "must be a valid CIDR value")),
            ("space around them is legal for ever", ranges(json!([" 10.0.0.0/8 "])), kept("loadBalancerSourceRanges", json!([" 10.0.0.0/8 "]))),
            ("new ones have no host bits", ranges(json!(["10.0.0.1/8"])), Refused("spec.LoadBalancerSourceRanges[0]", "must not have bits set beyond the prefix length")),
            ("LoadBalancer only", json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}), Refused("spec.LoadBalancerSourceRanges[0]", only)),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_1_annotations() {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let api = Api::new().await;
    for (says, kind, annotations, wanted) in [
        (
            "a comma list of CIDRs",
            "LoadBalancer",
            json!({RANGES: "10.0.0.0/8, 192.0.2.0/24"}),
            None,
        ),
        (
            "empty says nothing",
            "LoadBalancer",
            json!({RANGES: " "}),
            None,
        ),
        (
            "each is one",
            "LoadBalancer",
            json!({RANGES: "10.0.0.0/8,x"}),
            Some((RANGES, "must be a valid CIDR value")),
        ),
        (
            "LoadBalancer only",
            "ClusterIP",
            json!({RANGES: "10.0.0.0/8"}),
            Some((RANGES, "may only be used when")),
        ),
        (
            "one topology annotation",
            "ClusterIP",
            json!({MODE: "Auto"}),
            None,
        ),
        (
            "both and equal",
            "ClusterIP",
            json!({MODE: "Auto", HINTS: "Auto"}),
            None,
        ),
        (
            "both and different",
            "ClusterIP",
            json!({MODE: "Auto", HINTS: "Disabled"}),
            Some((MODE, "must match annotations")),
        ),
    ] {
        let mut body = of_type("row", kind);
        body["metadata"]["annotations"] = annotations;
        let (code, answer) = api.post(SERVICES, body).await;
        match wanted {
            None => assert_eq!(code, 201, "{says}: {answer}"),
            Some((annotation, words)) => {
                assert_eq!(code, 422, "{says}: {answer}");
                let (field, message) = cause(&answer);
                assert_eq!(field, format!("metadata.annotations[{annotation}]"));
                assert!(message.contains(words), "{says}: {message}");
            }
        }
        api.delete(&format!("{SERVICES}/row")).await;
    }
}

#[tokio::test]
async fn s0_values_that_are_stored_stay_legal() {
    let api = Api::new().await;
    let mut stored = api.made(SERVICES, of_type("old", "LoadBalancer")).await;
    let metadata = stored["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "managedFields"));
    // As written by an older server: not in the form of today, nor in the ranges of today.
    stored["spec"]["externalIPs"] = json!(["192.0.2.07"]);
    stored["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.1/8"]);
    crate::store(&api, "old", &stored).await;
    let path = format!("{SERVICES}/old");
    let (code, answer) = api
        .merge(&path, json!({"spec": {"selector": {"app": "b"}}}))
        .await;
    assert_eq!(code, 200, "{answer}");
    let more = json!({"spec": {"externalIPs": ["192.0.2.07", "192.0.2.08"]}});
    let (code, answer) = api.merge(&path, more).await;
    assert_eq!(
        (code.as_u16(), cause(&answer).0),
        (422, "spec.externalIPs[1]")
    );
}

#[tokio::test]
async fn s0_the_name_is_a_dns_1123_label() {
    let api = Api::new().await;
    for (name, wanted) in [("0-digit", 201), ("a.b", 422), ("A", 422), ("-a", 422)] {
        let (code, answer) = api.post(SERVICES, with_spec(name, &json!({}))).await;
        assert_eq!(code.as_u16(), wanted, "{name}: {answer}");
    }
    let (code, _) = api
        .post(SERVICES, with_spec(&"a".repeat(64), &json!({})))
        .await;
    assert_eq!(code, 422);
}
