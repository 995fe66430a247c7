//! A change, applied to a ruleset in place: costs what it changes.

use std::collections::BTreeSet;

use super::{
    Data, Key, Name, Ruleset, Table,
    compile::hairpin_key,
    frontend::{Known, elements, frontend_key},
    memory::Memories,
    pick::PickChain,
    sets, skeleton,
};
use crate::{
    model::{Change, Family, Fate, Frontend},
    plan::{Difference, TableDifference},
};

/// The sets that make an address a Service's.
const ACTIVATING: [&str; 4] = [sets::SERVICES, sets::REJECT, sets::DROP, sets::LISTENERS];

impl Ruleset {
    /// Applies a change in place and says what changed.
    pub fn edit(&mut self, change: &Change) -> Difference {
        let mut difference = Difference::default();
        for (family, table) in &mut self.tables {
            let edit = table.edit(*family, change, &mut self.memories);
            if !edit.is_empty() {
                difference.tables.insert(*family, edit);
            }
        }
        difference
    }
}

impl Table {
    fn edit(
        &mut self,
        family: Family,
        change: &Change,
        memories: &mut Memories,
    ) -> TableDifference {
        let mut difference = TableDifference::default();
        let mut touched = BTreeSet::new();
        for (frontend, fate) in change
            .frontends
            .iter()
            .filter(|(frontend, _)| frontend.family() == family)
        {
            if self.get(sets::LISTENERS, &frontend_key(frontend)).is_some() {
                continue;
            }
            memories.assign(*frontend, fate.as_ref());
            self.set_fate(frontend, fate.as_ref(), memories, &mut difference);
            if let Frontend::Address { addr, .. } = frontend {
                touched.insert(*addr);
            }
        }
        for addr in touched {
            let key = Key::default().address(addr);
            let active = self.is_active(&key).then_some(Data::None);
            self.set_element(sets::ACTIVE, key, active, &mut difference);
        }
        for (addr, present) in change
            .local_pods
            .iter()
            .filter(|(addr, _)| Family::of(**addr) == family)
        {
            self.set_element(
                sets::HAIRPIN,
                hairpin_key(*addr),
                present.then_some(Data::None),
                &mut difference,
            );
        }
        self.make_missing_chains(family, &mut difference);
        self.follow_affinity(family, &mut difference);
        difference
    }

    fn set_fate(
        &mut self,
        frontend: &Frontend,
        fate: Option<&Fate>,
        memories: &Memories,
        difference: &mut TableDifference,
    ) {
        let mut wanted = Vec::new();
        if let Some(fate) = fate {
            let known = Known {
                onto: Some(&*self),
                memories,
            };
            elements(frontend, fate, known, &mut wanted);
        }
        let kept: BTreeSet<(&str, Key)> = wanted.iter().map(|(set, key, _)| (*set, *key)).collect();
        for (set, key, _) in self.present(frontend) {
            if !kept.contains(&(set, key)) {
                self.set_element(set, key, None, difference);
            }
        }
        for (set, key, data) in wanted {
            self.set_element(set, key, Some(data), difference);
        }
    }

    fn set_element(
        &mut self,
        set: &str,
        key: Key,
        data: Option<Data>,
        difference: &mut TableDifference,
    ) {
        let (name, elements) = match self.sets.get_key_value(set) {
            Some((name, _)) => (
                Name::clone(name),
                &mut self.sets.get_mut(set).expect("just found").elements,
            ),
            None => return,
        };
        let old = match &data {
            Some(data) => elements.insert(key, data.clone()),
            None => elements.remove(&key),
        };
        if old != data {
            difference.record(name, key, old, data);
        }
    }

    /// Whether any frontend or listener uses this address.
    fn is_active(&self, address: &Key) -> bool {
        ACTIVATING.iter().any(|set| {
            let after = self
                .sets
                .get(*set)
                .and_then(|set| set.elements.range(*address..).next());
            after.is_some_and(|(key, _)| key.as_slice().starts_with(address.as_slice()))
        })
    }

    fn make_missing_chains(&mut self, family: Family, difference: &mut TableDifference) {
        let named: BTreeSet<Name> = difference.added_verdicts().cloned().collect();
        let mut wanted: Vec<PickChain> = named
            .iter()
            .filter_map(|name| PickChain::parse(name))
            .collect();
        wanted.extend(difference.added_picks().filter_map(PickChain::of_data));
        let next: Vec<PickChain> = wanted.iter().filter_map(|chain| chain.next()).collect();
        for chain in wanted.into_iter().chain(next) {
            let name: Name = chain.name().into();
            if self.chains.contains_key(&name) {
                continue;
            }
            if let Some((number, verdict)) = chain.element() {
                for set in sets::OF_CHAINS {
                    self.set_element(set, number, Some(verdict.clone()), difference);
                }
            }
            let chain = chain.chain(family);
            self.chains.insert(name.clone(), chain.clone());
            difference.new_chains.insert(name, chain);
        }
    }

    /// Begins to look for clients to remember with the first frontend that wants it, and ends with the last.
    fn follow_affinity(&mut self, family: Family, difference: &mut TableDifference) {
        let sets = [sets::AFFINITY_SERVICES, sets::AFFINITY_NODEPORTS];
        if !sets
            .iter()
            .any(|set| difference.elements.contains_key(*set))
        {
            return;
        }
        for (name, chain) in skeleton::affinity_chains(family, self) {
            if self.chains.get(name) != Some(&chain) {
                difference.changed_chains.insert(name.into(), chain.clone());
                self.chains.insert(name.into(), chain);
            }
        }
    }
}
