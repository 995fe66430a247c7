//! One Pod's worker: looks, decides, acts, reports; then waits for the next change.

mod care;
mod end;
mod start;
mod tokens;
mod volumes;

use std::{sync::Arc, time::Duration};

use api::core::{Pod, PodStatus};
use jiff::Timestamp;
use runtime::{Image, PodState};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Context, Wanted,
    container::{Decision, Life, RestartPolicy},
    events::{self, Teller},
    sandbox::{Sandbox, report},
    spec,
    status::{Facts, is_overruled, status},
};
use crate::{
    Addresses,
    backoff::Backoff,
    client::{PatchKind, Path},
};
use care::{Care, Message};
pub(super) use end::end;
use volumes::Volumes;

/// An image that is not there: it does not appear by itself.
const IMAGE_AGAIN: Duration = Duration::from_secs(300);

/// What may wait to be taken in of one Pod's hooks and probes. They wait themselves when it is more.
const QUEUE: usize = 16;

pub(super) struct Worker {
    context: Arc<Context>,
    wanted: watch::Receiver<Wanted>,
    pod: Arc<Pod>,
    sandbox: Option<Sandbox>,
    /// Taken while there is no sandbox yet, too.
    addresses: Option<Addresses>,
    lives: Vec<Life>,
    /// The last patch, and the status it led to.
    reported: Option<(Value, PodStatus)>,
    report_backoff: Backoff,
    volumes: Volumes,
    /// What is under way for each container.
    cares: Vec<Care>,
    /// What that finds comes in here.
    found: mpsc::Receiver<Message>,
    messages: mpsc::Sender<Message>,
    teller: Teller,
}

/// What woke the worker.
enum Event {
    Wanted,
    State(PodState),
    ShimGone,
    Found(Message),
    Time,
}

impl Worker {
    /// A worker for a Pod; `adopted` is the sandbox that an earlier agent made for it.
    pub(super) fn new(
        context: Arc<Context>,
        wanted: watch::Receiver<Wanted>,
        pod: Arc<Pod>,
        adopted: Option<Sandbox>,
    ) -> Self {
        let now = Timestamp::now();
        let lives: Vec<Life> = pod
            .spec
            .containers
            .iter()
            .map(|container| {
                let before = pod
                    .status
                    .container_statuses
                    .iter()
                    .find(|status| status.name == container.name);
                match before {
                    Some(status) if adopted.is_none() => {
                        Life::remembered(&container.name, status, now)
                    }
                    Some(status) => Life::new(&container.name).with_last_exit(status, now),
                    None => Life::new(&container.name),
                }
            })
            .collect();
        let (messages, found) = mpsc::channel(QUEUE);
        Self {
            teller: Teller::new(context.client.clone(), Arc::clone(&pod)),
            cares: lives.iter().map(|_| Care::default()).collect(),
            found,
            messages,
            context,
            wanted,
            pod,
            addresses: adopted.as_ref().map(|sandbox| sandbox.addresses),
            sandbox: adopted,
            lives,
            reported: None,
            report_backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            volumes: Volumes::default(),
        }
    }

    /// Runs until the Pod is gone from this node.
    pub(super) async fn run(mut self) {
        if let Some(sandbox) = &self.sandbox
            && let Ok(state) = sandbox.state().await
        {
            self.remember(&state);
            self.observe(&state);
        }
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            match wanted {
                Wanted::Run(pod) if pod.metadata.is_terminating() => {
                    self.pod = pod;
                    return self.terminate().await;
                }
                Wanted::Run(pod) => self.pod = pod,
                Wanted::Gone => {
                    self.stop(Duration::ZERO).await;
                    return self.remove().await;
                }
            }
            if is_overruled(&self.pod, &self.lives) {
                self.stop(self.grace()).await;
                self.release().await;
                self.next_event(None).await;
                continue;
            }
            let again = self.advance().await;
            let retry = self.report().await;
            let renewal = self.renew_volumes().await;
            let wake = [again, retry, renewal].into_iter().flatten().min();
            match self.next_event(wake).await {
                Event::State(state) => self.observe(&state),
                Event::ShimGone => self.lost().await,
                Event::Found(message) => self.learn(message),
                Event::Wanted | Event::Time => {}
            }
        }
    }

    async fn next_event(&mut self, wake: Option<Instant>) -> Event {
        let at = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let sandbox = &mut self.sandbox;
        let change = async move {
            match sandbox {
                Some(sandbox) => sandbox.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.wanted.changed() => Event::Wanted,
            state = change => state.map_or(Event::ShimGone, Event::State),
            Some(message) = self.found.recv() => Event::Found(message),
            () = self.volumes.changed() => Event::Time,
            () = sleep_until(at) => Event::Time,
        }
    }

    /// An adopted shim may never have started what its predecessor ran: then the server knows the number of restarts.
    fn remember(&mut self, state: &PodState) {
        let now = Timestamp::now();
        for life in &mut self.lives {
            let mut statuses = self.pod.status.container_statuses.iter();
            if let Some(status) = statuses.find(|status| *status.name == *life.name)
                && !state.containers.contains_key(&life.name)
            {
                *life = Life::remembered(&life.name, status, now);
            }
        }
    }

    fn observe(&mut self, state: &PodState) {
        for life in &mut self.lives {
            if let Some(status) = state.containers.get(&life.name) {
                life.observe(report(status));
            }
        }
    }

    /// The shim died, and its containers with it. A process that has rid itself of that (a set-uid program does) is ended here,
    /// before anything new gets the Pod's address.
    async fn lost(&mut self) {
        tracing::warn!(pod = %self.name(), "the Pod's shim is gone");
        self.remove_sandbox().await;
        self.release().await;
        let now = Timestamp::now();
        for (life, container) in self.lives.iter_mut().zip(&self.pod.spec.containers) {
            if life.is_running() {
                let as_reported = api::core::ContainerStatus {
                    restart_count: i32::try_from(life.restart_count()).unwrap_or(i32::MAX),
                    state: api::core::ContainerState {
                        running: Some(api::core::ContainerStateRunning::default()),
                        ..api::core::ContainerState::default()
                    },
                    ..api::core::ContainerStatus::default()
                };
                *life = Life::remembered(&container.name, &as_reported, now);
            }
        }
    }

    /// Does what can be done now, and says when to look again if nothing happens.
    async fn advance(&mut self) -> Option<Instant> {
        self.tend();
        let policy = RestartPolicy::parse(&self.pod.spec.restart_policy);
        if let Some(reason) = spec::unsupported(&self.pod) {
            let later = Timestamp::now() + IMAGE_AGAIN;
            for life in &mut self.lives {
                life.cannot_start("CreateContainerConfigError", reason.to_owned(), later);
            }
            return None;
        }
        if self.lives.iter().all(|life| life.ended(policy).is_some()) {
            self.remove_sandbox().await;
            self.release().await;
            return None;
        }
        let mut allowed = 0;
        // Each container waits for the postStart hooks of those before it.
        for index in 0..self.lives.len() {
            allowed = index + 1;
            if let Decision::Start { attempt } = self.lives[index].decide(policy, Timestamp::now())
            {
                self.start(index, attempt).await;
            }
            if self.lives[index].is_running() && !self.lives[index].is_hooked {
                break;
            }
        }
        let now = Timestamp::now();
        let waits =
            self.lives[..allowed]
                .iter()
                .filter_map(|life| match life.decide(policy, now) {
                    Decision::Wait(until) => Some(until),
                    Decision::Start { .. } => Some(now),
                    Decision::Nothing => None,
                });
        waits
            .min()
            .map(|until| Instant::now() + Duration::try_from(until - now).unwrap_or_default())
    }

    /// Writes the status if it is not what the server has. Returns when to try again, after a failure.
    async fn report(&mut self) -> Option<Instant> {
        if is_overruled(&self.pod, &self.lives) {
            return None;
        }
        let facts = Facts {
            lives: &self.lives,
            // A Pod that has ended gave its addresses back, and keeps them in its status.
            pod_ips: self.addresses.or_else(|| addresses_of(&self.pod)),
            host_ips: self.context.node_ips,
            image_id: |image| {
                Image::find(image)
                    .map(|image| image.id())
                    .unwrap_or_default()
            },
            now: Timestamp::now(),
        };
        let status = status(&self.pod, &facts);
        if status == self.pod.status {
            return None;
        }
        let patch = json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status});
        // The server may keep less than was written; writing that again would change nothing.
        if self
            .reported
            .as_ref()
            .is_some_and(|(before, result)| *before == patch && *result == self.pod.status)
        {
            return None;
        }
        let path = self.path().subresource("status").to_string();
        match self
            .context
            .client
            .patch::<Pod>(&path, PatchKind::Merge, &patch)
            .await
        {
            Ok(pod) => {
                self.report_backoff.reset();
                for news in events::news(&self.pod.status, &pod.status) {
                    self.teller.tell(news.event());
                }
                // The times of these conditions are the ones to keep from now on.
                Arc::make_mut(&mut self.pod).status.clone_from(&pod.status);
                self.reported = Some((patch, pod.status));
                None
            }
            // The Pod is gone, or another one has its name: the watch says so too.
            Err(error) if error.is_not_found() || error.is_conflict() => None,
            Err(error) => {
                tracing::warn!(pod = %self.name(), %error, "the Pod's status was not written");
                Some(Instant::now() + self.report_backoff.fail())
            }
        }
    }

    async fn release(&mut self) {
        let uid = &self.pod.metadata.uid;
        self.context.host_ports.release(uid);
        if let Some(addresses) = self.addresses.take()
            && !self.pod.spec.host_network
        {
            self.context.local_pod_left(uid, addresses);
            self.context.network.release(uid, addresses).await;
        }
    }

    fn path(&self) -> Path {
        Path::core("pods")
            .namespace(&self.pod.metadata.namespace)
            .name(&self.pod.metadata.name)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.pod.metadata.namespace, self.pod.metadata.name)
    }
}

/// The addresses that a Pod's status names.
fn addresses_of(pod: &Pod) -> Option<Addresses> {
    let ips = pod.status.pod_ips.iter();
    Addresses::of_each_family(ips.filter_map(|pod_ip| pod_ip.ip.parse().ok()))
}
