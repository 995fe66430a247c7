//! Protobuf bodies as kubectl sends them: the same command gives the object as JSON with `--dry-run=client`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use api::schema;
use serde_json::{Map, Value, json};

/// `flags` go before a `--`, behind which everything is the container's command.
fn kubectl(arguments: &[&str], flags: &[&str]) -> Command {
    let end = arguments
        .iter()
        .position(|argument| *argument == "--")
        .unwrap_or(arguments.len());
    let (own, containers) = arguments.split_at(end);
    let mut command = Command::new("kubectl");
    command
        .arg("create")
        .args(own)
        .args(flags)
        .args(containers)
        .env("KUBECONFIG", "/dev/null");
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

/// Reads one request; gives its body if it is the POST of an object.
fn serve(stream: &TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut is_protobuf) = (String::new(), 0, false);
    reader.read_line(&mut line)?;
    let is_post = line.starts_with("POST ");
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        is_protobuf |= header == "content-type: application/vnd.kubernetes.protobuf";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden"});
    let answer = answer.to_string();
    let head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close";
    write!(
        &mut (&*stream),
        "{head}\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    )?;
    assert!(
        !is_post || is_protobuf,
        "kubectl from 1.32 on sends protobuf; an older one cannot run this test"
    );
    Ok(is_post.then_some(body))
}

/// The body kubectl posts to a server that refuses everything.
fn posted(arguments: &[&str]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let server = format!(
        "--server=http://{}",
        listener
            .local_addr()
            .expect("a bound socket has an address")
    );
    let mut child = kubectl(arguments, &[&server, "--validate=false"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("this test runs kubectl, which must be in PATH");
    // kubectl ends after its request was refused: a connection that wakes the listener then says that none came.
    let waker = listener
        .local_addr()
        .expect("a bound socket has an address");
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        drop(TcpStream::connect(waker));
        status
    });
    let mut body = None;
    for stream in listener.incoming() {
        let stream = stream.expect("loopback connections are accepted");
        match serve(&stream) {
            Ok(Some(found)) => {
                body = Some(found);
                break;
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
    drop(listener);
    waiter
        .join()
        .expect("the waiter does not panic")
        .expect("kubectl ends");
    body.unwrap_or_else(|| panic!("kubectl create {arguments:?} posted nothing"))
}

fn dry_run(arguments: &[&str]) -> Value {
    let output = kubectl(arguments, &["--dry-run=client", "--output=json"])
        .output()
        .expect("kubectl runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("kubectl writes JSON")
}

/// Go writes parts that are structs even when nothing is in them: `status: {}`, `resources: {}`.
fn without_empty_structs(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let parts = map
                .into_iter()
                .map(|(key, value)| (key, without_empty_structs(value)));
            let empty =
                |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
            Value::Object(parts.filter(|(_, value)| !empty(value)).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_empty_structs).collect()),
        scalar => scalar,
    }
}

#[test]
fn protobuf_bodies_decode_to_the_json_of_the_same_command() {
    let commands: [&[&str]; 16] = [
        &[
            "configmap",
            "c",
            "--from-literal=a=b",
            "--from-literal=empty=",
        ],
        &[
            "secret",
            "generic",
            "s",
            "--from-literal=password=\u{1F511}",
            "--type=x/y",
        ],
        &[
            "secret",
            "docker-registry",
            "d",
            "--docker-server=r",
            "--docker-username=u",
            "--docker-password=p",
        ],
        &["namespace", "n"],
        &["serviceaccount", "a"],
        &["deployment", "d", "--image=i", "--image=j", "--replicas=0"],
        &[
            "deployment",
            "d",
            "--image=i",
            "--port=80",
            "--",
            "cmd",
            "arg",
        ],
        &["job", "j", "--image=i", "--", "date"],
        &["cronjob", "j", "--image=i", "--schedule=* * * * *"],
        &["service", "clusterip", "s", "--tcp=80:8080", "--tcp=443"],
        &["service", "clusterip", "h", "--clusterip=None"],
        &[
            "service",
            "nodeport",
            "s",
            "--tcp=80:http",
            "--node-port=30080",
        ],
        &[
            "service",
            "externalname",
            "s",
            "--external-name=example.com",
        ],
        &[
            "quota",
            "q",
            "--hard=cpu=1,memory=1Gi",
            "--scopes=BestEffort",
        ],
        &[
            "poddisruptionbudget",
            "p",
            "--selector=a=b",
            "--min-available=0",
        ],
        &[
            "ingress",
            "i",
            "--rule=example.com/path*=svc:8080,tls=cert",
            "--default-backend=svc:http",
        ],
    ];
    for arguments in commands {
        let body = posted(arguments);
        let envelope = schema::unwrap_envelope(&body).expect("an envelope");
        let (group, version) = envelope
            .api_version
            .split_once('/')
            .unwrap_or(("", envelope.api_version));
        let of = schema::lookup(group, version, envelope.kind).expect("a kind of the table");
        let mut got = of.from_protobuf(envelope.raw).expect("a message");
        of.check(&got).expect("values of the right types");
        got["apiVersion"] = envelope.api_version.into();
        got["kind"] = envelope.kind.into();
        if let Some(metadata) = got["metadata"].as_object_mut() {
            // The typed client fills in the namespace, --dry-run=client does not.
            metadata.shift_remove("namespace");
        }
        assert_eq!(
            without_empty_structs(got),
            without_empty_structs(dry_run(arguments)),
            "kubectl create {arguments:?}"
        );
    }
}
