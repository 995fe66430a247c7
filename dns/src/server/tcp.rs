//! DNS over TCP (RFC 7766), within limits: a Pod that opens connections and keeps them must not take the descriptors of the
//! whole node. hickory-server's own listener has no limit, and turns without a pause when descriptors run out.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::handler::Handler;

/// Connections per listener; one more waits in the kernel until another has ended.
const MAX_CONNECTIONS: usize = 128;
/// Connections of one client address; one more is closed at once.
pub(super) const MAX_OF_CLIENT: usize = 32;
/// How long a client may take for one question, and for taking one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to try again after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const HEADER_BYTES: usize = 12;

/// Answers on a listener, for ever.
pub(super) async fn serve(listener: TcpListener, handler: Handler) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let clients = Clients::default();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a DNS connection cannot be accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Some(place) = clients.enter(client.ip()) else {
            tracing::debug!(%client, "a client has too many DNS connections");
            continue;
        };
        let handler = handler.clone();
        connections.spawn(async move {
            let _held = (slot, place);
            if let Err(error) = converse(stream, client, &handler).await {
                tracing::debug!(%client, %error, "a DNS connection broke");
            }
        });
    }
}

/// How many connections each client has.
#[derive(Clone, Default)]
struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Clients {
    fn enter(&self, client: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= MAX_OF_CLIENT {
            return None;
        }
        *count += 1;
        Some(Place {
            clients: self.clone(),
            client,
        })
    }
}

/// One connection of a client, as long as it lives.
struct Place {
    clients: Clients,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .clients
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Question after question until the client ends it, is too slow, or sends what is no question.
async fn converse(mut stream: TcpStream, client: SocketAddr, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let Some(question) = timeout(PATIENCE, read(&mut stream)).await?? else {
            return Ok(());
        };
        let Some(answer) = answer(question, client, handler).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), &answer[..]].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}

/// The next message; `None` when the client has ended the connection.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// The answer to a message; `None` when it deserves none: no header, or an answer itself.
async fn answer(message: Vec<u8>, client: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let head = *message.first_chunk::<HEADER_BYTES>()?;
    if head[2] & RESPONSE != 0 {
        return None;
    }
    let Ok(request) = Request::from_bytes(message, client, Protocol::Tcp) else {
        return Some(failure(head, ResponseCode::FormErr));
    };
    let kept = Kept::default();
    handler
        .handle_request::<_, TokioTime>(&request, kept.clone())
        .await;
    let encoded = std::mem::take(&mut *kept.0.lock().unwrap_or_else(PoisonError::into_inner));
    Some(encoded.unwrap_or_else(|| failure(head, ResponseCode::ServFail)))
}

/// QR, in the third byte of a header.
const RESPONSE: u8 = 0x80;
/// OPCODE and RD there: what an answer repeats.
const REPEATED: u8 = 0x79;

/// An answer of a header only: id, OPCODE and RD of the question.
fn failure(head: [u8; HEADER_BYTES], code: ResponseCode) -> Vec<u8> {
    let mut answer = vec![0; HEADER_BYTES];
    answer[..2].copy_from_slice(&head[..2]);
    answer[2] = RESPONSE | head[2] & REPEATED;
    answer[3] = code.low();
    answer
}

/// Encodes an answer and keeps it; `None` when it cannot be encoded.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Vec<u8>>>>);

#[async_trait]
impl ResponseHandler for Kept {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let sent = response.destructive_emit(&mut encoder)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(sent)
    }
}
