//! `integration/tools.sh` where kubectl is missing: what it downloads is checked, and what it cannot get it names.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use integration::{Answer, run};

/// Writes down what it was asked, and fails.
const APT: &str = r#"#!/bin/bash
echo "$@" >>"$(dirname "$0")/../apt.log"
echo "apt-get: offline" >&2
exit 100
"#;

/// A machine as the script sees it: its own checkout, and a PATH without kubectl, whose apt-get fails as an offline one does.
struct Machine {
    dir: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("minik-tools-{name}-{}", std::process::id()));
        let bin = dir.join("bin");
        fs::create_dir_all(dir.join("integration")).expect("create directories");
        fs::create_dir_all(&bin).expect("create directories");
        for script in ["tools.sh", "root.sh"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
            fs::copy(from, dir.join("integration").join(script)).expect("copy a script");
        }
        let needed = "bash env id dirname mkdir cut rm mv chmod uname sha256sum basename \
                      nft ip dig unshare setpriv pgrep curl jq cc";
        for program in needed.split_whitespace() {
            let found = find(program).unwrap_or_else(|| panic!("this test needs {program}"));
            symlink(found, bin.join(program)).expect("link a program");
        }
        write_program(&bin.join("apt-get"), APT);
        Self { dir }
    }

    fn run(&self, url: &str) -> Answer {
        run(Command::new(self.dir.join("bin/bash"))
            .arg(self.dir.join("integration/tools.sh"))
            .env_clear()
            .env("PATH", self.dir.join("bin"))
            .env("KUBECTL_URL", url))
    }

    /// What was asked of apt-get.
    fn apt(&self) -> String {
        fs::read_to_string(self.dir.join("apt.log")).unwrap_or_default()
    }

    fn tools(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("target/tools")).expect("the directory of tools");
        entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|file| file.exists())
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("write a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("make it executable");
}

/// A download site on loopback: answers the paths it has, 404 for others, and remembers what was asked.
struct Site {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    /// `pages` by the ending of their path.
    fn with(pages: BTreeMap<&'static str, String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("accept");
                let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
                let request = lines.next().and_then(Result::ok).unwrap_or_default();
                lines
                    .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                    .for_each(drop);
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let page = pages.iter().find(|(ending, _)| path.ends_with(*ending));
                let (status, body) =
                    page.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", body));
                seen.lock().expect("not poisoned").push(path);
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self { url, asked }
    }
}

const KUBECTL: &str = "#!/bin/sh\necho a kubectl\n";

/// As the site publishes it: the hash alone, without a file name.
fn sha256(text: &str) -> String {
    let program = r#"printf %s "$1" | sha256sum"#;
    let sum = run(Command::new("bash").args(["-c", program, "sum", text])).ok();
    sum.split(' ').next().expect("a sum").to_owned()
}

#[test]
fn a_kubectl_with_the_published_checksum_is_installed_once() {
    let machine = Machine::new("good");
    let site = Site::with(
        [
            ("/kubectl", KUBECTL.to_owned()),
            ("/kubectl.sha256", sha256(KUBECTL)),
        ]
        .into(),
    );
    let _ = machine.run(&site.url).ok();
    assert_eq!(machine.tools(), ["kubectl"]);
    let answer = run(&mut Command::new(machine.dir.join("target/tools/kubectl"))).ok();
    assert_eq!(answer, "a kubectl\n");
    let asked = site.asked.lock().expect("not poisoned").len();
    let _ = machine.run(&site.url).ok();
    assert_eq!(
        site.asked.lock().expect("not poisoned").len(),
        asked,
        "downloaded again"
    );
    assert_eq!(machine.apt(), "");
}

#[test]
fn a_kubectl_with_another_checksum_is_refused_and_nothing_stays() {
    let machine = Machine::new("bad");
    let tampered = format!("{KUBECTL}echo and more\n");
    let site = Site::with(
        [
            ("/kubectl", tampered.clone()),
            ("/kubectl.sha256", sha256(KUBECTL)),
        ]
        .into(),
    );
    let refusal = machine.run(&site.url).refused();
    for word in [
        "SHA-256",
        &sha256(KUBECTL),
        &sha256(&tampered),
        &site.url,
        "Nothing was installed",
    ] {
        assert!(refusal.contains(word), "{word:?} is missing in: {refusal}");
    }
    assert_eq!(machine.tools(), [""; 0]);
    assert_eq!(
        machine.apt(),
        "",
        "a tampered download is no reason to look elsewhere"
    );
}

#[test]
fn without_a_checksum_or_a_network_it_says_what_to_do() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let offline = format!("http://{}", silent.local_addr().expect("an address"));
    drop(silent);
    let no_checksum = Site::with([("/kubectl", KUBECTL.to_owned())].into());
    for url in [&offline, &no_checksum.url] {
        let machine = Machine::new("offline");
        let refusal = machine.run(url).refused();
        for word in [
            "kubectl is needed",
            "offline",
            "PATH",
            "target/tools",
            "KUBECTL_URL",
            url,
        ] {
            assert!(refusal.contains(word), "{word:?} is missing in: {refusal}");
        }
        assert_eq!(machine.tools(), [""; 0]);
        assert!(
            machine.apt().contains("update"),
            "the distribution was not asked: {}",
            machine.apt()
        );
    }
}

#[test]
fn a_missing_program_is_asked_of_the_distribution_by_its_package() {
    let machine = Machine::new("packages");
    for program in ["nft", "dig"] {
        fs::remove_file(machine.dir.join("bin").join(program)).expect("remove a program");
    }
    // The script looks into /usr/sbin, too, where this machine may have nft.
    let refusal = machine.run("http://127.0.0.1:1").refused();
    assert!(
        refusal.contains("needed and not installed") && refusal.contains("dnsutils"),
        "{refusal}"
    );
}
