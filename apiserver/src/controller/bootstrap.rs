//! What every cluster has: four namespaces, the API's Service with its endpoints, the DNS Service, the ServiceCIDR (F5), the
//! default roles.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Cluster;
use crate::registry::{
    ApiError, Kind, Part, Registry, WriteOptions,
    kinds::{ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, SERVICE_CIDRS, SERVICES},
};

/// The namespaces that are always there.
const NAMES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// Marks Services that no proxy programs: the agents answer on the DNS address themselves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Writes whatever of it is missing or different.
///
/// # Errors
/// The registry's: usually a ClusterIP that somebody else holds.
pub async fn bootstrap(registry: &Registry, cluster: &Cluster) -> Result<(), ApiError> {
    for name in NAMES {
        ensure(
            registry,
            &NAMESPACES,
            None,
            &json!({"metadata": {"name": name}}),
        )
        .await?;
    }
    super::rbac::ensure_defaults(registry).await?;
    ensure(registry, &SERVICE_CIDRS, None, &service_cidr(cluster)).await?;
    ensure_services(registry, cluster).await
}

/// The Services alone, which may be deleted by mistake later.
pub(super) async fn ensure_services(
    registry: &Registry,
    cluster: &Cluster,
) -> Result<(), ApiError> {
    ensure(registry, &SERVICES, Some("default"), &api_service(cluster)).await?;
    ensure(
        registry,
        &SERVICES,
        Some("kube-system"),
        &dns_service(cluster),
    )
    .await?;
    ensure_api_endpoints(registry, cluster).await
}

async fn ensure_api_endpoints(registry: &Registry, cluster: &Cluster) -> Result<(), ApiError> {
    let ip = cluster.advertise.ip();
    // No other host can use such an address, and the API refuses it in Endpoints.
    if api::ip::check_endpoint(ip).is_err() {
        tracing::warn!(
            address = %ip,
            "default/kubernetes gets no endpoints: give --advertise-address an address Pods can reach"
        );
        return Ok(());
    }
    ensure(
        registry,
        &ENDPOINTS,
        Some("default"),
        &api_endpoints(cluster),
    )
    .await?;
    ensure(
        registry,
        &ENDPOINT_SLICES,
        Some("default"),
        &api_slice(cluster),
    )
    .await
}

/// Creates the object, or sets the fields it names.
async fn ensure(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    wanted: &Value,
) -> Result<(), ApiError> {
    let options = WriteOptions::default();
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let modified = registry
        .modify(kind, namespace, name, Part::Main, &options, |object| {
            merge(object, wanted);
            Ok(())
        })
        .await;
    let result = match modified {
        Err(error) if error.is_not_found() => {
            registry
                .create(kind, namespace, wanted.clone(), &options)
                .await
        }
        other => other,
    };
    result.map(|_| ())
}

/// Sets in `target` what `wanted` names; lists are replaced.
fn merge(target: &mut Value, wanted: &Value) {
    match (target, wanted) {
        (Value::Object(target), Value::Object(wanted)) => {
            for (key, value) in wanted {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, wanted) => *target = wanted.clone(),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn api_service(cluster: &Cluster) -> Value {
    let ip = cluster.api_service_ip;
    json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": [family(ip)],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": cluster.advertise.port()}],
        },
    })
}

fn api_endpoints(cluster: &Cluster) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": cluster.advertise.ip()}],
            "ports": [{"name": "https", "port": cluster.advertise.port(), "protocol": "TCP"}],
        }],
    })
}

fn api_slice(cluster: &Cluster) -> Value {
    json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family(cluster.advertise.ip()),
        "endpoints": [{"addresses": [cluster.advertise.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": cluster.advertise.port(), "protocol": "TCP"}],
    })
}

fn dns_service(cluster: &Cluster) -> Value {
    let ip = cluster.cluster_dns;
    json!({
        "metadata": {
            "name": "kube-dns",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", PROXY_NAME: "minik-dns"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": [family(ip)],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
            ],
        },
    })
}

fn service_cidr(cluster: &Cluster) -> Value {
    json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cluster.service_cidrs},
    })
}
