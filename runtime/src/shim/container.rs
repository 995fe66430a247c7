//! One container as the shim has it: its first process, its output on the way to the log, its status.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
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
    sandbox::{self, Surroundings, cgroup::Cgroup},
    spec::ContainerSpec,
};

/// How much of a container's output is read at once.
const READ_BYTES: usize = 32 << 10;

pub(super) struct Container {
    pub(super) status: ContainerStatus,
    /// Standard output and error while they are open.
    pub(super) streams: [Option<(File, Stream)>; 2],
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
        let (input, pipes) = stdio().map_err(|error| format!("make standard streams: {error}"))?;
        let [(output, output_end), (errors, errors_end)] = pipes;
        let ends = [input.as_fd(), output_end.as_fd(), errors_end.as_fd()];
        let pid = sandbox::start(&spec, &around, ends)?;
        let status = ContainerStatus {
            attempt: spec.attempt,
            started_at_ms: Timestamp::now().as_millisecond(),
            state: ContainerState::Running { pid: pid.as_raw() },
            spec,
        };
        let streams = [(output, "stdout"), (errors, "stderr")]
            .map(|(fd, name)| Some((File::from(fd), Stream::named(name))));
        Ok(Self {
            status,
            streams,
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
    pub(super) fn exec(&self, argv: &[String], stdio: [BorrowedFd<'_>; 3]) -> Result<Pid, String> {
        let pid = self.pid().ok_or("it is not running")?;
        sandbox::exec(pid, &self.status.spec, argv, &self.cgroup, stdio)
    }

    /// Its first process has ended. All it wrote is in the log before anybody learns of it.
    pub(super) fn end(&mut self, code: i32, signal: Option<i32>) {
        for index in 0..self.streams.len() {
            while self.copy_output(index) {}
        }
        self.status.state = ContainerState::Exited {
            code,
            signal,
            oom_killed: self.cgroup.oom_kills() > self.oom_kills_before,
            finished_at_ms: Timestamp::now().as_millisecond(),
        };
    }

    /// Copies what can be read of one stream to the log; `false` when nothing could.
    pub(super) fn copy_output(&mut self, index: usize) -> bool {
        let Some((file, stream)) = &mut self.streams[index] else {
            return false;
        };
        let mut bytes = [0; READ_BYTES];
        let now = Timestamp::now();
        // A full disk must not stop the container: its output is lost then, and nothing else.
        match file.read(&mut bytes) {
            Ok(length) if length > 0 => {
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

type Pipe = (OwnedFd, OwnedFd);

/// Nothing to read, and a pipe for each output. The container's ends wait as any program expects; the shim's never do.
fn stdio() -> io::Result<(File, [Pipe; 2])> {
    let pipe = || {
        let (from, to) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        io::Result::Ok((from, to))
    };
    Ok((File::open("/dev/null")?, [pipe()?, pipe()?]))
}
