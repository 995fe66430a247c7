//! A question over HTTP: a status from 200 to 399 is success.
//!
//! No proxy is used, certificates are not verified, and every question has a connection of its own.

use std::{
    pin::pin,
    sync::{Arc, LazyLock},
};

use api::core::HttpGetAction;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT as AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{OUTPUT_LIMIT_BYTES, Outcome, Target, USER_AGENT, connect, host_or, joined};

const MAX_REDIRECTS: usize = 10;

static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    crate::client::unverified(&[]).expect("the library's own defaults are consistent")
});

#[derive(Clone, Debug)]
pub(in crate::pods) struct Get {
    url: Url,
    /// What the question says, with `Host` if it is to be another.
    headers: HeaderMap,
}

/// Where a question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    is_tls: bool,
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

/// What came back, and what there was of a body.
pub(super) struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    #[error("Get \"{url}\": {reason}")]
    Failed { url: String, reason: String },
    /// Its beginning had come.
    #[error("reading the answer of {url}: {source}")]
    Body { url: String, source: hyper::Error },
}

impl Get {
    pub(super) fn new(get: &HttpGetAction, target: &Target, port: u16) -> Self {
        let url = Url {
            is_tls: get.scheme.eq_ignore_ascii_case("HTTPS"),
            host: host_or(&get.host, target),
            port,
            path: path(&get.path),
        };
        let headers = get.http_headers.iter();
        Self {
            url,
            headers: headers_of(headers.map(|header| (&*header.name, &*header.value))),
        }
    }

    pub(super) async fn probe(&self) -> Outcome {
        match self.answer().await {
            Ok(answer) if answer.status.is_redirection() => {
                let body = String::from_utf8_lossy(&answer.body);
                Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            Ok(answer) if answer.status.is_success() => Outcome::Success,
            // Without the body, which may tell what not everybody who sees Events is to know.
            Ok(answer) => Outcome::Failure(format!(
                "HTTP probe failed with statuscode: {}",
                answer.status.as_u16()
            )),
            Err(error @ GetError::Failed { .. }) => Outcome::Failure(error.to_string()),
            Err(error) => Outcome::Error(error.to_string()),
        }
    }

    pub(super) fn too_late(&self) -> String {
        format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            self.url.text()
        )
    }

    /// The answer, after redirects that stay on the same host.
    pub(super) async fn answer(&self) -> Result<Answer, GetError> {
        let (mut url, mut headers) = (self.url.clone(), self.headers.clone());
        for _ in 0..=MAX_REDIRECTS {
            let answer = url.get(&headers).await?;
            let follows = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let next = answer.location.as_deref().filter(|_| follows);
            match next.and_then(|location| url.join(location)) {
                Some(next) if next.host == self.url.host => {
                    // A `Host` that was asked for is that of one place only.
                    if (next.is_tls, next.port) != (url.is_tls, url.port) {
                        headers.remove(HOST);
                    }
                    url = next;
                }
                _ => return Ok(answer),
            }
        }
        Err(url.failed(format!("stopped after {MAX_REDIRECTS} redirects")))
    }
}

/// The headers of a probe: those asked for, and the usual ones. `Accept` and `User-Agent` that are asked for as empty are left out.
fn headers_of<'a>(asked: impl Iterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in asked {
        let name = HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    for (name, usual) in [(ACCEPT, "*/*"), (AGENT, USER_AGENT)] {
        match headers.get(&name) {
            None => _ = headers.insert(name, HeaderValue::from_static(usual)),
            Some(value) if value.is_empty() => _ = headers.remove(name),
            Some(_) => {}
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers
}

/// A path as it can stand in a request: what may not is escaped, and it begins with a slash.
fn path(text: &str) -> String {
    let mut path = String::from(if text.starts_with('/') { "" } else { "/" });
    for byte in text.bytes() {
        match byte {
            b'#' => break,
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => path += &escaped(byte),
            0x21..=0x7e => path.push(char::from(byte)),
            _ => path += &escaped(byte),
        }
    }
    path
}

fn escaped(byte: u8) -> String {
    format!("%{byte:02X}")
}

impl Url {
    fn text(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", joined(&self.host, self.port), self.path)
    }

    fn failed(&self, reason: impl ToString) -> GetError {
        GetError::Failed {
            url: self.text(),
            reason: reason.to_string(),
        }
    }

    /// Where a `Location` leads from here.
    fn join(&self, location: &str) -> Option<Self> {
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.is_tls { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        if location.contains("://") {
            return Self::parse(location);
        }
        let here = self.path.split('?').next().unwrap_or_default();
        let path = match location.as_bytes().first()? {
            b'/' => path(location),
            b'?' => path(&format!("{here}{location}")),
            _ => {
                let directory = here.rsplit_once('/').map_or("", |(directory, _)| directory);
                path(&format!("{directory}/{location}"))
            }
        };
        Some(Self {
            path,
            ..self.clone()
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        Some(Self {
            is_tls,
            host,
            port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }

    async fn get(&self, headers: &HeaderMap) -> Result<Answer, GetError> {
        let request = Request::get(&self.path).body(Empty::new());
        let mut request = request.map_err(|error| self.failed(error))?;
        *request.headers_mut() = headers.clone();
        if !headers.contains_key(HOST) {
            let host = HeaderValue::try_from(joined(&self.host, self.port));
            request
                .headers_mut()
                .insert(HOST, host.map_err(|e| self.failed(e))?);
        }
        let stream = connect(&self.host, self.port).await;
        let stream = stream.map_err(|error| self.failed(error))?;
        if !self.is_tls {
            return self.exchange(stream, request).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|e| self.failed(e))?;
        let connecting = TlsConnector::from(Arc::clone(&TLS)).connect(name, stream);
        let stream = connecting.await.map_err(|error| self.failed(error))?;
        self.exchange(stream, request).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Empty<Bytes>>,
    ) -> Result<Answer, GetError> {
        let handshake = http1::Builder::new()
            .title_case_headers(true)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| self.failed(error))?;
        let asking = async {
            let answer = sender.send_request(request).await;
            self.read(answer.map_err(|error| self.failed(error))?).await
        };
        let mut asking = pin!(asking);
        // The connection moves the bytes; when it is over, what came of the answer is still to be read.
        tokio::select! {
            biased;
            answer = &mut asking => answer,
            _ = connection => asking.await,
        }
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<Answer, GetError> {
        let location = answer.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let mut read = Answer {
            status: answer.status(),
            location: location.map(str::to_owned),
            body: Vec::new(),
        };
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| GetError::Body {
                url: self.text(),
                source,
            })?;
            let room = OUTPUT_LIMIT_BYTES - read.body.len();
            let piece = frame.data_ref().map_or(&[][..], |data| data);
            read.body.extend_from_slice(&piece[..piece.len().min(room)]);
            if read.body.len() == OUTPUT_LIMIT_BYTES {
                break;
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use serde_json::json;
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server with these answers by path, and what it was asked.
    async fn server(answers: &[(&'static str, String)]) -> (u16, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let answers: HashMap<_, _> = answers.iter().cloned().collect();
        let (told, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let _ = told.send(head);
                let answer = answers
                    .get(&*path)
                    .map_or("HTTP/1.1 404 N\r\n\r\n", |text| text);
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        (port, asked)
    }

    fn get(port: u16, path: &str, headers: serde_json::Value) -> super::super::Handler {
        let action: HttpGetAction = serde_json::from_value(json!({
            "port": port, "path": path, "host": "127.0.0.1", "httpHeaders": headers,
        }))
        .expect("an action");
        let headers = action.http_headers.iter();
        super::super::Handler::Http(Get {
            url: Url {
                is_tls: false,
                host: action.host.to_string(),
                port,
                path: super::path(&action.path),
            },
            headers: headers_of(headers.map(|header| (&*header.name, &*header.value))),
        })
    }

    #[tokio::test]
    async fn the_status_decides_and_redirects_stay_on_the_host() {
        let to = |location: &str| format!("HTTP/1.1 302 F\r\nLocation: {location}\r\n\r\nbody");
        let (port, _asked) = server(&[
            ("/", "HTTP/1.1 200 OK\r\n\r\nfine".to_owned()),
            ("/204", "HTTP/1.1 204 N\r\n\r\n".to_owned()),
            ("/399", "HTTP/1.1 399 N\r\n\r\n".to_owned()),
            ("/503", "HTTP/1.1 503 N\r\n\r\nsecret".to_owned()),
            ("/here", to("/204")),
            ("/a/relative", to("beside?x=1")),
            ("/a/beside?x=1", to("/503")),
            ("/elsewhere", to("http://localhost:1/")),
            ("/loop", to("/loop")),
            ("/garbage", "nonsense\r\n\r\n".to_owned()),
            (
                "/endless",
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}",
                    "x".repeat(64 << 10)
                ),
            ),
        ])
        .await;
        let redirected =
            Outcome::Warning("Probe terminated redirects, Response body: body".to_owned());
        let failed = |text: &str| Outcome::Failure(text.to_owned());
        for (path, wanted) in [
            ("/", Outcome::Success),
            ("204", Outcome::Success),
            (
                "/399",
                Outcome::Warning("Probe terminated redirects, Response body: ".to_owned()),
            ),
            ("/503", failed("HTTP probe failed with statuscode: 503")),
            ("/here", Outcome::Success),
            (
                "/a/relative",
                failed("HTTP probe failed with statuscode: 503"),
            ),
            ("/elsewhere", redirected),
            (
                "/loop",
                failed(&format!(
                    "Get \"http://127.0.0.1:{port}/loop\": stopped after 10 redirects"
                )),
            ),
            // More than the beginning of an answer is not waited for.
            ("/endless", Outcome::Success),
        ] {
            assert_eq!(
                get(port, path, json!([])).probe(LIMIT).await,
                wanted,
                "{path}"
            );
        }
        let garbage = get(port, "/garbage", json!([])).probe(LIMIT).await;
        assert!(
            matches!(&garbage, Outcome::Failure(why) if why.starts_with("Get \"http://127")),
            "{garbage:?}"
        );
    }

    #[tokio::test]
    async fn headers_are_those_asked_for_and_the_usual_ones() {
        let (port, mut asked) = server(&[]).await;
        let _ = get(port, "/a b?c=d#e", json!([])).probe(LIMIT).await;
        let usual = asked.recv().await.expect("it was asked");
        assert_eq!(
            usual,
            format!(
                "GET /a%20b?c=d HTTP/1.1\r\nAccept: */*\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            )
        );
        let headers = json!([
            {"name": "X-A", "value": "1"}, {"name": "X-A", "value": "2"}, {"name": "Host", "value": "example.com"},
            {"name": "User-Agent", "value": ""}, {"name": "Accept", "value": "text/plain"},
        ]);
        let _ = get(port, "/", headers).probe(LIMIT).await;
        let asked = asked.recv().await.expect("it was asked");
        for line in [
            "X-A: 1\r\nX-A: 2",
            "Host: example.com",
            "Accept: text/plain",
        ] {
            assert!(
                asked.contains(&format!("\r\n{line}\r\n")),
                "{line}: {asked}"
            );
        }
        assert!(!asked.contains("User-Agent"), "{asked}");
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_fails() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let late = get(port, "/", json!([]))
            .probe(Duration::from_millis(50))
            .await;
        let wanted = format!(
            "Get \"http://127.0.0.1:{port}/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        );
        assert_eq!(late, Outcome::Failure(wanted));
    }

    /// `openssl s_server` is not needed: the certificate is made here, and nobody vouches for it.
    #[tokio::test]
    async fn a_certificate_that_nobody_vouches_for_is_good_enough() {
        let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()])
            .expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut stream = BufReader::new(acceptor.accept(stream).await.expect("TLS"));
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a request");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .expect("an answer");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let super::super::Handler::Http(mut get) = get(port, "/", json!([])) else {
            unreachable!("it is one over HTTP");
        };
        get.url.is_tls = true;
        assert_eq!(
            super::super::Handler::Http(get).probe(LIMIT).await,
            Outcome::Success
        );
    }
}
