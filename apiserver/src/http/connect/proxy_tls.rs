//! TLS towards what is proxied. Nobody knows its CA: as upstream, any certificate is believed. The way there is the node's
//! tunnel, and nothing secret of the caller is passed on.

use std::{io, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    tls::{AnyPeer, provider},
    tunnels::Dialled,
};

pub(super) async fn connect(stream: Dialled, host: &str) -> io::Result<TlsStream<Dialled>> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyPeer::new(&provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}
