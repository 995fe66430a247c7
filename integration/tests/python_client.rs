//! The API through the official Python client: `tests/clients/python_client.py` says what it does.

use std::{path::Path, process::Command};

use integration::{Lab, run, server::Server};

/// Runs the script against the cluster of this kubeconfig.
fn drive(kubeconfig: &Path, pod: Option<&str>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join("target/tools/python/bin/python");
    assert!(
        python.exists(),
        "{} has the client: `make clients` installs it",
        python.display()
    );
    let answer = run(Command::new(python)
        .arg(root.join("integration/tests/clients/python_client.py"))
        .arg(kubeconfig)
        .args(pod)
        .env_remove("PYTHONPATH"));
    let said = answer.ok();
    assert!(said.ends_with("all done\n"), "{said}");
}

#[test]
fn the_official_python_client_works() {
    let server = Server::start("python");
    drive(&server.dir.join("server/admin.kubeconfig"), None);
}

#[test]
fn the_official_python_client_runs_commands_in_pods() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a", "a", "node1")]);
    drive(&lab.dir().join("kubeconfig"), Some("a"));
}
