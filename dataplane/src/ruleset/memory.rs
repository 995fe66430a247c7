//! Which number stands for which memory of session affinity.
//!
//! The packet path knows a memory by a number, which frontends that share the memory have in common. Numbers live as long
//! as a frontend uses them, also across a restart: they are learnt from what the kernel holds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ruleset, frontend::Side};
use crate::model::{Affinity, Desired, Fate, Frontend, Memory, Scope};

/// The memories in use, their numbers, and who uses them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories {
    numbers: BTreeMap<Memory, Numbered>,
    users: BTreeMap<(Frontend, Side), Memory>,
    taken: BTreeSet<u32>,
    /// The number given out last: one that was given back is used again as late as possible.
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Numbered {
    number: u32,
    users: usize,
}

/// The affinity of each side of a fate that has one.
pub(super) fn affinities(fate: &Fate) -> impl Iterator<Item = (Side, Affinity)> {
    let (main, inside) = match fate {
        Fate::Balance { affinity, .. } => (*affinity, None),
        Fate::Local { affinity, .. } => (affinity.map(apart), *affinity),
        Fate::From { fate, .. } => match &**fate {
            Fate::Balance { affinity, .. } => (*affinity, None),
            Fate::Local { affinity, .. } => (affinity.map(apart), *affinity),
            Fate::From { .. } | Fate::Reject | Fate::Drop => (None, None),
        },
        Fate::Reject | Fate::Drop => (None, None),
    };
    [(Side::Main, main), (Side::Inside, inside)]
        .into_iter()
        .filter_map(|(side, affinity)| Some((side, affinity?)))
}

/// The same for clients outside the cluster, who may not be led to an endpoint of another node.
pub(super) fn apart(affinity: Affinity) -> Affinity {
    Affinity {
        memory: Memory {
            scope: Scope::Node,
            ..affinity.memory
        },
        ..affinity
    }
}

impl Memories {
    /// Numbers for all that `desired` needs, with as many as possible kept from `onto`.
    pub(super) fn learn(desired: &Desired, onto: &Ruleset) -> Memories {
        let mut this = Memories::default();
        let uses = || {
            desired.frontends.iter().flat_map(|(frontend, fate)| {
                affinities(fate).map(move |(side, affinity)| (*frontend, side, affinity.memory))
            })
        };
        for (_, _, memory) in uses() {
            if let Some(number) = onto.memories.number(&memory) {
                this.claim(memory, number);
            }
        }
        for (frontend, side, memory) in uses() {
            let table = onto.table(frontend.family());
            let held = table.and_then(|table| table.memory_number(&frontend, side));
            if let Some(number) = held.filter(|_| !this.numbers.contains_key(&memory)) {
                this.claim(memory, number);
            }
        }
        this.last = this
            .taken
            .last()
            .copied()
            .unwrap_or(0)
            .max(onto.memories.last);
        for (frontend, side, memory) in uses() {
            this.add_user(frontend, side, memory);
        }
        this
    }

    /// The number of a memory in use.
    pub(super) fn number(&self, memory: &Memory) -> Option<u32> {
        self.numbers.get(memory).map(|numbered| numbered.number)
    }

    /// Notes a frontend's new fate.
    pub(super) fn assign(&mut self, frontend: Frontend, fate: Option<&Fate>) {
        let old = Side::ALL.map(|side| self.users.remove(&(frontend, side)));
        for (side, affinity) in fate.into_iter().flat_map(affinities) {
            self.add_user(frontend, side, affinity.memory);
        }
        // Only now, so that a memory which stays keeps its number.
        for memory in old.into_iter().flatten() {
            self.remove_user(&memory);
        }
    }

    fn claim(&mut self, memory: Memory, number: u32) {
        if number != 0 && self.taken.insert(number) {
            self.numbers.insert(memory, Numbered { number, users: 0 });
        }
    }

    fn add_user(&mut self, frontend: Frontend, side: Side, memory: Memory) {
        if !self.numbers.contains_key(&memory) {
            let number = self.free_number();
            self.claim(memory, number);
        }
        if let Some(numbered) = self.numbers.get_mut(&memory) {
            numbered.users += 1;
        }
        self.users.insert((frontend, side), memory);
    }

    fn remove_user(&mut self, memory: &Memory) {
        let Some(numbered) = self.numbers.get_mut(memory) else {
            return;
        };
        numbered.users -= 1;
        if numbered.users == 0 {
            self.taken.remove(&numbered.number);
            self.numbers.remove(memory);
        }
    }

    /// Zero is what a packet has which nobody gave a number.
    fn free_number(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.taken.contains(&self.last) {
                return self.last;
            }
        }
    }
}
