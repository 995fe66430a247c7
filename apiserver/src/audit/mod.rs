//! Who did what, and when: one line of JSON per request, `Event` of audit.k8s.io/v1 at level Metadata. Bodies are never in it,
//! nor credentials.
//! <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>
//!
//! Off unless `--audit-log-path` names a file: every request writes a line, which wears out small disks. What is asked all the
//! time and tells nothing is left out: health paths, and a node's own Lease and reports, unless they are refused.
//!
//! Reading order: this page (what a line says), [`log`] (how it gets to the disk).

pub mod log;

use std::net::IpAddr;

use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::log::{Log, LogConfig};
use crate::auth::{User, authentication::Caller};

/// Where nodes renew their Leases.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/";

/// The longest user agent that is kept.
const AGENT_LIMIT: usize = 1024;

/// Says of a request that it is to be told: an extension of requests.
#[derive(Clone, Copy, Debug)]
pub struct Wanted;

/// What a request was understood as: an extension of answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The verb.
    pub verb: String,
    /// The ObjectReference of what it is about, for resources.
    pub object: Option<Value>,
    /// `allow` or `forbid`; empty when nobody was asked.
    pub decision: &'static str,
    /// Which binding allows it, why it is forbidden, or nothing.
    pub reason: String,
}

/// Why a request failed, in the one word of its `Status`: an extension of answers. What the `Status` says beside it may quote a
/// body.
#[derive(Clone, Copy, Debug)]
pub struct Failure(pub &'static str);

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A watch begins.
    ResponseStarted,
    /// All is said.
    ResponseComplete,
}

/// What is known of a request before it is answered.
#[derive(Clone, Debug)]
pub struct Asked {
    method: Method,
    uri: Uri,
    agent: String,
    source: Option<IpAddr>,
    received: Timestamp,
}

impl Asked {
    /// Looks at a request from this address.
    #[must_use]
    pub fn of<B>(request: &Request<B>, source: Option<IpAddr>) -> Self {
        let agent = text(request.headers(), header::USER_AGENT.as_str());
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            agent: agent.chars().take(AGENT_LIMIT).collect(),
            source,
            received: Timestamp::now(),
        }
    }

    /// Whether the answer goes on for as long as the client wants.
    #[must_use]
    pub fn is_watch(&self, answer: &Answer) -> bool {
        let watch = answer.described.as_ref();
        answer.code.is_success() && watch.is_some_and(|described| described.verb == "watch")
    }

    /// The event of its answer. `caller` is missing when nobody was found to have asked.
    #[must_use]
    pub fn event(
        &self,
        caller: Option<&Caller>,
        answer: &Answer,
        stage: Stage,
        now: Timestamp,
    ) -> Value {
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": answer.id,
            "stage": match stage {
                Stage::ResponseStarted => "ResponseStarted",
                Stage::ResponseComplete => "ResponseComplete",
            },
            "requestURI": self.uri.path_and_query().map_or("/", |path| path.as_str()),
            "verb": match &answer.described {
                Some(described) => described.verb.to_owned(),
                None => self.method.as_str().to_lowercase(),
            },
            "user": caller.map_or_else(|| json!({}), |caller| user_info(&caller.credentials)),
        });
        if let Some(caller) = caller.filter(|caller| caller.user != caller.credentials) {
            event["impersonatedUser"] = user_info(&caller.user);
        }
        if let Some(source) = self.source {
            event["sourceIPs"] = json!([source.to_canonical()]);
        }
        if !self.agent.is_empty() {
            event["userAgent"] = json!(self.agent);
        }
        let described = answer.described.as_ref();
        if let Some(object) = described.and_then(|described| described.object.as_ref()) {
            event["objectRef"] = object.clone();
        }
        event["responseStatus"] = json!({"metadata": {}, "code": answer.code.as_u16()});
        if let Some(reason) = answer.failure {
            event["responseStatus"]["status"] = json!("Failure");
            event["responseStatus"]["reason"] = json!(reason);
        }
        event["requestReceivedTimestamp"] = json!(micros(self.received));
        event["stageTimestamp"] = json!(micros(now));
        if let Some(described) = described.filter(|described| !described.decision.is_empty()) {
            event["annotations"] = json!({
                "authorization.k8s.io/decision": described.decision,
                "authorization.k8s.io/reason": described.reason,
            });
        }
        event
    }

    /// Whether this is asked all the time and tells nothing. That somebody is refused always tells something.
    #[must_use]
    pub fn is_routine(&self, caller: Option<&Caller>, code: StatusCode) -> bool {
        if matches!(code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return false;
        }
        let path = self.uri.path();
        let health = ["/livez", "/readyz", "/healthz"];
        if health.iter().any(|health| path.starts_with(health)) {
            return true;
        }
        let is_node = caller.is_some_and(|caller| caller.user.node().is_some());
        if !is_node {
            return false;
        }
        path.starts_with(LEASES) || path.starts_with("/minik/v1/")
    }
}

/// What is known of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The id its header `Audit-Id` gives.
    pub id: String,
    /// Its status.
    pub code: StatusCode,
    /// What the request was understood as, if it came so far.
    pub described: Option<Described>,
    /// Why it failed, if it did.
    pub failure: Option<&'static str>,
}

impl Answer {
    /// Looks at a response.
    #[must_use]
    pub fn of<B>(response: &http::Response<B>) -> Self {
        Self {
            id: text(response.headers(), "audit-id").to_owned(),
            code: response.status(),
            described: response.extensions().get::<Described>().cloned(),
            failure: response.extensions().get().map(|Failure(reason)| *reason),
        }
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// RFC 3339 with six digits of the second, as a MicroTime is written.
fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
