//! Pods of a template, and what tells two templates apart.

use api::{
    apps::PodTemplate,
    meta::{OwnerReference, StringMap},
};
use serde_json::{Value, json};

use crate::registry::kinds::fill_template;

/// On the Pods and ReplicaSets of a Deployment: which template they have.
pub(super) const HASH: &str = "pod-template-hash";

/// A Pod of a template, its name to be made up.
pub(super) fn pod(template: &PodTemplate, namespace: &str, owner: &OwnerReference) -> Value {
    let metadata = &template.metadata;
    let mut pod = json!({
        "metadata": {
            "generateName": format!("{}-", owner.name),
            "namespace": namespace,
            "ownerReferences": [owner],
        },
        "spec": template.spec.value(),
    });
    for (field, value) in [
        ("labels", json!(metadata.labels)),
        ("annotations", json!(metadata.annotations)),
        ("finalizers", json!(metadata.finalizers)),
    ] {
        let is_empty = value == json!({}) || value == json!([]);
        if !is_empty {
            pod["metadata"][field] = value;
        }
    }
    pod
}

/// Whether two templates make the same Pods, apart from [`HASH`]. One may be from before a field had its default.
pub(super) fn equal(a: &PodTemplate, b: &PodTemplate) -> bool {
    let bare = |template: &PodTemplate| {
        let mut metadata = template.metadata.clone();
        metadata.labels.remove(HASH);
        metadata
    };
    if bare(a) != bare(b) {
        return false;
    }
    let filled = |template: &PodTemplate| {
        let mut value = json!({"metadata": {}, "spec": template.spec.value()});
        fill_template(&mut value);
        value
    };
    a.spec == b.spec || a.spec.value() == b.spec.value() || filled(a) == filled(b)
}

/// A hash of a template, fit for a name and a label; another one for each number of collisions.
/// Source: kubernetes/kubernetes pkg/controller/controller_utils.go, ComputeHash (the hashed form of a template differs).
pub(super) fn hash(template: &PodTemplate, collisions: Option<i32>) -> String {
    let mut value = json!({"metadata": template.metadata, "spec": template.spec.value()});
    sort_keys(&mut value);
    let collisions = collisions.map(|count| i64::from(count).to_le_bytes());
    let text = value.to_string();
    let bytes = text.bytes().chain(collisions.into_iter().flatten());
    safe(&fnv32a(bytes).to_string())
}

fn sort_keys(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.sort_keys();
            map.values_mut().for_each(sort_keys);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_keys),
        _ => {}
    }
}

/// Source: FNV-1a, 32 bits, <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv32a(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The characters of a text, each as one that makes no words.
/// Source: kubernetes/kubernetes staging/src/k8s.io/apimachinery/pkg/util/rand/rand.go, SafeEncodeString.
fn safe(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letters = text.bytes().map(|byte| {
        let letter = ALPHABET[usize::from(byte) % ALPHABET.len()];
        char::from(letter)
    });
    letters.collect()
}

/// Labels with one more.
pub(super) fn with_label(labels: &StringMap, name: &str, value: &str) -> StringMap {
    let mut labels = labels.clone();
    labels.insert(name.into(), value.into());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(value: &Value) -> PodTemplate {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn a_hash_is_upstreams_alphabet_over_fnv() {
        // Go: fmt.Sprint(fnv.New32a() of "hello") and rand.SafeEncodeString of it.
        assert_eq!(fnv32a("hello".bytes()), 1_335_831_723);
        assert_eq!(safe("1335831723"), "5779d75c67");
        let own = template(&json!({"metadata": {}, "spec": {"a": 1, "b": 2}}));
        let same = template(&json!({"metadata": {}, "spec": {"b": 2, "a": 1}}));
        assert_eq!(hash(&own, None), hash(&same, None));
        assert_ne!(hash(&own, None), hash(&own, Some(1)));
        assert_ne!(hash(&own, Some(2)), hash(&own, Some(1)));
    }

    #[test]
    fn templates_are_equal_whatever_their_hash_order_and_defaults() {
        let own = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let mut other = own.clone();
        other["metadata"]["labels"][HASH] = "x".into();
        other["spec"]["restartPolicy"] = "Always".into();
        assert!(equal(&template(&own), &template(&other)));
        other["spec"]["restartPolicy"] = "Never".into();
        assert!(!equal(&template(&own), &template(&other)));
        let mut other = own.clone();
        other["metadata"]["annotations"] = json!({"restarted": "now"});
        assert!(!equal(&template(&own), &template(&other)));
    }
}
