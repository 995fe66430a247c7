//! SIGTERM and SIGINT as a future.

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
