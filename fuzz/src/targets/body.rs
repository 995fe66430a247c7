//! Bodies in JSON and YAML, up to what is checked before an object is looked at by its kind.

use serde_json::Value;

use super::type_of;

/// As JSON and as YAML; what can be read is pruned, checked and given its defaults.
pub fn run(bytes: &[u8]) {
    let json = api::json::parse(bytes).ok().map(|(value, _)| value);
    let plain: Option<Value> = serde_json::from_slice(bytes).ok();
    assert_eq!(json, plain, "another reader of JSON reads something else");
    let yaml = api::yaml::parse(bytes).ok().map(|(value, _)| value);
    if let Some(json) = &json {
        assert_eq!(yaml.as_ref(), Some(json), "JSON is YAML");
    }
    if let Some(value) = yaml {
        // What aliases may add is bounded; the rest is as long as the document, or a few bytes for a short word.
        let most = 4 * 1024 * 1024 + 16 * bytes.len();
        assert!(
            api::json::size_bytes(&value) <= most,
            "a document that grows"
        );
        settle(value);
    }
}

/// What happens to every object that comes in.
pub(super) fn settle(mut object: Value) {
    let of = type_of(&object);
    let _ = of.prune(&mut object);
    assert!(of.prune(&mut object).is_empty(), "pruned twice");
    if of.check(&object).is_ok() {
        of.default(&mut object);
        assert_eq!(of.check(&object), Ok(()), "the defaults fit");
        let once = object.clone();
        of.default(&mut object);
        assert_eq!(object, once, "defaulted twice");
    }
}
