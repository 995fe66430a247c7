//! What the Pods of each node name, kept by events: a request is one look-up.
//! Source: kubernetes/kubernetes plugin/pkg/auth/authorizer/node/graph.go.

use std::collections::{BTreeSet, HashMap};

use api::core::{Container, Pod, Volume};

/// The kinds whose objects a node reads because its Pods name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Named {
    /// ConfigMaps.
    ConfigMap,
    /// Secrets.
    Secret,
    /// ServiceAccounts, of which a node may make tokens.
    ServiceAccount,
}

/// One object: its kind, namespace and name.
type Object = (Named, Box<str>, Box<str>);
/// The namespace and name of a Pod.
type PodKey = (Box<str>, Box<str>);

/// A Pod that is bound to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bound {
    node: Box<str>,
    names: BTreeSet<(Named, Box<str>)>,
}

/// Which nodes have Pods that name an object.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pods: HashMap<PodKey, Bound>,
    /// How many Pods of each node name an object.
    users: HashMap<Object, HashMap<Box<str>, usize>>,
}

impl Graph {
    /// Whether a Pod of this node names the object.
    #[must_use]
    pub fn reaches(&self, node: &str, kind: Named, namespace: &str, name: &str) -> bool {
        let object = (kind, namespace.into(), name.into());
        let users = self.users.get(&object);
        users.is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Takes in a Pod as it is now.
    pub fn put(&mut self, pod: &Pod) {
        let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let new = Bound {
            node: pod.spec.node_name.clone(),
            names: names(pod),
        };
        if self.pods.get(&key) == Some(&new) {
            return;
        }
        self.remove(&key.0, &key.1);
        if new.node.is_empty() {
            return;
        }
        for (kind, name) in &new.names {
            let object = (*kind, key.0.clone(), name.clone());
            let nodes = self.users.entry(object).or_default();
            *nodes.entry(new.node.clone()).or_default() += 1;
        }
        self.pods.insert(key, new);
    }

    /// Forgets a Pod.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(old) = self.pods.remove(&(namespace.into(), name.into())) else {
            return;
        };
        for (kind, name) in old.names {
            let object = (kind, namespace.into(), name);
            let Some(nodes) = self.users.get_mut(&object) else {
                continue;
            };
            if let Some(count) = nodes.get_mut(&old.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&old.node);
                }
            }
            if nodes.is_empty() {
                self.users.remove(&object);
            }
        }
    }
}

/// Everything a Pod names.
fn names(pod: &Pod) -> BTreeSet<(Named, Box<str>)> {
    let spec = &pod.spec;
    let mut names = BTreeSet::new();
    let mut name = |kind, name: &str| {
        if !name.is_empty() {
            names.insert((kind, name.into()));
        }
    };
    name(Named::ServiceAccount, &spec.service_account_name);
    for secret in &spec.image_pull_secrets {
        name(Named::Secret, &secret.name);
    }
    for container in spec.init_containers.iter().chain(&spec.containers) {
        of_container(container, &mut name);
    }
    for volume in &spec.volumes {
        of_volume(volume, &mut name);
    }
    names
}

fn of_container(container: &Container, name: &mut impl FnMut(Named, &str)) {
    for source in &container.env_from {
        if let Some(map) = &source.config_map_ref {
            name(Named::ConfigMap, &map.name);
        }
        if let Some(secret) = &source.secret_ref {
            name(Named::Secret, &secret.name);
        }
    }
    let values = container.env.iter();
    for value in values.filter_map(|variable| variable.value_from.as_ref()) {
        if let Some(map) = &value.config_map_key_ref {
            name(Named::ConfigMap, &map.name);
        }
        if let Some(secret) = &value.secret_key_ref {
            name(Named::Secret, &secret.name);
        }
    }
}

fn of_volume(volume: &Volume, name: &mut impl FnMut(Named, &str)) {
    if let Some(map) = &volume.config_map {
        name(Named::ConfigMap, &map.name);
    }
    if let Some(secret) = &volume.secret {
        name(Named::Secret, &secret.secret_name);
    }
    let projected = volume.projected.iter();
    for source in projected.flat_map(|projected| &projected.sources) {
        if let Some(map) = &source.config_map {
            name(Named::ConfigMap, &map.name);
        }
        if let Some(secret) = &source.secret {
            name(Named::Secret, &secret.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
        pod["spec"]["nodeName"] = json!(node);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn each_way_to_name_an_object_counts() {
        let mut graph = Graph::default();
        graph.put(&pod(
            "p",
            "n1",
            json!({
                "serviceAccountName": "sa",
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "init"}}]}],
                "containers": [{
                    "name": "c",
                    "envFrom": [{"configMapRef": {"name": "from"}}],
                    "env": [
                        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "value", "key": "k"}}},
                        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "value", "key": "k"}}},
                    ],
                }],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "volume"}},
                    {"name": "b", "configMap": {"name": "volume"}},
                    {"name": "c", "projected": {"sources": [
                        {"secret": {"name": "projected"}}, {"configMap": {"name": "projected"}},
                        {"serviceAccountToken": {"path": "token"}},
                    ]}},
                ],
            }),
        ));
        for (kind, names) in [
            (Named::ServiceAccount, &["sa"][..]),
            (
                Named::Secret,
                &["pull", "init", "value", "volume", "projected"],
            ),
            (Named::ConfigMap, &["from", "value", "volume", "projected"]),
        ] {
            for name in names {
                assert!(graph.reaches("n1", kind, "ns", name), "{kind:?} {name}");
                assert!(!graph.reaches("n2", kind, "ns", name), "{kind:?} {name}");
                assert!(!graph.reaches("n1", kind, "other", name), "{kind:?} {name}");
            }
        }
        assert!(!graph.reaches("n1", Named::Secret, "ns", "from"));
    }

    #[test]
    fn what_no_pod_of_the_node_names_any_more_is_forgotten() {
        let names = |secret: &str| json!({"imagePullSecrets": [{"name": secret}]});
        let mut graph = Graph::default();
        let reaches =
            |graph: &Graph, node: &str, name: &str| graph.reaches(node, Named::Secret, "ns", name);
        graph.put(&pod("waits", "", names("s")));
        assert!(!reaches(&graph, "", "s"));
        graph.put(&pod("a", "n1", names("s")));
        graph.put(&pod("b", "n1", names("s")));
        graph.put(&pod("c", "n2", names("s")));
        graph.remove("ns", "a");
        assert!(reaches(&graph, "n1", "s"));
        graph.put(&pod("b", "n1", names("t")));
        assert!(!reaches(&graph, "n1", "s"));
        assert!(reaches(&graph, "n1", "t") && reaches(&graph, "n2", "s"));
        for name in ["b", "c", "waits"] {
            graph.remove("ns", name);
        }
        assert!(graph.pods.is_empty() && graph.users.is_empty());
    }
}
