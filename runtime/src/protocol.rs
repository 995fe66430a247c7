//! What agent and shim say to each other: one JSON message per packet.
//!
//! Shims live through upgrades of the agent, so fields are only ever added, and always with a default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{ContainerSpec, ExecSpec, PodSpec};

/// Raised when something is added that an older shim cannot do. 2 attaches, and makes terminals; 3 kills a program whose caller
/// is gone.
pub const VERSION: u32 = 3;

/// The agent's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who are you?
    Hello,
    /// Starts a container; one of that name must not be running.
    Start(Box<ContainerSpec>),
    /// Sends a signal to a container's first process; to all of its processes when it is SIGKILL.
    Signal {
        /// The container.
        container: String,
        /// The signal's number.
        signal: i32,
    },
    /// The Pod's state, once.
    State,
    /// The Pod's state, now and after every change, on this connection.
    Subscribe,
    /// Runs a program in a container. Comes with three descriptors: its standard input, output and error; or, for a terminal,
    /// with one: the socket to which the terminal's master is sent.
    Exec(ExecSpec),
    /// Copies a container's output, from now on, to the descriptors it comes with: standard output and error.
    Attach {
        /// The container.
        container: String,
        /// Whether its standard input is wanted.
        stdin: bool,
    },
    /// Ends every container at once, and then the shim.
    Shutdown,
}

/// The shim's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// [`VERSION`] of the shim.
        version: u32,
        /// What it was made for.
        pod: Box<PodSpec>,
    },
    /// Done.
    Done,
    /// To [`Request::State`] and [`Request::Subscribe`].
    State(PodState),
    /// An exec'd program has ended.
    Exited {
        /// Its exit code; 128 + the signal's number when a signal ended it.
        code: i32,
    },
    /// To [`Request::Attach`]. Comes with one descriptor, where there is something to write to: the container's standard input,
    /// or the master of its terminal.
    Attached {
        /// Whether it is a terminal.
        tty: bool,
        /// Whether what is written there reaches the container.
        stdin: bool,
    },
    /// Not done.
    Error {
        /// Why.
        reason: String,
    },
}

/// Every container that was ever started, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// The newest attempt of each.
    pub containers: BTreeMap<String, ContainerStatus>,
}

/// One container's newest attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Which attempt this is, from 0.
    pub attempt: u32,
    /// When it was started, in Unix milliseconds.
    pub started_at_ms: i64,
    /// Whether it runs.
    pub state: ContainerState,
    /// What it was started from, without its environment.
    pub spec: ContainerSpec,
}

/// Whether a container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// It runs.
    Running {
        /// Its first process, as the shim's PID namespace numbers it.
        pid: i32,
    },
    /// It has ended.
    Exited {
        /// Its exit code; 128 + the signal's number when a signal ended it.
        code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Whether the kernel ended it for using too much memory.
        oom_killed: bool,
        /// When, in Unix milliseconds.
        finished_at_ms: i64,
    },
}

impl ContainerState {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What agents of version 1 send. Shims of every later version must understand it: lines are only ever added.
    const REQUESTS_1: [&str; 7] = [
        r#""Hello""#,
        r#"{"Start":{"name":"main","attempt":0,"image":"BuiltIn","argv":["/minik"],"env":[["A","1"]],"working_dir":"/",
            "user":{"uid":0,"gid":0,"groups":[]},"limits":{"memory_bytes":1,"cpu_millis":null,"pids":null},
            "allow_privilege_escalation":true,"read_only_root":false}}"#,
        r#"{"Signal":{"container":"main","signal":15}}"#,
        r#""State""#,
        r#""Subscribe""#,
        r#"{"Exec":{"container":"main","argv":["/minik"]}}"#,
        r#""Shutdown""#,
    ];
    /// What shims of version 1 answer. Agents of every later version must understand it.
    const REPLIES_1: [&str; 5] = [
        r#"{"Hello":{"version":1,"pod":{"uid":"u","namespace":"n","name":"p","hostname":"h","network":"Own",
            "resolv_conf":"","hosts":""}}}"#,
        r#""Done""#,
        r#"{"State":{"containers":{"main":{"attempt":0,"started_at_ms":1,
            "state":{"Exited":{"code":0,"signal":null,"oom_killed":false,"finished_at_ms":2}},
            "spec":{"name":"main","attempt":0,"image":"BuiltIn","argv":[],"env":[],"working_dir":"/",
                "user":{"uid":0,"gid":0,"groups":[]},"limits":{"memory_bytes":null,"cpu_millis":null,"pids":null},
                "allow_privilege_escalation":true,"read_only_root":false}}}}}"#,
        r#"{"Exited":{"code":1}}"#,
        r#"{"Error":{"reason":"r"}}"#,
    ];

    /// What came with version 2.
    const REQUESTS_2: [&str; 3] = [
        r#"{"Start":{"name":"main","attempt":0,"image":"BuiltIn","argv":["/minik"],"env":[],"working_dir":"/",
            "user":{"uid":0,"gid":0,"groups":[]},"limits":{"memory_bytes":null,"cpu_millis":null,"pids":null},
            "allow_privilege_escalation":true,"read_only_root":false,
            "stdio":{"stdin":true,"stdin_once":true,"tty":true}}}"#,
        r#"{"Exec":{"container":"main","argv":["/minik"],"tty":true}}"#,
        r#"{"Attach":{"container":"main","stdin":true}}"#,
    ];
    /// What came with version 3.
    const REQUESTS_3: [&str; 1] =
        [r#"{"Exec":{"container":"main","argv":["/minik"],"tty":false,"dies_with_caller":true}}"#];
    const REPLIES_2: [&str; 1] = [r#"{"Attached":{"tty":true,"stdin":true}}"#];

    #[test]
    fn versions_2_and_3_are_understood() {
        for text in REQUESTS_2.iter().chain(&REQUESTS_3) {
            serde_json::from_str::<Request>(text).expect(text);
        }
        for text in REPLIES_2 {
            serde_json::from_str::<Reply>(text).expect(text);
        }
    }

    #[test]
    fn version_1_is_understood() {
        for text in REQUESTS_1 {
            serde_json::from_str::<Request>(text).expect(text);
        }
        for text in REPLIES_1 {
            serde_json::from_str::<Reply>(text).expect(text);
        }
    }
}
