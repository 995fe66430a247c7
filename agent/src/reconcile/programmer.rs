//! The thread that talks to the kernel's packet filter, so that a long batch never holds up the runtime.

use std::{collections::BTreeSet, fmt, sync::mpsc, thread};

use dataplane::{
    Serving,
    model::{Change, Desired, Frontend},
};
use tokio::sync::oneshot;

/// What programs the node's rules: the kernel, or a fake in tests.
pub(crate) trait Rules: Send + 'static {
    type Error: fmt::Display + Send + 'static;
    /// The frontends that a former agent has left in the rules, before the first of the others is called.
    fn left_behind(&self) -> BTreeSet<Frontend>;
    /// Makes the rules exactly these.
    fn replace(&mut self, desired: Desired) -> Result<(), Self::Error>;
    /// Applies a difference, atomically.
    fn update(&mut self, change: Change) -> Result<(), Self::Error>;
    /// Ends the UDP flows to these frontends whose endpoint does not serve any more; says how many.
    fn forget_flows(&mut self, serving: Serving) -> Result<usize, Self::Error>;
    /// Whether a foreign hand changed our rules; repairs them if so.
    fn verify(&mut self) -> Result<bool, Self::Error>;
}

/// A step for the thread.
#[derive(Debug)]
pub(super) enum Step {
    Replace(Desired),
    Update(Change),
    ForgetFlows(Serving),
    Verify,
}

/// Why rules are not as they should be, in words for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RulesError(String);

type Reply = oneshot::Sender<Result<bool, RulesError>>;

/// A handle on the thread; dropping it ends the thread and leaves the rules.
pub(super) struct Programmer {
    steps: mpsc::Sender<(Step, Reply)>,
}

impl Programmer {
    pub(super) fn start<R: Rules>(mut rules: R) -> std::io::Result<Self> {
        let (steps, inbox) = mpsc::channel::<(Step, Reply)>();
        thread::Builder::new()
            .name("rules".to_owned())
            .spawn(move || {
                for (step, reply) in inbox {
                    let done = match step {
                        Step::Replace(desired) => rules.replace(desired).map(|()| true),
                        Step::Update(change) => rules.update(change).map(|()| true),
                        Step::ForgetFlows(serving) => {
                            rules.forget_flows(serving).map(|count| count > 0)
                        }
                        Step::Verify => rules.verify(),
                    };
                    let _ = reply.send(done.map_err(|error| RulesError(error.to_string())));
                }
            })?;
        Ok(Self { steps })
    }

    /// Does one step. For [`Step::Verify`] the answer is whether something was repaired, for [`Step::ForgetFlows`] whether any
    /// was stale.
    pub(super) async fn run(&self, step: Step) -> Result<bool, RulesError> {
        let gone = || RulesError("the thread that programs the rules ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.steps.send((step, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
