//! Protobuf bodies as kubectl sends them: the same command gives the object as JSON with `--dry-run=client`.

mod loopback;

use std::process::Command;

use api::schema;
use loopback::{Server, kubectl, refusal};
use serde_json::{Map, Value};

/// `flags` go before a `--`, behind which everything is the container's command.
fn create(mut kubectl: Command, arguments: &[&str], flags: &[&str]) -> std::process::Output {
    let end = arguments
        .iter()
        .position(|argument| *argument == "--")
        .unwrap_or(arguments.len());
    let (own, containers) = arguments.split_at(end);
    kubectl.arg("create").args(own).args(flags).args(containers);
    kubectl
        .output()
        .expect("this test runs kubectl, which must be in PATH")
}

/// The body kubectl posts to a server that refuses everything.
fn posted(arguments: &[&str]) -> Vec<u8> {
    let server = Server::start(|_| refusal(403, "Forbidden"));
    create(server.kubectl(), arguments, &["--validate=false"]);
    let post = server
        .requests()
        .into_iter()
        .find(|request| request.line.starts_with("POST "));
    let post = post.unwrap_or_else(|| panic!("kubectl create {arguments:?} posted nothing"));
    assert_eq!(
        post.content_type, "application/vnd.kubernetes.protobuf",
        "kubectl sends protobuf from 1.32 on"
    );
    post.body
}

fn dry_run(arguments: &[&str]) -> Value {
    let output = create(kubectl(), arguments, &["--dry-run=client", "--output=json"]);
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
