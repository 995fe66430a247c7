//! Which Service owns which frontend, so that a change of one Service costs only its own frontends.

use std::collections::{BTreeMap, HashMap, HashSet};

use dataplane::model::{Change, Fate, Frontend};

use crate::objects::Key;

/// The frontends programmed, by Service and by frontend. Two Services may claim the same one (an externalIP, or a
/// ClusterIP while its Service is made anew): the first to come has it until it goes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_service: HashMap<Key, Vec<Frontend>>,
    by_frontend: HashMap<Frontend, Vec<Key>>,
}

impl Claims {
    /// Takes in the frontends that some Services want now (none, when they are gone) and says what that changes: first
    /// what comes or changes, then what goes.
    ///
    /// `translate` is asked again for a Service that inherits a frontend from one of these.
    pub(super) fn update(
        &mut self,
        services: &HashSet<Key>,
        translate: impl Fn(&Key) -> BTreeMap<Frontend, Fate>,
    ) -> (Change, Change) {
        let mut wanted: HashMap<&Key, BTreeMap<Frontend, Fate>> = HashMap::new();
        let mut touched: HashSet<Frontend> = HashSet::new();
        for key in services {
            let frontends = translate(key);
            touched.extend(self.release_missing(key, &frontends));
            touched.extend(frontends.keys());
            self.claim(key, frontends.keys().copied().collect());
            wanted.insert(key, frontends);
        }
        let (mut put, mut remove) = (Change::default(), Change::default());
        for frontend in touched {
            match self
                .by_frontend
                .get(&frontend)
                .and_then(|owners| owners.first())
            {
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

    fn release_missing(&mut self, key: &Key, wanted: &BTreeMap<Frontend, Fate>) -> Vec<Frontend> {
        let mut released = self.by_service.remove(key).unwrap_or_default();
        released.retain(|frontend| !wanted.contains_key(frontend));
        for frontend in &released {
            if let Some(owners) = self.by_frontend.get_mut(frontend) {
                owners.retain(|owner| owner != key);
                if owners.is_empty() {
                    self.by_frontend.remove(frontend);
                }
            }
        }
        released
    }

    fn claim(&mut self, key: &Key, frontends: Vec<Frontend>) {
        for frontend in &frontends {
            let owners = self.by_frontend.entry(*frontend).or_default();
            if !owners.contains(key) {
                owners.push(key.clone());
            }
        }
        if !frontends.is_empty() {
            self.by_service.insert(key.clone(), frontends);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use dataplane::model::Protocol;

    use super::*;

    fn frontend(port: u16) -> Frontend {
        Frontend::Address {
            addr: "10.96.0.7".parse().expect("address"),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(port).expect("port"),
        }
    }

    /// Each Service wants these ports, with a fate that tells whose it is.
    fn update(
        claims: &mut Claims,
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
