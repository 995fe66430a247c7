//! Small objects: namespaces, configuration, secrets, identities.

use std::collections::BTreeMap;

use super::{Base64, LocalObjectReference, ObjectReference};
use crate::meta::{ObjectMeta, StringMap, Time};
use crate::wire::wire;

wire! {
    /// A scope for names.
    kind("", "v1", "Namespace", "namespaces")
    pub struct Namespace {
        metadata: ObjectMeta,
        spec: NamespaceSpec,
        status: NamespaceStatus,
    }

    /// A namespace goes when its content is gone and no finalizer is left here.
    pub struct NamespaceSpec {
        finalizers: Vec<Box<str>>,
    }

    /// `phase` is `Active` or `Terminating`.
    pub struct NamespaceStatus {
        phase: Box<str>,
        conditions: Vec<NamespaceCondition>,
    }

    /// What keeps a terminating namespace.
    pub struct NamespaceCondition {
        [always] {
            r#type: Box<str>,
            status: Box<str>,
        }
        last_transition_time: Option<Time>,
        reason: Box<str>,
        message: Box<str>,
    }

    /// Configuration by key.
    kind("", "v1", "ConfigMap", "configmaps")
    pub struct ConfigMap {
        metadata: ObjectMeta,
        immutable: Option<bool>,
        data: StringMap,
        binary_data: BTreeMap<Box<str>, Base64>,
    }

    /// Secret bytes by key.
    kind("", "v1", "Secret", "secrets")
    pub struct Secret {
        metadata: ObjectMeta,
        immutable: Option<bool>,
        data: BTreeMap<Box<str>, Base64>,
        string_data: StringMap,
        r#type: Box<str>,
    }

    /// An identity for processes in Pods.
    kind("", "v1", "ServiceAccount", "serviceaccounts")
    pub struct ServiceAccount {
        metadata: ObjectMeta,
        secrets: Vec<ObjectReference>,
        image_pull_secrets: Vec<LocalObjectReference>,
        automount_service_account_token: Option<bool>,
    }
}
