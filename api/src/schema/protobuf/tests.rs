//! Bodies as kubectl and client-go write them, and hostile ones.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{lookup, types};

/// A field with a length: messages, text.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![(tag << 3) | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out
}

fn number(tag: u8, value: u8) -> Vec<u8> {
    vec![tag << 3, value]
}

fn decode(group: &str, kind: &str, raw: &[u8]) -> Value {
    lookup(group, "v1", kind)
        .unwrap()
        .from_protobuf(raw)
        .unwrap()
}

#[test]
fn the_envelope_names_the_kind() {
    let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    let body = [
        MAGIC.to_vec(),
        field(1, &meta),
        field(2, b"raw"),
        field(3, b""),
        field(4, b""),
    ]
    .concat();
    let envelope = unwrap_envelope(&body).unwrap();
    assert_eq!(
        envelope,
        Envelope {
            api_version: "v1",
            kind: "ConfigMap",
            raw: b"raw",
            content_type: ""
        }
    );
    assert!(matches!(unwrap_envelope(b"{}"), Err(ProtobufError::Magic)));
}

#[test]
fn zeros_of_value_fields_are_absent_and_zeros_of_pointers_are_kept() {
    // DeploymentSpec: replicas is a pointer, minReadySeconds and paused are not.
    let spec = [number(1, 0), number(5, 0), number(7, 0)].concat();
    assert_eq!(
        decode("apps", "Deployment", &field(2, &spec)),
        json!({"spec": {"replicas": 0}})
    );
    // Service: clusterIP "", sessionAffinity "", port 80, targetPort 0 as IntOrString, nodePort 0.
    let target = [number(1, 0), number(2, 0), field(3, b"")].concat();
    let port = [
        field(1, b""),
        field(2, b"TCP"),
        number(3, 80),
        field(4, &target),
        number(5, 0),
    ]
    .concat();
    let spec = [field(1, &port), field(3, b""), field(7, b""), number(12, 0)].concat();
    let service = [
        field(1, &field(8, b"")),
        field(2, &spec),
        field(3, &field(1, b"")),
    ]
    .concat();
    assert_eq!(
        decode("", "Service", &service),
        json!({"spec": {"ports": [{"protocol": "TCP", "port": 80}]}})
    );
}

#[test]
fn inlined_messages_show_in_their_parent_and_empty_sources_stay() {
    let volume = [field(1, b"tmp"), field(2, &field(2, b""))].concat();
    assert_eq!(
        decode("", "Pod", &field(2, &field(1, &volume))),
        json!({"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}]}})
    );
}

#[test]
fn secrets_carry_raw_bytes_and_empty_values_stay() {
    let entry = |key: &[u8], value: &[u8]| field(2, &[field(1, key), field(2, value)].concat());
    let secret = [
        entry(b"a", b"\xff\x00"),
        entry(b"b", b""),
        field(2, &field(1, b"c")),
    ]
    .concat();
    assert_eq!(
        decode("", "Secret", &secret),
        json!({"data": {"a": "/wA=", "b": "", "c": ""}})
    );
}

#[test]
fn times_are_written_as_json_has_them() {
    let time = [vec![1 << 3], vec![0x80, 0xa8, 0xd6, 0xb9, 0x07]].concat();
    let meta = field(8, &time);
    assert_eq!(
        decode("", "ConfigMap", &field(1, &meta)),
        json!({"metadata": {"creationTimestamp": "2033-05-18T03:33:20Z"}})
    );
}

#[test]
fn lists_as_values_of_maps_have_a_message_of_their_own() {
    let extra = [
        field(1, b"scopes"),
        field(2, &[field(1, b"a"), field(1, b"b")].concat()),
    ]
    .concat();
    let review = field(2, &field(5, &extra));
    assert_eq!(
        decode("authorization.k8s.io", "SubjectAccessReview", &review),
        json!({"spec": {"extra": {"scopes": ["a", "b"]}}})
    );
}

#[test]
fn unknown_tags_are_skipped_and_broken_bytes_refused() {
    let newer = [
        number(15, 1),
        field(14, b"x"),
        vec![(13 << 3) | 5, 1, 2, 3, 4],
        vec![(12 << 3) | 1, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    assert_eq!(decode("", "ConfigMap", &newer.concat()), json!({}));
    let config_map = lookup("", "v1", "ConfigMap").unwrap();
    for raw in [
        &[0x0a][..],
        &[0x0a, 5, 1],
        &[0xff; 11],
        &[0x08, 1],
        &[0x0b],
        &[0x00, 0x00],
        &[0x0a, 2, 0x0a, 9],
    ] {
        assert!(config_map.from_protobuf(raw).is_err(), "{raw:?}");
    }
}

#[test]
fn messages_nested_without_end_are_refused() {
    let crd = type_named("apiextensions.v1.JSONSchemaProps").unwrap();
    let mut raw = Vec::new();
    for _ in 0..200 {
        // Tag 28 is `not`, a schema.
        let mut outer = vec![0xe2, 0x01];
        let mut length = raw.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&raw);
        raw = outer;
    }
    assert!(matches!(crd.from_protobuf(&raw), Err(ProtobufError::Depth)));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(at in 0..400_usize, raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let of = &types()[at % types().len()];
        if let Ok(mut value) = of.from_protobuf(&raw) {
            prop_assert_eq!(of.check(&value).map_err(|error| error.to_string()), Ok(()));
            prop_assert_eq!(of.prune(&mut value), vec![]);
        }
        let _ = unwrap_envelope(&[MAGIC, &raw].concat());
    }

    /// Bytes that look more like messages get deeper.
    #[test]
    fn hostile_messages_never_panic(at in 0..400_usize, fields in proptest::collection::vec((1..30_u8, 0..3_u8, any::<Vec<u8>>()), 0..12)) {
        let of = &types()[at % types().len()];
        let mut raw = Vec::new();
        for (tag, kind, bytes) in fields {
            let bytes = &bytes[..bytes.len().min(100)];
            match kind {
                0 => raw.extend(number(tag, bytes.len() as u8)),
                1 => raw.extend(field(tag, bytes)),
                _ => { let inner = field(1, bytes); raw = [field(tag, &raw[..raw.len().min(100)]), field(tag, &inner)].concat(); }
            }
        }
        let _ = of.from_protobuf(&raw).map(|value| of.check(&value));
    }
}
