//! The facade: desired state in, kernel state follows.

mod affinity;
mod flows;

use std::{
    thread,
    time::{Duration, Instant},
};

use self::affinity::touches_affinity;
pub use self::flows::Serving;
use crate::{
    kernel::{Holder, Kernel, KernelError, Snapshot},
    model::{Change, Desired, Family},
    plan::{Action, Operation, Plan, plan, plan_anew, plan_difference},
    ruleset::{ConnectionState, Landing, Packet, Ruleset, TABLE, World},
};

/// How often an operation starts over because somebody else changed the ruleset meanwhile.
const ATTEMPTS: usize = 8;

/// How long a predecessor that was told to go, or killed, may take until the kernel has closed its socket.
const PREDECESSOR_EXIT: Duration = Duration::from_secs(2);

/// Why the dataplane is not as desired.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel did not do it. What it holds is unknown; the next call reads it back.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Another process holds our table, and only it may change it.
    #[error("table {} {TABLE} belongs to another running process (netlink port {port}): is a second agent running here?", family.as_str())]
    Occupied {
        /// The table's family.
        family: Family,
        /// The other's netlink port; usually its process id.
        port: u32,
    },
    /// Others kept changing the ruleset.
    #[error("the ruleset changed {ATTEMPTS} times while ours was being applied")]
    Contended,
}

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Transactions committed; zero when everything was right already.
    pub transactions: usize,
    /// Set elements added and deleted.
    pub elements: usize,
    /// From call to commit.
    pub elapsed: Duration,
}

/// What [`Dataplane::verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Our tables are as we left them.
    Intact,
    /// Somebody changed them, or an earlier call failed; they are right again.
    Repaired,
}

/// The node's dataplane. Calls block for as long as the kernel works on them; make them from one dedicated thread.
#[derive(Debug)]
pub struct Dataplane<K> {
    kernel: K,
    /// What the kernel should hold; what it does hold as long as `generation` is known.
    ruleset: Ruleset,
    /// The generation that our last successful commit made, or at which we last looked. `None`: what the kernel holds is
    /// unknown.
    generation: Option<u32>,
    /// Whether anything was applied yet: before that there is nothing to verify.
    started: bool,
}

impl<K: Kernel> Dataplane<K> {
    /// Reads back what a former process left. Changes nothing.
    ///
    /// # Errors
    /// When our tables cannot be read or belong to another running process.
    pub fn open(kernel: K) -> Result<Dataplane<K>, DataplaneError> {
        let mut this = Dataplane {
            kernel,
            ruleset: Ruleset::default(),
            generation: None,
            started: false,
        };
        let snapshot = this.read()?;
        this.generation = Some(snapshot.generation);
        this.ruleset = snapshot.ruleset;
        Ok(this)
    }

    /// Makes the tables hold exactly this. What is right already is not touched.
    ///
    /// # Errors
    /// After an error the kernel holds an unknown part of it; [`Dataplane::verify`] or the next call brings the rest.
    pub fn replace(&mut self, desired: &Desired) -> Result<Applied, DataplaneError> {
        let start = Instant::now();
        // Between `open` and now others may have changed what was read; later the commit itself tells.
        if !self.started && !self.is_unchanged()? {
            self.generation = None;
        }
        if self.generation.is_none() {
            let snapshot = self.read()?;
            self.generation = Some(snapshot.generation);
            self.ruleset = snapshot.ruleset;
        }
        self.started = true;
        let wanted = Ruleset::compile(desired, &self.ruleset);
        let plan = plan(&self.ruleset, &wanted);
        self.ruleset = wanted;
        let mut applied = self.commit(&plan)?;
        // Affinities outlive a restart, and so may those to endpoints which left meanwhile.
        self.forget_stale_affinities(&mut applied)?;
        Ok(Applied {
            elapsed: start.elapsed(),
            ..applied
        })
    }

    /// Applies a difference to what the last [`Dataplane::replace`] made (before the first there is nothing to change).
    /// Costs what the difference costs, however many Services there are.
    ///
    /// # Errors
    /// As [`Dataplane::replace`]; the change itself is remembered and need not be repeated.
    pub fn update(&mut self, change: &Change) -> Result<Applied, DataplaneError> {
        let start = Instant::now();
        let difference = self.ruleset.edit(change);
        let mut applied = match self.generation {
            Some(_) => self.commit(&plan_difference(&difference, &self.ruleset))?,
            None => self.repair()?,
        };
        if touches_affinity(&difference, &self.ruleset) {
            self.forget_stale_affinities(&mut applied)?;
        }
        Ok(Applied {
            elapsed: start.elapsed(),
            ..applied
        })
    }

    /// Looks whether somebody changed our tables, and repairs them. Costs microseconds when nobody changed any table.
    ///
    /// # Errors
    /// When the kernel can be neither read nor repaired.
    pub fn verify(&mut self) -> Result<Verified, DataplaneError> {
        if !self.started {
            return Ok(Verified::Intact);
        }
        if self.is_unchanged()? {
            return Ok(Verified::Intact);
        }
        let applied = self.repair()?;
        Ok(if applied.transactions == 0 {
            Verified::Intact
        } else {
            Verified::Repaired
        })
    }

    /// Deletes our tables.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self) -> Result<(), DataplaneError> {
        let snapshot = self.read()?;
        self.generation = Some(snapshot.generation);
        self.ruleset = Ruleset::default();
        self.started = false;
        self.commit(&plan(&snapshot.ruleset, &Ruleset::default()))
            .map(drop)
    }

    /// The ruleset in nft's notation. Rules that a former process left show only after the first [`Dataplane::replace`].
    pub fn text(&self) -> String {
        self.ruleset.text()
    }

    /// Where a packet lands.
    pub fn trace(&self, packet: &Packet, state: ConnectionState, world: &mut World) -> Landing {
        self.ruleset.trace(packet, state, world)
    }

    /// The kernel, for tests to look at and to spoil.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Whether the kernel holds what it held when we last looked.
    fn is_unchanged(&mut self) -> Result<bool, KernelError> {
        let generation = self.kernel.generation()?;
        if self.generation == Some(generation) {
            return Ok(true);
        }
        let is_ours = self.generation.is_some() && self.nobody_else_could()?;
        if is_ours {
            self.generation = Some(generation);
        }
        Ok(is_ours)
    }

    /// Whether our tables exist and nobody else is able to change them, so that a moved generation concerns other tables.
    fn nobody_else_could(&mut self) -> Result<bool, KernelError> {
        if !self.kernel.is_exclusive() {
            return Ok(false);
        }
        let holders = self.kernel.holders()?;
        Ok(self
            .ruleset
            .tables
            .keys()
            .all(|family| holders.get(family) == Some(&Holder::Us)))
    }

    /// Reads our tables and makes sure that nobody changes them from here on, if the kernel can do that.
    fn read(&mut self) -> Result<Snapshot, DataplaneError> {
        self.await_predecessor()?;
        for _ in 0..ATTEMPTS {
            let mut snapshot = self.kernel.read()?;
            let operations = claims(&mut snapshot)?;
            if operations.is_empty() {
                return Ok(snapshot);
            }
            match self.kernel.commit(&operations, Some(snapshot.generation)) {
                Ok(()) => {
                    snapshot.generation = next_generation(snapshot.generation);
                    return Ok(snapshot);
                }
                Err(KernelError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DataplaneError::Contended)
    }

    /// Waits a little while another process holds our tables; reading them then tells.
    fn await_predecessor(&mut self) -> Result<(), KernelError> {
        let deadline = Instant::now() + PREDECESSOR_EXIT;
        let occupied = |holder: &Holder| matches!(holder, Holder::Other(_));
        while self.kernel.holders()?.values().any(occupied) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Reads back and applies what is missing: step by step, or, where the kernel does not let that be, all at once.
    fn repair(&mut self) -> Result<Applied, DataplaneError> {
        let mut step_by_step = true;
        for _ in 0..ATTEMPTS {
            let snapshot = self.read()?;
            self.generation = Some(snapshot.generation);
            let way = if step_by_step { plan } else { plan_anew };
            match self.commit_once(&way(&snapshot.ruleset, &self.ruleset)) {
                Err(KernelError::Stale) => {}
                Err(error) if step_by_step && error.is_about_state() => step_by_step = false,
                done => return Ok(done?),
            }
        }
        Err(DataplaneError::Contended)
    }

    fn commit(&mut self, plan: &Plan) -> Result<Applied, DataplaneError> {
        match self.commit_once(plan) {
            Err(KernelError::Stale) => self.repair(),
            Err(error) if error.is_about_state() => self.repair(),
            done => Ok(done?),
        }
    }

    /// Commits a plan made for the ruleset of `self.generation`. After an error that is unknown.
    fn commit_once(&mut self, plan: &Plan) -> Result<Applied, KernelError> {
        let mut applied = Applied::default();
        for operations in &plan.transactions {
            let generation = self.generation.take();
            self.generation = Some(self.commit_transaction(operations, generation)?);
            applied.transactions += 1;
            applied.elements += operations.iter().map(elements_in).sum::<usize>();
        }
        Ok(applied)
    }

    /// Returns the generation that the commit made.
    fn commit_transaction(
        &mut self,
        operations: &[Operation],
        generation: Option<u32>,
    ) -> Result<u32, KernelError> {
        let mut expected = generation;
        for _ in 0..ATTEMPTS {
            match self.kernel.commit(operations, expected) {
                Err(KernelError::Stale) if self.nobody_else_could()? => {
                    expected = Some(self.kernel.generation()?)
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    return expected
                        .map_or_else(|| self.kernel.generation(), |old| Ok(next_generation(old)));
                }
            }
        }
        Err(KernelError::Stale)
    }
}

/// What has to be done with the tables of a snapshot before they may be changed: adopt those that a former process left,
/// delete those that somebody else made under our name.
fn claims(snapshot: &mut Snapshot) -> Result<Vec<Operation>, DataplaneError> {
    let mut operations = Vec::new();
    for (&family, holder) in &snapshot.holders {
        let action = match holder {
            Holder::Us => continue,
            Holder::Other(port) => {
                return Err(DataplaneError::Occupied {
                    family,
                    port: *port,
                });
            }
            Holder::Nobody => Action::AddTable,
            Holder::Anybody => {
                snapshot.ruleset.tables.remove(&family);
                Action::DeleteTable
            }
        };
        operations.push(Operation { family, action });
    }
    Ok(operations)
}

/// The generation after a commit; zero is never used.
fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

fn elements_in(operation: &Operation) -> usize {
    match &operation.action {
        Action::Elements { delete, add, .. } => delete.len() + add.len(),
        _ => 0,
    }
}
