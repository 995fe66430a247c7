//! One container as the shim has it: its first process, its output on the way to the log, its status.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe2},
};

use super::log::{Log, Stream};
use crate::{
    pod::Setup,
    protocol::{ContainerState, ContainerStatus},
    sandbox::{self, Streams, Surroundings, cgroup::Cgroup, terminal},
    spec::{ContainerSpec, Stdio},
};

/// How much of a container's output is read at once.
const READ_BYTES: usize = 32 << 10;

pub(super) struct Container {
    pub(super) status: ContainerStatus,
    /// Standard output and error while they are open; the master of the terminal is the first, if there is one.
    pub(super) streams: [Option<(File, Stream)>; 2],
    /// Where its standard input is written, if anybody ever may; the master, once more, if there is a terminal.
    input: Option<OwnedFd>,
    log: Log,
    cgroup: Cgroup,
    oom_kills_before: u64,
}

impl Container {
    /// Starts an attempt; returns once its program runs.
    ///
    /// # Errors
    /// The step that failed, in words.
    pub(super) fn start(
        spec: ContainerSpec,
        dir: &Path,
        setup: &Setup,
        pod: &Cgroup,
    ) -> Result<Self, String> {
        let cgroup = pod.child(&spec.name);
        cgroup
            .create(&spec.limits)
            .map_err(|error| error.to_string())?;
        let log = Log::open(&setup.log_dir.join(&spec.name), spec.attempt)
            .map_err(|error| format!("open the log: {error}"))?;
        let mount_point = dir.join("root");
        fs::create_dir_all(&mount_point).map_err(|error| format!("make the root: {error}"))?;
        let around = Surroundings {
            pod: &setup.pod,
            mount_point: &mount_point,
            built_in: &setup.built_in,
            cgroup: &cgroup,
        };
        let oom_kills_before = cgroup.oom_kills();
        let (pid, made) = if spec.stdio.tty {
            start_in_terminal(&spec, &around)?
        } else {
            start_with_pipes(&spec, &around)?
        };
        let status = ContainerStatus {
            attempt: spec.attempt,
            started_at_ms: Timestamp::now().as_millisecond(),
            state: ContainerState::Running { pid: pid.as_raw() },
            spec,
        };
        let Made { outputs, input } = made;
        let [output, errors] = outputs;
        let streams = [(output, "stdout"), (errors, "stderr")]
            .map(|(file, name)| Some((file?, Stream::named(name))));
        Ok(Self {
            status,
            streams,
            input,
            log,
            cgroup,
            oom_kills_before,
        })
    }

    /// Its first process while it runs.
    pub(super) fn pid(&self) -> Option<Pid> {
        match self.status.state {
            ContainerState::Running { pid } => Some(Pid::from_raw(pid)),
            ContainerState::Exited { .. } => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.status.state.is_running()
    }

    /// To its first process, whose end ends every other one. Fine when it has ended.
    pub(super) fn signal(&self, signal: Signal) -> nix::Result<()> {
        match self.pid().map_or(Ok(()), |pid| kill(pid, signal)) {
            Err(Errno::ESRCH) => Ok(()),
            outcome => outcome,
        }
    }

    /// Starts another program in it.
    ///
    /// # Errors
    /// The step that failed, in words.
    pub(super) fn exec(&self, argv: &[String], streams: Streams<'_>) -> Result<Pid, String> {
        let pid = self.pid().ok_or("it is not running")?;
        sandbox::exec(pid, &self.status.spec, argv, &self.cgroup, streams)
    }

    /// What somebody who attaches may write to, and whether that reaches the container. Input that is to end with the first who
    /// attaches is handed over.
    pub(super) fn input(&mut self, wanted: bool) -> io::Result<(Option<OwnedFd>, bool)> {
        let Stdio {
            stdin_once, tty, ..
        } = self.status.spec.stdio;
        let reaches = wanted && self.status.spec.stdio.stdin && self.input.is_some();
        if reaches && stdin_once && !tty {
            return Ok((self.input.take(), true));
        }
        let input = self.input.as_ref().filter(|_| reaches || tty);
        Ok((input.map(OwnedFd::try_clone).transpose()?, reaches))
    }

    /// Its first process has ended. All it wrote is in the log before anybody learns of it.
    pub(super) fn end(
        &mut self,
        code: i32,
        signal: Option<i32>,
        tee: &mut dyn FnMut(usize, &[u8]),
    ) {
        for index in 0..self.streams.len() {
            while self.copy_output(index, tee) {}
        }
        self.input = None;
        self.status.state = ContainerState::Exited {
            code,
            signal,
            oom_killed: self.cgroup.oom_kills() > self.oom_kills_before,
            finished_at_ms: Timestamp::now().as_millisecond(),
        };
    }

    /// Copies what can be read of one stream to the log and to `tee`; `false` when nothing could.
    pub(super) fn copy_output(&mut self, index: usize, tee: &mut dyn FnMut(usize, &[u8])) -> bool {
        let Some((file, stream)) = &mut self.streams[index] else {
            return false;
        };
        let mut bytes = [0; READ_BYTES];
        let now = Timestamp::now();
        // A full disk must not stop the container: its output is lost then, and nothing else.
        match file.read(&mut bytes) {
            Ok(length) if length > 0 => {
                tee(index, &bytes[..length]);
                let _ = stream.push(&bytes[..length], &mut self.log, now);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(_) | Err(_) => {
                let _ = stream.finish(&mut self.log, now);
                self.streams[index] = None;
                false
            }
        }
    }
}

/// The shim's ends of a container's standard streams. They never wait.
struct Made {
    outputs: [Option<File>; 2],
    input: Option<OwnedFd>,
}

/// The container's ends of the pipes wait as any program expects.
fn start_with_pipes(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
) -> Result<(Pid, Made), String> {
    let pipes = || {
        let (output, output_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (errors, errors_end) = pipe2(OFlag::O_CLOEXEC)?;
        for end in [&output, &errors] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let (from, input) = if spec.stdio.stdin {
            let (from, input) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            (from, Some(input))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let outputs = [output, errors].map(|fd| Some(File::from(fd)));
        io::Result::Ok((Made { outputs, input }, [from, output_end, errors_end]))
    };
    let (made, [input, output, errors]) =
        pipes().map_err(|error| format!("make standard streams: {error}"))?;
    let ends = Streams::Three([input.as_fd(), output.as_fd(), errors.as_fd()]);
    Ok((sandbox::start(spec, around, ends)?, made))
}

fn start_in_terminal(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
) -> Result<(Pid, Made), String> {
    let failed = |error| format!("make the terminal: {error}");
    let (ours, theirs) = terminal::sockets().map_err(failed)?;
    let pid = sandbox::start(spec, around, Streams::Terminal(theirs.as_fd()))?;
    drop(theirs);
    let master = terminal::receive(&ours).map_err(failed)?;
    let master = master.ok_or("make the terminal: none came")?;
    let input = Some(master.try_clone().map_err(failed)?.into());
    let outputs = [Some(master), None];
    Ok((pid, Made { outputs, input }))
}
