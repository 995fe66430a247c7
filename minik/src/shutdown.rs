//! SIGTERM and SIGINT as a future, and the signal that must not end anything.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Listens for the signals from now on; the future completes with the first of them.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn requested() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    })
}

/// From now on a file that has reached its size limit (`RLIMIT_FSIZE`) is an error to report, not the end of the process.
/// Programs that this one starts are not affected.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn report_file_size_limit() -> Result<()> {
    let limit = SignalKind::from_raw(nix::libc::SIGXFSZ);
    // The handler outlives this value.
    signal(limit).map(drop).context("listen for SIGXFSZ")
}
