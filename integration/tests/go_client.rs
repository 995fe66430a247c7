//! The API through the official Go client, where Go is on the machine: `tests/clients/go` says what it does.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use integration::{Lab, run, server::Server};

/// The program, which `make clients` builds. Without Go there is none: that is said, past the capture of passing tests.
fn program() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let program = tools.join("go-client");
    if program.exists() {
        return Some(program);
    }
    let absent = fs::read_to_string(tools.join("go-client.absent"));
    let why = absent.expect("`make clients` builds target/tools/go-client, or says why it cannot");
    let said = format!("client-go is NOT tested: {}\n", why.trim());
    let mut stderr = std::io::stderr();
    stderr.write_all(said.as_bytes()).expect("say so");
    None
}

/// Runs it against the cluster of this kubeconfig.
fn drive(program: &Path, kubeconfig: &Path, pod: Option<&str>) {
    let said = run(Command::new(program).arg(kubeconfig).args(pod)).ok();
    assert!(said.ends_with("all done\n"), "{said}");
}

#[test]
fn the_official_go_client_works() {
    let Some(program) = program() else { return };
    let mut server = Server::start("go");
    // Revisions from before the start are too old for watches.
    server.start_again();
    drive(&program, &server.dir.join("server/admin.kubeconfig"), None);
}

#[test]
fn the_official_go_client_reaches_into_pods() {
    let Some(program) = program() else { return };
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    drive(&program, &lab.dir().join("kubeconfig"), Some("a"));
}
