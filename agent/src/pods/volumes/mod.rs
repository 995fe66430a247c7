//! Volumes whose files the agent writes: from ConfigMaps, Secrets, fields of the Pod, and tokens of its account.
//! <https://kubernetes.io/docs/concepts/storage/projected-volumes/>
//!
//! What is in a volume is decided here, without doing anything; [`write`](mod@write) puts it on the disk, so that a reader sees
//! all of the old or all of the new.

pub(super) mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::core::{
    Base64, ConfigMap, DownwardApiVolumeFile, KeyToPath, Pod, Secret,
    ServiceAccountTokenProjection, Volume,
};

use super::env::{self, Places};

/// The mode of files unless the volume says another.
const MODE: u32 = 0o644;
/// How long a token holds unless the volume says.
const TOKEN_SECS: i64 = 3600;

/// Why the files of a volume cannot be written (yet).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("volume {volume:?}: {kind} {name:?} not found")]
    NoObject {
        volume: String,
        kind: &'static str,
        name: String,
    },
    #[error("volume {volume:?}: {kind} {name:?} has no key {key:?}")]
    NoKey {
        volume: String,
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("volume {volume:?}: field {path:?} is not supported")]
    Field { volume: String, path: String },
    #[error("volume {volume:?}: resourceFieldRef is not supported")]
    Resource { volume: String },
    #[error("volume {volume:?}: path {path:?} leads out of the volume")]
    Path { volume: String, path: String },
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// The files of a volume by their paths in it.
pub(super) type Payload = BTreeMap<String, File>;

/// A token that a volume holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TokenKey {
    /// For whom; empty is the API.
    pub(super) audience: String,
    /// For how long.
    pub(super) life_secs: i64,
}

impl From<&ServiceAccountTokenProjection> for TokenKey {
    fn from(source: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: source.audience.to_string(),
            life_secs: source.expiration_seconds.unwrap_or(TOKEN_SECS),
        }
    }
}

/// The bytes of a ConfigMap's or a Secret's keys.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// What volumes are made of; objects that do not exist are absent.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) objects: HashMap<(&'static str, String), Data>,
    pub(super) tokens: HashMap<TokenKey, String>,
}

/// The keys of a ConfigMap.
pub(super) fn config_map_data(map: ConfigMap) -> Data {
    let text = map.data.into_iter();
    let text = text.map(|(key, value)| (key.into(), value.into_string().into_bytes()));
    text.chain(bytes(map.binary_data)).collect()
}

/// The keys of a Secret.
pub(super) fn secret_data(secret: Secret) -> Data {
    bytes(secret.data).collect()
}

fn bytes(data: BTreeMap<Box<str>, Base64>) -> impl Iterator<Item = (String, Vec<u8>)> {
    data.into_iter().map(|(key, value)| (key.into(), value.0))
}

/// Whether the agent can mount this volume.
pub(super) fn is_supported(volume: &Volume) -> bool {
    let plain =
        volume.secret.is_some() || volume.config_map.is_some() || volume.downward_api.is_some();
    let projected = volume.projected.as_ref();
    plain
        || projected.is_some_and(|projected| {
            projected.sources.iter().all(|source| {
                source.secret.is_some()
                    || source.config_map.is_some()
                    || source.downward_api.is_some()
                    || source.service_account_token.is_some()
            })
        })
}

/// The ConfigMaps and Secrets that volumes name.
pub(super) fn wanted_objects(pod: &Pod) -> BTreeSet<(&'static str, String)> {
    let mut wanted = BTreeSet::new();
    for volume in &pod.spec.volumes {
        for part in parts(volume) {
            if let Part::Keys { kind, name, .. } = part {
                wanted.insert((kind, name.to_owned()));
            }
        }
    }
    wanted
}

/// The tokens that volumes hold.
pub(super) fn wanted_tokens(pod: &Pod) -> BTreeSet<TokenKey> {
    let parts = pod.spec.volumes.iter().flat_map(parts);
    parts
        .filter_map(|part| match part {
            Part::Token(source) => Some(source.into()),
            _ => None,
        })
        .collect()
}

/// One source of a volume.
enum Part<'a> {
    Keys {
        kind: &'static str,
        name: &'a str,
        items: &'a [KeyToPath],
        optional: bool,
    },
    Fields(&'a [DownwardApiVolumeFile]),
    Token(&'a ServiceAccountTokenProjection),
}

fn parts(volume: &Volume) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    if let Some(source) = &volume.secret {
        parts.push(Part::Keys {
            kind: env::SECRET,
            name: &source.secret_name,
            items: &source.items,
            optional: source.optional == Some(true),
        });
    }
    if let Some(source) = &volume.config_map {
        parts.push(Part::Keys {
            kind: env::CONFIG_MAP,
            name: &source.name,
            items: &source.items,
            optional: source.optional == Some(true),
        });
    }
    if let Some(source) = &volume.downward_api {
        parts.push(Part::Fields(&source.items));
    }
    let projected = volume.projected.iter();
    for source in projected.flat_map(|projected| &projected.sources) {
        for (kind, keys) in [
            (env::SECRET, &source.secret),
            (env::CONFIG_MAP, &source.config_map),
        ] {
            parts.extend(keys.as_ref().map(|keys| Part::Keys {
                kind,
                name: &keys.name,
                items: &keys.items,
                optional: keys.optional == Some(true),
            }));
        }
        let fields = source.downward_api.as_ref();
        parts.extend(fields.map(|fields| Part::Fields(&fields.items)));
        parts.extend(source.service_account_token.as_ref().map(Part::Token));
    }
    parts
}

/// The files of one volume.
///
/// # Errors
/// [`VolumeError`], when something is missing that is not optional.
pub(super) fn payload(
    pod: &Pod,
    volume: &Volume,
    places: Places,
    sources: &Sources,
) -> Result<Payload, VolumeError> {
    let mut files = Files {
        pod,
        volume,
        mode: default_mode(volume),
        payload: Payload::new(),
    };
    for part in parts(volume) {
        match part {
            Part::Keys {
                kind,
                name,
                items,
                optional,
            } => match sources.objects.get(&(kind, name.to_owned())) {
                Some(data) => files.keys((kind, name), data, items, optional)?,
                None if optional => {}
                None => {
                    return Err(VolumeError::NoObject {
                        volume: volume.name.to_string(),
                        kind,
                        name: name.to_owned(),
                    });
                }
            },
            Part::Fields(items) => files.fields(items, places)?,
            Part::Token(source) => {
                let token = sources.tokens.get(&source.into());
                let token = token.map(|token| token.clone().into_bytes());
                files.add(&source.path, token.unwrap_or_default(), files.mode)?;
            }
        }
    }
    Ok(files.payload)
}

fn default_mode(volume: &Volume) -> u32 {
    let secret = volume.secret.as_ref().map(|source| source.default_mode);
    let map = volume.config_map.as_ref().map(|source| source.default_mode);
    let fields = volume.downward_api.as_ref();
    let fields = fields.map(|source| source.default_mode);
    let projected = volume.projected.as_ref().map(|source| source.default_mode);
    let given = secret.or(map).or(fields).or(projected).flatten();
    mode(given, MODE)
}

/// Permission bits; a mode out of bounds was refused by the server.
fn mode(given: Option<i32>, otherwise: u32) -> u32 {
    let given = given.and_then(|mode| u32::try_from(mode).ok());
    given.unwrap_or(otherwise) & 0o777
}

struct Files<'a> {
    pod: &'a Pod,
    volume: &'a Volume,
    mode: u32,
    payload: Payload,
}

impl Files<'_> {
    fn add(&mut self, path: &str, content: Vec<u8>, mode: u32) -> Result<(), VolumeError> {
        let inside = path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
        // What begins with two dots is the writer's own.
        if !inside || path.starts_with("..") || path.contains('\0') {
            return Err(VolumeError::Path {
                volume: self.volume.name.to_string(),
                path: path.to_owned(),
            });
        }
        // Only readers of the Pod's group are added: fsGroup means that they can read.
        let group = self
            .pod
            .spec
            .security_context
            .as_ref()
            .and_then(|security| security.fs_group);
        let mode = if group.is_some() { mode | 0o440 } else { mode };
        self.payload.insert(path.to_owned(), File { content, mode });
        Ok(())
    }

    fn keys(
        &mut self,
        (kind, name): (&'static str, &str),
        data: &Data,
        items: &[KeyToPath],
        optional: bool,
    ) -> Result<(), VolumeError> {
        if items.is_empty() {
            for (key, content) in data {
                self.add(key, content.clone(), self.mode)?;
            }
        }
        for item in items {
            match data.get(&*item.key) {
                Some(content) => {
                    let mode = mode(item.mode, self.mode);
                    self.add(&item.path, content.clone(), mode)?;
                }
                None if optional => {}
                None => {
                    return Err(VolumeError::NoKey {
                        volume: self.volume.name.to_string(),
                        kind,
                        name: name.to_owned(),
                        key: item.key.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    fn fields(
        &mut self,
        items: &[DownwardApiVolumeFile],
        places: Places,
    ) -> Result<(), VolumeError> {
        for item in items {
            let Some(field) = &item.field_ref else {
                return Err(VolumeError::Resource {
                    volume: self.volume.name.to_string(),
                });
            };
            let path = &*field.field_path;
            let meta = &self.pod.metadata;
            let value = match path {
                "metadata.labels" => Some(lines(&meta.labels)),
                "metadata.annotations" => Some(lines(&meta.annotations)),
                _ => env::field_value(self.pod, path, places),
            };
            let value = value.ok_or_else(|| VolumeError::Field {
                volume: self.volume.name.to_string(),
                path: path.to_owned(),
            })?;
            let mode = mode(item.mode, self.mode);
            self.add(&item.path, value.into_bytes(), mode)?;
        }
        Ok(())
    }
}

/// A map as lines `key="value"`, the value quoted as Go does.
fn lines(map: &api::meta::StringMap) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Addresses;

    fn pod(volume: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b", "c": "d\"e"}},
            "spec": {"containers": [], "volumes": [volume]},
        }))
        .expect("a Pod")
    }

    fn sources() -> Sources {
        let data = Data::from([("a".into(), b"A".to_vec()), ("b".into(), b"B".to_vec())]);
        Sources {
            objects: [
                ((env::CONFIG_MAP, "m".into()), data.clone()),
                ((env::SECRET, "s".into()), data),
            ]
            .into(),
            tokens: [(
                TokenKey {
                    audience: String::new(),
                    life_secs: 3607,
                },
                "JWT".into(),
            )]
            .into(),
        }
    }

    fn files(volume: Value) -> Result<Vec<String>, String> {
        let pod = pod(volume);
        let address = Addresses::of_each_family(["10.0.0.1".parse().expect("an address")]);
        let address = address.expect("addresses");
        let places = Places {
            pod: address,
            host: address,
        };
        let payload = payload(&pod, &pod.spec.volumes[0], places, &sources());
        let payload = payload.map_err(|error| error.to_string())?;
        let text = |(path, file): (&String, &File)| {
            let content = String::from_utf8_lossy(&file.content);
            format!("{path} {:o} {content}", file.mode)
        };
        Ok(payload.iter().map(text).collect())
    }

    #[test]
    fn each_source_has_its_files() {
        for (volume, wanted) in [
            (
                json!({"configMap": {"name": "m"}}),
                &["a 644 A", "b 644 B"][..],
            ),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 256, "items": [
                    {"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 420},
                ]}}),
                &["x/y 400 A", "z 644 B"],
            ),
            (
                json!({"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
                ]}}),
                &["labels 644 a=\"b\"\nc=\"d\\\"e\"", "name 644 p"],
            ),
            (
                json!({"projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [
                        {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
                    ]}},
                ]}}),
                &["ca.crt 644 A", "namespace 644 ns", "token 644 JWT"],
            ),
            (json!({"configMap": {"name": "no", "optional": true}}), &[]),
            (
                json!({"configMap": {"name": "m", "optional": true, "items": [{"key": "no", "path": "x"}]}}),
                &[],
            ),
        ] {
            assert_eq!(files(volume.clone()).expect("files"), wanted, "{volume}");
        }
    }

    #[test]
    fn what_is_missing_or_leads_out_is_refused_in_words() {
        let item =
            |path: &str| json!({"configMap": {"name": "m", "items": [{"key": "a", "path": path}]}});
        for (volume, wanted) in [
            (
                json!({"configMap": {"name": "no"}}),
                "configmap \"no\" not found",
            ),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "no", "path": "x"}]}}),
                "has no key \"no\"",
            ),
            (item("../x"), "leads out"),
            (item("a/../../x"), "leads out"),
            (item("/etc/x"), "leads out"),
            (item("..data"), "leads out"),
        ] {
            let error = files(volume.clone()).expect_err("a refusal");
            assert!(error.contains(wanted), "{volume}: {error}");
        }
    }
}
