//! The shim: one small process per Pod, with one thread and one loop.
//!
//! It holds the Pod's namespaces, is the parent of every process of the Pod, copies their output to the logs and remembers
//! their exit codes, whether an agent is there or not.

mod log;
mod setup;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        signalfd::SignalFd,
        socket::MsgFlags,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, pipe2},
};

use crate::{
    pod::Setup,
    protocol::{ContainerState, ContainerStatus, PodState, Reply, Request, VERSION},
    sandbox::{self, Surroundings, cgroup::Cgroup},
    socket::{Packets, Received, accept_from},
    spec::{ContainerSpec, ExecSpec},
};
use log::{Log, Stream};

/// How much of a container's output is read at once.
const READ_BYTES: usize = 32 << 10;

/// Runs `minik shim DIR`. Must be called before this process has started any thread.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(dir) = args.next().map(PathBuf::from) else {
        eprintln!("shim: the Pod's directory is missing");
        return ExitCode::FAILURE;
    };
    match setup::prepare(&dir) {
        Ok(Some(prepared)) => match Shim::new(dir, prepared).run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shim: {error}");
                ExitCode::FAILURE
            }
        },
        // The process that only started the shim.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What the loop has to do next, by the descriptor that woke it.
#[derive(Clone)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    /// A subscriber that had not read enough, and now has.
    Behind(usize),
    Output(String, usize),
}

struct Container {
    status: ContainerStatus,
    log: Log,
    /// Standard output and error while they are open.
    streams: [Option<(File, Stream)>; 2],
    cgroup: Cgroup,
    oom_kills_before: u64,
}

impl Container {
    /// Copies what can be read of one stream to the log; `false` when nothing could.
    fn copy_output(&mut self, index: usize) -> bool {
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

struct Client {
    packets: Packets,
    subscribed: bool,
    /// Whether the newest state did not fit into its socket: it gets the state of then when it has read some.
    behind: bool,
    /// The exec'd program whose end it waits for.
    waits_for: Option<Pid>,
}

struct Shim {
    dir: PathBuf,
    setup: Setup,
    cgroup: Cgroup,
    signals: SignalFd,
    listener: OwnedFd,
    containers: BTreeMap<String, Container>,
    clients: Vec<Option<Client>>,
    changed: bool,
    ending: bool,
}

impl Shim {
    fn new(dir: PathBuf, prepared: setup::Prepared) -> Self {
        let setup::Prepared {
            setup,
            signals,
            listener,
        } = prepared;
        let cgroup = Cgroup::named(&setup.cgroup);
        Self {
            dir,
            setup,
            cgroup,
            signals,
            listener,
            containers: BTreeMap::new(),
            clients: Vec::new(),
            changed: false,
            ending: false,
        }
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Signals => self.on_signal()?,
                    Source::Listener => self.on_connection()?,
                    Source::Client(index) => self.on_client(index),
                    Source::Behind(index) => self.tell_subscriber(index),
                    Source::Output(name, stream) => self.on_output(&name, stream),
                }
            }
            if std::mem::take(&mut self.changed) {
                self.tell_subscribers();
            }
            if self.ending
                && self
                    .containers
                    .values()
                    .all(|container| !container.status.state.is_running())
            {
                return Ok(());
            }
        }
    }

    /// Waits for the next events.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::POLLIN),
            (Source::Listener, self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (index, client) in self.clients.iter().enumerate() {
            let Some(client) = client else { continue };
            let fd = client.packets.0.as_fd();
            sources.push((Source::Client(index), fd, PollFlags::POLLIN));
            if client.behind {
                sources.push((Source::Behind(index), fd, PollFlags::POLLOUT));
            }
        }
        for (name, container) in &self.containers {
            for (index, stream) in container.streams.iter().enumerate() {
                if let Some((file, _)) = stream {
                    let source = Source::Output(name.clone(), index);
                    sources.push((source, file.as_fd(), PollFlags::POLLIN));
                }
            }
        }
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, events)| PollFd::new(*fd, *events))
            .collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = polled
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        Ok(sources
            .iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|((source, ..), _)| source.clone())
            .collect())
    }

    fn on_signal(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                self.shut_down();
            }
        }
        // One SIGCHLD may stand for many children.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.on_end(pid, code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.on_end(pid, 128 + signal as i32, Some(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A child has ended: a container, an exec'd program, or an orphan of one.
    fn on_end(&mut self, pid: Pid, code: i32, signal: Option<i32>) {
        let running = |container: &&mut Container| {
            container.status.state == ContainerState::Running { pid: pid.as_raw() }
        };
        if let Some(container) = self.containers.values_mut().find(running) {
            // All it wrote is in the log before anybody learns of its end.
            for index in 0..container.streams.len() {
                while container.copy_output(index) {}
            }
            let oom_killed = container.cgroup.oom_kills() > container.oom_kills_before;
            let finished_at_ms = Timestamp::now().as_millisecond();
            container.status.state = ContainerState::Exited {
                code,
                signal,
                oom_killed,
                finished_at_ms,
            };
            self.changed = true;
        }
        for client in self
            .clients
            .iter_mut()
            .filter(|client| matches!(client, Some(c) if c.waits_for == Some(pid)))
        {
            if let Some(client) = client.take() {
                let _ = client.packets.send(&Reply::Exited { code }, &[]);
            }
        }
    }

    fn on_connection(&mut self) -> io::Result<()> {
        while let Some(packets) = accept_from(&self.listener)? {
            let client = Client {
                packets,
                subscribed: false,
                behind: false,
                waits_for: None,
            };
            match self.clients.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(client),
                None => self.clients.push(Some(client)),
            }
        }
        Ok(())
    }

    fn on_client(&mut self, index: usize) {
        let Some(client) = self.clients[index].take() else {
            return;
        };
        match client.packets.receive(MsgFlags::MSG_DONTWAIT) {
            Ok(Received::Message(request, fds)) => {
                self.clients[index] = self.answer(client, request, fds)
            }
            Ok(Received::Nothing) => self.clients[index] = Some(client),
            // An agent that is newer than this shim: it must not take it for dead.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let reason = format!("shim protocol {VERSION} does not know this request: {error}");
                let told = client.packets.send(&Reply::Error { reason }, &[]);
                self.clients[index] = told.ok().map(|()| client);
            }
            Ok(Received::Closed) | Err(_) => {}
        }
    }

    /// Does what was asked; the client stays unless it does not listen.
    fn answer(
        &mut self,
        mut client: Client,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Option<Client> {
        let reply = match request {
            Request::Hello => Reply::Hello {
                version: VERSION,
                pod: Box::new(self.setup.pod.clone()),
            },
            Request::State => Reply::State(self.state()),
            Request::Subscribe => {
                client.subscribed = true;
                Reply::State(self.state())
            }
            Request::Start(spec) => done(self.start(*spec)),
            Request::Signal { container, signal } => done(self.signal(&container, signal)),
            Request::Exec(spec) => match self.exec(&spec, &fds) {
                Ok(pid) => {
                    client.waits_for = Some(pid);
                    return Some(client);
                }
                Err(reason) => Reply::Error { reason },
            },
            Request::Shutdown => {
                self.shut_down();
                Reply::Done
            }
        };
        client.packets.send(&reply, &[]).ok().map(|()| client)
    }

    fn start(&mut self, spec: ContainerSpec) -> Result<(), String> {
        if self
            .containers
            .get(&spec.name)
            .is_some_and(|container| container.status.state.is_running())
        {
            return Err(format!("container {} is already running", spec.name));
        }
        let text = |error: &dyn std::fmt::Display| format!("container {}: {error}", spec.name);
        let cgroup = self.cgroup.child(&spec.name);
        cgroup.create(&spec.limits).map_err(|error| text(&error))?;
        let log = Log::open(&self.setup.log_dir.join(&spec.name), spec.attempt)
            .map_err(|error| text(&error))?;
        let mount_point = self.dir.join("root");
        std::fs::create_dir_all(&mount_point).map_err(|error| text(&error))?;
        let input = File::open("/dev/null").map_err(|error| text(&error))?;
        let (output, output_end) = output_pipe().map_err(|error| text(&error))?;
        let (errors, errors_end) = output_pipe().map_err(|error| text(&error))?;
        let around = Surroundings {
            pod: &self.setup.pod,
            mount_point: &mount_point,
            built_in: &self.setup.built_in,
            cgroup: &cgroup,
        };
        let oom_kills_before = cgroup.oom_kills();
        let stdio = [input.as_fd(), output_end.as_fd(), errors_end.as_fd()];
        let pid = sandbox::start(&spec, &around, stdio).map_err(|reason| text(&reason))?;
        let status = ContainerStatus {
            attempt: spec.attempt,
            started_at_ms: Timestamp::now().as_millisecond(),
            state: ContainerState::Running { pid: pid.as_raw() },
            spec,
        };
        let streams = [(output, "stdout"), (errors, "stderr")]
            .map(|(fd, name)| Some((File::from(fd), Stream::named(name))));
        let container = Container {
            log,
            streams,
            cgroup,
            oom_kills_before,
            status,
        };
        self.containers
            .insert(container.status.spec.name.clone(), container);
        self.changed = true;
        Ok(())
    }

    fn signal(&mut self, name: &str, signal: i32) -> Result<(), String> {
        let container = self
            .containers
            .get(name)
            .ok_or_else(|| format!("there is no container {name}"))?;
        let signal =
            Signal::try_from(signal).map_err(|_| format!("there is no signal {signal}"))?;
        let ContainerState::Running { pid } = container.status.state else {
            return Ok(());
        };
        // The end of its first process ends every process of a container.
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(format!("send {signal} to container {name}: {error}")),
        }
    }

    fn exec(&mut self, spec: &ExecSpec, fds: &[OwnedFd]) -> Result<Pid, String> {
        let [input, output, errors] = fds else {
            return Err("three descriptors must come with an exec".to_owned());
        };
        let name = &spec.container;
        let container = self
            .containers
            .get(name)
            .ok_or_else(|| format!("there is no container {name}"))?;
        let ContainerState::Running { pid } = container.status.state else {
            return Err(format!("container {name} is not running"));
        };
        let stdio: [BorrowedFd<'_>; 3] = [input.as_fd(), output.as_fd(), errors.as_fd()];
        sandbox::exec(
            Pid::from_raw(pid),
            &container.status.spec,
            &spec.argv,
            &container.cgroup,
            stdio,
        )
        .map_err(|reason| format!("container {name}: {reason}"))
    }

    fn on_output(&mut self, name: &str, index: usize) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        container.copy_output(index);
    }

    fn shut_down(&mut self) {
        self.ending = true;
        for container in self.containers.values() {
            if let ContainerState::Running { pid } = container.status.state {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    fn state(&self) -> PodState {
        let containers = self
            .containers
            .iter()
            .map(|(name, container)| (name.clone(), container.status.clone()));
        PodState {
            containers: containers.collect(),
        }
    }

    fn tell_subscribers(&mut self) {
        for index in 0..self.clients.len() {
            self.tell_subscriber(index);
        }
    }

    fn tell_subscriber(&mut self, index: usize) {
        let state = Reply::State(self.state());
        let Some(client) = &mut self.clients[index] else {
            return;
        };
        if !client.subscribed {
            return;
        }
        match client.packets.send(&state, &[]) {
            Ok(()) => client.behind = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => client.behind = true,
            Err(_) => self.clients[index] = None,
        }
    }
}

/// The container's end waits as any program expects; the shim's end never does.
fn output_pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (from, to) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((from, to))
}

fn done(outcome: Result<(), String>) -> Reply {
    match outcome {
        Ok(()) => Reply::Done,
        Err(reason) => Reply::Error { reason },
    }
}
