//! What can go wrong: always an operation, what it was about, and the cause.

use std::io;

use nix::errno::Errno;

/// The runtime's errors.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A system call or file operation failed.
    #[error("{operation} {subject}: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The cause.
        source: io::Error,
    },
    /// The shim is gone: its containers are too.
    #[error("the shim of pod {uid} is gone")]
    ShimGone {
        /// The Pod.
        uid: String,
    },
    /// The shim does not answer.
    #[error("the shim of pod {uid} does not answer")]
    ShimHangs {
        /// The Pod.
        uid: String,
    },
    /// The shim did not come up.
    #[error("the shim of pod {uid} did not start: {reason}")]
    ShimFailed {
        /// The Pod.
        uid: String,
        /// What it said.
        reason: String,
    },
    /// The shim refused a request.
    #[error("pod {uid}: {reason}")]
    Refused {
        /// The Pod.
        uid: String,
        /// Why.
        reason: String,
    },
    /// The other side speaks another language.
    #[error("pod {uid}: unexpected answer {answer:?}")]
    Protocol {
        /// The Pod.
        uid: String,
        /// What came.
        answer: String,
    },
}

/// Adds operation and subject to a cause.
pub(crate) trait Explain<T> {
    /// Turns a cause into a [`RuntimeError::Io`].
    fn explain(self, operation: &'static str, subject: impl ToString) -> Result<T, RuntimeError>;
}

impl<T> Explain<T> for io::Result<T> {
    fn explain(self, operation: &'static str, subject: impl ToString) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::Io {
            operation,
            subject: subject.to_string(),
            source,
        })
    }
}

impl<T> Explain<T> for Result<T, Errno> {
    fn explain(self, operation: &'static str, subject: impl ToString) -> Result<T, RuntimeError> {
        self.map_err(io::Error::from).explain(operation, subject)
    }
}
