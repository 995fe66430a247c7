//! `minik fetch`: asks an `echo` server, by name or address, and tells who answered.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use agent::client::{Client, ClientConfig, Identity};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// The pause between two attempts of `--retry`.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest answer that is read.
const LIMIT_BYTES: u64 = 1 << 20;

/// Where a Pod finds what its ServiceAccount has.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What to ask.
#[derive(Args, Debug)]
pub(crate) struct FetchArgs {
    /// `http://NAME[:PORT]/PATH`, `tcp://NAME:PORT`, `udp://NAME:PORT`, or with --service-account
    /// `https://NAME[:PORT]/PATH`.
    #[arg(value_parser = parse_target)]
    target: Target,
    /// How many connections to make, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Print each answer as it came, one line each, and nothing else.
    #[arg(long)]
    json: bool,
    /// Seconds until a name or connection without an answer is given up.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    connect_timeout: u16,
    /// Seconds to go on trying until the first answer.
    #[arg(long, default_value_t = 0)]
    retry: u16,
    /// Keep one TCP connection open: send each line of standard input, print each line that comes back.
    #[arg(long, conflicts_with_all = ["count", "json", "retry"])]
    lines: bool,
    /// Ask the API as the ServiceAccount of the Pod this runs in: trust `ca.crt` of this directory, and show its `token`.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = SERVICE_ACCOUNT)]
    service_account: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

fn parse_target(text: &str) -> Result<Target, String> {
    let wrong = |what: &str| {
        format!(
            "{text:?}: {what}; wanted http://NAME[:PORT]/PATH, https://NAME[:PORT]/PATH, tcp://NAME:PORT or udp://NAME:PORT"
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no scheme"))?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "tcp" => Scheme::Tcp,
        "udp" => Scheme::Udp,
        _ => return Err(wrong("unknown scheme")),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (
            host,
            Some(
                port.parse()
                    .map_err(|_| wrong("the port is not a number from 1 to 65535"))?,
            ),
        ),
        _ => (authority, None),
    };
    let port = match (port, scheme) {
        (Some(0), _) => return Err(wrong("the port is not a number from 1 to 65535")),
        (Some(port), _) => port,
        (None, Scheme::Http) => 80,
        (None, Scheme::Https) => 443,
        (None, _) => return Err(wrong("no port")),
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    if host.is_empty() {
        return Err(wrong("no name"));
    }
    let path = if path.is_empty() { "/" } else { path }.to_owned();
    Ok(Target {
        scheme,
        host,
        port,
        path,
    })
}

/// Asks, prints, and fails when an answer is missing.
pub(crate) fn run(args: &FetchArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        if args.lines {
            converse(args).await
        } else {
            ask_all(args).await
        }
    })
}

async fn ask_all(args: &FetchArgs) -> Result<()> {
    let mut tally: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..args.count {
        let started = Instant::now();
        let (addr, answer) = match ask_once(args).await {
            Err(error) if number == 0 && args.retry > 0 => ask_again(args, error).await?,
            other => other?,
        };
        if args.json {
            println!("{}", answer.trim_end());
        } else if args.count == 1 {
            println!("-> {} ({addr})", describe(&args.target));
            println!(
                "<- {} ({:.1} ms)",
                answer.trim_end(),
                started.elapsed().as_secs_f64() * 1e3
            );
        }
        *tally.entry(who(&answer)).or_default() += 1;
    }
    if args.count > 1 && !args.json {
        println!(
            "-> {} connections to {}",
            args.count,
            describe(&args.target)
        );
        tally
            .iter()
            .for_each(|(who, count)| println!("<- {count} answered by {who}"));
    }
    Ok(())
}

async fn ask_again(args: &FetchArgs, mut last: anyhow::Error) -> Result<(SocketAddr, String)> {
    let deadline = Instant::now() + Duration::from_secs(args.retry.into());
    while Instant::now() < deadline {
        tokio::time::sleep(RETRY_PAUSE).await;
        match ask_once(args).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(last.context(format!("no answer within {} s", args.retry)))
}

async fn ask_once(args: &FetchArgs) -> Result<(SocketAddr, String)> {
    let target = &args.target;
    let limit = Duration::from_secs(args.connect_timeout.into());
    let addr = SocketAddr::new(resolve(&target.host, limit).await?, target.port);
    let asking = async {
        match target.scheme {
            Scheme::Http => ask_http(addr, target).await,
            Scheme::Https => ask_https(addr, args).await,
            Scheme::Tcp => ask_tcp(addr).await,
            Scheme::Udp => ask_udp(addr).await,
        }
    };
    let answer = timeout(limit, asking)
        .await
        .map_err(|_| {
            anyhow!(
                "no answer from {addr} within {} s (timeout)",
                args.connect_timeout
            )
        })?
        .with_context(|| format!("ask {} at {addr}", describe(target)))?;
    Ok((addr, answer))
}

/// The first address of a name. An address is its own.
async fn resolve(host: &str, limit: Duration) -> Result<IpAddr> {
    if let Ok(addr) = host.parse() {
        return Ok(addr);
    }
    let addrs = timeout(limit, dns::client::resolve(host))
        .await
        .map_err(|_| {
            let secs = limit.as_secs();
            anyhow!("look up {host}: no DNS server of /etc/resolv.conf answered within {secs} s")
        })?
        .with_context(|| format!("look up {host}"))?;
    addrs
        .first()
        .copied()
        .with_context(|| format!("look up {host}: the name has no address"))
}

async fn ask_http(addr: SocketAddr, target: &Target) -> Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        target.path, target.host
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LIMIT_BYTES).read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("HTTP status {status}: {}", body.trim_end());
    }
    Ok(body.to_owned())
}

/// Asks the API. Its certificate is valid for its addresses, so the one that was found is as good as the name.
async fn ask_https(addr: SocketAddr, args: &FetchArgs) -> Result<String> {
    let dir = args.service_account.as_ref();
    let dir = dir.context("https:// needs --service-account: whom to trust, and who asks")?;
    let read = |name: &str| {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path);
        text.with_context(|| format!("read {}", path.display()))
    };
    let client = Client::new(ClientConfig {
        server: format!("https://{addr}"),
        ca_pem: read("ca.crt")?,
        identity: Identity::Bearer(read("token")?),
    })?;
    let answer = client.send(Method::GET, &args.target.path, None, Bytes::new());
    Ok(String::from_utf8_lossy(&answer.await?).into_owned())
}

async fn ask_tcp(addr: SocketAddr) -> Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(addr).await?);
    stream.write_all(b"hello\n").await?;
    let mut answer = String::new();
    if stream.read_line(&mut answer).await? == 0 {
        bail!("the connection was closed without an answer");
    }
    Ok(answer)
}

async fn ask_udp(addr: SocketAddr) -> Result<String> {
    let any: SocketAddr = if addr.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    socket.send(b"hello\n").await?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

async fn converse(args: &FetchArgs) -> Result<()> {
    let target = &args.target;
    if target.scheme != Scheme::Tcp {
        bail!("--lines needs a tcp:// target");
    }
    let limit = Duration::from_secs(args.connect_timeout.into());
    let addr = SocketAddr::new(resolve(&target.host, limit).await?, target.port);
    let stream = timeout(limit, TcpStream::connect(addr))
        .await
        .map_err(|_| {
            anyhow!(
                "no answer from {addr} within {} s (timeout)",
                args.connect_timeout
            )
        })?
        .with_context(|| format!("connect to {addr}"))?;
    stream.set_nodelay(true).context("send lines at once")?;
    let (mut from, mut to) = stream.into_split();
    let sending = async {
        copy(&mut tokio::io::stdin(), &mut to)
            .await
            .context("send standard input")?;
        to.shutdown().await.context("end the sending half")
    };
    let receiving = async {
        let mut stdout = tokio::io::stdout();
        let mut buffer = [0; 4096];
        loop {
            let length = from.read(&mut buffer).await.context("receive")?;
            if length == 0 {
                return Ok::<_, anyhow::Error>(());
            }
            stdout.write_all(&buffer[..length]).await.context("print")?;
            stdout.flush().await.context("print")?;
        }
    };
    tokio::try_join!(sending, receiving).map(drop)
}

fn describe(target: &Target) -> String {
    let Target {
        scheme,
        host,
        port,
        path,
    } = target;
    match scheme {
        Scheme::Http => format!("GET http://{host}:{port}{path}"),
        Scheme::Https => format!("GET https://{host}:{port}{path}"),
        Scheme::Tcp => format!("tcp://{host}:{port}"),
        Scheme::Udp => format!("udp://{host}:{port}"),
    }
}

/// The host name in an answer of `minik echo`; of any other server, its first line.
fn who(answer: &str) -> String {
    let hostname = serde_json::from_str::<Value>(answer)
        .ok()
        .and_then(|json| json["hostname"].as_str().map(str::to_owned));
    hostname.unwrap_or_else(|| answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_a_scheme_a_name_and_a_port() {
        let target =
            |text: &str| parse_target(text).map(|target| (target.host, target.port, target.path));
        assert_eq!(
            target("http://my-service/"),
            Ok(("my-service".into(), 80, "/".into()))
        );
        assert_eq!(
            target("http://a.b:8080/x?y"),
            Ok(("a.b".into(), 8080, "/x?y".into()))
        );
        assert_eq!(
            target("tcp://[2001:db8::1]:5"),
            Ok(("2001:db8::1".into(), 5, "/".into()))
        );
        assert_eq!(
            target("http://[2001:db8::1]"),
            Ok(("2001:db8::1".into(), 80, "/".into()))
        );
        for text in [
            "my-service",
            "ftp://x",
            "tcp://x",
            "http://",
            "tcp://x:0",
            "tcp://x:99999",
            "udp://:5",
        ] {
            assert!(parse_target(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_tally_counts_by_host_name() {
        assert_eq!(who("{\"hostname\":\"a1\"}\n"), "a1");
        assert_eq!(who("hello\nworld"), "hello");
    }
}
