//! What leads through a node's tunnel: logs, commands in containers, forwarded ports, proxied requests.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use integration::{DEADLINE, Lab, echo_pod, eventually, run, server::Kill};

/// A Pod whose container says one line on each start and ends with this code.
fn failing_pod(name: &str, policy: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: fails}}}}\nspec:\n  nodeName: node1\n  \
         restartPolicy: {policy}\n  containers:\n  - {{name: app, image: minik.dev/echo, command: [/minik, nonsense-{name}]}}\n"
    )
}

/// Lines of a command that runs on, as they come.
struct Lines {
    _process: Kill,
    lines: BufReader<std::process::ChildStdout>,
}

impl Lines {
    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            _process: Kill(child),
            lines,
        }
    }

    /// The next line; empty at the end.
    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read a line");
        line
    }
}

#[test]
fn s9_logs_are_read_followed_and_kept_of_the_attempt_before() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1"), ("b", "a", "node1")]);
    let log = lab.kubectl(&["logs", "a"]).ok();
    assert!(log.contains("listening"), "{log}");
    let timed = lab.kubectl(&["logs", "a", "--timestamps", "--tail=1"]).ok();
    assert!(
        timed.starts_with("20") && timed.lines().count() == 1,
        "{timed}"
    );
    assert_eq!(lab.kubectl(&["logs", "a", "--tail=0"]).ok(), "");
    assert_eq!(lab.kubectl(&["logs", "a", "--limit-bytes=5"]).ok().len(), 5);
    let both = lab
        .kubectl(&["logs", "-l", "app=a", "--prefix", "--all-containers"])
        .ok();
    assert!(
        both.contains("pod/a/app") && both.contains("pod/b/app"),
        "{both}"
    );

    let wrong = lab.kubectl(&["logs", "a", "-c", "x"]).refused();
    assert!(
        wrong.contains("container x is not valid for pod a"),
        "{wrong}"
    );
    let none = lab.kubectl(&["logs", "a", "--previous"]).refused();
    assert!(
        none.contains("previous terminated container \"app\" in pod \"a\" not found"),
        "{none}"
    );

    // Following ends when the container does, with all it said.
    let mut follow = Lines::of(&mut lab.kubectl_command(&["logs", "-f", "a"]));
    assert!(follow.next().contains("listening"));
    let _ = lab.kubectl(&["delete", "pod", "a", "--wait=false"]).ok();
    while !follow.next().is_empty() {}

    let _ = lab.apply(&failing_pod("fails", "Always")).ok();
    let said = |args: &[&str]| {
        let args = [&["logs", "fails"], args].concat();
        eventually("the log is there", DEADLINE, || {
            let said = lab.kubectl(&args).result()?;
            said.contains("nonsense-fails").then_some(()).ok_or(said)
        });
    };
    said(&[]);
    said(&["--previous"]);
    let _ = lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: absent}\nspec:\n  nodeName: node1\n  containers:\n  - {name: app, image: nowhere}\n").ok();
    eventually("it waits for its image", DEADLINE, || {
        let why = lab.kubectl(&["logs", "absent"]).refused();
        let wanted = "container \"app\" in pod \"absent\" is waiting to start";
        why.contains(wanted).then_some(()).ok_or(why)
    });
}

/// The ways a kubectl of today and one of long ago speak.
const WAYS: [(&str, &str); 2] = [("WebSocket", "true"), ("SPDY", "false")];

#[test]
fn s1_s5_commands_run_in_containers_with_their_streams_and_exit_codes() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    for (way, websockets) in WAYS {
        let kubectl = |args: &[&str]| {
            let mut command = lab.kubectl_command(args);
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            command
        };
        run_commands(way, kubectl);
    }
}

fn run_commands(way: &str, kubectl: impl Fn(&[&str]) -> Command) {
    let answer = |args: &[&str]| run(&mut kubectl(args));
    let fetch = [
        "exec",
        "a",
        "--",
        "/minik",
        "fetch",
        "http://localhost:9376/",
    ];
    assert!(answer(&fetch).ok().contains("\"a\""), "{way}");
    let failed = answer(&["exec", "a", "--", "/minik", "nonsense"]);
    assert_eq!(failed.code, Some(2), "{way}: {failed:?}");
    assert!(
        failed.err.contains("unrecognized subcommand"),
        "{way}: {failed:?}"
    );
    let missing = answer(&["exec", "a", "--", "/nothing"]).refused();
    assert!(missing.contains("start the program"), "{way}: {missing}");
    let wrong = answer(&["exec", "a", "-c", "x", "--", "/minik"]).refused();
    assert!(wrong.contains("container x"), "{way}: {wrong}");

    // What goes in by standard input comes out again, and its end ends the program.
    let lines: String = (0..20_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let target = "tcp://localhost:9377";
    let echo = [
        "exec", "-i", "a", "--", "/minik", "fetch", "--lines", target,
    ];
    let mut command = kubectl(&echo);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start");
    let mut input = child.stdin.take().expect("piped");
    let sent = lines.clone();
    let sending = std::thread::spawn(move || input.write_all(sent.as_bytes()));
    let mut out = String::new();
    let mut output = child.stdout.take().expect("piped");
    output.read_to_string(&mut out).expect("read");
    sending.join().expect("no panic").expect("all is taken");
    assert!(child.wait().expect("wait").success(), "{way}");
    assert_eq!(out.lines().count(), 20_000, "{way}");
    let last = out.lines().last().unwrap_or_default();
    assert!(last.contains("line 19999"), "{way}: {last}");
}

/// A port of this machine that leads into a Pod, and who holds it.
fn forwarded(lab: &Lab, websockets: &str, target: &str, ports: &str) -> (Lines, Vec<SocketAddr>) {
    let args = ["port-forward", "--address=127.0.0.1", target, ports];
    let mut command = lab.kubectl_command(&args);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
    let mut lines = Lines::of(&mut command);
    let line = lines.next();
    let address = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(' ').next());
    let address = address.and_then(|address| address.parse().ok());
    (lines, vec![address.unwrap_or_else(|| panic!("{line}"))])
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn s7_ports_are_forwarded_to_pods_and_what_leads_to_them() {
    let lab = Lab::up(1, &[]);
    let manifest = echo_pod("a", "a", "node1")
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n\
           spec: {selector: {app: a}, ports: [{port: 80, targetPort: 9376}]}\n";
    let _ = lab.apply(&manifest).ok();
    let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "pod/a"];
    let _ = lab.kubectl(&ready).ok();
    for (way, websockets) in WAYS {
        let (mut held, addresses) = forwarded(&lab, websockets, "pod/a", ":9377");
        // Several connections at once, and one after the other.
        let mut streams: Vec<TcpStream> = (0..5)
            .map(|_| TcpStream::connect(addresses[0]).expect("connect"))
            .collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            writeln!(stream, "line {number}").expect("write");
        }
        for (number, stream) in streams.iter_mut().enumerate().rev() {
            let mut line = String::new();
            BufReader::new(&*stream).read_line(&mut line).expect("read");
            assert!(line.contains(&format!("line {number}")), "{way}: {line}");
            // The client's half first, and then the Pod's.
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("half-close");
            let mut rest = String::new();
            stream
                .read_to_string(&mut rest)
                .expect("the other half ends too");
            assert_eq!(rest, "", "{way}");
        }
        drop(streams);
        assert!(held.next().contains("Handling connection"), "{way}");
        drop(held);

        let (_held, addresses) = forwarded(&lab, websockets, "service/s", ":80");
        let answer = get(addresses[0], "/").expect("an answer");
        assert!(answer.contains("\"a\""), "{way}: {answer}");

        // Nobody listens there: the client learns it in words, on standard error.
        let args = ["port-forward", "--address=127.0.0.1", "pod/a", ":9"];
        let mut command = lab.kubectl_command(&args);
        command
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("read");
        let address = line
            .split(' ')
            .nth(2)
            .and_then(|address| address.parse().ok())
            .expect("an address");
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let _process = Kill(child);
        let _ = get(address, "/");
        let mut error = String::new();
        errors.read_line(&mut error).expect("read");
        assert!(
            error.contains("port 9 inside pod default/a: Connection refused"),
            "{way}: {error}"
        );
    }
}

#[test]
fn s11_requests_are_passed_on_to_pods_services_and_nodes() {
    let lab = Lab::up(1, &[]);
    let manifest = echo_pod("a", "a", "node1")
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n\
           spec: {selector: {app: a}, ports: [{name: web, port: 80, targetPort: 9376}]}\n\
           ---\napiVersion: v1\nkind: Service\nmetadata: {name: none}\n\
           spec: {selector: {app: nobody}, ports: [{port: 80}]}\n";
    let _ = lab.apply(&manifest).ok();
    let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "pod/a"];
    let _ = lab.kubectl(&ready).ok();
    let raw = |path: &str| lab.kubectl(&["get", "--raw", path]);
    for path in [
        "pods/a:9376/proxy/hostname",
        "services/s/proxy/hostname",
        "services/s:web/proxy/hostname",
        "services/s:80/proxy/hostname",
        "services/http:s:80/proxy/hostname",
    ] {
        let path = format!("/api/v1/namespaces/default/{path}");
        eventually(&path, DEADLINE, || {
            let answer = raw(&path).result()?;
            (answer.trim() == "a").then_some(()).ok_or(answer)
        });
    }
    let node = raw("/api/v1/nodes/node1/proxy/healthz").ok();
    assert!(node.contains("lastUpdated"), "{node}");
    for (path, words) in [
        (
            "namespaces/default/services/none/proxy/",
            "no endpoints available for service \"none\"",
        ),
        (
            "namespaces/default/services/s:x/proxy/",
            "no service port \"x\" found for service \"s\"",
        ),
        (
            "namespaces/default/pods/a:9/proxy/",
            "error trying to reach service",
        ),
        ("namespaces/default/pods/b/proxy/", "pods \"b\" not found"),
        ("nodes/node2/proxy/", "nodes \"node2\" not found"),
    ] {
        let refused = raw(&format!("/api/v1/{path}")).refused();
        assert!(refused.contains(words), "{path}: {refused}");
    }
}

/// `kubectl proxy`: the API as plain HTTP on a port of this machine, and who holds it.
fn plain_api(lab: &Lab) -> (Lines, SocketAddr) {
    let mut lines = Lines::of(&mut lab.kubectl_command(&["proxy", "--port=0"]));
    let line = lines.next();
    let address = line.trim().rsplit(' ').next();
    let address = address.and_then(|address| address.parse().ok());
    (lines, address.unwrap_or_else(|| panic!("{line}")))
}

/// Asks for an upgrade; the head of the answer, in small letters, and what follows it.
fn upgrade(at: SocketAddr, path: &str, headers: &str) -> (String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(at).expect("connect");
    let timeout = stream.set_read_timeout(Some(DEADLINE));
    timeout.expect("a deadline");
    let head = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: Upgrade\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).expect("write");
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).expect("the head of an answer");
        assert_ne!(read, 0, "{head}");
    }
    (head.to_lowercase(), stream)
}

#[test]
fn s10_logs_come_over_a_websocket() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    let (_proxy, at) = plain_api(&lab);
    let headers = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: binary.k8s.io\r\n";
    let path = "/api/v1/namespaces/default/pods/a/log?follow=true";
    let (head, mut messages) = upgrade(at, path, headers);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("sec-websocket-protocol: binary.k8s.io\r\n"),
        "{head}"
    );
    // Whole binary messages; when the container has ended, the end.
    let mut log = Vec::new();
    let mut deleted = false;
    loop {
        let mut head = [0; 2];
        messages.read_exact(&mut head).expect("the head of a frame");
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                messages.read_exact(&mut long).expect("a length");
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        messages.read_exact(&mut payload).expect("a payload");
        match head[0] {
            0x82 => log.extend_from_slice(&payload),
            0x88 => break,
            other => panic!("an opcode {other:#x} in a log"),
        }
        if !deleted && String::from_utf8_lossy(&log).contains("listening") {
            let _ = lab.kubectl(&["delete", "pod", "a", "--wait=false"]).ok();
            deleted = true;
        }
    }
    assert!(deleted, "{}", String::from_utf8_lossy(&log));
}

/// Switches every connection to a protocol that repeats lines in capitals; with TLS, if a certificate and key are given.
const SWITCH: &str = r#"
import socket, ssl, sys, threading
def serve(c):
    f = c.makefile("rwb")
    while f.readline() not in (b"\r\n", b""):
        pass
    f.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x-capitals\r\n\r\n")
    f.flush()
    for line in f:
        f.write(line.upper())
        f.flush()
    f.close()
    c.close()
s = socket.create_server(("", int(sys.argv[1])))
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    s = context.wrap_socket(s, server_side=True)
while True:
    try:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
    except OSError:
        pass
"#;

#[test]
fn s11_a_connection_through_proxy_is_upgraded_with_and_without_tls() {
    let lab = Lab::up(1, &[]);
    let tls = lab.dir().join("control/lib/server/tls");
    let file = |name: &str| tls.join(name).to_string_lossy().into_owned();
    let python = ["python3", "-c", SWITCH];
    lab.start_on("node1", "plain", &[&python[..], &["7000"]].concat());
    let files = [file("server.crt"), file("server.key")];
    let with_tls = ["7443", &files[0], &files[1]];
    lab.start_on("node1", "tls", &[&python[..], &with_tls].concat());
    let (_proxy, at) = plain_api(&lab);
    for target in ["node1:7000", "https:node1:7443"] {
        let path = format!("/api/v1/nodes/{target}/proxy/switch?a=b");
        let mut stream = eventually(target, DEADLINE, || {
            let (head, stream) = upgrade(at, &path, "Upgrade: x-capitals\r\n");
            let switched = head.starts_with("http/1.1 101 ");
            switched.then_some(stream).ok_or(head)
        });
        for (sent, wanted) in [("one\n", "ONE\n"), ("two\n", "TWO\n")] {
            let written = stream.get_mut().write_all(sent.as_bytes());
            written.expect("write");
            let mut line = String::new();
            stream.read_line(&mut line).expect("read");
            assert_eq!(line, wanted, "{target}");
        }
    }
}

/// What the API says that a node's address is, whoever may write its status can have made up: the node looks at it once more.
#[test]
fn cve_2022_3294_a_made_up_address_leads_to_nobody_beside_the_node() {
    let lab = Lab::up(1, &[]);
    let api = lab.get(&["endpoints", "kubernetes"]);
    let server = &api["subsets"][0]["addresses"][0]["ip"];
    let server = server.as_str().expect("an address");
    for ip in [server, "127.0.0.1", "169.254.169.254"] {
        let addresses = format!("[{{\"type\":\"InternalIP\",\"address\":\"{ip}\"}}]");
        let status = format!("{{\"status\":{{\"addresses\":{addresses}}}}}");
        let patch = [
            "patch",
            "node",
            "node1",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        // The agent may write what is right in between.
        eventually(ip, DEADLINE, || {
            let _ = lab.kubectl(&patch).result()?;
            let path = "/api/v1/nodes/https:node1:6443/proxy/livez";
            let refused = lab.kubectl(&["get", "--raw", path]).refused();
            let words = format!("{ip} is no address of node node1");
            refused.contains(&words).then_some(()).ok_or(refused)
        });
    }
}

/// Without its agent a node cannot be asked; with it, at once again.
#[test]
fn a_node_without_its_agent_is_named_and_asked_again_when_it_is_back() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    let _ = lab.lab(&["kill", "node1"]).ok();
    for args in [
        &["logs", "a"][..],
        &["exec", "a", "--", "/minik"],
        &["port-forward", "a", ":80"],
    ] {
        let refused = lab.kubectl(args).refused();
        let words = "node \"node1\" cannot be reached: its agent is not connected to this server";
        assert!(refused.contains(words), "{args:?}: {refused}");
    }
    let _ = lab.lab(&["start", "node1"]).ok();
    eventually("the log is read again", DEADLINE, || {
        lab.kubectl(&["logs", "a"]).result()
    });
}

/// A program whose standard input somebody attaches to, and which ends with it.
#[test]
fn a_pod_that_was_made_for_it_is_talked_to_and_goes() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    let ip = lab.get(&["pod", "a"])["status"]["podIP"].clone();
    let target = format!("tcp://{}:9377", ip.as_str().expect("an address"));
    for (way, websockets) in WAYS {
        let talk = [
            "run",
            "talk",
            "-i",
            "--rm",
            "--restart=Never",
            "--image=minik.dev/echo",
            "--pod-running-timeout=60s",
            "--command",
            "--",
            "/minik",
            "fetch",
            "--lines",
            &target,
        ];
        let mut command = lab.kubectl_command(&talk);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(b"one\ntwo\n").expect("write");
        drop(input);
        let mut out = String::new();
        let mut output = child.stdout.take().expect("piped");
        output.read_to_string(&mut out).expect("read");
        assert!(child.wait().expect("wait").success(), "{way}: {out}");
        assert!(out.contains("one") && out.contains("two"), "{way}: {out}");
        let gone = lab.kubectl(&["get", "pod", "talk"]).refused();
        assert!(gone.contains("not found"), "{way}: {gone}");
    }
}

/// A terminal: its size is that of the client's window, here told by where help is broken into lines.
#[test]
fn s3_a_terminal_has_the_size_of_the_clients_window() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    for (way, websockets) in WAYS {
        let longest = |columns: u16| {
            let kubectl =
                lab.kubectl_command(&["exec", "-it", "a", "--", "/minik", "help", "fetch"]);
            let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
            let line: Vec<_> = words
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            let line = format!("stty cols {columns} rows 24; {}", line.join(" "));
            let mut script = Command::new("script");
            script
                .args(["-qec", &line, "/dev/null"])
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            script.envs(
                kubectl
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            let out = run(script.stdin(Stdio::null())).ok();
            assert!(out.contains("--retry"), "{way}: {out}");
            out.lines()
                .map(|line| line.trim_end().len())
                .max()
                .unwrap_or(0)
        };
        let (narrow, wide) = (longest(60), longest(100));
        assert!(narrow <= 60 && wide > 60, "{way}: {narrow} {wide}");
    }
}
