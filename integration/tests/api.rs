//! The API through an unmodified kubectl, and what the commands say to bad input.

use std::{fs, path::Path, process::Stdio};

use integration::{
    DEADLINE, Lab, eventually, minik, run,
    server::{Kill, Server},
};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: s}, ports: [{port: 80}]}\n";

#[test]
fn every_everyday_verb_of_kubectl_works() {
    let lab = Lab::up(1, &[]);
    let everything = "nodes,pods,services,endpoints,endpointslices,namespaces,configmaps,secrets,serviceaccounts,events,leases";
    let _ = lab.apply(SERVICE).ok();
    for output in ["wide", "yaml", "json", "name"] {
        let _ = lab.kubectl(&["get", everything, "-A", "-o", output]).ok();
    }
    let table = lab.kubectl(&["get", "services", "-o", "wide"]).ok();
    assert!(
        table.contains("CLUSTER-IP") && table.contains("app=s") && table.contains("80/TCP"),
        "{table}"
    );

    // Create, in JSON and (from kubectl 1.32 on) in protobuf.
    for create in [
        &["create", "configmap", "c", "--from-literal=a=b"][..],
        &[
            "create",
            "secret",
            "generic",
            "x",
            "--from-literal=password=hunter2",
        ],
        &["create", "namespace", "n"],
        &["create", "serviceaccount", "sa"],
        &["create", "service", "nodeport", "np", "--tcp=80:8080"],
    ] {
        let _ = lab.kubectl(create).ok();
    }
    assert_eq!(lab.get(&["configmap", "c"])["data"]["a"], "b");
    assert_eq!(
        lab.get(&["secret", "x"])["data"]["password"],
        "aHVudGVyMg=="
    );
    let port = lab.get(&["service", "np"])["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .expect("a node port");
    assert!((30000..=32767).contains(&port), "{port}");

    // Change: apply again, label, annotate, patch in three ways, replace.
    let _ = lab
        .apply(&SERVICE.replace("port: 80}", "port: 80, name: web}, {port: 443, name: tls}"))
        .ok();
    assert_eq!(
        lab.get(&["service", "s"])["spec"]["ports"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let _ = lab.kubectl(&["label", "service", "s", "tier=front"]).ok();
    let _ = lab
        .kubectl(&["annotate", "service", "s", "note=hello"])
        .ok();
    let merge = r#"{"metadata":{"labels":{"tier":"back"}}}"#;
    let _ = lab
        .kubectl(&["patch", "service", "s", "--type", "merge", "-p", merge])
        .ok();
    let json = r#"[{"op":"replace","path":"/spec/ports/0/port","value":8080}]"#;
    let _ = lab
        .kubectl(&["patch", "service", "s", "--type", "json", "-p", json])
        .ok();
    let strategic = r#"{"spec":{"ports":[{"port":443,"$patch":"delete"}]}}"#;
    let _ = lab
        .kubectl(&["patch", "service", "s", "-p", strategic])
        .ok();
    let service = lab.get(&["service", "s"]);
    assert_eq!(service["metadata"]["labels"]["tier"], "back");
    assert_eq!(service["metadata"]["annotations"]["note"], "hello");
    assert_eq!(
        service["spec"]["ports"].as_array().map(Vec::len),
        Some(1),
        "{service}"
    );
    assert_eq!(service["spec"]["ports"][0]["port"], 8080);
    let file = lab.dir().join("service.json");
    fs::write(&file, service.to_string()).expect("write the Service");
    let _ = lab
        .kubectl(&["replace", "-f", &file.to_string_lossy()])
        .ok();

    // Selectors, describe, delete.
    let named = lab
        .kubectl(&[
            "get",
            "services",
            "-l",
            "tier in (back),!absent",
            "-o",
            "name",
        ])
        .ok();
    assert_eq!(named.trim(), "service/s");
    let by_field = lab
        .kubectl(&[
            "get",
            "services",
            "--field-selector",
            "metadata.name!=s",
            "-o",
            "name",
        ])
        .ok();
    assert!(
        !by_field.contains("service/s\n") && by_field.contains("service/np"),
        "{by_field}"
    );
    for kind in [
        "service/s",
        "node/node1",
        "namespace/n",
        "configmap/c",
        "secret/x",
        "endpoints/s",
    ] {
        let _ = lab.kubectl(&["describe", kind]).ok();
    }
    let _ = lab.kubectl(&["delete", "services", "--all"]).ok();
    let _ = lab
        .kubectl(&["delete", "namespace", "n", "--timeout=30s"])
        .ok();
    let gone = lab.kubectl(&["get", "service", "s"]).refused();
    assert!(gone.contains(r#"services "s" not found"#), "{gone}");
    let endpoints = lab.kubectl(&["get", "endpoints", "s"]).refused();
    assert!(endpoints.contains("not found"), "{endpoints}");
}

#[test]
fn a_watch_shows_a_service_come_change_and_go() {
    let lab = Lab::up(1, &[]);
    let out = lab.dir().join("watch.txt");
    let mut command = lab.kubectl_command(&[
        "get",
        "services",
        "-w",
        "--output-watch-events",
        "--field-selector",
        "metadata.name=s",
    ]);
    let file = fs::File::create(&out).expect("create the output file");
    let _watch = Kill(
        command
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .expect("start kubectl"),
    );
    let shows = |wanted: &str| {
        eventually(wanted, DEADLINE, || {
            let text = fs::read_to_string(&out).unwrap_or_default();
            text.lines()
                .any(|line| line.starts_with(wanted))
                .then_some(())
                .ok_or(text)
        });
    };
    let _ = lab.apply(SERVICE).ok();
    shows("ADDED");
    let _ = lab.kubectl(&["label", "service", "s", "a=b"]).ok();
    shows("MODIFIED");
    let _ = lab.kubectl(&["delete", "service", "s"]).ok();
    shows("DELETED");
}

#[test]
fn wrong_manifests_are_refused_with_field_value_and_advice() {
    let lab = Lab::up(1, &[]);
    let endpoints = |ip: &str| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: e}}\nsubsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 1}}]}}]\n"
        )
    };
    let cases = [
        (
            endpoints("10.96.0.10"),
            &["subsets[0].addresses[0].ip", "10.96.0.10"][..],
        ),
        (
            endpoints("127.0.0.1"),
            &["subsets[0].addresses[0].ip", "loopback"],
        ),
        (
            endpoints("169.254.0.1"),
            &["subsets[0].addresses[0].ip", "link-local"],
        ),
        (
            SERVICE.replace("port: 80", "port: 99999"),
            &["spec.ports[0].port", "99999"],
        ),
        (
            SERVICE.replace("port: 80", "port: 80, nodePort: 80"),
            &["spec.ports[0].nodePort"],
        ),
        (
            SERVICE.replace("name: s", "name: Upper"),
            &["metadata.name", "Upper"],
        ),
        (
            SERVICE.replace("ports:", "clusterIP: 192.0.2.1, ports:"),
            &["spec.clusterIP", "192.0.2.1"],
        ),
        (
            SERVICE.replace("selector", "selektor"),
            &["unknown field", "spec.selektor"],
        ),
    ];
    for (manifest, words) in cases {
        let refusal = lab.apply(&manifest).refused();
        for word in words {
            assert!(refusal.contains(word), "{word:?} is missing in: {refusal}");
        }
    }
    let left = lab
        .kubectl(&["get", "services,endpoints", "-o", "name"])
        .ok();
    assert!(
        !left.contains("/s\n") && !left.contains("/e\n"),
        "half applied: {left}"
    );
}

#[test]
fn a_pod_that_cannot_run_says_why_where_describe_shows_it() {
    let lab = Lab::up(1, &[]);
    let _ = lab.kubectl(&["run", "wrong", "--image=nginx"]).ok();
    let why = "image \"nginx\" is not on this node";
    eventually("describe tells the reason", DEADLINE, || {
        let described = lab.kubectl(&["describe", "pod", "wrong"]).result()?;
        (described.contains("ErrImagePull") && described.contains(why))
            .then_some(())
            .ok_or(described)
    });
    let logs = lab.kubectl(&["logs", "wrong"]).refused();
    assert!(logs.contains("is waiting to start"), "{logs}");
    let fields = lab.kubectl(&["explain", "pod", "--recursive"]).ok();
    assert!(fields.contains("terminationGracePeriodSeconds"), "{fields}");
}

#[test]
fn a_token_that_is_malformed_wrong_expired_or_revoked_is_refused_and_says_so() {
    let server = Server::start("tokens");
    let good = server
        .token(&["create", "--ttl", "1h"])
        .ok()
        .trim()
        .to_owned();
    let parts: Vec<_> = good.split('.').collect();
    assert_eq!((parts.len(), parts[0]), (4, "minik1"), "{good}");
    let wrong_secret = format!("{}.{}.{}.{}", parts[0], parts[1], parts[2], "0".repeat(32));
    let wrong_ca = format!("{}.{}.{}.{}", parts[0], "0".repeat(64), parts[2], parts[3]);
    let short = server
        .token(&["create", "--ttl", "1s"])
        .ok()
        .trim()
        .to_owned();
    let revoked = server.token(&["create"]).ok().trim().to_owned();
    let _ = server.token(&["revoke", &revoked]).ok();
    for (token, words, code) in [
        ("nonsense", &["--token"][..], 2),
        (&wrong_secret, &["token", "401"], 77),
        (&wrong_ca, &["another CA", "not sent"], 77),
        (&revoked, &["token"], 77),
    ] {
        let answer = server.join(token);
        assert_eq!(answer.code, Some(code), "{answer:?}");
        let refusal = answer.refused();
        for word in words {
            assert!(refusal.contains(word), "{word:?} is missing in: {refusal}");
        }
        assert!(
            !refusal.contains(parts[3]),
            "the secret was printed: {refusal}"
        );
    }
    let id = short
        .split('.')
        .nth(2)
        .expect("a token has an id")
        .to_owned();
    eventually("the short-lived token expires", DEADLINE, || {
        let listed = server.token(&["list"]).result()?;
        (!listed.contains(&id)).then_some(()).ok_or(listed)
    });
    let refusal = server.join(&short);
    assert_eq!(refusal.code, Some(77), "{refusal:?}");
    assert!(refusal.err.contains("401"), "{refusal:?}");
    let bad = server.token(&["create", "--ttl", "soon"]);
    assert_eq!(bad.code, Some(2), "{bad:?}");
    let bad = bad.refused();
    assert!(
        bad.contains("--ttl") && bad.contains("soon") && bad.contains("24h"),
        "{bad}"
    );
    let unknown = server.token(&["revoke", "zzzzzz"]).refused();
    assert!(unknown.contains("zzzzzz"), "{unknown}");
}

#[test]
fn a_server_that_cannot_start_says_which_flag_and_what_to_do() {
    let server = Server::start("starts");
    let second = |code: i32, changed: &[(&str, &str)]| {
        let answer = run(server.command_with(changed).stderr(Stdio::piped()));
        assert_eq!(answer.code, Some(code), "{answer:?}");
        answer.refused()
    };
    let locked = second(69, &[("--bind", "127.0.0.1:0")]);
    assert!(locked.contains("in use"), "{locked}");
    let other = server.dir.join("other");
    let taken = second(69, &[("--data-dir", &other.to_string_lossy())]);
    assert!(
        taken.contains("--bind") && taken.contains(&server.port.to_string()),
        "{taken}"
    );
    for (flag, value) in [
        ("--service-cidr", "10.96.0.0/64"),
        ("--pod-cidr", "nonsense"),
        ("--bind", "here"),
        ("--cluster-dns", "1.2.3.4"),
    ] {
        let refusal = second(2, &[(flag, value)]);
        assert!(
            refusal.contains(flag) && refusal.contains(value),
            "{flag} {value}: {refusal}"
        );
    }
    // A file is where the directory should be.
    let file = server.dir.join("file");
    fs::write(&file, "").expect("a file");
    let refusal = second(
        74,
        &[
            ("--bind", "127.0.0.1:0"),
            ("--data-dir", &file.to_string_lossy()),
        ],
    );
    assert!(
        refusal.contains("--data-dir") && refusal.contains(&*file.to_string_lossy()),
        "{refusal}"
    );
}

#[test]
fn the_help_names_the_exit_codes() {
    let help = run(std::process::Command::new(minik()).arg("--help")).ok();
    for line in ["Exit codes:", "65  the store", "70  the store failed"] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn a_damaged_store_is_never_repaired_silently() {
    let mut server = Server::start("damage");
    let _ = server.token(&["create"]).ok();
    server.process = None;
    let store = server.dir.join("server/store");
    // The largest one beside it is a reserve of empty space.
    // The largest one beside it is a reserve of empty space.
    let damaged = overwrite_largest_file(&store.join("sled"));
    let mut command = server.command();
    command.stderr(Stdio::piped());
    let answer = run(&mut command);
    assert_eq!(answer.code, Some(65), "{answer:?}");
    let refusal = answer.refused();
    assert!(
        refusal.contains("damaged") && refusal.contains(&*store.to_string_lossy()),
        "{refusal}"
    );
    assert!(damaged.exists(), "the evidence was removed");
}

fn overwrite_largest_file(dir: &Path) -> std::path::PathBuf {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("list the store").flatten() {
            match entry.metadata().expect("inspect a file") {
                meta if meta.is_dir() => dirs.push(entry.path()),
                meta => files.push((meta.len(), entry.path())),
            }
        }
    }
    files.sort();
    let (size, path) = files.pop().expect("the store has files");
    fs::write(&path, vec![0xA5; usize::try_from(size).expect("size")]).expect("overwrite");
    path
}
/// A1, A6, A8, A10, A12, M11: ownership of fields through kubectl, and what the agents and controllers own meanwhile.
#[test]
fn kubectl_applies_on_the_server_and_fields_have_owners() {
    let lab = Lab::up(1, &[]);
    let file = lab.dir().join("service.yaml");
    let path = file.to_string_lossy().into_owned();
    let write = |port: u16| {
        let text = SERVICE.replace("port: 80", &format!("port: 80, targetPort: {port}"));
        fs::write(&file, text).expect("write the manifest");
    };
    let server_side = ["apply", "--server-side", "-f", path.as_str()];
    write(8080);
    let made = lab.kubectl(&server_side).ok();
    assert!(made.contains("service/s serverside-applied"), "{made}");
    let before = lab.get(&["service", "s", "--show-managed-fields"]);
    let entry = &before["metadata"]["managedFields"][0];
    assert_eq!(entry["manager"], "kubectl");
    assert_eq!(
        entry["fieldsV1"]["f:spec"]["f:ports"]["k:{\"port\":80,\"protocol\":\"TCP\"}"]["f:targetPort"],
        serde_json::json!({})
    );
    let _ = lab.kubectl(&server_side).ok();
    let again = lab.get(&["service", "s", "--show-managed-fields"]);
    assert_eq!(again, before, "applying again writes nothing");

    // Another manager's field: a conflict, until it is forced.
    let patch = r#"[{"op":"replace","path":"/spec/ports/0/targetPort","value":9090}]"#;
    let _ = lab
        .kubectl(&["patch", "service", "s", "--type", "json", "-p", patch])
        .ok();
    let refusal = lab.kubectl(&server_side).refused();
    let words = "Apply failed with 1 conflict: conflict with \"kubectl-patch\" using v1: .spec.ports[port=80,protocol=\"TCP\"].targetPort";
    assert!(refusal.contains(words), "{refusal}");
    let _ = lab
        .kubectl(&[&server_side[..], &["--force-conflicts"]].concat())
        .ok();
    let forced = lab.get(&["service", "s"]);
    assert_eq!(forced["spec"]["ports"][0]["targetPort"], 8080);

    // What would be, and nothing of it done.
    write(7070);
    let version = forced["metadata"]["resourceVersion"].clone();
    for diff in [&["diff"][..], &["diff", "--server-side"]] {
        let text = lab.kubectl(&[diff, &["-f", &path]].concat()).refused();
        assert!(text.contains("+    targetPort: 7070"), "{text}");
    }
    let dry = [&server_side[..], &["--dry-run=server", "-o", "yaml"]].concat();
    assert!(lab.kubectl(&dry).ok().contains("targetPort: 7070"));
    assert_eq!(
        lab.get(&["service", "s"])["metadata"]["resourceVersion"],
        version
    );

    // From client-side apply without a conflict.
    let service = SERVICE.replace("name: s", "name: t");
    let _ = lab.apply(&service).ok();
    let changed = service.replace("app: s", "app: t");
    fs::write(&file, changed).expect("write the manifest");
    let _ = lab.kubectl(&server_side).ok();
    assert_eq!(lab.get(&["service", "t"])["spec"]["selector"]["app"], "t");

    // The status of the Node is its agent's.
    let node = lab.get(&["node", "node1", "--show-managed-fields"]);
    let entries = node["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(
        entries
            .iter()
            .any(|entry| entry["subresource"] == "status" && entry["manager"] == "minik"),
        "{node}"
    );
}
