//! The gRPC health protocol: one unary call of `grpc.health.v1.Health/Check`.
//!
//! It needs so little of gRPC that it is written here: a message is a flag, a length and the protobuf; the call's status is in
//! the trailers. Source: grpc/grpc doc/PROTOCOL-HTTP2.md, doc/health-checking.md.

use std::{net::IpAddr, pin::pin, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{OUTPUT_LIMIT_BYTES, Outcome, USER_AGENT, connect, joined};

/// The flag and the length before a message.
const PREFIX_BYTES: usize = 5;
/// `HealthCheckRequest.service` and `HealthCheckResponse.status`, both field 1: a length-delimited string and a varint.
const SERVICE_TAG: u8 = 1 << 3 | 2;
const STATUS_TAG: u8 = 1 << 3;
const SERVING: u64 = 1;
/// Codes of a call (`google.rpc.Code`).
const DEADLINE_EXCEEDED: u32 = 4;
const UNIMPLEMENTED: u32 = 12;

#[derive(Clone, Debug)]
pub(in crate::pods) struct Check {
    host: String,
    port: u16,
    service: String,
}

/// How a call ended that was answered.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// With this `ServingStatus`.
    Answered(u64),
    Refused {
        code: u32,
        message: String,
    },
}

impl Check {
    pub(super) fn new(address: IpAddr, port: u16, service: String) -> Self {
        Self {
            host: address.to_string(),
            port,
            service,
        }
    }

    pub(super) async fn run(&self, limit: Duration) -> Outcome {
        let stream = match connect(&self.host, self.port).await {
            Ok(stream) => stream,
            Err(error) => {
                let at = joined(&self.host, self.port);
                return Outcome::Failure(format!(
                    "error: failed to connect service at {at:?}: {error}"
                ));
            }
        };
        let failure = |why: String| Outcome::Failure(why);
        match self.call(TokioIo::new(stream)).await {
            Ok(Call::Answered(SERVING)) => Outcome::Success,
            Ok(Call::Answered(status)) => {
                let status = status_name(status);
                failure(format!("service unhealthy (responded with {status:?})"))
            }
            Ok(Call::Refused {
                code: UNIMPLEMENTED,
                message,
            }) => failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            )),
            Ok(Call::Refused {
                code: DEADLINE_EXCEEDED,
                ..
            }) => failure(self.too_late(limit)),
            Ok(Call::Refused { code, message }) => failure(format!(
                "error: health rpc probe failed: rpc error: code = {} desc = {message}",
                code_name(code)
            )),
            Err(error) => failure(format!("error: health rpc probe failed: {error}")),
        }
    }

    pub(super) fn too_late(&self, limit: Duration) -> String {
        format!("timeout: health rpc did not complete within {limit:?}")
    }

    async fn call(&self, stream: TokioIo<tokio::net::TcpStream>) -> Result<Call, String> {
        let handshake = http2::handshake(TokioExecutor::new(), stream).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let request = Request::post(format!(
            "http://{}/grpc.health.v1.Health/Check",
            joined(&self.host, self.port)
        ))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::new(message(&self.service)))
        .map_err(|error| error.to_string())?;
        let calling = async {
            let answer = sender.send_request(request).await;
            ended(answer.map_err(|error| error.to_string())?).await
        };
        let mut calling = pin!(calling);
        tokio::select! {
            biased;
            call = &mut calling => call,
            _ = connection => calling.await,
        }
    }
}

/// A `HealthCheckRequest` as it goes over the wire.
fn message(service: &str) -> Bytes {
    let mut request = BytesMut::new();
    if !service.is_empty() {
        request.put_u8(SERVICE_TAG);
        let mut length = service.len();
        while length >= 0x80 {
            request.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        request.put_u8(length as u8);
        request.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + request.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(request.len()).unwrap_or(u32::MAX));
    framed.put(request);
    framed.freeze()
}

async fn ended(answer: Response<Incoming>) -> Result<Call, String> {
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("unexpected HTTP status code {}", head.status));
    }
    // A call that is refused at once has no body, and its status in the first headers.
    if let Some(refused) = refused(&head.headers) {
        return Ok(refused);
    }
    let body = Limited::new(body, OUTPUT_LIMIT_BYTES).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    if let Some(refused) = refused(&trailers) {
        return Ok(refused);
    }
    let status = serving_status(&body.to_bytes());
    status
        .map(Call::Answered)
        .ok_or_else(|| "the answer is no HealthCheckResponse".to_owned())
}

/// What the trailers say, unless it is that all is well.
fn refused(trailers: &HeaderMap) -> Option<Call> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?
        .parse()
        .ok()
        .filter(|code| *code != 0)?;
    let message = text("grpc-message").unwrap_or_default().to_owned();
    Some(Call::Refused { code, message })
}

/// `HealthCheckResponse.status`; a field that is missing is 0. `None` when this is no such message.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    // A compressed one was not asked for.
    if prefix[0] != 0 || message.len() != usize::try_from(length).ok()? {
        return None;
    }
    match message {
        [] => Some(0),
        // Later fields may follow; this one's values fit into a byte.
        [STATUS_TAG, status, ..] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

fn status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        SERVING => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

fn code_name(code: u32) -> String {
    let names = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let known = usize::try_from(code)
        .ok()
        .and_then(|index| names.get(index));
    known.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http_body_util::StreamBody;
    use hyper::{body::Frame, server::conn::http2 as server, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A health service: the status of the service `a` is SERVING, of `b` NOT_SERVING, and others are unknown to it.
    async fn answer(
        request: Request<Incoming>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible>
    {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()[header::CONTENT_TYPE], "application/grpc");
        let asked = request
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let (status, code) = match &asked[PREFIX_BYTES..] {
            // Written out, as protoc encodes `service: "a"`.
            [0x0a, 1, b'a'] => (Some(1), "0"),
            [0x0a, 1, b'b'] => (Some(2), "0"),
            [] => (None, "12"),
            _ => (None, "5"),
        };
        let mut frames = Vec::new();
        if let Some(status) = status {
            frames.push(Ok(Frame::data(Bytes::from(vec![
                0, 0, 0, 0, 2, 0x08, status,
            ]))));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().expect("a value"));
        trailers.insert("grpc-message", "so it is".parse().expect("a value"));
        frames.push(Ok(Frame::trailers(trailers)));
        Ok(Response::new(StreamBody::new(futures_util::stream::iter(
            frames,
        ))))
    }

    async fn port() -> u16 {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = server::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        port
    }

    #[tokio::test]
    async fn the_serving_status_of_the_service_decides() {
        let port = port().await;
        let failed = |text: &str| Outcome::Failure(text.to_owned());
        for (service, wanted) in [
            ("a", Outcome::Success),
            (
                "b",
                failed("service unhealthy (responded with \"NOT_SERVING\")"),
            ),
            (
                "",
                failed(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): so it is",
                ),
            ),
            (
                "other",
                failed(
                    "error: health rpc probe failed: rpc error: code = NotFound desc = so it is",
                ),
            ),
        ] {
            let check = Check::new(IpAddr::from([127, 0, 0, 1]), port, service.to_owned());
            assert_eq!(check.run(LIMIT).await, wanted, "{service}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let free = listener.local_addr().expect("bound").port();
        drop(listener);
        let check = Check::new(IpAddr::from([127, 0, 0, 1]), free, String::new());
        let wanted = format!(
            "error: failed to connect service at \"127.0.0.1:{free}\": dial tcp 127.0.0.1:{free}: connect: connection refused"
        );
        assert_eq!(check.run(LIMIT).await, Outcome::Failure(wanted));
    }

    #[test]
    fn messages_are_framed_as_the_protocol_says() {
        assert_eq!(&message("")[..], [0; 5]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        for (body, wanted) in [
            (&[0, 0, 0, 0, 0][..], Some(0)),
            (&[0, 0, 0, 0, 2, 8, 3], Some(3)),
            (&[0, 0, 0, 0, 3, 8, 3], None),
            (&[1, 0, 0, 0, 2, 8, 3], None),
            (&[0, 0], None),
        ] {
            assert_eq!(serving_status(body), wanted, "{body:?}");
        }
    }
}
