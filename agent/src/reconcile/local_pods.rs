//! What the rules must know of the Pods of this node.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use dataplane::{
    Serving,
    model::{Endpoint, Frontend, Protocol},
};

use crate::objects::Key;

/// The Pods of this node that have a network of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalPods {
    /// Their addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Where ports of the node lead to them, by the Pod's uid.
    pub(crate) host_ports: BTreeMap<Box<str>, BTreeMap<Frontend, Endpoint>>,
}

/// Who wants a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claimant {
    /// A Service.
    Service(Key),
    /// A Pod with a port of the node, by its uid.
    Pod(Box<str>),
}

impl LocalPods {
    /// The addresses that came (true) or went (false) since `before`.
    pub(super) fn changed_addresses(&self, before: &Self) -> BTreeMap<IpAddr, bool> {
        let changed = self.addresses.symmetric_difference(&before.addresses);
        changed
            .map(|address| (*address, self.addresses.contains(address)))
            .collect()
    }

    /// The Pods whose ports of the node came, went or changed since `before`.
    pub(super) fn changed_ports(&self, before: &Self) -> HashSet<Claimant> {
        let all = self.host_ports.keys().chain(before.host_ports.keys());
        all.filter(|uid| self.host_ports.get(*uid) != before.host_ports.get(*uid))
            .map(|uid| Claimant::Pod(uid.clone()))
            .collect()
    }

    /// Who may keep the UDP flows to a Pod's ports of the node.
    pub(super) fn serving(&self, uid: &str) -> Serving {
        let ports = self.host_ports.get(uid).into_iter().flatten();
        let udp = ports.filter(|(frontend, _)| frontend.protocol() == Protocol::Udp);
        udp.map(|(frontend, endpoint)| (*frontend, Some(BTreeSet::from([*endpoint]))))
            .collect()
    }
}
