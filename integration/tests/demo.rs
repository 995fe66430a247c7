//! What `make demo` shows, in a test of its own: its Pods are ready when they run, so nothing else may slow their start.

use std::process::Command;

use integration::{minik, run};

/// `make demo` itself: ClusterIP from Pod and node, three forms of the name, spread, replaced Pod, hand-written Endpoints,
/// refused Endpoints, NodePort through every node.
#[test]
fn the_demo_holds_what_it_shows() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/demo.sh");
    let lab = format!("demo{}", std::process::id());
    let answer = run(Command::new(script)
        .arg(minik())
        .env("LAB", lab)
        .env_remove("KEEP"));
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.out, answer.err);
}
