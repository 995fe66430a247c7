//! What a Pod gets of its ServiceAccount when it is made: the name, the secrets to pull images with, and a volume with a token
//! in each container (U5).
//! Source: kubernetes/kubernetes plugin/pkg/admission/serviceaccount/admission.go.

use api::{core::ServiceAccount, names};
use serde_json::{Value, json};

use super::{
    ApiError, Registry,
    kinds::{PODS, SERVICE_ACCOUNTS, items, text_at},
    meta,
};

/// The account of Pods that name none.
const DEFAULT: &str = "default";
/// Where programs look for the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The life of the token: an hour, and by its last seconds known to be this one.
const TOKEN_SECS: i64 = 3607;

impl Registry {
    /// Completes a new Pod by its account.
    ///
    /// # Errors
    /// [`ApiError::Refused`] when the account does not exist. The one that every namespace gets counts as there: it may not have
    /// been made yet.
    pub(super) async fn admit_account(
        &self,
        namespace: Option<&str>,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        if !pod["spec"].is_object() {
            return Ok(());
        }
        let named = text_at(pod, &["spec", "serviceAccountName"]);
        let named = if named.is_empty() {
            text_at(pod, &["spec", "serviceAccount"])
        } else {
            named
        };
        let name = if named.is_empty() { DEFAULT } else { named }.to_owned();
        let account = match self.get(&SERVICE_ACCOUNTS, namespace, &name).await {
            Ok(account) => account.decode::<ServiceAccount>()?,
            Err(error) if error.is_not_found() && name == DEFAULT => ServiceAccount::default(),
            Err(error) if error.is_not_found() => {
                return Err(ApiError::Refused {
                    kind: &PODS,
                    name: meta::text(pod, "name").to_owned(),
                    detail: format!(
                        "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                        namespace.unwrap_or_default()
                    ),
                });
            }
            Err(error) => return Err(error),
        };
        pod["spec"]["serviceAccountName"] = json!(name);
        complete(pod, &account);
        Ok(())
    }
}

fn complete(pod: &mut Value, account: &ServiceAccount) {
    let spec = &mut pod["spec"];
    let automount = spec["automountServiceAccountToken"].as_bool();
    let automount = automount.or(account.automount_service_account_token);
    if automount.unwrap_or(true) {
        mount_token(spec);
    }
    let pull = &account.image_pull_secrets;
    if items(&spec["imagePullSecrets"]).is_empty() && !pull.is_empty() {
        spec["imagePullSecrets"] = json!(pull);
    }
}

/// Mounts a token in each container that has nothing at its place, from a volume that is there already or a new one.
fn mount_token(spec: &mut Value) {
    let volumes = items(&spec["volumes"]).iter();
    let known = volumes
        .map(|volume| text_at(volume, &["name"]))
        .find(|name| name.starts_with("kube-api-access-"));
    let known = known.map(str::to_owned);
    let name = known
        .clone()
        .unwrap_or_else(|| names::generate_name("kube-api-access-", &mut rand::rng()));
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let at_place = |mount: &Value| text_at(mount, &["mountPath"]) == MOUNT_PATH;
            if !container.is_object() || items(&container["volumeMounts"]).iter().any(at_place) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            push(container, "volumeMounts", mount);
            mounted = true;
        }
    }
    if mounted && known.is_none() {
        push(spec, "volumes", token_volume(&name));
    }
}

fn push(parent: &mut Value, field: &str, item: Value) {
    match parent[field].as_array_mut() {
        Some(list) => list.push(item),
        None => parent[field] = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    let ca = json!({"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]});
    let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    json!({
        "name": name,
        "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECS, "path": "token"}},
            {"configMap": ca},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
        ]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut spec: Value, account: Value) -> Value {
        spec["containers"] = json!([{"name": "a"}, {"name": "b"}]);
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        complete(&mut pod, &serde_json::from_value(account).unwrap());
        pod["spec"].clone()
    }

    #[test]
    fn u5_each_container_gets_the_token_once() {
        let spec = completed(json!({}), json!({}));
        let volume = &spec["volumes"][0];
        let sources = items(&volume["projected"]["sources"]);
        assert_eq!(sources[0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(sources.len(), 3);
        for container in items(&spec["containers"]) {
            let wanted =
                json!([{"name": volume["name"], "readOnly": true, "mountPath": MOUNT_PATH}]);
            assert_eq!(container["volumeMounts"], wanted);
        }
        let mut again = json!({"spec": spec});
        complete(&mut again, &ServiceAccount::default());
        assert_eq!(again["spec"], spec);
    }

    #[test]
    fn u5_who_does_not_want_it_gets_none() {
        for (spec, account, wanted) in [
            (json!({}), json!({}), true),
            (
                json!({"automountServiceAccountToken": false}),
                json!({}),
                false,
            ),
            (
                json!({}),
                json!({"automountServiceAccountToken": false}),
                false,
            ),
            // The Pod has the last word.
            (
                json!({"automountServiceAccountToken": true}),
                json!({"automountServiceAccountToken": false}),
                true,
            ),
        ] {
            let got = completed(spec.clone(), account.clone());
            assert_eq!(got["volumes"].is_array(), wanted, "{spec} {account}");
        }
        // A place that is taken stays taken.
        let own = json!({"name": "mine", "mountPath": MOUNT_PATH});
        let mut pod = json!({"spec": {"containers": [{"name": "a", "volumeMounts": [own]}]}});
        complete(&mut pod, &ServiceAccount::default());
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"], json!([own]));
        assert_eq!(pod["spec"].get("volumes"), None);
    }

    #[test]
    fn secrets_to_pull_images_with_come_from_the_account() {
        let account = json!({"imagePullSecrets": [{"name": "s"}]});
        let spec = completed(json!({}), account.clone());
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
        let own = json!({"imagePullSecrets": [{"name": "own"}]});
        let spec = completed(own, account);
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "own"}]));
    }
}
