//! The way from one ruleset to another: a set difference, in an order that the kernel accepts and packets never notice.
//!
//! Phases, each harmless alone because later ones only then refer to it:
//!
//! 1. table, sets, new chains with their rules;
//! 2. new and changed elements of sets and value maps (slots before anybody is sent to them);
//! 3. new and changed elements of verdict maps (which point into chains);
//! 4. maps of picks (which point into verdict maps and slots);
//! 5. chains whose rules changed, each in one step (their rules may look where nothing was before phases 2 to 4);
//! 6. elements that nobody needs any more;
//! 7. sets and chains that nobody needs any more (the kernel refuses while a rule or element names them).
//!
//! A changed element is deleted and added by one operation: the kernel has no replacement in place. Nor has it one for a set's
//! declaration: a set of our name but of another make is left for one with a name of its own, and that for the right one.

mod order;

use std::{cmp::Ordering, collections::BTreeMap};

use self::order::Order;
use crate::{
    model::Family,
    ruleset::{Base, Chain, Data, Key, Name, Rule, Ruleset, Set, SetKind, Table, Verdict, sets},
};

/// Elements that one transaction may touch, so that it holds the kernel's nf_tables lock for less than 50 ms
/// (about 5 500 elements took 45 ms in 30 000 Services on an idle machine).
const ELEMENTS_PER_TRANSACTION: usize = 2048;

/// One change to one of our tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose table.
    pub family: Family,
    /// What is done to it.
    pub action: Action,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Creates the table, or adopts the one a former process left.
    AddTable,
    /// Deletes the table with all it holds.
    DeleteTable,
    /// Creates an empty chain.
    AddChain {
        /// Its name.
        name: Name,
        /// Its hook.
        base: Option<Base>,
    },
    /// Deletes an empty chain which nothing names.
    DeleteChain {
        /// Its name.
        name: Name,
    },
    /// Deletes every rule of a chain.
    FlushChain {
        /// Its name.
        name: Name,
    },
    /// Appends a rule.
    AddRule {
        /// The chain.
        chain: Name,
        /// The rule.
        rule: Rule,
    },
    /// Creates an empty set.
    AddSet {
        /// Its name.
        name: Name,
        /// Its declaration.
        kind: SetKind,
    },
    /// Deletes a set which no rule names, with its elements.
    DeleteSet {
        /// Its name.
        name: Name,
    },
    /// Deletes elements, then adds elements.
    Elements {
        /// The set.
        set: Name,
        /// Elements that are there, with what they hold.
        delete: Vec<(Key, Data)>,
        /// Elements that are not there after the deletions.
        add: Vec<(Key, Data)>,
    },
}

impl Action {
    fn weight(&self) -> usize {
        match self {
            Action::Elements { delete, add, .. } => delete.len() + add.len(),
            // The kernel walks over all of its elements, and how many they are is not known of a stranger's.
            Action::DeleteSet { .. } => ELEMENTS_PER_TRANSACTION,
            _ => 1,
        }
    }
}

/// Transactions to run in order; what is in one becomes visible to packets at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each is committed alone.
    pub transactions: Vec<Vec<Operation>>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Every operation in order.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.transactions.iter().flatten()
    }
}

/// What separates two rulesets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Per family; a table without difference has no entry.
    pub tables: BTreeMap<Family, TableDifference>,
}

/// What separates two versions of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDifference {
    /// Chains to make, with their rules.
    pub new_chains: BTreeMap<Name, Chain>,
    /// Chains whose rules are to be replaced.
    pub changed_chains: BTreeMap<Name, Chain>,
    /// Chains that hang elsewhere, and are to be made anew.
    pub moved_chains: BTreeMap<Name, Chain>,
    /// Chains to delete.
    pub old_chains: Vec<Name>,
    /// Sets to make (their elements are in `elements`).
    pub new_sets: BTreeMap<Name, Set>,
    /// Sets to delete.
    pub old_sets: Vec<Name>,
    /// Elements that change, by set: before and after.
    pub elements: BTreeMap<Name, BTreeMap<Key, ElementChange>>,
}

/// An element before and after; `None` when it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementChange {
    /// Before.
    pub old: Option<Data>,
    /// After.
    pub new: Option<Data>,
}

impl TableDifference {
    /// Whether the two versions are the same.
    pub fn is_empty(&self) -> bool {
        *self == TableDifference::default()
    }

    /// Notes that an element went from `old` to `new`; changes of one element add up.
    pub fn record(&mut self, set: Name, key: Key, old: Option<Data>, new: Option<Data>) {
        let of_set = self.elements.entry(set).or_default();
        let old = of_set.remove(&key).map_or(old, |earlier| earlier.old);
        if old != new {
            of_set.insert(key, ElementChange { old, new });
        }
    }

    /// What was added to the maps of picks.
    pub fn added_picks(&self) -> impl Iterator<Item = &Data> {
        sets::OF_PICKS
            .into_iter()
            .filter_map(|set| self.elements.get(set))
            .flat_map(BTreeMap::values)
            .filter_map(|change| change.new.as_ref())
    }

    /// The chains that added elements go to.
    pub fn added_verdicts(&self) -> impl Iterator<Item = &Name> {
        self.elements
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(|change| match &change.new {
                Some(Data::Verdict(Verdict::Goto(name) | Verdict::Jump(name))) => Some(name),
                _ => None,
            })
    }
}

/// Transactions that turn `from` into `to`. Empty when they are equal.
pub fn plan(from: &Ruleset, to: &Ruleset) -> Plan {
    let mut planner = Planner::default();
    for family in Family::ALL {
        match (from.table(family), to.table(family)) {
            (None, None) => {}
            (Some(_), None) => planner.transaction(vec![Operation {
                family,
                action: Action::DeleteTable,
            }]),
            (None, Some(to)) => planner.build(family, to),
            (Some(from), Some(to)) if from == to => {}
            (Some(from), Some(to)) => {
                let names = stand_ins(from, to);
                if names.is_empty() {
                    planner.change(family, &compare(from, to), to);
                } else {
                    let between = to.clone().with_sets_renamed(family, &names);
                    planner.change(family, &compare(from, &between), &between);
                    planner.change(family, &compare(&between, to), to);
                }
            }
        }
    }
    planner.plan
}

/// The tables of `from` replaced by those of `to` at one instant, and so in one transaction however large: for states which the
/// kernel would not let go step by step.
pub fn plan_anew(from: &Ruleset, to: &Ruleset) -> Plan {
    let mut operations = Vec::new();
    for family in Family::ALL {
        if from.table(family).is_some() {
            let action = Action::DeleteTable;
            operations.push(Operation { family, action });
        }
        if let Some(table) = to.table(family) {
            let mut order = Order::new(family);
            order.build(table);
            operations.extend(order.steps.into_iter().flatten());
        }
    }
    let mut planner = Planner::default();
    planner.transaction(operations);
    planner.plan
}

/// For each set of another make, the name of one that may stand in for it meanwhile.
fn stand_ins(from: &Table, to: &Table) -> BTreeMap<Name, Name> {
    let is_free = |name: &Name, set: &Set| {
        let held = from.sets.get(name);
        held.is_none_or(|held| held.kind == set.kind) && !to.sets.contains_key(name)
    };
    let of_another_make = to.sets.iter().filter(|(name, set)| {
        let held = from.sets.get(*name);
        held.is_some_and(|held| held.kind != set.kind)
    });
    let named = of_another_make.filter_map(|(name, set)| {
        let mut names = (0..).map(|number| Name::from(format!("{name}{STAND_IN}{number}")));
        Some((name.clone(), names.find(|name| is_free(name, set))?))
    });
    named.collect()
}

/// What a stand-in's name ends with, before a number.
const STAND_IN: &str = "~";

/// Transactions for a difference that [`Ruleset::edit`] reported; `to` is the ruleset after the edit.
pub fn plan_difference(difference: &Difference, to: &Ruleset) -> Plan {
    let mut planner = Planner::default();
    for (family, difference) in &difference.tables {
        if let Some(table) = to.table(*family) {
            planner.change(*family, difference, table);
        }
    }
    planner.plan
}

/// What separates two versions of a table.
fn compare(from: &Table, to: &Table) -> TableDifference {
    let mut difference = TableDifference::default();
    for (name, chain) in &to.chains {
        match from.chains.get(name) {
            None => _ = difference.new_chains.insert(name.clone(), chain.clone()),
            Some(old) if old.base != chain.base => {
                difference.moved_chains.insert(name.clone(), chain.clone());
            }
            Some(old) if old.rules != chain.rules => {
                difference
                    .changed_chains
                    .insert(name.clone(), chain.clone());
            }
            Some(_) => {}
        }
    }
    difference.old_chains = from
        .chains
        .keys()
        .filter(|name| !to.chains.contains_key(*name))
        .cloned()
        .collect();
    difference.old_sets = from
        .sets
        .keys()
        .filter(|name| !to.sets.contains_key(*name))
        .cloned()
        .collect();
    let none = BTreeMap::new();
    for (name, set) in &to.sets {
        let old = from.sets.get(name);
        match old {
            None => _ = difference.new_sets.insert(name.clone(), set.clone()),
            Some(old) => debug_assert_eq!(old.kind, set.kind, "set {name} has a stand-in"),
        }
        compare_elements(
            name,
            old.map_or(&none, |old| &old.elements),
            &set.elements,
            &mut difference,
        );
    }
    difference
}

fn compare_elements(
    set: &Name,
    from: &BTreeMap<Key, Data>,
    to: &BTreeMap<Key, Data>,
    difference: &mut TableDifference,
) {
    for (key, old, new) in merge(from, to).filter(|(_, old, new)| old != new) {
        difference.record(set.clone(), *key, old.cloned(), new.cloned());
    }
}

/// Every key of either map, in order, with what each map has for it.
pub(crate) fn merge<'a>(
    from: &'a BTreeMap<Key, Data>,
    to: &'a BTreeMap<Key, Data>,
) -> impl Iterator<Item = (&'a Key, Option<&'a Data>, Option<&'a Data>)> {
    let (mut from, mut to) = (from.iter().peekable(), to.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (from.peek(), to.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let old = if order.is_le() { from.next() } else { None };
        let new = if order.is_ge() { to.next() } else { None };
        let key = old.or(new).map(|(key, _)| key)?;
        Some((key, old.map(|(_, data)| data), new.map(|(_, data)| data)))
    })
}

#[derive(Default)]
struct Planner {
    plan: Plan,
}

impl Planner {
    fn transaction(&mut self, operations: Vec<Operation>) {
        if !operations.is_empty() {
            self.plan.transactions.push(operations);
        }
    }

    /// Cuts between steps.
    fn bounded(&mut self, steps: Vec<Vec<Operation>>) {
        let (mut current, mut weight) = (Vec::new(), 0);
        for step in steps {
            let more: usize = step.iter().map(|operation| operation.action.weight()).sum();
            if weight + more > ELEMENTS_PER_TRANSACTION && !current.is_empty() {
                self.transaction(std::mem::take(&mut current));
                weight = 0;
            }
            weight += more;
            current.extend(step);
        }
        self.transaction(current);
    }

    fn build(&mut self, family: Family, table: &Table) {
        let mut order = Order::new(family);
        order.build(table);
        self.bounded(order.steps);
    }

    fn change(&mut self, family: Family, difference: &TableDifference, to: &Table) {
        let mut order = Order::new(family);
        order.all(difference, to);
        self.bounded(order.steps);
    }
}
