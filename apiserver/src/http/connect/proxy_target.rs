//! Where a proxied request leads: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT` of a Pod, a Service or a node.

use std::net::{IpAddr, SocketAddr};

use api::{
    core::{Node, Pod, Service},
    discovery::EndpointSlice,
};
use rand::seq::SliceRandom as _;

use super::super::{Call, route::Target};
use crate::registry::{
    ApiError, ListQuery,
    kinds::{ENDPOINT_SLICES, NODES, PODS, SERVICES},
};

/// Where a node answers HTTP if no port is named: it has no other port (`/healthz`).
const NODE_PORT: u16 = 10256;
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What answers.
#[derive(Debug)]
pub(super) struct Backend {
    /// The node it is on.
    pub(super) node: String,
    /// Its address, as the node sees it.
    pub(super) address: SocketAddr,
    /// Whether it speaks TLS.
    pub(super) tls: bool,
    /// The host of its URL.
    pub(super) host: String,
}

impl Backend {
    pub(super) async fn find(call: &Call, target: &Target) -> Result<Self, ApiError> {
        let named = Named::parse(target)?;
        if *target.kind == PODS {
            pod(call, target, &named).await
        } else if *target.kind == SERVICES {
            service(call, target, &named).await
        } else {
            node(call, &named).await
        }
    }

    fn new(node: &str, ip: IpAddr, port: u16, named: &Named<'_>) -> Self {
        Self {
            node: node.to_owned(),
            address: SocketAddr::new(ip, port),
            tls: named.tls,
            host: ip.to_string(),
        }
    }

    /// `host:port` of its URL.
    pub(super) fn host_header(&self) -> String {
        self.address.to_string()
    }
}

/// The parts of the object's name in the path.
#[derive(Debug, PartialEq)]
struct Named<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(target: &'a Target) -> Result<Self, ApiError> {
        let name = target.object_name();
        Self::of(name).ok_or_else(|| {
            ApiError::BadRequest(format!(
                "invalid {} request \"{name}\": wanted is NAME, NAME:PORT, http:NAME:PORT or https:NAME:PORT",
                target.kind.singular
            ))
        })
    }

    fn of(text: &'a str) -> Option<Self> {
        let (tls, name, port) = match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => (false, *name, ""),
            [name, port] => (false, *name, *port),
            ["http" | "", name, port] => (false, *name, *port),
            ["https", name, port] => (true, *name, *port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { tls, name, port })
    }

    fn number(&self) -> Result<Option<u16>, ApiError> {
        if self.port.is_empty() {
            return Ok(None);
        }
        let port = self.port.parse().ok().filter(|port| *port != 0);
        port.map(Some)
            .ok_or_else(|| ApiError::BadRequest(format!("\"{}\" is not a port number", self.port)))
    }
}

async fn pod(call: &Call, target: &Target, named: &Named<'_>) -> Result<Backend, ApiError> {
    let registry = &call.state.registry;
    let pod = registry.get(&PODS, target.scope(), named.name).await?;
    let pod: Pod = pod.decode()?;
    let mut ports = pod
        .spec
        .containers
        .iter()
        .flat_map(|container| &container.ports);
    let first = ports
        .next()
        .and_then(|port| u16::try_from(port.container_port).ok());
    let port = named
        .number()?
        .or(first)
        .unwrap_or(if named.tls { 443 } else { 80 });
    let Ok(ip) = pod.status.pod_ip.parse() else {
        let text = format!("pod {} has no address", named.name);
        return Err(ApiError::Unavailable(text));
    };
    Ok(Backend::new(&pod.spec.node_name, ip, port, named))
}

async fn node(call: &Call, named: &Named<'_>) -> Result<Backend, ApiError> {
    let node: Node = call
        .state
        .registry
        .get(&NODES, None, named.name)
        .await?
        .decode()?;
    let addresses = node.status.addresses.iter();
    let internal = addresses
        .filter(|address| &*address.r#type == "InternalIP")
        .find_map(|address| address.address.parse().ok());
    let Some(ip) = internal else {
        let text = format!("node {} has no internal address", named.name);
        return Err(ApiError::Unavailable(text));
    };
    let port = named.number()?.unwrap_or(NODE_PORT);
    Ok(Backend::new(named.name, ip, port, named))
}

/// One of the Service's ready endpoints that are Pods.
async fn service(call: &Call, target: &Target, named: &Named<'_>) -> Result<Backend, ApiError> {
    let registry = &call.state.registry;
    let service = registry.get(&SERVICES, target.scope(), named.name).await?;
    let port_name = port_name(&service.decode()?, named)?;
    let mut query = ListQuery::default();
    let labels = format!("{SERVICE_NAME}={}", named.name);
    let labels = labels.parse();
    query.selection.labels = Some(labels.expect("the name of a Service is the value of a label"));
    let slices = registry
        .list(&ENDPOINT_SLICES, target.scope(), &query)
        .await?;
    let slices = slices.objects.iter().map(|slice| slice.decode());
    let slices = slices.collect::<Result<Vec<EndpointSlice>, _>>()?;
    let mut endpoints: Vec<_> = slices
        .iter()
        .flat_map(|slice| endpoints(slice, &port_name))
        .collect();
    endpoints.shuffle(&mut rand::rng());
    for (name, address) in endpoints {
        let pod: Pod = match registry.get(&PODS, target.scope(), &name).await {
            Err(error) if error.is_not_found() => continue,
            pod => pod?.decode()?,
        };
        if has_address(&pod, address.ip()) {
            let node = &pod.spec.node_name;
            return Ok(Backend::new(node, address.ip(), address.port(), named));
        }
    }
    let text = format!("no endpoints available for service \"{}\"", named.name);
    Err(ApiError::Unavailable(text))
}

/// Whether the node says that the Pod has this address. What a slice says, whoever may write slices can have made up.
fn has_address(pod: &Pod, ip: IpAddr) -> bool {
    let all = pod.status.pod_ips.iter().map(|one| &*one.ip);
    let mut all = all.chain([&*pod.status.pod_ip]);
    all.any(|text| text.parse() == Ok(ip))
}

/// The name of the port that is meant: by name, by number, or the only one.
fn port_name(service: &Service, named: &Named<'_>) -> Result<String, ApiError> {
    let ports = &service.spec.ports;
    let meant = ports.iter().find(|port| match named.port {
        "" => ports.len() == 1 || port.name.is_empty(),
        text => *port.name == *text || port.port.to_string() == text,
    });
    meant.map(|port| port.name.to_string()).ok_or_else(|| {
        ApiError::Unavailable(format!(
            "no service port \"{}\" found for service \"{}\"",
            named.port, named.name
        ))
    })
}

/// The ready Pods of a slice: their names and addresses. Addresses that somebody wrote by hand are not led to from here.
fn endpoints(slice: &EndpointSlice, port_name: &str) -> Vec<(String, SocketAddr)> {
    let mut ports = slice.ports.iter();
    let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == port_name);
    let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else {
        return Vec::new();
    };
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.ready != Some(false));
    ready
        .filter_map(|endpoint| {
            let pod = endpoint.target_ref.as_ref()?;
            let ip = endpoint.addresses.first()?.parse().ok()?;
            (&*pod.kind == "Pod").then(|| (pod.name.to_string(), SocketAddr::new(ip, port)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn s11_names_have_up_to_three_parts() {
        let named = |tls, name, port| Some(Named { tls, name, port });
        let cases = [
            ("a", named(false, "a", "")),
            ("a:80", named(false, "a", "80")),
            ("http:a:80", named(false, "a", "80")),
            ("https:a:web", named(true, "a", "web")),
            ("https:a:", named(true, "a", "")),
            (":a:80", named(false, "a", "80")),
            ("ftp:a:80", None),
            ("a:b:c:d", None),
            (":80", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(Named::of(text), wanted, "{text}");
        }
    }

    #[test]
    fn s11_a_services_port_is_named_numbered_or_the_only_one() {
        let two: Service = serde_json::from_value(json!({
            "spec": {"ports": [{"name": "web", "port": 80}, {"name": "admin", "port": 81}]},
        }))
        .unwrap();
        let one: Service =
            serde_json::from_value(json!({"spec": {"ports": [{"name": "web", "port": 80}]}}))
                .unwrap();
        let of = |service, text| {
            let named = Named::of(text).unwrap();
            port_name(service, &named).map_err(|error| error.to_string())
        };
        assert_eq!(of(&two, "s:admin"), Ok("admin".into()));
        assert_eq!(of(&two, "s:80"), Ok("web".into()));
        assert_eq!(of(&one, "s"), Ok("web".into()));
        let wanted = "no service port \"x\" found for service \"s\"";
        assert_eq!(of(&two, "s:x"), Err(wanted.into()));
        assert!(of(&two, "s").is_err());
    }

    #[test]
    fn s11_only_ready_pods_of_the_cluster_are_led_to() {
        let pod = json!({"kind": "Pod", "name": "p"});
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "nodeName": "n", "targetRef": pod},
                {"addresses": ["10.244.0.3"], "nodeName": "n", "targetRef": pod, "conditions": {"ready": false}},
                {"addresses": ["192.0.2.1"], "nodeName": "n"},
            ],
        }))
        .unwrap();
        let wanted = vec![("p".to_owned(), "10.244.0.2:8080".parse().unwrap())];
        assert_eq!(endpoints(&slice, "web"), wanted);
        assert_eq!(endpoints(&slice, "other"), []);
    }

    #[test]
    fn s11_an_endpoint_is_the_pods_only_by_an_address_that_the_pod_has() {
        let pod: Pod = serde_json::from_value(json!({
            "status": {"podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]},
        }))
        .unwrap();
        for (ip, wanted) in [
            ("10.244.0.2", true),
            ("fd00::2", true),
            ("192.0.2.1", false),
        ] {
            assert_eq!(has_address(&pod, ip.parse().unwrap()), wanted, "{ip}");
        }
        assert!(!has_address(&Pod::default(), "192.0.2.1".parse().unwrap()));
    }
}
