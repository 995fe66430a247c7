//! Volumes of a Pod: the sources minik can mount.

use crate::quantity::Quantity;
use crate::wire::wire;

wire! {
    /// A volume; one with no source set here is of a kind minik cannot mount.
    pub struct Volume {
        [always] {
            name: Box<str>,
        }
        host_path: Option<HostPathVolumeSource>,
        empty_dir: Option<EmptyDirVolumeSource>,
        secret: Option<SecretVolumeSource>,
        config_map: Option<ConfigMapVolumeSource>,
    }

    /// A path of the node.
    pub struct HostPathVolumeSource {
        [always] {
            path: Box<str>,
        }
        r#type: Option<Box<str>>,
    }

    /// A directory that lives as long as the Pod.
    pub struct EmptyDirVolumeSource {
        medium: Box<str>,
        size_limit: Option<Quantity>,
    }

    /// Files from a Secret.
    pub struct SecretVolumeSource {
        secret_name: Box<str>,
        items: Vec<KeyToPath>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    }

    /// Files from a ConfigMap.
    pub struct ConfigMapVolumeSource {
        name: Box<str>,
        items: Vec<KeyToPath>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    }

    /// Which key becomes which file.
    pub struct KeyToPath {
        [always] {
            key: Box<str>,
            path: Box<str>,
        }
        mode: Option<i32>,
    }
}
