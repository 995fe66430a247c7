//! Disks that are full or refuse to be written: what goes on, what is refused in which words, and how it ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use integration::{
    Answer, DEADLINE, Lab, eventually, run,
    server::{Kill, Server},
};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n";

/// A lab whose server keeps its data on a disk of 96 MiB of its own.
struct SmallDisk(Lab);

impl SmallDisk {
    fn up() -> Self {
        let lab = Lab::up(1, &[]);
        let data = lab.dir().join("control/lib");
        let data = data.to_string_lossy();
        let _ = lab.lab(&["kill", "control"]).ok();
        // Seen by the control host only: it has mounts of its own.
        let script = format!(
            "set -e; cp -a {data} {data}.before; mount -t tmpfs -o size=96m,mode=755 small {data}; cp -a {data}.before/. {data}"
        );
        let _ = lab.on("control", &["sh", "-ec", &script]).ok();
        let disk = Self(lab);
        disk.start();
        disk
    }

    fn start(&self) {
        let _ = self.0.lab(&["start", "control"]).ok();
        eventually("the server answers", DEADLINE, || {
            let answer = self.0.kubectl(&["get", "nodes"]).result();
            answer.map_err(|error| format!("{error}\n{}", self.0.log("control", "server")))
        });
    }

    fn sh(&self, script: &str) -> Answer {
        let data = self.0.dir().join("control/lib");
        let script = format!("cd {}; {script}", data.display());
        self.0.on("control", &["sh", "-c", &script])
    }

    /// Writes until nothing fits any more, as somebody else's logs do.
    fn fill(&self) {
        let fill = "cat /dev/zero >> filler 2>/dev/null; df --output=avail -k . | tail -1";
        let free = self.sh(fill).ok();
        assert_eq!(free.trim(), "0", "the disk is not full");
    }

    fn make_room(&self) {
        let _ = self.sh("rm filler").ok();
    }

    fn create(&self, name: &str) -> Answer {
        self.0
            .kubectl(&["create", "configmap", name, "--from-literal=a=b"])
    }
}

#[test]
fn on_a_full_disk_nothing_new_is_stored_but_reads_and_ends_go_on() {
    let disk = SmallDisk::up();
    let lab = &disk.0;
    lab.echo_pods(&[
        ("a1", "a", "node1"),
        ("a2", "a", "node1"),
        ("a3", "a", "node1"),
    ]);
    let _ = lab.apply(SERVICE).ok();
    let _ = disk.create("before").ok();
    disk.fill();

    let verbose = ["create", "configmap", "refused", "-v=6"];
    let refusal = lab.kubectl(&verbose);
    for words in ["507 Insufficient Storage", "nearly full", "Free some space"] {
        assert!(refusal.err.contains(words), "{words:?}: {refusal:?}");
    }
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    let _ = lab.kubectl(&["get", "configmap", "before"]).ok();
    let left = lab.kubectl(&["get", "configmap", "refused"]).refused();
    assert!(left.contains("not found"), "{left}");

    // A Pod ends gracefully: that takes a mark on it, its agent's reports, and only then the deletion.
    let _ = lab
        .kubectl(&["delete", "pod", "a1", "--grace-period=2", "--timeout=30s"])
        .ok();
    eventually("its endpoint is gone", DEADLINE, || {
        let slices = lab.get(&["endpointslices", "-l", "kubernetes.io/service-name=s"]);
        let endpoints = slices["items"][0]["endpoints"].as_array().map(Vec::len);
        (endpoints == Some(2))
            .then_some(())
            .ok_or(format!("{endpoints:?} endpoints"))
    });
    // Small changes, as every heartbeat is one.
    let _ = lab.kubectl(&["label", "pod", "a2", "b=c"]).ok();
    let _ = lab.kubectl(&["delete", "configmap", "before"]).ok();

    // A killed server comes back on the full disk, with everything, and can still free it.
    let _ = lab.lab(&["kill", "control"]).ok();
    disk.start();
    let pods = lab.kubectl(&["get", "pods", "-o", "name"]).ok();
    assert_eq!(pods, "pod/a2\npod/a3\n");
    let _ = lab
        .kubectl(&["delete", "pod", "a2", "--grace-period=1", "--timeout=30s"])
        .ok();
    let node = lab.get(&["node", "node1"]);
    let ready = node["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    assert_eq!(ready.map(|ready| &ready["status"]), Some(&"True".into()));

    disk.make_room();
    let _ = disk.create("after").ok();
    let log = lab.log("control", "server");
    assert!(log.contains("nothing new is stored"), "{log}");
    assert!(log.contains("there is room on the disk again"), "{log}");
}

/// Not even the reserve is left: the server may fail, but in words, and all is there once there is room.
#[test]
fn a_disk_without_a_single_free_byte_costs_nothing_that_was_acknowledged() {
    let disk = SmallDisk::up();
    let lab = &disk.0;
    for number in 0..20 {
        let _ = disk.create(&format!("kept-{number}")).ok();
    }
    let _ = lab.lab(&["kill", "control"]).ok();
    let _ = disk.sh("rm -f server/store/RESERVE").ok();
    disk.fill();
    let _ = lab.lab(&["start", "control"]).ok();
    // It serves what it has, or it says which file it cannot write.
    let mut deleted = 0;
    eventually("it answers, or says why not", DEADLINE, || {
        let answer = lab.kubectl(&["delete", "configmap", &format!("kept-{deleted}")]);
        if answer.code == Some(0) {
            deleted += 1;
        }
        let status = lab.lab(&["status"]).ok();
        let log = lab.log("control", "server");
        let ended = ["exited with 70", "exited with 74"]
            .iter()
            .any(|code| status.contains(code))
            && log.contains("No space left on device");
        (deleted == 3 || ended)
            .then_some(())
            .ok_or(format!("{status}\n{log}\n{answer:?}"))
    });
    disk.make_room();
    let _ = lab.lab(&["kill", "control"]);
    disk.start();
    for number in deleted + 1..20 {
        let _ = lab
            .kubectl(&["get", "configmap", &format!("kept-{number}")])
            .ok();
    }
    let _ = disk.create("after").ok();
}

#[test]
fn a_store_that_cannot_be_written_ends_the_server_with_words_and_loses_nothing() {
    let mut server = Server::start("unwritable");
    server.process = None;
    let mut command = server.command();
    let mut child = command.stderr(Stdio::piped()).spawn().expect("start");
    let pid = child.id().to_string();
    let errors = BufReader::new(child.stderr.take().expect("piped"));
    let errors = std::thread::spawn(move || {
        let lines: Vec<_> = errors.lines().map_while(Result::ok).collect();
        lines.join("\n")
    });
    server.process = Some(Kill(child));
    eventually("the server answers", DEADLINE, || {
        server.token(&["list"]).result()
    });
    let mut number = 1_u64;
    let mut create = || {
        let description = incompressible(&mut number);
        server.token(&["create", "--description", &description])
    };
    let mut kept = vec![create().ok(), create().ok()];
    // From now on the kernel refuses each byte beyond what is written of the store's file (which is longer).
    let file = server.dir.join("server/store/sled/db");
    let length = file.metadata().expect("the store's file").blocks() * 512;
    let _ = run(Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={length}")])).ok();
    let refusal = eventually("a write is refused", DEADLINE, || match create() {
        answer if answer.code == Some(0) => {
            kept.push(answer.out);
            Err("it was stored".to_owned())
        }
        answer => Ok(answer.err),
    });
    println!("{} stored, then: {refusal}", kept.len());
    let mut child = server.process.take().expect("started");
    let code = eventually("the server ends", DEADLINE, || {
        let status = child.0.try_wait().expect("wait");
        status.ok_or_else(|| "it runs".to_owned())
    });
    drop(child);
    let errors = errors.join().expect("its last words");
    assert_eq!(code.code(), Some(70), "{errors}");
    let store = server.dir.join("server/store");
    for words in [
        "the store stopped",
        "File too large",
        &store.to_string_lossy(),
        "Nothing that was acknowledged is lost",
        "start the server again",
    ] {
        assert!(errors.contains(words), "{words:?} is missing: {errors}");
    }

    server.start_again();
    let listed = server.token(&["list"]).ok();
    for token in &kept {
        let id = token.split('.').nth(2).expect("a token has an id");
        assert!(listed.contains(id), "{id} is lost: {listed}");
    }
    let count = listed.lines().count() - 1;
    // Of the refused one nobody knows.
    assert!(
        (kept.len()..=kept.len() + 1).contains(&count),
        "{count} tokens, {} were acknowledged",
        kept.len()
    );
    let _ = server.token(&["create"]).ok();
    assert!(fs::exists(&file).expect("look"));
}

/// 60 000 characters that no compression makes much smaller.
fn incompressible(state: &mut u64) -> String {
    let mut character = || {
        // Knuth's MMIX generator; the high bits are the good ones.
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from((*state >> 33) % 95).expect("below 95"))
    };
    std::iter::repeat_with(&mut character)
        .take(60_000)
        .collect::<String>()
        .replace('-', "_")
}
