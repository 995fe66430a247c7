//! Real sockets on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use proptest::prelude::*;

use super::handler::Handler;
use super::{Config, Running, Server, ServerError};
use crate::Zone;
use crate::records::{Change, Host, Port, Service};
use crate::zone;

const TIMEOUT: Duration = Duration::from_secs(10);

fn service(name: &str, records: Service) -> Change {
    Change::Service {
        namespace: "default".into(),
        name: name.into(),
        records: Some(records),
    }
}

fn a_zone() -> Zone {
    let zone = Zone::new(zone::Config::default()).unwrap();
    let host = |n: u32| Host {
        hostname: None,
        addr: std::net::Ipv4Addr::from(0x0af4_0000 + n).into(),
        ports: vec![Port {
            name: "http".into(),
            protocol: "tcp",
            number: 80,
        }],
    };
    let addrs = vec!["10.96.0.7".parse().unwrap()];
    zone.apply(vec![
        service(
            "web",
            Service::Virtual {
                addrs,
                ports: vec![],
            },
        ),
        service(
            "many",
            Service::Headless {
                hosts: (1..=200).map(host).collect(),
            },
        ),
        service(
            "five",
            Service::Headless {
                hosts: (1..=5).map(host).collect(),
            },
        ),
        service(
            "db",
            Service::Alias {
                target: "db.example.org".into(),
            },
        ),
    ]);
    zone.set_synced(true);
    zone
}

fn start(upstreams: Vec<SocketAddr>, threads: usize) -> (Running, SocketAddr) {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        upstreams,
        threads: NonZeroUsize::new(threads).unwrap(),
    };
    let server = Server::bind(config, a_zone()).unwrap();
    let addr = server.local_addrs()[0];
    (server.serve().unwrap(), addr)
}

fn question(name: &str, qtype: RecordType, edns_bytes: Option<u16>) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
    message.edns = edns_bytes.map(|bytes| {
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        edns
    });
    message
}

fn over_udp(server: SocketAddr, message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).unwrap();
    let mut buffer = [0; 65_535];
    let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, server, "the answer comes from the address asked");
    (Message::from_vec(&buffer[..bytes]).unwrap(), bytes)
}

fn over_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let bytes = message.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, &bytes[..]].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn udp(server: SocketAddr, name: &str, qtype: RecordType) -> Message {
    over_udp(server, &question(name, qtype, Some(1232))).0
}

/// An upstream that knows `*.example.org` as 192.0.2.42 and nothing else. Ends with the test process.
fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((bytes, client)) = socket.recv_from(&mut buffer) {
            let Ok(asked) = Message::from_vec(&buffer[..bytes]) else {
                continue;
            };
            let answer = upstream_answer(&asked);
            let _client_may_be_gone = socket.send_to(&answer.to_vec().unwrap(), client);
        }
    });
    addr
}

fn upstream_answer(asked: &Message) -> Message {
    let query = &asked.queries[0];
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let known = Name::from_ascii("example.org.")
        .unwrap()
        .zone_of(query.name());
    match known && query.query_type() == RecordType::A {
        true => {
            let addr = RData::A("192.0.2.42".parse().unwrap());
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, addr));
        }
        false => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer
}

#[test]
fn a_service_is_answered_over_udp_and_tcp_with_the_case_of_the_question() {
    let (_running, server) = start(vec![], 2);
    let asked = question("Web.default.SVC.cluster.local.", RecordType::A, None);
    for answer in [over_udp(server, &asked).0, over_tcp(server, &asked)] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(
            answer.answers[0].name.to_ascii(),
            "Web.default.SVC.cluster.local."
        );
        assert_eq!(
            answer.answers[0].data,
            RData::A("10.96.0.7".parse().unwrap())
        );
        assert!(answer.edns.is_none(), "no OPT unasked");
    }
}

#[test]
fn a_large_answer_is_cut_to_the_clients_size_with_tc_and_whole_over_tcp() {
    let (_running, server) = start(vec![], 1);
    for (edns, limit) in [
        (None, 512),
        (Some(800), 800),
        (Some(65_535), 1232),
        (Some(100), 512),
    ] {
        let (answer, bytes) = over_udp(
            server,
            &question("many.default.svc.cluster.local.", RecordType::A, edns),
        );
        assert!(
            bytes <= limit,
            "{bytes} bytes for a client that takes {limit}"
        );
        assert!(bytes + 32 > limit, "the space is used: {bytes} of {limit}");
        assert!(answer.metadata.truncation);
        assert_eq!(
            answer.edns.as_ref().map(Edns::max_payload),
            edns.map(|_| 1232)
        );
    }
    let whole = over_tcp(
        server,
        &question("many.default.svc.cluster.local.", RecordType::A, None),
    );
    assert_eq!(
        (whole.answers.len(), whole.metadata.truncation),
        (200, false)
    );
}

#[test]
fn additionals_that_do_not_fit_are_left_out_without_tc() {
    let (_running, server) = start(vec![], 1);
    let asked = question(
        "_http._tcp.five.default.svc.cluster.local.",
        RecordType::SRV,
        None,
    );
    let (answer, bytes) = over_udp(server, &asked);
    assert!(bytes <= 512 && !answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 5);
    assert!(answer.additionals.len() < 5);
}

#[test]
fn names_outside_the_zone_are_refused_without_an_upstream() {
    let (_running, server) = start(vec![], 1);
    assert_eq!(
        udp(server, "www.example.org.", RecordType::A)
            .metadata
            .response_code,
        ResponseCode::Refused
    );
    let alias = udp(server, "db.default.svc.cluster.local.", RecordType::A);
    assert_eq!(
        (alias.metadata.response_code, alias.answers.len()),
        (ResponseCode::NoError, 1)
    );
}

#[test]
fn names_outside_the_zone_are_asked_of_the_upstream() {
    let (_running, server) = start(vec![upstream()], 1);
    let answer = udp(server, "www.example.org.", RecordType::A);
    assert_eq!(
        answer.answers[0].data,
        RData::A("192.0.2.42".parse().unwrap())
    );
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    let missing = udp(server, "www.example.net.", RecordType::A);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn an_external_name_is_followed_to_its_address_at_the_upstream() {
    let (_running, server) = start(vec![upstream()], 1);
    let answer = udp(server, "db.default.svc.cluster.local.", RecordType::A);
    let types: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
    assert_eq!(types, [RecordType::CNAME, RecordType::A]);
    assert_eq!(answer.answers[1].name.to_ascii(), "db.example.org.");
}

#[test]
fn a_missing_name_of_the_zone_never_reaches_the_upstream() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let (_running, server) = start(vec![silent.local_addr().unwrap()], 1);
    let answer = udp(server, "nobody.default.svc.cluster.local.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    let received = silent.recv(&mut [0; 512]).map_err(|error| error.kind());
    assert_eq!(received, Err(std::io::ErrorKind::WouldBlock));
}

#[test]
fn what_is_not_a_plain_question_is_refused_in_words_of_the_protocol() {
    let (_running, server) = start(vec![], 1);
    let code = |message: &Message| over_udp(server, message).0.metadata.response_code;
    let mut update = question("cluster.local.", RecordType::SOA, None);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = question("cluster.local.", RecordType::SOA, None);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    assert_eq!(
        code(&question("cluster.local.", RecordType::AXFR, None)),
        ResponseCode::Refused
    );
    let mut version = question("cluster.local.", RecordType::SOA, Some(1232));
    version.edns.as_mut().unwrap().set_version(1);
    // BADSIG is read back: the two share the number 16.
    assert_eq!(u16::from(code(&version)), u16::from(ResponseCode::BADVERS));
}

fn ask_again(stream: &mut TcpStream, message: &Message) -> std::io::Result<()> {
    let bytes = message.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, &bytes[..]].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)
}

#[test]
fn one_client_has_so_many_connections_and_others_still_get_theirs() {
    let (_running, server) = start(vec![], 1);
    let asked = question("web.default.svc.cluster.local.", RecordType::A, None);
    let connect = || {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    };
    let mut held: Vec<_> = (0..super::tcp::MAX_OF_CLIENT).map(|_| connect()).collect();
    for stream in &mut held {
        ask_again(stream, &asked).expect("within the limit");
    }
    ask_again(&mut connect(), &asked).expect_err("one too many is closed");
    // Another client: any address of 127.0.0.0/8 is this machine's.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let other: SocketAddr = "127.0.0.9:0".parse().unwrap();
    socket.bind(&other.into()).unwrap();
    socket.connect(&server.into()).unwrap();
    ask_again(&mut socket.into(), &asked).expect("another client");
    ask_again(&mut held[0], &asked).expect("connections are kept");
    held.clear();
    let deadline = std::time::Instant::now() + TIMEOUT;
    while ask_again(&mut connect(), &asked).is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "places are given back"
        );
    }
}

#[test]
fn what_is_no_question_over_tcp_is_told_so_or_let_go() {
    let (_running, server) = start(vec![], 1);
    let send = |message: &[u8]| {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length, message].concat()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    // One question announced, none there; id 0x1234, RD.
    let cut = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let format_error = [0, 12, 0x12, 0x34, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(send(&cut), format_error);
    assert_eq!(send(b"short"), []);
    let response = [0x12, 0x34, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(send(&response), [], "an answer is not answered");
}

#[tokio::test]
async fn a_thread_that_ends_is_noticed() {
    let (running, _) = start(vec![], 2);
    let ended = running.ended();
    let waits = tokio::time::timeout(Duration::from_millis(20), running.ended());
    assert!(waits.await.is_err(), "they live");
    tokio::task::spawn_blocking(move || drop(running))
        .await
        .unwrap();
    tokio::time::timeout(TIMEOUT, ended).await.expect("noticed");
}

#[test]
fn a_stopped_server_frees_its_port() {
    let (running, server) = start(vec![], 2);
    udp(server, "web.default.svc.cluster.local.", RecordType::A);
    running.shutdown();
    let config = |threads| Config {
        listen: vec![server],
        upstreams: vec![],
        threads,
    };
    let again = Server::bind(config(NonZeroUsize::MIN), a_zone()).unwrap();
    assert_eq!(again.local_addrs(), [server]);
}

#[test]
fn a_port_held_by_another_server_is_an_error_that_names_it() {
    let (_running, server) = start(vec![], 1);
    let config = Config {
        listen: vec![server],
        upstreams: vec![],
        threads: NonZeroUsize::MIN,
    };
    let error = Server::bind(config, a_zone()).err().unwrap();
    assert!(matches!(
        error,
        ServerError::Bind {
            protocol: "UDP",
            ..
        }
    ));
    let wanted = format!(
        "cannot answer DNS on UDP {server} (--cluster-dns): another DNS server holds the port; stop it or choose another address"
    );
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn an_address_of_no_interface_is_an_error_that_says_so() {
    let config = Config {
        listen: vec!["192.0.2.1:53".parse().unwrap()],
        upstreams: vec![],
        threads: NonZeroUsize::MIN,
    };
    let words = Server::bind(config, a_zone()).err().unwrap().to_string();
    assert!(
        words.contains("192.0.2.1:53") && words.contains("no interface"),
        "{words}"
    );
}

#[test]
fn a_server_is_not_its_own_upstream() {
    let config = Config {
        listen: vec!["127.0.0.1:53".parse().unwrap()],
        upstreams: vec!["127.0.0.1:53".parse().unwrap()],
        threads: NonZeroUsize::MIN,
    };
    let words = Server::bind(config, a_zone()).err().unwrap().to_string();
    assert_eq!(
        words,
        "DNS upstream 127.0.0.1:53 is this server itself (--dns-upstream)"
    );
}

#[test]
fn a_missing_privilege_is_an_error_that_names_it() {
    let source = std::io::ErrorKind::PermissionDenied.into();
    let addr = "10.96.0.10:53".parse().unwrap();
    let words = ServerError::Bind {
        protocol: "TCP",
        addr,
        source,
    }
    .to_string();
    for wanted in ["TCP 10.96.0.10:53", "--cluster-dns", "CAP_NET_BIND_SERVICE"] {
        assert!(words.contains(wanted), "wanted {wanted:?} in {words:?}");
    }
}

/// The second opinion: BIND's dig reads our answers.
#[test]
fn dig_reads_the_same_answer() {
    let (_running, server) = start(vec![], 1);
    let port = server.port().to_string();
    let dig = |args: &[&str]| {
        let output = std::process::Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+tries=1"])
            .args(args)
            .output();
        String::from_utf8(output.expect("dig runs (package dnsutils)").stdout).unwrap()
    };
    assert_eq!(
        dig(&["+short", "web.default.svc.cluster.local", "A"]),
        "10.96.0.7\n"
    );
    assert_eq!(
        dig(&["+short", "many.default.svc.cluster.local", "A"])
            .lines()
            .count(),
        200,
        "dig retries over TCP"
    );
    let missing = dig(&["none.default.svc.cluster.local", "A"]);
    assert!(
        missing.contains("status: NXDOMAIN") && missing.contains("\tSOA\tns.dns.cluster.local."),
        "{missing}"
    );
    let transfer = dig(&["+tcp", "+noall", "+comments", "cluster.local", "AXFR"]);
    assert!(transfer.contains("Transfer failed"), "{transfer}");
}

/// Encodes what it is given, as the real one does, and keeps it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

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
        let mut bytes = Vec::new();
        let sent = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        self.0.lock().unwrap().push(bytes);
        Ok(sent)
    }
}

/// The responses to one datagram: none when it is no message at all.
fn handle(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let kept = Kept::default();
    let client = "127.0.0.1:5353".parse().unwrap();
    if let Ok(request) = Request::from_bytes(bytes, client, Protocol::Udp) {
        static ZONE: LazyLock<Zone> = LazyLock::new(a_zone);
        let handler = Handler::new(ZONE.clone(), None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(handler.handle_request::<_, TokioTime>(&request, kept.clone()));
    }
    std::mem::take(&mut kept.0.lock().unwrap())
}

/// Messages that get past the parser: any header, one to three questions from pieces of our names, maybe EDNS.
fn some_message() -> impl Strategy<Value = Vec<u8>> {
    let pieces =
        "_http|_tcp|web|many|five|db|default|svc|pod|cluster|local|10-1-2-3|in-addr|arpa|10";
    let label = prop::sample::select(pieces.split('|').map(str::to_owned).collect::<Vec<_>>());
    let label = prop_oneof![4 => label.prop_map(String::into_bytes), 1 => prop::collection::vec(any::<u8>(), 1..64)];
    let tail = prop::sample::select(vec![
        "",
        "default.svc.cluster.local",
        "cluster.local",
        "96.10.in-addr.arpa",
        "ip6.arpa",
    ]);
    let question = (
        prop::collection::vec(label, 0..6),
        tail,
        any::<u16>(),
        0..4u16,
    )
        .prop_map(wire_question);
    let edns = prop::option::of(any::<[u8; 6]>());
    (
        any::<[u8; 4]>(),
        prop::collection::vec(question, 1..4),
        edns,
    )
        .prop_map(wire_message)
}

fn wire_question((labels, tail, qtype, class): (Vec<Vec<u8>>, &str, u16, u16)) -> Vec<u8> {
    let tail = tail
        .split('.')
        .filter(|label| !label.is_empty())
        .map(|label| label.as_bytes().to_vec());
    let mut wire = Vec::new();
    for label in labels.into_iter().chain(tail) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label);
    }
    wire.push(0);
    // Mostly types that exist, and class IN.
    let qtype = if qtype % 4 == 0 {
        qtype
    } else {
        [1, 28, 33, 12, 5, 6, 255][usize::from(qtype % 7)]
    };
    wire.extend(qtype.to_be_bytes());
    wire.extend(class.max(1).to_be_bytes());
    wire
}

fn wire_message((head, questions, edns): ([u8; 4], Vec<Vec<u8>>, Option<[u8; 6]>)) -> Vec<u8> {
    let [id_high, id_low, flags_high, flags_low] = head;
    // A question with the opcode QUERY, unless the bits say otherwise once in a while.
    let flags_high = if id_low % 8 == 0 {
        flags_high & 0x7f
    } else {
        flags_high & 0x01
    };
    let mut wire = vec![id_high, id_low, flags_high, flags_low];
    // Usually only the first question is counted, the rest is trailing garbage.
    let count = if id_low % 4 == 0 { questions.len() } else { 1 };
    wire.extend([
        0,
        u8::try_from(count).unwrap(),
        0,
        0,
        0,
        0,
        0,
        u8::from(edns.is_some()),
    ]);
    questions
        .iter()
        .take(count)
        .for_each(|question| wire.extend(question));
    if let Some(size_and_flags) = edns {
        wire.extend([0, 0, 41]);
        wire.extend(size_and_flags);
        wire.extend([0, 0]);
    }
    wire
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_the_handler_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(handle(bytes).len() <= 1);
    }

    #[test]
    fn every_message_gets_one_readable_answer_within_its_limit(bytes in some_message()) {
        let asked = Message::from_vec(&bytes);
        let answers = handle(bytes.clone());
        if let Ok(asked) = asked {
            prop_assert_eq!(answers.len(), 1);
            let answer = Message::from_vec(&answers[0]).expect("our own answer is readable");
            prop_assert_eq!(answer.metadata.id, asked.metadata.id);
            prop_assert_eq!(answer.metadata.message_type, MessageType::Response);
            let limit = asked.edns.map_or(512, |edns| edns.max_payload().clamp(512, 1232));
            let questions = bytes.len().max(512);
            prop_assert!(answers[0].len() <= usize::from(limit).max(questions));
        }
    }
}
