//! TLS towards what is proxied. Nobody knows its CA: as upstream, any certificate is believed. The way there is the node's
//! tunnel, and nothing secret of the caller is passed on.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    tls::{AnyPeer, provider},
    tunnels::Dialled,
};

/// How long the other side may take for the handshake, as upstream.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn connect(
    stream: Dialled,
    host: &str,
    limit: Duration,
) -> io::Result<TlsStream<Dialled>> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyPeer::new(&provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    let connected = timeout(limit, connector.connect(name, stream)).await;
    connected.unwrap_or_else(|_| {
        let text = format!("no TLS handshake within {} s", limit.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s11_a_backend_that_says_nothing_to_a_handshake_is_given_up() {
        // Open, both ways, and silent.
        let (ours, _theirs) = tokio::io::duplex(1 << 16);
        let (silence, _held) = tokio::io::duplex(1);
        let stream = tokio::io::join(Box::new(silence) as _, ours);
        let connected = connect(stream, "192.0.2.1", Duration::from_millis(10)).await;
        let error = connected.err().expect("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
