//! What `/metrics` says, in the Prometheus text format (OpenMetrics 1.0).

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::audit;

/// One kind of request, as upstream's `apiserver_request_total` labels it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    code: u16,
}

/// The series, shared by clones.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    latency: Family<VerbLabels, Histogram>,
    programmed: Histogram,
    revision: Gauge<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
    resource: &'static str,
}

/// What was asked for, for the counters; all parts come from tables, so the number of series is bounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKind {
    pub(crate) verb: &'static str,
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Metrics {
    /// The series, with those of the audit log if there is one.
    pub(crate) fn new(audit: Option<&audit::Log>) -> Self {
        let mut registry = Registry::default();
        if let Some(log) = audit {
            let plugin = [("plugin".into(), "log".into())];
            registry
                .sub_registry_with_labels(plugin.into_iter())
                .register(
                    "apiserver_audit_error",
                    "Audit events that were lost, because the log's disk was too slow or full",
                    log.losses(),
                );
        }
        let requests = Family::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and HTTP status code",
            requests.clone(),
        );
        let latency = Family::new_with_constructor(latency_buckets as fn() -> Histogram);
        registry.register_with_unit(
            "apiserver_request_duration",
            "Time to the answer's head; a watch's is the time until it is established",
            Unit::Seconds,
            latency.clone(),
        );
        let programmed = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        registry.register_with_unit(
            "minik_service_programmed",
            "Time from a change of a Service or its endpoints to the last ready node's having applied it",
            Unit::Seconds,
            programmed.clone(),
        );
        let revision = Gauge::default();
        registry.register(
            "minik_store_revision",
            "The newest revision of the store",
            revision.clone(),
        );
        Self {
            registry: Arc::new(registry),
            requests,
            latency,
            programmed,
            revision,
        }
    }

    /// A change of a Service has arrived on every ready node.
    pub(crate) fn service_programmed(&self, took: Duration) {
        self.programmed.observe(took.as_secs_f64());
    }

    /// A request was answered.
    pub(crate) fn request(&self, kind: RequestKind, code: u16, took: Duration) {
        let RequestKind {
            verb,
            group,
            resource,
            subresource,
        } = kind;
        self.requests
            .get_or_create(&RequestLabels {
                verb,
                group,
                resource,
                subresource,
                code,
            })
            .inc();
        self.latency
            .get_or_create(&VerbLabels { verb, resource })
            .observe(took.as_secs_f64());
    }

    /// Everything as text.
    pub(crate) fn text(&self, revision: u64) -> String {
        self.revision.set(revision);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

/// 0.25 ms to 8 s.
fn latency_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}
