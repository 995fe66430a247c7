//! TCP connections to Pods of this node, and to the node itself: for port-forward and proxy.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use api::tunnel::{Destination, PodRef};
use http::StatusCode;
use nix::sched::{CloneFlags, setns};
use runtime::RuntimeError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Node, Refusal,
    body::{Inbound, Outbound, Sender},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const PIECE_BYTES: usize = 32 << 10;

pub(super) async fn serve(
    node: &Arc<Node>,
    wanted: Destination,
    inbound: Inbound,
) -> Result<Outbound, Refusal> {
    let stream = match wanted {
        Destination::Inside { pod, port } => inside(node, &pod, port).await?,
        Destination::Address { ip, port } => address(node, ip, port).await?,
    };
    // Who forwards a keystroke wants it now.
    let _ = stream.set_nodelay(true);
    let (to, body) = Outbound::new();
    let (from, into) = stream.into_split();
    // Each direction ends by itself; when the server gives the stream up, both do.
    tokio::spawn(send(inbound, into));
    tokio::spawn(receive(from, to));
    Ok(body)
}

/// `localhost` of the Pod: what listens there only is reached, too.
async fn inside(node: &Arc<Node>, pod: &PodRef, port: u16) -> Result<TcpStream, Refusal> {
    let (runtime, uid) = (node.runtime.clone(), pod.uid.clone());
    let netns = spawn_blocking(move || runtime.pod(&uid)?.netns()).await;
    let netns = match netns.expect("the runtime does not panic") {
        Err(RuntimeError::ShimGone { .. }) => {
            return Err(Refusal::not_here("the network", pod, &node.name));
        }
        other => other?,
    };
    let PodRef {
        namespace, name, ..
    } = pod;
    let subject = format!("port {port} inside pod {namespace}/{name}");
    let mut last = None;
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        match connect(|| socket_in(&netns, ip), SocketAddr::new(ip, port)).await {
            Ok(stream) => return Ok(stream),
            // The first address is the usual one: its failure says more.
            Err(error) => {
                last.get_or_insert(error);
            }
        }
    }
    let error = last.map_or_else(String::new, |error| error.to_string());
    Err(failed(&subject, &error))
}

/// An address of a Pod of this node, or the node's own. Nothing else: this is no way into the node's neighbourhood.
async fn address(node: &Node, ip: IpAddr, port: u16) -> Result<TcpStream, Refusal> {
    if !node.ips.contains(ip) && !node.pods.borrow().addresses.contains(&ip) {
        let text = format!("{ip} is no address of node {} or of a Pod on it", node.name);
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    let target = SocketAddr::new(ip, port);
    connect(|| socket(ip), target)
        .await
        .map_err(|error| failed(&target.to_string(), &error.to_string()))
}

fn failed(subject: &str, error: &str) -> Refusal {
    Refusal(
        StatusCode::BAD_GATEWAY,
        format!("failed to connect to {subject}: {error}"),
    )
}

async fn connect(
    socket: impl FnOnce() -> io::Result<TcpSocket>,
    target: SocketAddr,
) -> io::Result<TcpStream> {
    let connecting = socket()?.connect(target);
    let connected = timeout(CONNECT_LIMIT, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn socket(ip: IpAddr) -> io::Result<TcpSocket> {
    match ip {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// A socket belongs to the namespace it was opened in, whichever thread uses it later: a thread of its own enters the Pod's.
fn socket_in(netns: &OwnedFd, ip: IpAddr) -> io::Result<TcpSocket> {
    let opened = thread::scope(|scope| {
        let enter = || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            socket(ip)
        };
        scope.spawn(enter).join()
    });
    opened.expect("opening a socket does not panic")
}

async fn send(mut from: Inbound, mut to: OwnedWriteHalf) {
    while let Ok(Some(bytes)) = from.bytes().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn receive(mut from: OwnedReadHalf, to: Sender) {
    let mut bytes = vec![0; PIECE_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            () = to.closed() => return,
        };
        let piece = match read {
            Ok(0) => return,
            Ok(length) => Ok(bytes[..length].to_vec().into()),
            Err(error) => Err(error),
        };
        let broken = piece.is_err();
        if to.send(piece).await.is_err() || broken {
            return;
        }
    }
}
