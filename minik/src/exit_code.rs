//! What the exit code tells whoever supervises minik, in the numbers of `sysexits.h`.

use std::{error::Error, fmt, io};

use agent::{AgentError, ConfigError};
use apiserver::{pki::PkiError, registry::ApiError, server::ServerError, store::StoreError};

/// For `minik --help`; README.md has the same table. 2 is also clap's.
pub(crate) const HELP: &str = "\
Exit codes:
   0  done, or stopped by SIGTERM or SIGINT
   1  another failure
   2  a flag, an argument or a token that cannot work
  65  the store, a key or a certificate is damaged: restore it
  69  something needed is missing or in use: a port, the data directory, a feature of the kernel
  70  the store failed while serving, for example on a full or broken disk: mend it, start again
  74  a file cannot be read or written
  77  not permitted: no privileges, or the server refused the token
";

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const DATA: u8 = 65;
const UNAVAILABLE: u8 = 69;
const SOFTWARE: u8 = 70;
const IO: u8 = 74;
const NOT_PERMITTED: u8 = 77;

/// An error whose text tells its causes itself: as a chain they would be told twice.
#[derive(Debug)]
pub(crate) struct Told<E>(pub(crate) E);

impl<E: fmt::Display> fmt::Display for Told<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<E: fmt::Debug + fmt::Display> Error for Told<E> {}

/// The code for what ended a command.
pub(crate) fn of(error: &anyhow::Error) -> u8 {
    let known = error.chain().find_map(|cause| {
        let server = cause.downcast_ref().map(|Told(error)| of_server(error));
        let agent = || cause.downcast_ref().map(|Told(error)| of_agent(error));
        let config = || cause.downcast_ref().map(|Told::<ConfigError>(_)| USAGE);
        server.or_else(agent).or_else(config)
    });
    known.unwrap_or(OTHER)
}

fn of_server(error: &ServerError) -> u8 {
    match error {
        ServerError::Flag { .. } | ServerError::Inherited { .. } => USAGE,
        ServerError::AddressInUse { .. } => UNAVAILABLE,
        ServerError::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            NOT_PERMITTED
        }
        ServerError::Bind { .. } => UNAVAILABLE,
        ServerError::DataDir { source, .. } => of_io(source),
        ServerError::Pki(PkiError::File { source, .. }) => of_io(source),
        ServerError::Pki(
            PkiError::Damaged { .. } | PkiError::KeyMissing { .. } | PkiError::KeyMismatch { .. },
        ) => DATA,
        ServerError::Store(error) => of_store(error),
        ServerError::Bootstrap(ApiError::Store(error) | ApiError::NoSpace(error)) => {
            of_store(error)
        }
        ServerError::StoreFailed { .. } => SOFTWARE,
        ServerError::Listen { .. } | ServerError::Pki(_) | ServerError::Bootstrap(_) => OTHER,
    }
}

fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::Locked { .. } => UNAVAILABLE,
        StoreError::Corrupt { .. } => DATA,
        StoreError::Io { source, .. } => of_io(source),
        StoreError::NoSpace { .. } => IO,
        StoreError::Unavailable(_) => SOFTWARE,
        _ => OTHER,
    }
}

fn of_agent(error: &AgentError) -> u8 {
    if error.is_usage() {
        USAGE
    } else if error.is_not_permitted() {
        NOT_PERMITTED
    } else if error.is_unavailable() {
        UNAVAILABLE
    } else if error.is_io() {
        IO
    } else {
        OTHER
    }
}

fn of_io(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::PermissionDenied => NOT_PERMITTED,
        _ => IO,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn the_code_is_found_below_what_was_added_to_the_error() {
        let store = |error| Told(ServerError::Store(error));
        let locked = StoreError::Locked { path: "/x".into() };
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let unreadable = StoreError::Io {
            operation: "open",
            path: "/x".into(),
            source: denied(),
        };
        for (error, wanted) in [
            (anyhow!("anything"), OTHER),
            (store(locked).into(), UNAVAILABLE),
            (store(unreadable).into(), NOT_PERMITTED),
            (
                Told(AgentError::Join(agent::join::JoinError::NoToken)).into(),
                USAGE,
            ),
            (Told(ConfigError::HostName(denied())).into(), USAGE),
        ] {
            assert_eq!(of(&error), wanted, "{error}");
            let more = Err::<(), _>(error).context("while starting").unwrap_err();
            assert_eq!(of(&more), wanted, "{more:#}");
        }
    }

    #[test]
    fn every_code_is_in_the_help_and_in_the_readme() {
        let readme = include_str!("../../README.md");
        for code in [OTHER, USAGE, DATA, UNAVAILABLE, SOFTWARE, IO, NOT_PERMITTED] {
            assert!(HELP.contains(&format!("\n  {code:>2}  ")), "{code}: {HELP}");
            assert!(readme.contains(&format!("\n| {code} | ")), "{code}");
        }
    }
}
