//! What an update keeps, refuses and clears (services.md 1.4, 1.5).

use serde_json::{Value, json};

use crate::{
    Refused, Spec, cause, check_updates,
    common::{Api, SERVICES, service},
    ip_is_taken, of_type, port_is_taken,
};

#[tokio::test]
async fn a_put_of_the_original_manifest_keeps_addresses_and_ports() {
    let api = Api::new().await;
    let made = api.made(SERVICES, of_type("a", "NodePort")).await;
    let mut manifest = of_type("a", "NodePort");
    manifest["spec"]["selector"] = json!({"app": "other"});
    let (code, changed) = api.put(&format!("{SERVICES}/a"), manifest).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(changed["spec"]["ports"], made["spec"]["ports"]);
}

#[tokio::test]
async fn cluster_ips_do_not_change_once_set() {
    let api = Api::new().await;
    api.made(SERVICES, service("a")).await;
    for ip in ["10.96.0.20", "None"] {
        let (code, status) = api
            .merge(&format!("{SERVICES}/a"), json!({"spec": {"clusterIP": ip}}))
            .await;
        assert_eq!(code, 422, "{status}");
        assert!(
            cause(&status).1.ends_with("may not change once set"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn to_external_name_and_back() {
    let api = Api::new().await;
    let made = api.made(SERVICES, of_type("a", "NodePort")).await;
    let path = format!("{SERVICES}/a");
    let (code, status) = api
        .merge(&path, json!({"spec": {"type": "ExternalName"}}))
        .await;
    assert_eq!(
        (code.as_u16(), cause(&status).0),
        (422, "spec.externalName")
    );
    let change = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com"}});
    let (code, outside) = api.merge(&path, change).await;
    assert_eq!(code, 200, "{outside}");
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(outside["spec"][field].is_null(), "{field}");
    }
    assert!(!ip_is_taken(&api, &made["spec"]["clusterIP"]).await);
    assert!(!port_is_taken(&api, &made["spec"]["ports"][0]["nodePort"]).await);
    let change = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let (code, back) = api.merge(&path, change).await;
    assert_eq!(code, 200, "{back}");
    assert!(ip_is_taken(&api, &back["spec"]["clusterIP"]).await);
}

#[tokio::test]
async fn local_load_balancers_get_a_health_check_port() {
    let api = Api::new().await;
    let mut body = of_type("a", "LoadBalancer");
    body["spec"]["externalTrafficPolicy"] = "Local".into();
    let made = api.made(SERVICES, body).await;
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
    let port = made["spec"]["healthCheckNodePort"].clone();
    assert!(port_is_taken(&api, &port).await);
    let change = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
    let (code, changed) = api.merge(&format!("{SERVICES}/a"), change).await;
    assert_eq!(code, 200, "{changed}");
    assert!(changed["spec"]["healthCheckNodePort"].is_null());
    assert!(!port_is_taken(&api, &port).await);
}

#[tokio::test]
async fn s1_4_what_may_not_change() {
    let api = Api::new().await;
    let once = "may not change once set";
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30050});
    let classy = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/a"});
    check_updates(
        &api,
        vec![
            (
                "clusterIP",
                json!({"clusterIP": "10.96.0.8"}),
                json!({"clusterIP": "10.96.0.9"}),
                Refused("spec.clusterIPs[0]", once),
            ),
            (
                "IP to None",
                json!({}),
                json!({"clusterIP": "None"}),
                Refused("spec.clusterIPs[0]", once),
            ),
            (
                "None to IP",
                json!({"clusterIP": "None"}),
                json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
                Refused("spec.clusterIPs[0]", once),
            ),
            (
                "an emptied clusterIP comes back",
                json!({"clusterIP": "10.96.0.8"}),
                json!({"clusterIP": ""}),
                Spec(json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"]})),
            ),
            (
                "so does an emptied None",
                json!({"clusterIP": "None"}),
                json!({"clusterIP": ""}),
                Spec(json!({"clusterIP": "None"})),
            ),
            (
                "to ExternalName all is free",
                json!({}),
                json!({"type": "ExternalName", "externalName": "a.b"}),
                Spec(json!({"clusterIP": null})),
            ),
            (
                "healthCheckNodePort",
                local.clone(),
                json!({"healthCheckNodePort": 30051}),
                Refused("spec.healthCheckNodePort", "field is immutable"),
            ),
            (
                "an omitted healthCheckNodePort comes back",
                local.clone(),
                json!({"healthCheckNodePort": null}),
                Spec(json!({"healthCheckNodePort": 30050})),
            ),
            (
                "loadBalancerClass",
                classy.clone(),
                json!({"loadBalancerClass": "example.com/b"}),
                Refused("spec.loadBalancerClass", once),
            ),
            (
                "not set later",
                json!({"type": "LoadBalancer"}),
                json!({"loadBalancerClass": "example.com/b"}),
                Refused("spec.loadBalancerClass", once),
            ),
            (
                "not unset",
                classy.clone(),
                json!({"loadBalancerClass": null}),
                Refused("spec.loadBalancerClass", once),
            ),
            (
                "but given with the type",
                json!({}),
                json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/b"}),
                Spec(json!({"loadBalancerClass": "example.com/b"})),
            ),
        ],
    )
    .await;
    api.made(SERVICES, service("a")).await;
    let path = format!("{SERVICES}/a");
    for metadata in [
        json!({"name": "b"}),
        json!({"namespace": "other"}),
        json!({"uid": "1"}),
    ] {
        let (code, answer) = api.merge(&path, json!({"metadata": metadata})).await;
        assert!(code.is_client_error(), "{answer}");
    }
}

#[tokio::test]
async fn s1_4_omitted_node_ports_are_matched_by_port_name() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/a");
    let ports = |ports: Value| crate::with_spec("a", &json!({"type": "NodePort", "ports": ports}));
    let node_ports = |service: &Value| -> Vec<u64> {
        let ports = service["spec"]["ports"].as_array().unwrap();
        ports
            .iter()
            .map(|port| port["nodePort"].as_u64().unwrap())
            .collect()
    };
    let old = ports(
        json!([{"name": "x", "port": 80, "nodePort": 30060}, {"name": "y", "port": 81, "nodePort": 30061}]),
    );
    api.made(SERVICES, old).await;
    // By name, not by place or number.
    let swapped = ports(json!([{"name": "y", "port": 80}, {"name": "x", "port": 81}]));
    let (code, put) = api.put(&path, swapped).await;
    assert_eq!(code, 200, "{put}");
    assert_eq!(node_ports(&put), [30061, 30060]);
    // Unless the new object uses the number already.
    let claimed =
        ports(json!([{"name": "x", "port": 80}, {"name": "z", "port": 81, "nodePort": 30060}]));
    let (code, put) = api.put(&path, claimed).await;
    assert_eq!(code, 200, "{put}");
    let got = node_ports(&put);
    assert!(got[0] != 30060 && got[1] == 30060, "{got:?}");
    assert!(!port_is_taken(&api, &json!(30061)).await);
}

#[tokio::test]
async fn s1_5_what_a_change_of_type_clears() {
    let api = crate::with_external_ips().await;
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30070}]});
    let bare = json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]);
    let with_port = |number: u16| json!([{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": number}]);
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30071});
    let to_name = json!({"type": "ExternalName", "externalName": "a.b"});
    check_updates(
        &api,
        vec![
            ("to ExternalName: no addresses, no nodePorts, ports stay", node_port.clone(), to_name.clone(), Spec(json!({"clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null, "ports": bare, "externalTrafficPolicy": null}))),
            ("but its name is needed", json!({}), json!({"type": "ExternalName"}), Refused("spec.externalName", "Required value")),
            ("and no address is kept", json!({}), json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9"}), Refused("spec.clusterIP", "may not be set")),
            ("from ExternalName: families", to_name.clone(), json!({"type": "ClusterIP"}), Spec(json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}))),
            ("and an address of one's choice", to_name.clone(), json!({"type": "ClusterIP", "clusterIP": "10.96.0.9"}), Spec(json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}))),
            ("NodePort to ClusterIP: no nodePorts, no external policy", node_port.clone(), json!({"type": "ClusterIP"}), Spec(json!({"ports": bare, "externalTrafficPolicy": null}))),
            ("with external IPs the policy stays", json!({"type": "NodePort", "externalIPs": ["198.51.100.1"]}), json!({"type": "ClusterIP"}), Spec(json!({"externalTrafficPolicy": "Cluster"}))),
            ("a policy that is set anew is refused", node_port.clone(), json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"}), Refused("spec.externalTrafficPolicy", "may only be set for externally-accessible services")),
            ("a new nodePort is refused", node_port.clone(), json!({"type": "ClusterIP", "ports": with_port(30072)}), Refused("spec.ports[0].nodePort", "may not be used when `type` is 'ClusterIP'")),
            ("NodePort to LoadBalancer keeps the nodePort", node_port.clone(), json!({"type": "LoadBalancer"}), Spec(json!({"ports": with_port(30070), "allocateLoadBalancerNodePorts": true}))),
            ("LoadBalancer to NodePort too", json!({"type": "LoadBalancer", "ports": with_port(30070)}), json!({"type": "NodePort"}), Spec(json!({"ports": with_port(30070), "allocateLoadBalancerNodePorts": null}))),
            ("the class goes", json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/a"}), json!({"type": "ClusterIP"}), Spec(json!({"loadBalancerClass": null, "allocateLoadBalancerNodePorts": null}))),
            ("a class that is set anew is refused", json!({"type": "LoadBalancer"}), json!({"type": "ClusterIP", "loadBalancerClass": "example.com/a"}), Refused("spec.loadBalancerClass", "may only be used when")),
            ("the health-check port goes", local.clone(), json!({"type": "ClusterIP"}), Spec(json!({"healthCheckNodePort": null}))),
            ("also with the policy", local.clone(), json!({"externalTrafficPolicy": "Cluster"}), Spec(json!({"healthCheckNodePort": null}))),
            ("the selector never goes", json!({}), to_name.clone(), Spec(json!({"selector": {"app": "web"}}))),
        ],
    )
    .await;
}

#[tokio::test]
async fn s1_5_a_new_type_allocates_and_the_old_status_goes() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/a");
    let change = |spec: Value| json!({"spec": spec});
    api.made(SERVICES, service("a")).await;
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let (_, up) = api.merge(&path, change(local.clone())).await;
    let (port, check) = (
        up["spec"]["ports"][0]["nodePort"].clone(),
        up["spec"]["healthCheckNodePort"].clone(),
    );
    assert!(
        port_is_taken(&api, &port).await && port_is_taken(&api, &check).await,
        "{up}"
    );
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    api.merge(&format!("{path}/status"), status).await;
    let (_, cluster) = api
        .merge(&path, change(json!({"externalTrafficPolicy": "Cluster"})))
        .await;
    assert!(cluster["spec"]["healthCheckNodePort"].is_null());
    assert!(!port_is_taken(&api, &check).await);
    // Back again with the same number.
    let again = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": check});
    let (code, back) = api.merge(&path, change(again)).await;
    assert_eq!(
        (code.as_u16(), &back["spec"]["healthCheckNodePort"]),
        (200, &check)
    );
    let (_, down) = api.merge(&path, change(json!({"type": "ClusterIP"}))).await;
    assert_eq!(down["status"]["loadBalancer"], json!({}), "{down}");
    assert!(!port_is_taken(&api, &port).await && !port_is_taken(&api, &check).await);
}
