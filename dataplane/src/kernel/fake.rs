//! A kernel in memory, as strict about order and references as the real one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use super::{Holder, Kernel, KernelError, Snapshot, describe};
use crate::{
    model::Family,
    plan::{Action, Operation},
    ruleset::{Chain, Data, Key, Name, Ruleset, Set, Statement, Table, Verdict},
    wire::{Chunk, UdpFlow},
};

/// What a kernel may do besides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A transaction is applied, and the answers are lost (ENOBUFS).
    AnswersLost,
    /// Somebody else commits first (ERESTART).
    Overtaken,
    /// The ruleset moves under every attempt to read it; a dump of flows ends half-way (EINTR).
    Unsteady,
}

/// nf_tables of a network namespace that does not exist. Its fields are open for tests to spoil.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// What it holds.
    pub ruleset: Ruleset,
    /// Moves with every commit.
    pub generation: u32,
    /// Elements of dynamic sets, by family and set.
    pub dynamic: BTreeMap<(Family, String), Chunk>,
    /// UDP flows that are tracked.
    pub flows: Vec<UdpFlow>,
    /// How many commits will fail from now on, each having applied nothing.
    pub failures: u32,
    /// What goes wrong from now on, one for each call that it can happen to.
    pub faults: VecDeque<Fault>,
    /// Transactions committed so far.
    pub commits: Vec<Vec<Operation>>,
}

impl Kernel for Fake {
    fn generation(&mut self) -> Result<u32, KernelError> {
        Ok(self.generation)
    }

    fn holders(&mut self) -> Result<BTreeMap<Family, Holder>, KernelError> {
        Ok(self
            .ruleset
            .tables
            .keys()
            .map(|family| (*family, Holder::Us))
            .collect())
    }

    fn read(&mut self) -> Result<Snapshot, KernelError> {
        if self.meets(&[Fault::Unsteady]).is_some() {
            return Err(KernelError::Unsteady);
        }
        let holders = self.holders()?;
        Ok(Snapshot {
            generation: self.generation,
            ruleset: self.ruleset.as_read_back(),
            holders,
        })
    }

    fn elements(&mut self, family: Family, set: &str) -> Result<Chunk, KernelError> {
        Ok(self
            .dynamic
            .get(&(family, set.to_owned()))
            .cloned()
            .unwrap_or_default())
    }

    fn commit(
        &mut self,
        operations: &[Operation],
        generation: Option<u32>,
    ) -> Result<(), KernelError> {
        let fault = self.meets(&[Fault::AnswersLost, Fault::Overtaken]);
        if fault == Some(Fault::Overtaken) {
            self.generation += 1;
        }
        if generation.is_some_and(|expected| expected != self.generation) {
            return Err(KernelError::Stale);
        }
        if self.failures > 0 {
            self.failures -= 1;
            return Err(KernelError::AnswersLost);
        }
        let (mut ruleset, mut dynamic) = (self.ruleset.clone(), self.dynamic.clone());
        for operation in operations {
            apply(&mut ruleset, &mut dynamic, operation).map_err(|errno| KernelError::Refused {
                operation: describe(operation),
                detail: None,
                errno: io::Error::from_raw_os_error(errno),
            })?;
        }
        if ruleset.tables.values().any(has_loop) {
            return Err(KernelError::Refused {
                operation: "let chains lead back to themselves".into(),
                detail: None,
                errno: io::Error::from_raw_os_error(libc::EMLINK),
            });
        }
        (self.ruleset, self.dynamic) = (ruleset, dynamic);
        self.generation += 1;
        self.commits.push(operations.to_vec());
        match fault {
            Some(Fault::AnswersLost) => Err(KernelError::AnswersLost),
            _ => Ok(()),
        }
    }

    fn udp_flows(
        &mut self,
        family: Family,
        each: &mut dyn FnMut(UdpFlow),
    ) -> Result<(), KernelError> {
        let all = self.flows.iter().cloned();
        let all: Vec<_> = all
            .filter(|flow| Family::of(flow.sent_to.ip()) == family)
            .collect();
        let (seen, error) = match self.meets(&[Fault::AnswersLost, Fault::Unsteady]) {
            None => (all.len(), None),
            Some(Fault::AnswersLost) => (all.len() / 2, Some(KernelError::AnswersLost)),
            Some(_) => (all.len() / 2, Some(KernelError::Unsteady)),
        };
        all.into_iter().take(seen).for_each(each);
        error.map_or(Ok(()), Err)
    }

    fn delete_flow(&mut self, flow: &UdpFlow) -> Result<bool, KernelError> {
        let before = self.flows.len();
        self.flows.retain(|other| other != flow);
        Ok(self.flows.len() < before)
    }

    fn is_exclusive(&self) -> bool {
        false
    }
}

impl Fake {
    /// The next fault, if it is one of these.
    fn meets(&mut self, possible: &[Fault]) -> Option<Fault> {
        self.faults
            .front()
            .is_some_and(|next| possible.contains(next))
            .then(|| self.faults.pop_front())?
    }
}

/// An errno.
type Errno = i32;
type Dynamic = BTreeMap<(Family, String), Chunk>;

fn apply(ruleset: &mut Ruleset, dynamic: &mut Dynamic, operation: &Operation) -> Result<(), Errno> {
    let family = operation.family;
    match &operation.action {
        Action::AddTable => return Ok(_ = ruleset.tables.entry(family).or_default()),
        Action::DeleteTable => {
            dynamic.retain(|(of, _), _| *of != family);
            return ruleset.tables.remove(&family).map(drop).ok_or(libc::ENOENT);
        }
        _ => {}
    }
    let table = ruleset.tables.get_mut(&family).ok_or(libc::ENOENT)?;
    if let Action::Elements { set, delete, .. } = &operation.action
        && table.sets.get(set).is_some_and(|set| set.kind.dynamic)
    {
        let elements = dynamic
            .get_mut(&(family, set.to_string()))
            .ok_or(libc::ENOENT)?;
        let gone: BTreeSet<_> = delete.iter().map(|(key, _)| *key).collect();
        elements.retain(|(key, _)| !gone.contains(key));
        return Ok(());
    }
    apply_to_table(table, &operation.action)
}

fn apply_to_table(table: &mut Table, action: &Action) -> Result<(), Errno> {
    match action {
        Action::AddTable | Action::DeleteTable => Ok(()),
        Action::AddChain { name, base } => {
            let chain = Chain {
                base: *base,
                rules: Vec::new(),
            };
            table
                .chains
                .insert(name.clone(), chain)
                .map_or(Ok(()), |_| Err(libc::EEXIST))
        }
        Action::DeleteChain { name } => {
            if named_chains(table).contains(name)
                || table
                    .chains
                    .get(name)
                    .is_some_and(|chain| !chain.rules.is_empty())
            {
                return Err(libc::EBUSY);
            }
            table.chains.remove(name).map(drop).ok_or(libc::ENOENT)
        }
        Action::FlushChain { name } => table
            .chains
            .get_mut(name)
            .map(|chain| chain.rules.clear())
            .ok_or(libc::ENOENT),
        Action::AddRule { chain, rule } => {
            let names = rule.statements.iter().all(|statement| {
                chain_of(statement).is_none_or(|chain| table.chains.contains_key(chain))
                    && statement
                        .set()
                        .is_none_or(|set| table.sets.contains_key(set))
            });
            let chain = table
                .chains
                .get_mut(chain)
                .filter(|_| names)
                .ok_or(libc::ENOENT)?;
            chain.rules.push(rule.clone());
            Ok(())
        }
        Action::AddSet { name, kind } => table
            .sets
            .insert(name.clone(), Set::new(kind.clone()))
            .map_or(Ok(()), |_| Err(libc::EEXIST)),
        Action::DeleteSet { name } => {
            let statements = table
                .chains
                .values()
                .flat_map(|chain| &chain.rules)
                .flat_map(|rule| &rule.statements);
            if statements.filter_map(Statement::set).any(|set| set == name) {
                return Err(libc::EBUSY);
            }
            table.sets.remove(name).map(drop).ok_or(libc::ENOENT)
        }
        Action::Elements { set, delete, add } => change_elements(table, set, delete, add),
    }
}

fn change_elements(
    table: &mut Table,
    name: &Name,
    delete: &Chunk,
    add: &Chunk,
) -> Result<(), Errno> {
    let chains: BTreeSet<Name> = table.chains.keys().cloned().collect();
    let set = table.sets.get_mut(name).ok_or(libc::ENOENT)?;
    for (key, _) in delete {
        set.elements.remove(key).ok_or(libc::ENOENT)?;
    }
    for (key, data) in add {
        if let Some(chain) = chain_in(data)
            && !chains.contains(chain)
        {
            return Err(libc::ENOENT);
        }
        if set.elements.insert(*key, data.clone()).is_some() {
            return Err(libc::EEXIST);
        }
        if set.kind.ranges && overlaps_neighbours(&set.elements, key) {
            return Err(libc::ENOTEMPTY);
        }
    }
    Ok(())
}

fn overlaps_neighbours(elements: &BTreeMap<Key, Data>, key: &Key) -> bool {
    let before = elements.range(..key).next_back();
    let after = elements.range(key..).take(2);
    let ranges: Vec<_> = before.into_iter().chain(after).collect();
    ranges
        .windows(2)
        .any(|pair| matches!(pair[0].1, Data::Until(last) if *last >= *pair[1].0))
}

fn named_chains(table: &Table) -> BTreeSet<Name> {
    let by_elements = table
        .sets
        .values()
        .flat_map(|set| set.elements.values())
        .filter_map(chain_in);
    let statements = table
        .chains
        .values()
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.statements);
    by_elements
        .chain(statements.filter_map(chain_of))
        .cloned()
        .collect()
}

/// Whether a chain leads to itself, whatever keys the maps have on the way.
fn has_loop(table: &Table) -> bool {
    let next = |name: &Name| -> BTreeSet<&Name> {
        let statements = table.chains.get(name).into_iter();
        let statements = statements
            .flat_map(|chain| &chain.rules)
            .flat_map(|rule| &rule.statements);
        let by_maps = statements.clone().filter_map(|statement| match statement {
            Statement::VerdictMap { map, .. } => table.sets.get(map),
            _ => None,
        });
        let elements = by_maps.flat_map(|map| map.elements.values());
        elements
            .filter_map(chain_in)
            .chain(statements.filter_map(chain_of))
            .collect()
    };
    // Chains that lead to chains which are left, again and again: none are left without a loop.
    let mut left: BTreeMap<&Name, BTreeSet<&Name>> =
        table.chains.keys().map(|name| (name, next(name))).collect();
    loop {
        let before = left.len();
        let names: BTreeSet<&Name> = left.keys().copied().collect();
        left.retain(|_, next| next.iter().any(|name| names.contains(name)));
        if left.len() == before {
            return before > 0;
        }
    }
}

fn chain_in(data: &Data) -> Option<&Name> {
    match data {
        Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) => Some(chain),
        _ => None,
    }
}

fn chain_of(statement: &Statement) -> Option<&Name> {
    match statement {
        Statement::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) => Some(chain),
        _ => None,
    }
}
