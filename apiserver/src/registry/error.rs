//! What can go wrong with a request, and the one place that turns it into a Kubernetes `Status`.

use api::schema::apply::Conflicts;
use serde_json::{Value, json};

use super::{causes::Cause, kind::Kind};
use crate::store::{Revision, StoreError};

/// Everything the REST API can answer instead of an object.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// No such object.
    #[error("{} \"{name}\" not found", kind.resource())]
    NotFound {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
    },
    /// No such path, group, version or resource.
    #[error("the server could not find the requested resource")]
    UnknownPath,
    /// Something of an object that this server does not do.
    #[error("this version of minik does not serve {}/{subresource}", kind.resource())]
    UnservedSubresource {
        /// The object's kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// What was asked for.
        subresource: String,
    },
    /// An object of that name exists.
    #[error("{} \"{name}\" already exists", kind.resource())]
    AlreadyExists {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
    },
    /// The object changed under the writer, or a precondition does not hold.
    #[error("Operation cannot be fulfilled on {} \"{name}\": {detail}", kind.resource())]
    Conflict {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// What does not hold.
        detail: String,
    },
    /// An applied configuration sets fields that others own to other values.
    #[error("{0}")]
    ApplyConflict(Conflicts),
    /// The object is well-formed but breaks rules.
    #[error("{}", invalid_message(group, kind, name, causes))]
    Invalid {
        /// The API group of the kind.
        group: &'static str,
        /// The kind's name.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// Every broken rule.
        causes: Vec<Cause>,
    },
    /// An object that is not acceptable in this state of the cluster.
    #[error("{} \"{name}\" is forbidden: {detail}", kind.resource())]
    Refused {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// Why.
        detail: String,
    },
    /// A create in a namespace that is going away.
    #[error(
        "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
        kind.resource()
    )]
    NamespaceTerminating {
        /// The kind of the refused object.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// The terminating namespace.
        namespace: String,
    },
    /// The caller may not do this.
    #[error("{message}")]
    Forbidden {
        /// The whole sentence, in upstream's wording.
        message: String,
        /// The resource asked for, or empty.
        resource: String,
        /// Its group.
        group: String,
        /// The object's name, or empty.
        name: String,
    },
    /// The caller's credentials are missing or bad.
    #[error("Unauthorized")]
    Unauthorized,
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// The result of a patch cannot be applied or decoded (422 without a single field to blame).
    #[error("{0}")]
    Unprocessable(String),
    /// The resource does not know this verb.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed {
        /// The `Allow` header.
        allow: String,
    },
    /// None of the accepted media types is served.
    #[error("only the following media types are accepted: {0}")]
    NotAcceptable(&'static str),
    /// The body's media type is not understood.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    )]
    UnsupportedMediaType {
        /// The types that are.
        accepted: &'static str,
    },
    /// The body is too large.
    #[error("Request entity too large: limit is {limit_bytes}")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The history asked for is gone.
    #[error("{message}")]
    Expired {
        /// The sentence.
        message: String,
        /// A token that goes on at the newest revision, for an outlived `continue`.
        continue_token: Option<String>,
    },
    /// A revision that does not exist yet, and did not come to exist in time.
    #[error("Timeout: Too large resource version: {wanted}, current: {current}")]
    FutureRevision {
        /// The revision asked for.
        wanted: u64,
        /// The newest one.
        current: u64,
    },
    /// The request took too long. What it was to write may be written all the same.
    #[error("Timeout: request did not complete within {limit:?}")]
    TimedOut {
        /// How long it might have taken.
        limit: std::time::Duration,
    },
    /// So many requests are in flight that this one has to come again.
    #[error("Too many requests, please try again later.")]
    Overloaded,
    /// A user has, or a node carries, as many connections as may be open at once.
    #[error("Too many connections: {0}")]
    TooManyConnections(String),
    /// A Pod may not be evicted now.
    #[error("Cannot evict pod as it would violate the pod's disruption budget.")]
    BudgetSpent {
        /// Which budget says so, and why.
        cause: String,
    },
    /// A Pod that cannot be evicted at all.
    #[error(
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    )]
    SeveralBudgets,
    /// No address or port is left.
    #[error("Internal error occurred: {0}")]
    Exhausted(String),
    /// Too many writers at once; trying again helps.
    #[error("{} \"{name}\": too many concurrent changes, try again", kind.resource())]
    Contention {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
    },
    /// A node cannot be asked for what only it can give.
    #[error("node \"{node}\" cannot be reached: {reason}")]
    NodeUnreachable {
        /// Its name.
        node: String,
        /// Why.
        reason: String,
    },
    /// Nobody answers where a request was to be passed on to.
    #[error("{0}")]
    BadGateway(String),
    /// Nobody is there to pass a request on to.
    #[error("{0}")]
    Unavailable(String),
    /// Something went wrong on a node.
    #[error("Internal error occurred: {0}")]
    Internal(String),
    /// The disk is nearly full. Not an internal error: whoever reads this can do something about it.
    #[error("{0}")]
    NoSpace(std::sync::Arc<StoreError>),
    /// The store failed.
    #[error("Internal error occurred: {0}")]
    Store(std::sync::Arc<StoreError>),
    /// A stored object cannot be read back.
    #[error("Internal error occurred: stored {} \"{name}\" cannot be decoded: {detail}", kind.resource())]
    Undecodable {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// The decoder's words.
        detail: String,
    },
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted {
                wanted: Revision(wanted),
                oldest: Revision(oldest),
            } => Self::Expired {
                message: format!("too old resource version: {wanted} ({oldest})"),
                continue_token: None,
            },
            StoreError::Future {
                wanted: Revision(wanted),
                current: Revision(current),
            } => Self::FutureRevision { wanted, current },
            StoreError::TooLarge { limit_bytes, .. } => Self::TooLarge { limit_bytes },
            StoreError::NoSpace { .. } => Self::NoSpace(std::sync::Arc::new(error)),
            other => Self::Store(std::sync::Arc::new(other)),
        }
    }
}

/// `Pod "x" is invalid: …`, with one cause bare and several in brackets, as upstream prints them.
fn invalid_message(group: &str, kind: &str, name: &str, causes: &[Cause]) -> String {
    let subject = if group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{group}")
    };
    let texts: Vec<String> = causes
        .iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    match texts.as_slice() {
        [only] => format!("{subject} \"{name}\" is invalid: {only}"),
        many => format!("{subject} \"{name}\" is invalid: [{}]", many.join(", ")),
    }
}

impl ApiError {
    /// A 409 of a writer that came with an old resourceVersion.
    #[must_use]
    pub fn modified(kind: &'static Kind, name: &str) -> Self {
        Self::Conflict {
            kind,
            name: name.to_owned(),
            detail: "the object has been modified; please apply your changes to the latest version and try again"
                .into(),
        }
    }

    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether somebody else wrote first: read again and retry.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the namespace is going away.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::NamespaceTerminating { .. })
    }

    /// Whether an object of that name existed already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// Whether the revision is gone: list again.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }

    /// The HTTP status and Kubernetes' word for it.
    #[must_use]
    pub fn code_and_reason(&self) -> (u16, &'static str) {
        match self {
            Self::BadRequest(_) => (400, "BadRequest"),
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Refused { .. } | Self::NamespaceTerminating { .. } | Self::Forbidden { .. } => {
                (403, "Forbidden")
            }
            Self::NotFound { .. } | Self::UnknownPath | Self::UnservedSubresource { .. } => {
                (404, "NotFound")
            }
            Self::MethodNotAllowed { .. } => (405, "MethodNotAllowed"),
            Self::NotAcceptable(_) => (406, "NotAcceptable"),
            Self::AlreadyExists { .. } => (409, "AlreadyExists"),
            Self::Conflict { .. } | Self::ApplyConflict(_) => (409, "Conflict"),
            Self::Expired { .. } => (410, "Expired"),
            Self::TooLarge { .. } => (413, "RequestEntityTooLarge"),
            Self::UnsupportedMediaType { .. } => (415, "UnsupportedMediaType"),
            Self::Invalid { .. } | Self::Unprocessable(_) => (422, "Invalid"),
            Self::Contention { .. } => (500, "ServerTimeout"),
            // RFC 4918, section 11.5. It passes when somebody makes room, so clients are not told to try again.
            Self::NoSpace(_) => (507, "InsufficientStorage"),
            Self::Store(error) => match **error {
                StoreError::Unavailable(_) => (503, "ServiceUnavailable"),
                _ => (500, "InternalError"),
            },
            Self::Exhausted(_)
            | Self::Internal(_)
            | Self::Undecodable { .. }
            | Self::SeveralBudgets => (500, "InternalError"),
            Self::BadGateway(_) => (502, "InternalError"),
            Self::NodeUnreachable { .. } | Self::Unavailable(_) => (503, "ServiceUnavailable"),
            Self::Overloaded | Self::TooManyConnections(_) | Self::BudgetSpent { .. } => {
                (429, "TooManyRequests")
            }
            Self::FutureRevision { .. } | Self::TimedOut { .. } => (504, "Timeout"),
        }
    }

    /// Seconds after which a client should try again, for errors that pass.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u32> {
        let (code, _) = self.code_and_reason();
        // A node's tunnel was waited for already, and a backend may come back at any time or never: clients decide.
        if matches!(self, Self::NodeUnreachable { .. } | Self::Unavailable(_)) {
            return None;
        }
        let passing = matches!(self, Self::Contention { .. }) || matches!(code, 429 | 503 | 504);
        passing.then_some(1)
    }

    /// The `Status` object of this error.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let (code, reason) = self.code_and_reason();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason,
        });
        if let Self::Expired {
            continue_token: Some(token),
            ..
        } = self
        {
            status["metadata"]["continue"] = json!(token);
        }
        let details = self.details();
        if !details.as_object().is_none_or(serde_json::Map::is_empty) {
            status["details"] = details;
        }
        status["code"] = json!(code);
        status
    }

    fn details(&self) -> Value {
        let mut details = match self {
            Self::NotFound { kind, name }
            | Self::UnservedSubresource { kind, name, .. }
            | Self::AlreadyExists { kind, name }
            | Self::Conflict { kind, name, .. }
            | Self::Refused { kind, name, .. }
            | Self::Contention { kind, name } => of_kind(kind, name),
            Self::NamespaceTerminating {
                kind,
                name,
                namespace,
            } => {
                let mut details = of_kind(kind, name);
                details["causes"] = json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"),
                    "field": "metadata.namespace",
                }]);
                details
            }
            Self::Invalid {
                group,
                kind,
                name,
                causes,
            } => {
                let mut details = json!({"name": name});
                if !group.is_empty() {
                    details["group"] = json!(group);
                }
                details["kind"] = json!(kind);
                details["causes"] = causes
                    .iter()
                    .map(|cause| {
                        json!({
                            "reason": cause.reason.as_str(),
                            "message": cause.message,
                            "field": cause.field,
                        })
                    })
                    .collect();
                details
            }
            Self::BudgetSpent { cause } => {
                json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]})
            }
            Self::ApplyConflict(conflicts) => {
                let cause = |(manager, field)| {
                    json!({
                        "reason": "FieldManagerConflict",
                        "message": format!("conflict with {manager}"),
                        "field": field,
                    })
                };
                json!({"causes": conflicts.each().map(cause).collect::<Vec<_>>()})
            }
            Self::Forbidden {
                resource,
                group,
                name,
                ..
            } => {
                let mut details = json!({});
                for (key, value) in [("name", name), ("group", group), ("kind", resource)] {
                    if !value.is_empty() {
                        details[key] = json!(value);
                    }
                }
                details
            }
            Self::FutureRevision { .. } => json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            }),
            _ => json!({}),
        };
        if let Some(secs) = self.retry_after_secs() {
            details["retryAfterSeconds"] = json!(secs);
        }
        details
    }
}

fn of_kind(kind: &Kind, name: &str) -> Value {
    let mut details = json!({"name": name});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    details["kind"] = json!(kind.plural);
    details
}
