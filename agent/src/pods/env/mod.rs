//! A container's environment: declared variables, Service variables, `$(VAR)` expansion.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#environment-variables>

mod services;

use std::collections::{BTreeMap, HashMap};

use api::core::{Container, EnvVar, KeySelector, Pod};

use crate::Addresses;

pub(super) use services::service_variables;

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
    #[error(
        "{what} is longer than {MAX_STRING_BYTES} bytes after $(VAR) expansion: no program can be given that"
    )]
    TooLong { what: String },
    #[error(
        "the environment and the command have more than {MAX_TOTAL_BYTES} bytes together: no program can be given that"
    )]
    TooMuch,
}

/// What execve(2) takes in one string, its name and final zero included (`MAX_ARG_STRLEN`).
const MAX_STRING_BYTES: usize = 128 << 10;
/// What all strings may have together. The kernel takes a quarter of the stack's limit, usually 2 MiB.
pub(super) const MAX_TOTAL_BYTES: usize = 1 << 20;

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
pub(super) struct Places {
    pub(super) pod: Addresses,
    pub(super) host: Addresses,
}

/// The whole environment: Service variables, then `envFrom`, then `env`; later ones win.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    places: Places,
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
        if let Some(value) = value_of(pod, variable, places, sources, &result)? {
            result.set(&variable.name, value);
        }
        // Checked on the way: a few variables that name each other twice grow without end.
        if result.bytes > MAX_TOTAL_BYTES {
            return Err(EnvError::TooMuch);
        }
    }
    Ok(result.ordered)
}

/// Variables in the order of their first appearance.
#[derive(Debug, Default)]
struct Environment {
    ordered: Vec<(String, String)>,
    index: HashMap<String, usize>,
    /// Of all names and values ever set.
    bytes: usize,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        self.bytes += name.len() + value.len();
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
    places: Places,
    sources: &Sources,
    before: &Environment,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &variable.value_from else {
        let value = expand(&variable.value, |name| before.get(name));
        let too_long = || EnvError::TooLong {
            what: format!("variable {}", variable.name),
        };
        return value.map(Some).ok_or_else(too_long);
    };
    if let Some(field) = &from.field_ref {
        let unsupported = || EnvError::Field {
            variable: variable.name.to_string(),
            path: field.field_path.to_string(),
        };
        return field_value(pod, &field.field_path, places)
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
pub(super) fn field_value(pod: &Pod, path: &str, places: Places) -> Option<String> {
    let meta = &pod.metadata;
    let value = match path {
        "metadata.name" => meta.name.to_string(),
        "metadata.namespace" => meta.namespace.to_string(),
        "metadata.uid" => meta.uid.to_string(),
        "spec.nodeName" => pod.spec.node_name.to_string(),
        "spec.serviceAccountName" => pod.spec.service_account_name.to_string(),
        "status.podIP" => places.pod.primary().to_string(),
        "status.podIPs" => places.pod.to_string(),
        "status.hostIP" => places.host.primary().to_string(),
        "status.hostIPs" => places.host.to_string(),
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

/// Replaces `$(NAME)` by the variable's value. An unknown name stays as it is written; `$$` is a dollar sign. `None` when the
/// result is longer than any program may be given: a Pod of a few bytes must not take the node's memory.
pub(super) fn expand<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        if out.len() > MAX_STRING_BYTES {
            return None;
        }
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
    (out.len() <= MAX_STRING_BYTES).then_some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
            assert_eq!(expand(text, get).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_grows_without_end_is_refused_on_the_way() {
        let mut env = vec![json!({"name": "V0", "value": "x".repeat(1024)})];
        for number in 1..64 {
            let twice = format!("$(V{0})$(V{0})", number - 1);
            env.push(json!({"name": format!("V{number}"), "value": twice}));
        }
        let error = environment_of(json!({"name": "c", "env": env}), &Sources::new());
        assert!(matches!(error, Err(EnvError::TooLong { .. })), "{error:?}");

        let big = json!({"name": "BIG", "value": "x".repeat(100 << 10)});
        let copies = (0..64).map(|n| json!({"name": format!("C{n}"), "value": "$(BIG)"}));
        let env: Vec<_> = [big].into_iter().chain(copies).collect();
        let error = environment_of(json!({"name": "c", "env": env}), &Sources::new());
        assert_eq!(error, Err(EnvError::TooMuch));
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "team", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": []},
        }))
        .expect("pod")
    }

    fn both(primary: &str, secondary: &str) -> Addresses {
        let ips = [primary, secondary].map(|ip| ip.parse().expect("address"));
        Addresses::of_each_family(ips).expect("addresses")
    }

    fn environment_of(
        container: serde_json::Value,
        sources: &Sources,
    ) -> Result<Vec<String>, EnvError> {
        let container: Container = serde_json::from_value(container).expect("container");
        let places = Places {
            pod: both("10.244.1.2", "fd00::2"),
            host: both("172.30.0.11", "2001:db8::b"),
        };
        let services = [("WEB_SERVICE_HOST".to_owned(), "10.96.0.7".to_owned())];
        let all = environment(&pod(), &container, places, sources, &services)?;
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
                {"name": "PODS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "HOSTS", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}},
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
                "PODS=10.244.1.2,fd00::2",
                "HOST=172.30.0.11",
                "HOSTS=172.30.0.11,2001:db8::b",
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
