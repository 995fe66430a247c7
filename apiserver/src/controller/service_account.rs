//! What every namespace has from its first moment: the ServiceAccount `default` and the CA certificate.

use api::{
    core::{ConfigMap, Namespace, ServiceAccount},
    meta::ObjectMeta,
};

use super::{Cluster, world::World, write::Action};
use crate::registry::kinds::{CONFIG_MAPS, SERVICE_ACCOUNTS};

pub(super) const DEFAULT_ACCOUNT: &str = "default";
pub(super) const ROOT_CA: &str = "kube-root-ca.crt";

/// The writes that one living namespace needs.
pub(super) fn plan(world: &World, cluster: &Cluster, namespace: &Namespace) -> Vec<Action> {
    let name = &namespace.metadata.name;
    let metadata = |own: &str| ObjectMeta {
        name: own.into(),
        namespace: name.clone(),
        ..ObjectMeta::default()
    };
    let mut actions = Vec::new();
    if world
        .service_accounts
        .get(&(name.clone(), DEFAULT_ACCOUNT.into()))
        .is_none()
    {
        let account = ServiceAccount {
            metadata: metadata(DEFAULT_ACCOUNT),
            ..ServiceAccount::default()
        };
        actions.push(Action::create(&SERVICE_ACCOUNTS, &account));
    }
    let data = [("ca.crt".into(), cluster.pki.ca_pem().into())].into();
    match world.config_maps.get(&(name.clone(), ROOT_CA.into())) {
        None => {
            let map = ConfigMap {
                metadata: metadata(ROOT_CA),
                data,
                ..ConfigMap::default()
            };
            actions.push(Action::create(&CONFIG_MAPS, &map));
        }
        Some(map) if map.data != data => {
            actions.push(Action::update(
                &CONFIG_MAPS,
                &ConfigMap {
                    data,
                    ..ConfigMap::clone(map)
                },
            ));
        }
        Some(_) => {}
    }
    actions
}
