use std::sync::Arc;

use dataplane::model::{Endpoint, Masquerade};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Reads until its client has closed, and only then answers with its name and what it got.
async fn endpoint(name: &'static str, family: Family) -> Endpoint {
    let any = match family {
        Family::V4 => "127.0.0.1:0",
        Family::V6 => "[::1]:0",
    };
    let listener = TcpListener::bind(any).await.expect("bind");
    let addr = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = String::new();
                stream.read_to_string(&mut got).await.expect("read");
                stream
                    .write_all(format!("{name} {got}").as_bytes())
                    .await
                    .expect("write");
            });
        }
    });
    Endpoint {
        addr: addr.ip(),
        port: NonZeroU16::new(addr.port()).expect("a port"),
    }
}

/// A port that nobody has at the moment, in either family.
fn free_port() -> NonZeroU16 {
    let socket = std::net::TcpListener::bind("[::]:0").expect("bind");
    NonZeroU16::new(socket.local_addr().expect("address").port()).expect("a port")
}

fn node_port(number: NonZeroU16, family: Family) -> Frontend {
    Frontend::NodePort {
        family,
        protocol: Protocol::Tcp,
        port: number,
    }
}

fn tcp(number: NonZeroU16, family: Family) -> Port {
    Port {
        number,
        family,
        spoken: Spoken::Tcp,
    }
}

fn local(inside: Endpoint) -> Fate {
    Fate::Local {
        outside: Arc::new([]),
        inside: Arc::new([inside]),
        affinity: None,
    }
}

fn balance(endpoint: Endpoint) -> Fate {
    Fate::Balance {
        endpoints: Arc::new([endpoint]),
        masquerade: Masquerade::Always,
        affinity: None,
    }
}

/// Says something, closes its half, and reads the answer.
async fn ask(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Asks until the answer is this; a listener comes and goes a little after its fate.
async fn eventually(addr: SocketAddr, wanted: Result<&str, io::ErrorKind>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let got = ask(addr).await.map_err(|error| error.kind());
        if got.as_deref().map_err(|kind| *kind) == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{addr}: wanted {wanted:?}, got {got:?}"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

fn change(ports: &LocalhostNodePorts, frontend: Frontend, fate: Option<Fate>) {
    ports.apply(LocalhostNodePorts::changes(
        [(&frontend, &fate)].into_iter(),
    ));
}

fn serve(ports: &LocalhostNodePorts) -> JoinHandle<()> {
    tokio::spawn(ports.clone().serve())
}

#[tokio::test]
async fn a_node_port_is_served_on_loopback_of_both_families_as_long_as_it_has_endpoints() {
    let (ports, number) = (LocalhostNodePorts::default(), free_port());
    let (v4, v6) = (node_port(number, Family::V4), node_port(number, Family::V6));
    let addr = |family| tcp(number, family).addr();
    let refused = Err(io::ErrorKind::ConnectionRefused);
    let a = endpoint("a", Family::V4).await;
    let b = endpoint("b", Family::V6).await;
    ports.replace(LocalhostNodePorts::of(
        &[(v4, balance(a)), (v6, local(b))].into(),
    ));
    let serving = serve(&ports);
    // Each side may close first: the answer comes after the client has closed its half.
    eventually(addr(Family::V4), Ok("a hello")).await;
    eventually(addr(Family::V6), Ok("b hello")).await;
    let c = endpoint("c", Family::V4).await;
    change(&ports, v4, Some(balance(c)));
    change(&ports, v6, Some(Fate::Reject));
    eventually(addr(Family::V4), Ok("c hello")).await;
    eventually(addr(Family::V6), refused).await;
    let mut open = TcpStream::connect(addr(Family::V4)).await.expect("connect");
    open.write_all(b"I was ").await.expect("write");
    // Connections are accepted in their order.
    eventually(addr(Family::V4), Ok("c hello")).await;
    change(&ports, v4, None);
    eventually(addr(Family::V4), refused).await;
    open.write_all(b"before").await.expect("write");
    open.shutdown().await.expect("shutdown");
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.expect("read");
    assert_eq!(
        answer, "c I was before",
        "a connection outlives its NodePort"
    );
    serving.abort();
}

#[tokio::test]
async fn a_client_without_an_endpoint_that_accepts_is_reset_and_a_taken_port_is_served_later() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let at = taken.local_addr().expect("address");
    let number = NonZeroU16::new(at.port()).expect("a port");
    let frontend = node_port(number, Family::V4);
    let gone = Endpoint {
        addr: [127, 0, 0, 1].into(),
        port: free_port(),
    };
    let ports = LocalhostNodePorts::default();
    ports.replace(LocalhostNodePorts::of(&[(frontend, balance(gone))].into()));
    let serving = serve(&ports);
    drop(taken);
    eventually(at, Err(io::ErrorKind::ConnectionReset)).await;
    let a = endpoint("a", Family::V4).await;
    change(&ports, frontend, Some(balance(a)));
    eventually(at, Ok("a hello")).await;
    serving.abort();
}

/// The protocols of one number have nothing to do with each other.
#[tokio::test]
async fn a_udp_node_port_is_served_beside_the_tcp_one_and_refused_when_it_goes() {
    let (ports, number) = (LocalhostNodePorts::default(), free_port());
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let of_udp = socket.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 64]).await {
            socket.send_to(b"by UDP", from).await.expect("send");
        }
    });
    let of_udp = Endpoint {
        addr: of_udp.ip(),
        port: NonZeroU16::new(of_udp.port()).expect("a port"),
    };
    let (v4, udp) = (
        node_port(number, Family::V4),
        Frontend::NodePort {
            family: Family::V4,
            protocol: Protocol::Udp,
            port: number,
        },
    );
    let of_tcp = endpoint("a", Family::V4).await;
    ports.replace(LocalhostNodePorts::of(
        &[(v4, balance(of_tcp)), (udp, local(of_udp))].into(),
    ));
    let serving = serve(&ports);
    let at = tcp(number, Family::V4).addr();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("bind");
    client.connect(at).await.expect("connect");
    let ask = async |wanted: Result<&str, io::ErrorKind>| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut buffer = [0; 64];
            let asked = async {
                client.send(b"hello").await?;
                client.recv(&mut buffer).await
            };
            let got = timeout(Duration::from_millis(200), asked).await;
            let got = got.map(|length| length.map_err(|error| error.kind()));
            if got == Ok(wanted.map(str::len)) {
                return;
            }
            assert!(Instant::now() < deadline, "wanted {wanted:?}, got {got:?}");
        }
    };
    ask(Ok("by UDP")).await;
    eventually(at, Ok("a hello")).await;
    change(&ports, udp, Some(Fate::Reject));
    ask(Err(io::ErrorKind::ConnectionRefused)).await;
    eventually(at, Ok("a hello")).await;
    serving.abort();
}

#[tokio::test]
async fn who_comes_when_all_places_are_taken_waits_for_one() {
    let (ports, number) = (LocalhostNodePorts::default(), free_port());
    let a = endpoint("a", Family::V4).await;
    change(&ports, node_port(number, Family::V4), Some(balance(a)));
    let port = tcp(number, Family::V4);
    let mut listeners = Listeners {
        open: BTreeMap::new(),
        tasks: JoinSet::new(),
        places: Arc::new(Semaphore::new(1)),
        clients: Limits {
            places: Arc::new(Semaphore::new(0)),
            idle: PATIENCE,
        },
        wanted: ports.wanted.subscribe(),
    };
    assert_eq!(listeners.follow(&[port]).await, 0);
    let mut first = TcpStream::connect(port.addr()).await.expect("connect");
    first.write_all(b"first").await.expect("write");
    let second = tokio::spawn(ask(port.addr()));
    let mut answer = String::new();
    assert!(!second.is_finished());
    first.shutdown().await.expect("shutdown");
    first.read_to_string(&mut answer).await.expect("read");
    assert_eq!(answer, "a first");
    let second = timeout(PATIENCE, second).await.expect("in time");
    assert_eq!(second.expect("task").expect("answer"), "a hello");
}
