//! The real kubectl, in each version the machine has.

use std::path::PathBuf;

use tokio::process::Command;

use super::Api;

/// Every kubectl there is: the one in the path, and the versions a dispatching one keeps beside it.
fn versions() -> Vec<PathBuf> {
    let first = PathBuf::from("/usr/bin/kubectl");
    let real = std::fs::canonicalize(&first).expect("kubectl is installed");
    let beside = std::fs::read_dir(real.parent().unwrap()).unwrap();
    let mut all: Vec<PathBuf> = beside
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("kubectl.1.")
        })
        .collect();
    all.sort();
    if all.is_empty() {
        all.push(first);
    }
    all
}

/// A kubectl that talks to a test's server.
pub struct Kubectl {
    program: PathBuf,
    server: String,
    /// Its home directory.
    pub home: tempfile::TempDir,
}

impl Kubectl {
    /// Without the environment of whoever runs the test, and with a cache of its own.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("HOME", self.home.path())
            // What `kubectl diff` runs.
            .env("PATH", "/usr/bin:/bin")
            .arg(format!("--server={}", self.server))
            .args(arguments.split_whitespace())
            .kill_on_drop(true);
        command
    }

    /// Whether it succeeded, and all it said.
    pub async fn run(&self, arguments: &str) -> (bool, String) {
        self.with_input(arguments, "").await
    }

    /// The same; `-f -` is a file with this input.
    pub async fn with_input(&self, arguments: &str, input: &str) -> (bool, String) {
        let file = self.home.path().join("input.yaml");
        std::fs::write(&file, input).unwrap();
        let arguments = arguments.replace("-f -", &format!("-f {}", file.display()));
        let output = self.command(&arguments).output();
        let wait = std::time::Duration::from_secs(60);
        let output = tokio::time::timeout(wait, output)
            .await
            .expect("kubectl hangs")
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// What it says; it must succeed.
    pub async fn works(&self, arguments: &str) -> String {
        self.works_with(arguments, "").await
    }

    /// The same with input.
    pub async fn works_with(&self, arguments: &str, input: &str) -> String {
        let (fine, text) = self.with_input(arguments, input).await;
        assert!(fine, "{:?} {arguments}: {text}", self.program);
        text
    }
}

/// Runs a test with every version, each on an API of its own.
pub async fn each_version(test: impl AsyncFn(&Api, &Kubectl)) {
    for program in versions() {
        let api = Api::new().await;
        let address = api.listen().await;
        let kubectl = Kubectl {
            program,
            server: format!("http://{address}"),
            home: tempfile::tempdir().unwrap(),
        };
        test(&api, &kubectl).await;
    }
}
