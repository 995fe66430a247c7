//! The operations on one table, in the order of the phases.

use std::collections::BTreeMap;

use super::{Action, ElementChange, Operation, STAND_IN, TableDifference};
use crate::{
    model::Family,
    ruleset::{Chain, Data, Holds, Key, Name, Set, Table, sets},
};

/// Elements in one operation: a netlink attribute is shorter than 64 KiB.
const ELEMENTS_PER_OPERATION: usize = 512;

/// Changes of elements as key, before, after.
fn triples(
    changes: &BTreeMap<Key, ElementChange>,
) -> impl Iterator<Item = (&Key, Option<&Data>, Option<&Data>)> {
    changes
        .iter()
        .map(|(key, change)| (key, change.old.as_ref(), change.new.as_ref()))
}

/// When the elements of a set come, and in reverse when they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Values,
    Verdicts,
    Picks,
}

impl Phase {
    fn of(name: &Name, set: &Set) -> Phase {
        let name = name.split_once(STAND_IN).map_or(&**name, |(name, _)| name);
        if sets::OF_PICKS.contains(&name) {
            Phase::Picks
        } else if set.kind.holds == Holds::Verdicts {
            Phase::Verdicts
        } else {
            Phase::Values
        }
    }
}

fn rules(name: &Name, chain: &Chain) -> impl Iterator<Item = Action> {
    chain.rules.iter().map(|rule| Action::AddRule {
        chain: name.clone(),
        rule: rule.clone(),
    })
}

/// Collects the operations. What is in one step is never apart.
pub(super) struct Order {
    family: Family,
    pub(super) steps: Vec<Vec<Operation>>,
}

impl Order {
    pub(super) fn new(family: Family) -> Order {
        Order {
            family,
            steps: Vec::new(),
        }
    }

    fn push(&mut self, action: Action) {
        self.step([action]);
    }

    fn step(&mut self, actions: impl IntoIterator<Item = Action>) {
        let family = self.family;
        let operation = |action| Operation { family, action };
        self.steps
            .push(actions.into_iter().map(operation).collect());
    }

    /// Everything, where nothing is.
    pub(super) fn build(&mut self, table: &Table) {
        self.push(Action::AddTable);
        self.structure(&table.sets, &table.chains);
        let mut in_order: Vec<_> = table.sets.iter().collect();
        in_order.sort_by_key(|(name, set)| Phase::of(name, set));
        for (name, set) in in_order {
            self.elements(
                name,
                set.elements
                    .iter()
                    .map(|(key, data)| (key, None, Some(data))),
            );
        }
    }

    pub(super) fn all(&mut self, difference: &TableDifference, to: &Table) {
        self.structure(&difference.new_sets, &difference.new_chains);
        let mut in_order: Vec<_> = difference
            .elements
            .iter()
            .filter_map(|(name, changes)| Some((to.sets.get(name)?, name, changes)))
            .collect();
        in_order.sort_by_key(|(set, name, _)| Phase::of(name, set));
        for (set, name, changes) in &in_order {
            // A range that goes may overlap one that comes, and then it must go first.
            if set.kind.ranges {
                self.elements(name, triples(changes).map(|(key, old, _)| (key, old, None)));
                self.elements(name, triples(changes).map(|(key, _, new)| (key, None, new)));
            } else {
                self.elements(name, triples(changes).filter(|(_, _, new)| new.is_some()));
            }
        }
        for (name, chain) in &difference.changed_chains {
            let flush = Action::FlushChain { name: name.clone() };
            self.step([flush].into_iter().chain(rules(name, chain)));
        }
        // Who points to others goes first here.
        for (_, name, changes) in in_order.iter().rev().filter(|(set, ..)| !set.kind.ranges) {
            self.elements(name, triples(changes).filter(|(_, _, new)| new.is_none()));
        }
        for name in &difference.old_chains {
            self.push(Action::FlushChain { name: name.clone() });
        }
        for (name, chain) in &difference.moved_chains {
            let anew = [
                Action::FlushChain { name: name.clone() },
                Action::DeleteChain { name: name.clone() },
                Action::AddChain {
                    name: name.clone(),
                    base: chain.base,
                },
            ];
            self.step(anew.into_iter().chain(rules(name, chain)));
        }
        for name in &difference.old_sets {
            self.push(Action::DeleteSet { name: name.clone() });
        }
        for name in &difference.old_chains {
            self.push(Action::DeleteChain { name: name.clone() });
        }
    }

    fn structure(&mut self, new_sets: &BTreeMap<Name, Set>, new_chains: &BTreeMap<Name, Chain>) {
        for (name, set) in new_sets {
            self.push(Action::AddSet {
                name: name.clone(),
                kind: set.kind.clone(),
            });
        }
        for (name, chain) in new_chains {
            self.push(Action::AddChain {
                name: name.clone(),
                base: chain.base,
            });
        }
        for (name, chain) in new_chains {
            rules(name, chain).for_each(|rule| self.push(rule));
        }
    }

    /// Changes as key, before, after.
    fn elements<'a>(
        &mut self,
        set: &Name,
        changes: impl Iterator<Item = (&'a Key, Option<&'a Data>, Option<&'a Data>)>,
    ) {
        let (mut delete, mut add) = (Vec::new(), Vec::new());
        for (key, old, new) in changes {
            delete.extend(old.map(|data| (*key, data.clone())));
            add.extend(new.map(|data| (*key, data.clone())));
            if delete.len().max(add.len()) == ELEMENTS_PER_OPERATION {
                let (delete, add) = (std::mem::take(&mut delete), std::mem::take(&mut add));
                self.push(Action::Elements {
                    set: set.clone(),
                    delete,
                    add,
                });
            }
        }
        if !delete.is_empty() || !add.is_empty() {
            self.push(Action::Elements {
                set: set.clone(),
                delete,
                add,
            });
        }
    }
}
