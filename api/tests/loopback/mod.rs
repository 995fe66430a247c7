//! Just enough of an HTTP server on loopback to hear what kubectl sends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Method and path without query: `GET /api/v1`.
    pub(crate) line: String,
    /// The `Content-Type`.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// A server that answers every request by a function and remembers it. It ends when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a free port; `answer` gives code and JSON.
    pub(crate) fn start(answer: impl Fn(&Request) -> (u16, Value) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (heard, end) = (requests.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::Acquire) {
                    return;
                }
                // A client that hangs up has had enough; what it wanted was heard, or is missed by the test.
                drop(serve(&stream, &answer, &heard));
            }
        });
        Self {
            address,
            requests,
            ends,
            thread: Some(thread),
        }
    }

    /// kubectl, talking to this server and to nothing else.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = kubectl();
        command.arg(format!("--server=http://{}", self.address));
        command
    }

    /// What came in so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .expect("no thread panics with it")
            .clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// kubectl without the user's configuration, cache and proxies.
pub(crate) fn kubectl() -> Command {
    let mut command = Command::new("kubectl");
    command.env("KUBECONFIG", "/dev/null");
    for proxy in [
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(proxy);
    }
    command
}

/// The answer for what is not there, or may not be done.
pub(crate) fn refusal(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}),
    )
}

/// The request counts as heard before it is answered: kubectl ends with the answer, and the test goes on.
fn serve(
    stream: &TcpStream,
    answer: &impl Fn(&Request) -> (u16, Value),
    heard: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let request = read(stream)?;
    heard
        .lock()
        .expect("no thread panics with it")
        .push(request.clone());
    let (code, body) = answer(&request);
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nConnection: close");
    write!(
        &mut (&*stream),
        "{head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut length, mut content_type, mut header) = (0, String::new(), String::new());
    loop {
        header.clear();
        reader.read_line(&mut header)?;
        match header.trim().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap_or(0)
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-type") => {
                value.clone_into(&mut content_type)
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = line
        .split(['?', '\r'])
        .next()
        .unwrap_or_default()
        .trim_end_matches(" HTTP/1.1")
        .to_owned();
    Ok(Request {
        line,
        content_type,
        body,
    })
}
