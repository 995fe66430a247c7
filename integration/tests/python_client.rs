//! The API through the official Python client: `tests/clients/python_client.py` says what it does.

use std::{path::Path, process::Command};

use integration::{run, server::Server};

#[test]
fn the_official_python_client_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join("target/tools/python/bin/python");
    assert!(
        python.exists(),
        "{} has the client: `make tools` installs it",
        python.display()
    );
    let server = Server::start("python");
    let answer = run(Command::new(python)
        .arg(root.join("integration/tests/clients/python_client.py"))
        .arg(server.dir.join("server/admin.kubeconfig"))
        .env_remove("PYTHONPATH"));
    let said = answer.ok();
    assert!(said.ends_with("all done\n"), "{said}");
}
