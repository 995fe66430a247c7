//! Configurations to apply, with the managers that the object has.

use api::schema::apply::{Author, Config, FieldSet, Managers, Operation};
use serde_json::Value;

use super::type_of;

/// `{"live": ..., "managers": [...], "config": ..., "force": bool}`. What was applied can be applied again and changes nothing.
pub fn run(bytes: &[u8]) {
    let Ok((mut document, _)) = api::json::parse(bytes) else {
        return;
    };
    if !document.is_object() {
        return;
    }
    let [live, config] = ["live", "config"].map(|field| document[field].take());
    let managers = match &document["managers"] {
        Value::Null => "[]".to_owned(),
        managers => managers.to_string(),
    };
    let Ok(managers) = Managers::read_all(&managers) else {
        return;
    };
    // Before this, the server prunes and checks both.
    let of = type_of(&config);
    let [live, config] = [live, config].map(|mut value| {
        let _ = of.prune(&mut value);
        value
    });
    if !live.is_object()
        || !config.is_object()
        || of.check(&live).is_err()
        || of.check(&config).is_err()
    {
        return;
    }
    let ignored = FieldSet::default();
    let config = Config {
        value: &config,
        author: Author {
            manager: document["manager"].as_str().unwrap_or("fuzz"),
            operation: Operation::Apply,
            api_version: config["apiVersion"].as_str().unwrap_or("v1"),
            subresource: "",
        },
        force: document["force"].as_bool().unwrap_or_default(),
        ignored: &ignored,
        now: "2026-01-01T00:00:00Z",
    };
    if let Ok((object, managers)) = config.apply(of, &live, managers) {
        let text = managers.to_json();
        let managers = Managers::read_all(&text).expect("managers can be read again");
        let (again, _) = config
            .apply(of, &object, managers)
            .expect("what was applied can be applied again");
        assert_eq!(again, object, "applied twice");
    }
}
