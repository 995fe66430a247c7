//! Probes: questions asked of a running container again and again.
//!
//! [`health`] and [`schedule`] decide, as values; here is the one task of a container that asks when they say so. It sleeps on the
//! runtime's timer wheel until the next question is due.

mod health;
mod schedule;

use std::{sync::Arc, time::Duration};

use api::core::Container;
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::Rng;
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

pub(super) use health::{Before, Kind, News};
use health::{Health, Times};
use schedule::Rules;

use super::handler::{Handler, Target};

/// The probes of one attempt of a container. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Probing {
    task: AbortHandle,
    ending: Arc<Notify>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of a container that is to be probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) before: Before,
    /// How long it runs already.
    pub(super) age: Duration,
    /// Whether another agent has probed it before this one.
    pub(super) is_adopted: bool,
}

impl Probing {
    /// Begins to ask, and to tell what changes.
    pub(super) fn start<T: Send + 'static>(
        container: &Container,
        target: &Target,
        known: Known,
        tell: impl Fn(News) -> T + Send + Sync + 'static,
        to: mpsc::Sender<T>,
    ) -> Self {
        let probes = Kind::ALL.map(|kind| {
            let probe = kind.of(container)?;
            let handler = Handler::of_probe(probe, container, target);
            Some((handler, Rules::of(probe).timeout))
        });
        let now = Instant::now();
        let times = Times {
            started: now.checked_sub(known.age).unwrap_or(now),
            now,
            phase: known.is_adopted.then(|| rand::rng().random()),
        };
        let is_cheap = |kind: Kind| {
            let probe = &probes[kind as usize];
            probe.as_ref().is_none_or(|(handler, _)| handler.is_cheap())
        };
        let health = Health::new(container, known.before, times, is_cheap);
        let ending = Arc::new(Notify::new());
        let ended = Arc::clone(&ending);
        let task = tokio::spawn(async move { run(health, &probes, &ended, &tell, &to).await });
        Self {
            task: task.abort_handle(),
            ending,
        }
    }

    /// The Pod is on its way out: only readiness is asked on.
    pub(super) fn end(&self) {
        self.ending.notify_one();
    }
}

async fn run<T>(
    mut health: Health,
    probes: &[Option<(Handler, Duration)>; 3],
    ending: &Notify,
    tell: &impl Fn(News) -> T,
    to: &mpsc::Sender<T>,
) {
    let mut asked = FuturesUnordered::new();
    loop {
        let next = health.next();
        if next.is_none() && asked.is_empty() {
            return;
        }
        let due = next.map(|(due, _)| due);
        let wait = async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((kind, outcome)) = asked.next() => {
                for news in health.take(kind, outcome, Instant::now()) {
                    // Nobody listens: the worker, and with it the container, is gone.
                    if to.send(tell(news)).await.is_err() {
                        return;
                    }
                }
            }
            () = wait => {
                let Some((_, kind)) = next else { continue };
                health.ask(kind);
                asked.extend(probes[kind as usize].as_ref().map(|(handler, limit)| async move {
                    (kind, handler.probe(*limit).await)
                }));
            }
            () = ending.notified() => health.end(),
        }
    }
}
