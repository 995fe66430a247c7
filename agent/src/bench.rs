//! The node's pipeline without a server, for `benches/sync.rs`: watch events in, kernel state and names out, by the same
//! code that runs behind the real watches.

use dataplane::{
    Dataplane,
    kernel::{Netlink, Ownership},
    model::Desired,
};
use dns::Zone;
use tokio::sync::{mpsc, watch};

use crate::{
    health::Health,
    localhost::LocalhostNodePorts,
    network::Announcements,
    objects::{EndpointSlice, Object, Revision, Service},
    reconcile::{LocalPods, Reconciler, SharedView, Sources},
    reflector::{Answer, Delta, Event, Reflector},
    translate::Here,
    view::Position,
};

/// A collection as its reflector sees it.
struct Collection<T> {
    reflector: Reflector<T>,
    deltas: mpsc::Sender<Vec<Delta<T>>>,
}

impl<T: Object> Collection<T> {
    fn new() -> (Self, mpsc::Receiver<Vec<Delta<T>>>) {
        let (deltas, receiver) = mpsc::channel(16);
        let reflector = Reflector::new();
        (Self { reflector, deltas }, receiver)
    }

    /// Takes in one line of a watch; the reader learns the difference.
    async fn line(&mut self, line: &[u8]) {
        let event = Event::parse(line).expect("the benchmark writes valid events");
        if let Some(delta) = self.reflector.step(Answer::Event(event)).delta {
            let _ = self.deltas.send(vec![delta]).await;
        }
    }
}

/// Where a line of a watch belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Service.
    Service,
    /// An EndpointSlice.
    EndpointSlice,
    /// A Namespace.
    Namespace,
}

/// The agent between its watches and the kernel.
pub struct Pipeline {
    services: Collection<Service>,
    slices: Collection<EndpointSlice>,
    namespaces: Collection<api::core::Namespace>,
    /// Kept: a reconciler without a source ends.
    service_cidrs: mpsc::Sender<Vec<Delta<api::networking::ServiceCidr>>>,
    applied: watch::Receiver<Option<Position>>,
    /// Kept: a reconciler without a source ends.
    _local_pods: watch::Sender<LocalPods>,
}

impl Pipeline {
    /// Starts the reconciler over the nf_tables of the calling thread's network namespace.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn start() -> Self {
        let (services, services_reader) = Collection::new();
        let (slices, slices_reader) = Collection::new();
        let (namespaces, namespaces_reader) = Collection::new();
        let (service_cidrs, service_cidrs_reader) = mpsc::channel(1);
        let none = Delta::Replace {
            items: Vec::new(),
            revision: Revision(1),
        };
        service_cidrs
            .try_send(vec![none])
            .expect("there is room for one");
        let (local_pods, local_pods_reader) = watch::channel(LocalPods::default());
        let netlink = Netlink::open(Ownership::WhenPossible).expect("nf_tables");
        let rules = Dataplane::open(netlink).expect("our tables can be read");
        let base = Desired {
            service_networks: ["10.96.0.0/12".parse().expect("a network")].into(),
            pod_networks: ["10.128.0.0/9".parse().expect("a network")].into(),
            masquerade_egress: true,
            ..Desired::default()
        };
        let (reconciler, applied) = Reconciler::new(
            Here::default(),
            base,
            SharedView::default(),
            Zone::new(dns::zone::Config::default()).expect("the default domain"),
            local_pods_reader,
            rules,
            (
                Health::new([]),
                Announcements::default(),
                LocalhostNodePorts::default(),
            ),
        )
        .expect("a thread");
        tokio::spawn(reconciler.run(Sources {
            zone: watch::channel(None).1,
            services: services_reader,
            slices: slices_reader,
            namespaces: namespaces_reader,
            service_cidrs: service_cidrs_reader,
        }));
        Self {
            services,
            slices,
            namespaces,
            service_cidrs,
            applied,
            _local_pods: local_pods,
        }
    }

    /// Takes in one line of a watch, as the server sends it.
    ///
    /// # Panics
    /// When it is not valid.
    pub async fn line(&mut self, kind: Kind, line: &[u8]) {
        match kind {
            Kind::Service => self.services.line(line).await,
            Kind::EndpointSlice => self.slices.line(line).await,
            Kind::Namespace => self.namespaces.line(line).await,
        }
    }

    /// Waits until rules and names have everything up to these revisions of Services and EndpointSlices.
    pub async fn applied(&mut self, services: u64, slices: u64) {
        let (services, slices) = (Revision(services), Revision(slices));
        let reached = |position: &Option<Position>| {
            position.is_some_and(|at| at.services >= services && at.slices >= slices)
        };
        self.applied
            .wait_for(reached)
            .await
            .expect("the reconciler runs");
    }

    /// Ends the reconciler; the rules stay.
    pub async fn stop(self) {
        let Self {
            services,
            slices,
            namespaces,
            service_cidrs,
            _local_pods: local_pods,
            mut applied,
        } = self;
        drop((services, slices, namespaces, service_cidrs, local_pods));
        while applied.changed().await.is_ok() {}
    }
}
