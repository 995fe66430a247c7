//! A container's environment: declared variables, Service variables, `$(VAR)` expansion.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>,
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#environment-variables>

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use api::core::{Container, EnvVar, KeySelector, Pod};

use crate::objects::{Protocol, Service};

/// The variables of the Services a Pod may know, in the order of the Services. `services` are those of the Pod's
/// namespace and `default/kubernetes`; the former count only with `enableServiceLinks`, except that a Service called
/// `kubernetes` in the Pod's own namespace takes the place of the default one.
pub(super) fn service_variables(
    services: &[&Service],
    namespace: &str,
    enable_service_links: bool,
) -> Vec<(String, String)> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (own, is_master) = (
            &*service.metadata.namespace == namespace,
            &*service.metadata.namespace == "default" && &*service.metadata.name == "kubernetes",
        );
        if own && enable_service_links {
            chosen.insert(&service.metadata.name, service);
        } else if is_master {
            chosen.entry(&service.metadata.name).or_insert(service);
        }
    }
    chosen
        .values()
        .flat_map(|service| variables_of(service))
        .collect()
}

/// The variables of one Service: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, and the older form that Docker links had.
fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(host) = service.cluster_ips().first().copied() else {
        return Vec::new();
    };
    let Some(first) = service.spec.ports.first() else {
        return Vec::new();
    };
    let prefix = variable_name(&service.metadata.name);
    let mut variables = vec![
        (format!("{prefix}_SERVICE_HOST"), host.to_string()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in service
        .spec
        .ports
        .iter()
        .filter(|port| !port.name.is_empty())
    {
        variables.push((
            format!("{prefix}_SERVICE_PORT_{}", variable_name(&port.name)),
            port.port.to_string(),
        ));
    }
    for (index, port) in service.spec.ports.iter().enumerate() {
        let url = url(port.protocol, host, port.port);
        if index == 0 {
            variables.push((format!("{prefix}_PORT"), url.clone()));
        }
        let port_prefix = format!(
            "{prefix}_PORT_{}_{}",
            port.port,
            port.protocol.lower().to_uppercase()
        );
        variables.push((port_prefix.clone(), url));
        variables.push((
            format!("{port_prefix}_PROTO"),
            port.protocol.lower().to_owned(),
        ));
        variables.push((format!("{port_prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{port_prefix}_ADDR"), host.to_string()));
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn url(protocol: Protocol, host: IpAddr, port: u16) -> String {
    match host {
        IpAddr::V4(host) => format!("{}://{host}:{port}", protocol.lower()),
        IpAddr::V6(host) => format!("{}://[{host}]:{port}", protocol.lower()),
    }
}

/// Why a container cannot get its environment (yet).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvError {
    #[error("{kind} {name:?} not found or not readable")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey {
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("variable {variable}: field {path:?} is not supported")]
    Field { variable: String, path: String },
    #[error("variable {variable}: resourceFieldRef is not supported")]
    Resource { variable: String },
}

/// The ConfigMaps and Secrets that a container names, by kind and name; those that could not be read are absent.
pub(super) type Sources = HashMap<(&'static str, String), BTreeMap<String, String>>;

pub(super) const CONFIG_MAP: &str = "configmap";
pub(super) const SECRET: &str = "secret";

/// Which ConfigMaps and Secrets a container names.
pub(super) fn wanted_sources(container: &Container) -> Vec<(&'static str, String)> {
    let from = container.env_from.iter().flat_map(|source| {
        let config_map = source
            .config_map_ref
            .iter()
            .map(|source| (CONFIG_MAP, source.name.to_string()));
        let secret = source
            .secret_ref
            .iter()
            .map(|source| (SECRET, source.name.to_string()));
        config_map.chain(secret)
    });
    let single = container
        .env
        .iter()
        .filter_map(|variable| variable.value_from.as_ref())
        .flat_map(|source| {
            let config_map = source
                .config_map_key_ref
                .iter()
                .map(|key| (CONFIG_MAP, key.name.to_string()));
            let secret = source
                .secret_key_ref
                .iter()
                .map(|key| (SECRET, key.name.to_string()));
            config_map.chain(secret)
        });
    from.chain(single).collect()
}

/// The addresses that `fieldRef` may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) pod: IpAddr,
    pub(super) host: IpAddr,
}

/// The whole environment: Service variables, then `envFrom`, then `env`; later ones win.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    addresses: Addresses,
    sources: &Sources,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, EnvError> {
    let mut result = Environment::default();
    for (name, value) in services {
        result.set(name, value.clone());
    }
    for from in &container.env_from {
        let refs = [
            (CONFIG_MAP, &from.config_map_ref),
            (SECRET, &from.secret_ref),
        ];
        for (kind, source) in refs
            .into_iter()
            .filter_map(|(kind, source)| Some((kind, source.as_ref()?)))
        {
            match sources.get(&(kind, source.name.to_string())) {
                Some(data) => {
                    for (key, value) in data {
                        result.set(&format!("{}{key}", from.prefix), value.clone());
                    }
                }
                None if source.optional == Some(true) => {}
                None => {
                    return Err(EnvError::NoObject {
                        kind,
                        name: source.name.to_string(),
                    });
                }
            }
        }
    }
    for variable in &container.env {
        if let Some(value) = value_of(pod, variable, addresses, sources, &result)? {
            result.set(&variable.name, value);
        }
    }
    Ok(result.ordered)
}

/// Variables in the order of their first appearance.
#[derive(Debug, Default)]
struct Environment {
    ordered: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if let Some(index) = self.index.get(name) {
            self.ordered[*index].1 = value;
        } else {
            self.index.insert(name.to_owned(), self.ordered.len());
            self.ordered.push((name.to_owned(), value));
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|index| &*self.ordered[*index].1)
    }
}

fn value_of(
    pod: &Pod,
    variable: &EnvVar,
    addresses: Addresses,
    sources: &Sources,
    before: &Environment,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(&variable.value, |name| before.get(name))));
    };
    if let Some(field) = &from.field_ref {
        let unsupported = || EnvError::Field {
            variable: variable.name.to_string(),
            path: field.field_path.to_string(),
        };
        return field_value(pod, &field.field_path, addresses)
            .map(Some)
            .ok_or_else(unsupported);
    }
    if let Some(key) = &from.config_map_key_ref {
        return key_value(CONFIG_MAP, key, sources);
    }
    if let Some(key) = &from.secret_key_ref {
        return key_value(SECRET, key, sources);
    }
    Err(EnvError::Resource {
        variable: variable.name.to_string(),
    })
}

fn key_value(
    kind: &'static str,
    selector: &KeySelector,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    let (name, key) = (selector.name.to_string(), selector.key.to_string());
    let optional = selector.optional == Some(true);
    match sources.get(&(kind, name.clone())) {
        None if optional => Ok(None),
        None => Err(EnvError::NoObject { kind, name }),
        Some(data) => match data.get(&key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey { kind, name, key }),
        },
    }
}

/// The downward API's fields.
fn field_value(pod: &Pod, path: &str, addresses: Addresses) -> Option<String> {
    let meta = &pod.metadata;
    let value = match path {
        "metadata.name" => meta.name.to_string(),
        "metadata.namespace" => meta.namespace.to_string(),
        "metadata.uid" => meta.uid.to_string(),
        "spec.nodeName" => pod.spec.node_name.to_string(),
        "spec.serviceAccountName" => pod.spec.service_account_name.to_string(),
        "status.podIP" | "status.podIPs" => addresses.pod.to_string(),
        "status.hostIP" | "status.hostIPs" => addresses.host.to_string(),
        _ => {
            let (map, rest) = if let Some(rest) = path.strip_prefix("metadata.labels['") {
                (&meta.labels, rest)
            } else {
                (
                    &meta.annotations,
                    path.strip_prefix("metadata.annotations['")?,
                )
            };
            let key = rest.strip_suffix("']")?;
            map.get(key).map(ToString::to_string).unwrap_or_default()
        }
    };
    Some(value)
}

/// Replaces `$(NAME)` by the variable's value. An unknown name stays as it is written; `$$` is a dollar sign.
pub(super) fn expand<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: &[(&str, u16, &str)]) -> Service {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": ports},
        }))
        .expect("service")
    }

    fn lines(services: &[&Service], namespace: &str, links: bool) -> Vec<String> {
        let variables = service_variables(services, namespace, links);
        variables
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn every_form_of_service_variable_is_there_in_order() {
        let plain = service("default", "web", "10.96.0.7", &[("", 80, "TCP")]);
        let named = service(
            "default",
            "super-dns",
            "fd00::7",
            &[("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("s", 9, "SCTP")],
        );
        let headless = service("default", "none", "None", &[("", 80, "TCP")]);
        let wanted = "SUPER_DNS_SERVICE_HOST=fd00::7
SUPER_DNS_SERVICE_PORT=53
SUPER_DNS_SERVICE_PORT_DNS=53
SUPER_DNS_SERVICE_PORT_DNS_TCP=53
SUPER_DNS_SERVICE_PORT_S=9
SUPER_DNS_PORT=udp://[fd00::7]:53
SUPER_DNS_PORT_53_UDP=udp://[fd00::7]:53
SUPER_DNS_PORT_53_UDP_PROTO=udp
SUPER_DNS_PORT_53_UDP_PORT=53
SUPER_DNS_PORT_53_UDP_ADDR=fd00::7
SUPER_DNS_PORT_53_TCP=tcp://[fd00::7]:53
SUPER_DNS_PORT_53_TCP_PROTO=tcp
SUPER_DNS_PORT_53_TCP_PORT=53
SUPER_DNS_PORT_53_TCP_ADDR=fd00::7
SUPER_DNS_PORT_9_SCTP=sctp://[fd00::7]:9
SUPER_DNS_PORT_9_SCTP_PROTO=sctp
SUPER_DNS_PORT_9_SCTP_PORT=9
SUPER_DNS_PORT_9_SCTP_ADDR=fd00::7
WEB_SERVICE_HOST=10.96.0.7
WEB_SERVICE_PORT=80
WEB_PORT=tcp://10.96.0.7:80
WEB_PORT_80_TCP=tcp://10.96.0.7:80
WEB_PORT_80_TCP_PROTO=tcp
WEB_PORT_80_TCP_PORT=80
WEB_PORT_80_TCP_ADDR=10.96.0.7";
        assert_eq!(
            lines(&[&plain, &named, &headless], "default", true).join("\n"),
            wanted
        );
    }

    #[test]
    fn kubernetes_is_always_there_and_the_own_one_wins() {
        let master = service(
            "default",
            "kubernetes",
            "10.96.0.1",
            &[("https", 443, "TCP")],
        );
        let other = service("team", "web", "10.96.0.7", &[("", 80, "TCP")]);
        let own = service("team", "kubernetes", "10.96.0.9", &[("", 443, "TCP")]);
        let host = |services: &[&Service], links| lines(services, "team", links)[0].clone();
        assert_eq!(
            host(&[&master, &other], false),
            "KUBERNETES_SERVICE_HOST=10.96.0.1"
        );
        assert!(
            !lines(&[&master, &other], "team", false)
                .iter()
                .any(|line| line.starts_with("WEB"))
        );
        for order in [[&master, &own], [&own, &master]] {
            assert_eq!(host(&order, true), "KUBERNETES_SERVICE_HOST=10.96.0.9");
        }
        assert_eq!(
            host(&[&master, &own], false),
            "KUBERNETES_SERVICE_HOST=10.96.0.1"
        );
    }

    #[test]
    fn references_expand_as_kubernetes_does() {
        let get = |name: &str| (name == "A").then_some("value");
        let cases = [
            ("$(A)", "value"),
            ("x$(A)y$(A)", "xvalueyvalue"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
        ];
        for (text, wanted) in cases {
            assert_eq!(expand(text, get), wanted, "{text}");
        }
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "team", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": []},
        }))
        .expect("pod")
    }

    fn environment_of(
        container: serde_json::Value,
        sources: &Sources,
    ) -> Result<Vec<String>, EnvError> {
        let container: Container = serde_json::from_value(container).expect("container");
        let addresses = Addresses {
            pod: [10, 244, 1, 2].into(),
            host: [172, 30, 0, 11].into(),
        };
        let services = [("WEB_SERVICE_HOST".to_owned(), "10.96.0.7".to_owned())];
        let all = environment(&pod(), &container, addresses, sources, &services)?;
        Ok(all
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect())
    }

    #[test]
    fn env_wins_over_env_from_which_wins_over_services() {
        let sources = Sources::from([(
            (CONFIG_MAP, "settings".to_owned()),
            BTreeMap::from([
                ("MODE".to_owned(), "slow".to_owned()),
                ("COLOR".to_owned(), "red".to_owned()),
            ]),
        )]);
        let got = environment_of(
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "MODE", "value": "fast"},
                {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)/$(MODE)/$(COLOR)"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR"}}},
            ]}),
            &sources,
        );
        assert_eq!(
            got.expect("environment"),
            [
                "WEB_SERVICE_HOST=10.96.0.7",
                "COLOR=red",
                "MODE=fast",
                "URL=http://10.96.0.7/fast/red",
                "POD=10.244.1.2",
                "APP=web",
                "KEY=red",
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
        let error = environment_of(missing.clone(), &Sources::new()).expect_err("no secret");
        assert_eq!(error.to_string(), "secret \"s\" not found or not readable");
        let sources = Sources::from([((SECRET, "s".to_owned()), BTreeMap::new())]);
        let error = environment_of(missing, &sources).expect_err("no key");
        assert_eq!(error.to_string(), "couldn't find key k in secret s");
    }
}
