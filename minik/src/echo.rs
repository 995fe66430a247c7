//! `minik echo`: a server that tells who answered and who asked, over TCP, UDP and HTTP.
//!
//! It is the entry point of the built-in image `minik.dev/echo`, so it runs as process 1 and ends on SIGTERM by itself: it
//! listens no more, finishes the connections it has and ends with the last of them. A second signal ends it at once.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use futures_util::FutureExt;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::{JoinSet, LocalSet, spawn_local},
};

use crate::shutdown;

/// The port of the demo's Service, served when no flag names another.
const DEFAULT_PORT: u16 = 9376;
/// The longest request line with headers, and the longest line, that is read.
const LIMIT_BYTES: u64 = 16 * 1024;

/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen. Every flag can be repeated.
#[derive(Args, Debug)]
pub(crate) struct EchoArgs {
    /// Answer HTTP on this port: `/`, `/hostname`, `/clientip`, `/environment`, `/healthz`.
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
    /// Answer every line of a TCP connection on this port.
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// Answer every datagram on this port.
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,
}

/// Who answered, to whom, and what had been sent.
#[derive(Serialize)]
struct Answer<'a> {
    hostname: &'a str,
    /// The address the connection arrived at.
    server: String,
    /// The source address as this side sees it.
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<&'a str>,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &EchoArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(LocalSet::new().run_until(serve(args)))
}

async fn serve(args: &EchoArgs) -> Result<()> {
    let stop = shutdown::requested()?;
    let hostname: Rc<str> = nix::unistd::gethostname()
        .context("read the host name")?
        .to_string_lossy()
        .into_owned()
        .into();
    let none_given = args.http.is_empty() && args.tcp.is_empty() && args.udp.is_empty();
    let http = if none_given {
        &[DEFAULT_PORT][..]
    } else {
        &args.http
    };
    let (stopping, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    for port in http {
        let listener = listen("--http", *port).await?;
        servers.spawn_local(accept(
            listener,
            hostname.clone(),
            stopped.clone(),
            answer_http,
        ));
    }
    for port in &args.tcp {
        let listener = listen("--tcp", *port).await?;
        servers.spawn_local(accept(
            listener,
            hostname.clone(),
            stopped.clone(),
            answer_lines,
        ));
    }
    for port in &args.udp {
        let socket = UdpSocket::bind(any(*port))
            .await
            .with_context(|| format!("--udp {port}: cannot listen"))?;
        spawn_local(answer_datagrams(socket, hostname.clone()));
    }
    tracing::info!(%hostname, ?http, tcp = ?args.tcp, udp = ?args.udp, "listening");
    stop.await;
    let again = shutdown::requested()?;
    drop(stopping);
    tokio::select! {
        () = again => {}
        // Whoever waits for an answer gets it, as in any server that is to be replaced while it is used.
        _ = servers.join_all() => {}
    }
    Ok(())
}

/// The wildcard address of both families.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

async fn listen(flag: &str, port: u16) -> Result<TcpListener> {
    TcpListener::bind(any(port))
        .await
        .with_context(|| format!("{flag} {port}: cannot listen"))
}

/// Answers connections until `stopped` is closed, and those that it has until their ends.
async fn accept<F>(
    listener: TcpListener,
    hostname: Rc<str>,
    mut stopped: watch::Receiver<()>,
    answer: impl Fn(TcpStream, Rc<str>) -> F,
) where
    F: Future<Output = io::Result<()>> + 'static,
{
    let mut connections = JoinSet::new();
    let answer = |stream: TcpStream| {
        // Without it only the latency suffers.
        let _ = stream.set_nodelay(true);
        answer(stream, hostname.clone())
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = connections.spawn_local(answer(stream)),
                // The client is gone again, or descriptors have run out: both pass.
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // A client that breaks off concerns nobody else.
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    // Those whose handshake is over would be reset.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        connections.spawn_local(answer(stream));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn answer_lines(stream: TcpStream, hostname: Rc<str>) -> io::Result<()> {
    let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while (&mut stream).take(LIMIT_BYTES).read_line(&mut line).await? > 0 {
        let answer = encode(&hostname, server, client, Some(line.trim_end()));
        stream.write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

async fn answer_datagrams(socket: UdpSocket, hostname: Rc<str>) -> io::Result<()> {
    let server = socket.local_addr()?;
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error about an earlier answer surfaces here and is nobody's fault.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let line = String::from_utf8_lossy(&buffer[..length]);
        let answer = encode(&hostname, server, client, Some(line.trim_end()));
        let _ = socket.send_to(answer.as_bytes(), client).await;
    }
}

async fn answer_http(stream: TcpStream, hostname: Rc<str>) -> io::Result<()> {
    let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
    let mut stream = BufReader::new(stream);
    let request = read_head(&mut stream).await?;
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (status, kind, body) = match path {
        "/" => (
            "200 OK",
            "application/json",
            encode(&hostname, server, client, None),
        ),
        "/hostname" => ("200 OK", "text/plain", format!("{hostname}\n")),
        "/clientip" => ("200 OK", "text/plain", format!("{}\n", canonical(client))),
        "/environment" => ("200 OK", "text/plain", environment()),
        "/healthz" => ("200 OK", "text/plain", "ok\n".to_owned()),
        _ => ("404 Not Found", "text/plain", format!("no page {path}\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await
}

/// Reads up to the empty line that ends the header, and returns the request line.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = stream.take(LIMIT_BYTES);
    let mut request = String::new();
    head.read_line(&mut request).await?;
    let mut line = String::new();
    while head.read_line(&mut line).await? > 2 {
        line.clear();
    }
    Ok(request)
}

fn environment() -> String {
    let mut lines: Vec<_> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.concat()
}

fn encode(hostname: &str, server: SocketAddr, client: SocketAddr, line: Option<&str>) -> String {
    let answer = Answer {
        hostname,
        server: canonical(server),
        client: canonical(client),
        line,
    };
    let json = serde_json::to_string(&answer).expect("strings are always JSON");
    json + "\n"
}

/// An IPv4 client of the IPv6 wildcard socket is shown as IPv4.
fn canonical(addr: SocketAddr) -> String {
    SocketAddr::new(addr.ip().to_canonical(), addr.port()).to_string()
}
