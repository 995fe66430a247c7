//! Who owns which frontend, so that a change of one Service costs only its own frontends.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    hash::Hash,
};

use dataplane::model::{Change, Fate, Frontend};

/// The frontends programmed, by claimant (a Service, or a Pod with a port of the node) and by frontend. Two may claim the same one (an externalIP, or a
/// ClusterIP while its Service is made anew): the first to come has it until it goes.
#[derive(Debug)]
pub(super) struct Claims<K> {
    by_claimant: HashMap<K, Box<[Frontend]>>,
    by_frontend: HashMap<Frontend, Owners<K>>,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self {
            by_claimant: HashMap::new(),
            by_frontend: HashMap::new(),
        }
    }
}

/// The Services that claim a frontend: nearly always one.
#[derive(Debug)]
struct Owners<K> {
    first: K,
    /// In the order in which they came.
    others: Vec<K>,
}

impl<K: Clone + Eq + Hash> Claims<K> {
    /// The claims of all Services from nothing, and what the frontends' first owners make of them.
    pub(super) fn new(
        claimants: impl Iterator<Item = K>,
        translate: impl Fn(&K) -> BTreeMap<Frontend, Fate>,
    ) -> (Self, BTreeMap<Frontend, Fate>) {
        let (mut claims, mut fates) = (Self::default(), Vec::new());
        for key in claimants {
            let mut frontends = Vec::new();
            for (frontend, fate) in translate(&key) {
                frontends.push(frontend);
                if claims.claim_one(frontend, &key) {
                    fates.push((frontend, fate));
                }
            }
            claims.remember(&key, frontends);
        }
        (claims, fates.into_iter().collect())
    }

    /// Takes in the frontends that some Services want now (none, when they are gone) and says what that changes: first
    /// what comes or changes, then what goes.
    ///
    /// `translate` is asked again for a Service that inherits a frontend from one of these.
    pub(super) fn update(
        &mut self,
        claimants: &HashSet<K>,
        translate: impl Fn(&K) -> BTreeMap<Frontend, Fate>,
    ) -> (Change, Change) {
        let mut wanted: HashMap<&K, BTreeMap<Frontend, Fate>> = HashMap::new();
        let mut touched: HashSet<Frontend> = HashSet::new();
        for key in claimants {
            let frontends = translate(key);
            touched.extend(self.release_missing(key, &frontends));
            touched.extend(frontends.keys());
            self.claim(key, frontends.keys().copied().collect());
            wanted.insert(key, frontends);
        }
        let (mut put, mut remove) = (Change::default(), Change::default());
        for frontend in touched {
            match self.by_frontend.get(&frontend).map(|owners| &owners.first) {
                None => {
                    remove.frontends.insert(frontend, None);
                }
                Some(owner) => {
                    let fate = match wanted.get(owner) {
                        Some(frontends) => frontends.get(&frontend).cloned(),
                        None => translate(owner).remove(&frontend),
                    };
                    put.frontends.insert(frontend, fate);
                }
            }
        }
        (put, remove)
    }

    /// The claimants that have these frontends; one that has several comes as often.
    pub(super) fn owners<'a>(
        &'a self,
        frontends: impl Iterator<Item = &'a Frontend> + 'a,
    ) -> impl Iterator<Item = &'a K> + 'a {
        frontends.filter_map(|frontend| Some(&self.by_frontend.get(frontend)?.first))
    }

    /// Every frontend that somebody has.
    pub(super) fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.by_frontend.keys()
    }

    /// Whether anybody has it.
    pub(super) fn has(&self, frontend: &Frontend) -> bool {
        self.by_frontend.contains_key(frontend)
    }

    /// Whether a frontend is this Service's, and not another's that came first.
    pub(super) fn owns(&self, key: &K, frontend: &Frontend) -> bool {
        self.by_frontend
            .get(frontend)
            .is_some_and(|owners| owners.first == *key)
    }

    fn release_missing(&mut self, key: &K, wanted: &BTreeMap<Frontend, Fate>) -> Vec<Frontend> {
        let mut released = self.by_claimant.remove(key).unwrap_or_default().into_vec();
        released.retain(|frontend| !wanted.contains_key(frontend));
        for frontend in &released {
            self.release_one(*frontend, key);
        }
        released
    }

    fn release_one(&mut self, frontend: Frontend, key: &K) {
        let Entry::Occupied(mut owners) = self.by_frontend.entry(frontend) else {
            return;
        };
        let Owners { first, others } = owners.get_mut();
        if first != key {
            others.retain(|other| other != key);
        } else if others.is_empty() {
            owners.remove();
        } else {
            *first = others.remove(0);
        }
    }

    fn claim(&mut self, key: &K, frontends: Vec<Frontend>) {
        for frontend in &frontends {
            self.claim_one(*frontend, key);
        }
        self.remember(key, frontends);
    }

    /// Whether the frontend is this Service's.
    fn claim_one(&mut self, frontend: Frontend, key: &K) -> bool {
        match self.by_frontend.entry(frontend) {
            Entry::Vacant(entry) => {
                entry.insert(Owners {
                    first: key.clone(),
                    others: Vec::new(),
                });
                true
            }
            Entry::Occupied(entry) => {
                let Owners { first, others } = entry.into_mut();
                if first != key && !others.contains(key) {
                    others.push(key.clone());
                }
                first == key
            }
        }
    }

    fn remember(&mut self, key: &K, frontends: Vec<Frontend>) {
        if !frontends.is_empty() {
            self.by_claimant.insert(key.clone(), frontends.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use dataplane::model::Protocol;

    use super::*;
    use crate::objects::Key;

    fn frontend(port: u16) -> Frontend {
        Frontend::Address {
            addr: "10.96.0.7".parse().expect("address"),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(port).expect("port"),
        }
    }

    /// Each Service wants these ports, with a fate that tells whose it is.
    fn update(
        claims: &mut Claims<Key>,
        changed: &[&str],
        state: &[(&str, &[u16], Fate)],
    ) -> (Change, Change) {
        let keys = changed
            .iter()
            .map(|name| Key::new("default", name))
            .collect();
        claims.update(&keys, |key| {
            let found = state.iter().find(|(name, ..)| **name == *key.name);
            let (ports, fate) = found.map_or((&[][..], Fate::Drop), |(_, ports, fate)| {
                (*ports, fate.clone())
            });
            ports
                .iter()
                .map(|port| (frontend(*port), fate.clone()))
                .collect()
        })
    }

    fn ports(change: &Change) -> Vec<(u16, Option<&Fate>)> {
        change
            .frontends
            .iter()
            .map(|(frontend, fate)| (frontend.port().get(), fate.as_ref()))
            .collect()
    }

    #[test]
    fn what_a_service_no_longer_wants_goes_after_what_it_wants() {
        let mut claims = Claims::default();
        update(&mut claims, &["a"], &[("a", &[80, 81], Fate::Reject)]);
        let (put, remove) = update(&mut claims, &["a"], &[("a", &[81, 82], Fate::Drop)]);
        assert_eq!(
            ports(&put),
            [(81, Some(&Fate::Drop)), (82, Some(&Fate::Drop))]
        );
        assert_eq!(ports(&remove), [(80, None)]);
    }

    #[test]
    fn from_nothing_each_frontend_has_one_owner_and_the_others_inherit() {
        let state: &[(&str, &[u16], Fate)] = &[
            ("first", &[80, 81], Fate::Reject),
            ("second", &[80, 82], Fate::Drop),
        ];
        let keys = ["first", "second"].map(|name| Key::new("default", name));
        let (mut claims, fates) = Claims::new(keys.into_iter(), |key| {
            let (_, ports, fate) = state
                .iter()
                .find(|(name, ..)| **name == *key.name)
                .expect("known");
            ports
                .iter()
                .map(|port| (frontend(*port), fate.clone()))
                .collect()
        });
        let wanted = [(80, Fate::Reject), (81, Fate::Reject), (82, Fate::Drop)];
        assert_eq!(
            fates,
            wanted.map(|(port, fate)| (frontend(port), fate)).into()
        );
        let (put, remove) = update(&mut claims, &["first"], &state[1..]);
        assert_eq!(ports(&put), [(80, Some(&Fate::Drop))]);
        assert_eq!(ports(&remove), [(81, None)]);
    }

    #[test]
    fn an_address_that_moves_between_services_in_one_batch_is_never_removed() {
        let mut claims = Claims::default();
        update(&mut claims, &["old"], &[("old", &[80], Fate::Reject)]);
        let (put, remove) = update(&mut claims, &["old", "new"], &[("new", &[80], Fate::Drop)]);
        assert_eq!(ports(&put), [(80, Some(&Fate::Drop))]);
        assert_eq!(ports(&remove), []);
    }

    #[test]
    fn the_second_claimant_inherits_when_the_first_goes() {
        let mut claims = Claims::default();
        let both: &[(&str, &[u16], Fate)] = &[
            ("first", &[80], Fate::Reject),
            ("second", &[80], Fate::Drop),
        ];
        update(&mut claims, &["first"], both);
        let (put, _) = update(&mut claims, &["second"], both);
        assert_eq!(
            ports(&put),
            [(80, Some(&Fate::Reject))],
            "the first keeps it"
        );
        let (put, remove) = update(&mut claims, &["first"], &both[1..]);
        assert_eq!(ports(&put), [(80, Some(&Fate::Drop))]);
        assert_eq!(ports(&remove), []);
    }
}
