//! A node whose kernel, or whose privileges, do not suffice: the agent finds out by trying, says so, and joins nothing.

use std::{path::Path, process::Command};

use integration::{Answer, Lab, minik, run};

/// `minik agent` on the lab's client host, started by the command in front of it.
fn agent(lab: &Lab, by: &[&str]) -> Answer {
    let minik = minik();
    let minik = minik.to_string_lossy();
    let token = lab.token();
    // A directory that anybody may write to: nothing but the kernel is in the way.
    let dir = lab.dir().join("client/open");
    let dir = dir.to_string_lossy();
    let _ = lab.on("client", &["mkdir", "-p", "-m", "777", &dir]).ok();
    let flags = [
        "agent",
        "--join",
        "https://198.18.0.2:6443",
        "--token",
        &token,
        "--node-name",
        "weak",
        "--node-ip",
        "198.18.0.100",
        "--data-dir",
        &dir,
        "--run-dir",
        &dir,
        "--log-dir",
        &dir,
    ];
    lab.on("client", &[by, &[&minik], &flags].concat())
}

fn joined_nothing(lab: &Lab) {
    let nodes = lab.kubectl(&["get", "nodes", "-o", "name"]).ok();
    assert_eq!(nodes, "node/node1\n");
}

#[test]
fn an_agent_without_privileges_says_which_one_is_missing() {
    let lab = Lab::up(1, &[]);
    let nobody = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--no-new-privs",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    // The root of a container that was given no network to administer.
    let root = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"];
    for by in [&nobody[..], &root] {
        let answer = agent(&lab, by);
        assert_eq!(answer.code, Some(77), "{answer:?}");
        let words = ["nftables", "CAP_NET_ADMIN", "run as root"];
        for word in words {
            assert!(answer.err.contains(word), "{word:?} is missing: {answer:?}");
        }
        joined_nothing(&lab);
    }
}

#[test]
fn an_agent_on_a_kernel_without_nf_tables_says_what_to_build_in() {
    let lab = Lab::up(1, &[]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/without_netfilter.c");
    let program = lab.dir().join("without_netfilter");
    let built = run(Command::new("cc").arg("-o").arg(&program).arg(source));
    let _ = built.ok();
    let answer = agent(&lab, &[&program.to_string_lossy()]);
    assert_eq!(answer.code, Some(69), "{answer:?}");
    for word in ["kernel", "nf_tables", "CONFIG_NF_TABLES"] {
        assert!(answer.err.contains(word), "{word:?} is missing: {answer:?}");
    }
    joined_nothing(&lab);
}
