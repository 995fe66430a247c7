//! A server without a lab, for tests of how it starts, stops and fails.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Answer, DEADLINE, eventually, minik, run};

/// Ends a process when dropped.
pub struct Kill(pub Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `minik server` on loopback, in a directory of its own.
pub struct Server {
    /// The directory; its data directory is `server` in it.
    pub dir: PathBuf,
    /// The running process; `None` kills it.
    pub process: Option<Kill>,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("minik-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("create a directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port")
            .port();
        let mut server = Self {
            dir,
            process: None,
            port,
        };
        server.start_again();
        server
    }

    /// Starts it again, after its process has ended, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_again(&mut self) {
        // The old one holds its directory until it is gone.
        self.process = None;
        let mut command = self.command();
        self.process = Some(Kill(command.spawn().expect("start the server")));
        eventually("the server answers", DEADLINE, || {
            self.token(&["list"]).result()
        });
    }

    /// `minik server`, not started yet.
    #[must_use]
    pub fn command(&self) -> Command {
        self.command_with(&[])
    }

    /// `minik server`, with some flags changed or added.
    #[must_use]
    pub fn command_with(&self, changed: &[(&str, &str)]) -> Command {
        let (bind, data) = (
            format!("127.0.0.1:{}", self.port),
            self.dir.join("server").to_string_lossy().into_owned(),
        );
        let usual = [
            ("--bind", bind.as_str()),
            ("--advertise-address", "127.0.0.1"),
            ("--data-dir", &data),
        ];
        let mut command = Command::new(minik());
        command.arg("server").stderr(Stdio::null());
        for (flag, value) in usual {
            if !changed.iter().any(|(name, _)| *name == flag) {
                command.args([flag, value]);
            }
        }
        for (flag, value) in changed {
            command.args([flag, value]);
        }
        command
    }

    /// `minik token ...`
    #[must_use]
    pub fn token(&self, args: &[&str]) -> Answer {
        run(Command::new(minik())
            .arg("token")
            .args(args)
            .arg("--data-dir")
            .arg(self.dir.join("server")))
    }

    /// `minik agent --join`, to its end.
    #[must_use]
    pub fn join(&self, token: &str) -> Answer {
        let url = format!("https://127.0.0.1:{}", self.port);
        let mut command = Command::new(minik());
        command.args([
            "agent",
            "--join",
            &url,
            "--token",
            token,
            "--node-name",
            "n",
            "--node-ip",
            "127.0.0.1",
        ]);
        for dir in ["data", "run", "log"] {
            command.arg(format!("--{dir}-dir")).arg(self.dir.join(dir));
        }
        run(&mut command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}
