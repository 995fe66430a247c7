//! Volumes of a Pod: the sources minik can mount.

use super::{ObjectFieldSelector, ResourceFieldSelector};
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
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApiVolumeSource>,
        projected: Option<ProjectedVolumeSource>,
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

    /// Files from fields of the Pod.
    pub struct DownwardApiVolumeSource {
        items: Vec<DownwardApiVolumeFile>,
        default_mode: Option<i32>,
    }

    /// A field of the Pod as a file: exactly one of the two references is set.
    pub struct DownwardApiVolumeFile {
        [always] {
            path: Box<str>,
        }
        field_ref: Option<ObjectFieldSelector>,
        resource_field_ref: Option<ResourceFieldSelector>,
        mode: Option<i32>,
    }

    /// Files from several sources in one directory.
    pub struct ProjectedVolumeSource {
        sources: Vec<VolumeProjection>,
        default_mode: Option<i32>,
    }

    /// One of the sources: exactly one field is set; none is a source minik cannot mount.
    pub struct VolumeProjection {
        secret: Option<KeysProjection>,
        config_map: Option<KeysProjection>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApiProjection>,
        service_account_token: Option<ServiceAccountTokenProjection>,
    }

    /// Files from a ConfigMap or a Secret; the two have the same fields.
    pub struct KeysProjection {
        name: Box<str>,
        items: Vec<KeyToPath>,
        optional: Option<bool>,
    }

    /// Files from fields of the Pod.
    pub struct DownwardApiProjection {
        items: Vec<DownwardApiVolumeFile>,
    }

    /// A token of the Pod's account as a file.
    pub struct ServiceAccountTokenProjection {
        [always] {
            path: Box<str>,
        }
        audience: Box<str>,
        expiration_seconds: Option<i64>,
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
