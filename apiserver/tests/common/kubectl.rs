//! The real kubectl, in each version the machine has.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::Api;

/// The kubectls to test with: those that `MINIK_KUBECTLS` lists (as PATH lists, with `:`), else every one on PATH.
fn versions() -> Vec<PathBuf> {
    let list = std::env::var_os("MINIK_KUBECTLS");
    let all: Vec<PathBuf> = match &list {
        Some(list) => std::env::split_paths(list).collect(),
        None => on_path(),
    };
    assert!(
        !all.is_empty() && all.iter().all(|path| path.is_file()),
        "MINIK_KUBECTLS, else PATH, has to name kubectl: `make tools` installs it (got {all:?})"
    );
    all
}

/// Every `kubectl` and `kubectl.1.x` in the directories of PATH. Where a version stands beside the file that a plain `kubectl`
/// leads to, that one is no kubectl itself but chooses among those.
fn on_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let mut all = BTreeSet::new();
    for directory in std::env::split_paths(&path) {
        let plain = directory.join("kubectl");
        let mut found = numbered(&directory);
        if let Ok(real) = plain.canonicalize() {
            found.extend(real.parent().map(numbered).unwrap_or_default());
            if found.is_empty() {
                found.push(real);
            }
        }
        all.extend(found);
    }
    all.into_iter().collect()
}

/// The `kubectl.1.x` of a directory.
fn numbered(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("kubectl.1.")
        })
        .filter_map(|entry| entry.path().canonicalize().ok())
        .collect()
}

/// A kubectl that talks to a test's server.
pub struct Kubectl {
    /// The binary.
    pub program: PathBuf,
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
