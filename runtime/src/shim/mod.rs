//! The shim: one small process per Pod, with one thread and one loop.
//!
//! It holds the Pod's namespaces, is the parent of every process of the Pod, copies their output to the logs and remembers
//! their exit codes, whether an agent is there or not.

mod attach;
mod container;
pub(crate) mod log;
mod setup;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, killpg},
        signalfd::SignalFd,
        socket::MsgFlags,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use self::{attach::Attachments, container::Container};
use crate::{
    pod::Setup,
    protocol::{ContainerStatus, PodState, Reply, Request, VERSION},
    sandbox::{Streams, cgroup::Cgroup},
    socket::{Packets, Received, accept_from},
    spec::{ContainerSpec, ExecSpec},
};

/// When to try again to accept a connection, after a failure.
const ACCEPT_AGAIN_MS: u16 = 200;

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
    /// Somebody attached who can take more, or is gone.
    Attached(usize),
}

struct Client {
    packets: Packets,
    subscribed: bool,
    /// Whether the newest state did not fit into its socket: it gets the state of then when it has read some.
    behind: bool,
    /// The exec'd program whose end it waits for.
    waits_for: Option<Pid>,
    /// Whether that program is killed when this client goes.
    takes_along: bool,
}

impl Client {
    /// It is gone before what it waits for.
    fn leave(self) {
        if let Some(pid) = self.waits_for.filter(|_| self.takes_along) {
            // It leads a session of its own, and so a group, with what it has started. It has not been waited for yet, so the
            // number is still its own.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

struct Shim {
    dir: PathBuf,
    setup: Setup,
    cgroup: Cgroup,
    signals: SignalFd,
    listener: OwnedFd,
    containers: BTreeMap<String, Container>,
    clients: Vec<Option<Client>>,
    attached: Attachments,
    changed: bool,
    ending: bool,
    /// Whether a connection could not be accepted just now: the next try comes a little later.
    deaf: bool,
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
            attached: Attachments::default(),
            changed: false,
            ending: false,
            deaf: false,
        }
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Signals => self.on_signal()?,
                    Source::Listener => self.on_connection(),
                    Source::Client(index) => self.on_client(index),
                    Source::Behind(index) => self.tell_subscriber(index),
                    Source::Output(name, stream) => self.on_output(&name, stream),
                    Source::Attached(index) => self.attached.on_ready(index),
                }
            }
            self.attached.forget_ended();
            if std::mem::take(&mut self.changed) {
                self.tell_subscribers();
            }
            if self.ending && !self.containers.values().any(Container::is_running) {
                return Ok(());
            }
        }
    }

    /// Waits for the next events.
    fn wait(&mut self) -> io::Result<Vec<Source>> {
        let timeout = if std::mem::take(&mut self.deaf) {
            PollTimeout::from(ACCEPT_AGAIN_MS)
        } else {
            PollTimeout::NONE
        };
        let mut sources = vec![(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        if timeout == PollTimeout::NONE {
            sources.push((Source::Listener, self.listener.as_fd(), PollFlags::POLLIN));
        }
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
                if let Some((file, _)) = stream
                    && !self.attached.is_full(name, index)
                {
                    let source = Source::Output(name.clone(), index);
                    sources.push((source, file.as_fd(), PollFlags::POLLIN));
                }
            }
        }
        for (index, (fd, events)) in self.attached.wanted().enumerate() {
            sources.push((Source::Attached(index), fd, events));
        }
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, events)| PollFd::new(*fd, *events))
            .collect();
        match poll(&mut polled, timeout) {
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
        let its = |container: &&mut Container| container.pid() == Some(pid);
        if let Some(container) = self.containers.values_mut().find(its) {
            let name = container.status.spec.name.clone();
            let attached = &mut self.attached;
            container.end(code, signal, &mut |stream, bytes| {
                attached.tee(&name, stream, bytes)
            });
            attached.end(&name);
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

    /// A connection that cannot be accepted (no descriptor, no memory) waits: the Pod must not end for it.
    fn on_connection(&mut self) {
        loop {
            let packets = match accept_from(&self.listener) {
                Ok(Some(packets)) => packets,
                Ok(None) => return,
                Err(error) => {
                    eprintln!("shim: accepting a connection: {error}");
                    self.deaf = true;
                    return;
                }
            };
            let client = Client {
                packets,
                subscribed: false,
                behind: false,
                waits_for: None,
                takes_along: false,
            };
            match self.clients.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(client),
                None => self.clients.push(Some(client)),
            }
        }
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
            Ok(Received::Closed) | Err(_) => client.leave(),
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
                    client.takes_along = spec.dies_with_caller;
                    return Some(client);
                }
                Err(reason) => Reply::Error { reason },
            },
            Request::Attach { container, stdin } => match self.attach(&container, stdin, fds) {
                Ok((reply, input)) => {
                    let fds: Vec<_> = input.iter().map(AsRawFd::as_raw_fd).collect();
                    return client.packets.send(&reply, &fds).ok().map(|()| client);
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
        let name = spec.name.clone();
        if self
            .containers
            .get(&name)
            .is_some_and(Container::is_running)
        {
            return Err(format!("container {name} is already running"));
        }
        let container = Container::start(spec, &self.dir, &self.setup, &self.cgroup)
            .map_err(|reason| format!("container {name}: {reason}"))?;
        self.containers.insert(name, container);
        self.changed = true;
        Ok(())
    }

    fn container(&self, name: &str) -> Result<&Container, String> {
        self.containers
            .get(name)
            .ok_or_else(|| format!("there is no container {name}"))
    }

    fn signal(&self, name: &str, signal: i32) -> Result<(), String> {
        let signal =
            Signal::try_from(signal).map_err(|_| format!("there is no signal {signal}"))?;
        self.container(name)?
            .signal(signal)
            .map_err(|error| format!("send {signal} to container {name}: {error}"))
    }

    fn exec(&self, spec: &ExecSpec, fds: &[OwnedFd]) -> Result<Pid, String> {
        let streams = match fds {
            [socket] if spec.tty => Streams::Terminal(socket.as_fd()),
            [input, output, errors] if !spec.tty => {
                Streams::Three([input.as_fd(), output.as_fd(), errors.as_fd()])
            }
            _ => {
                let wanted = "with an exec come three descriptors, or one for a terminal";
                return Err(wanted.to_owned());
            }
        };
        self.container(&spec.container)?
            .exec(&spec.argv, streams)
            .map_err(|reason| format!("container {}: {reason}", spec.container))
    }

    /// From now on the container's output goes to these descriptors too.
    fn attach(
        &mut self,
        name: &str,
        stdin: bool,
        outputs: Vec<OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), String> {
        let container = self
            .containers
            .get_mut(name)
            .filter(|container| container.is_running())
            .ok_or_else(|| format!("container {name} is not running"))?;
        let explain = |error: io::Error| format!("attach to container {name}: {error}");
        let (input, stdin) = container.input(stdin).map_err(explain)?;
        let tty = container.status.spec.stdio.tty;
        for (stream, output) in outputs.into_iter().enumerate() {
            let open = container.streams.get(stream).is_some_and(Option::is_some);
            // One that has nothing to give is closed here, which says so.
            if open {
                self.attached.add(name, stream, output).map_err(explain)?;
            }
        }
        Ok((Reply::Attached { tty, stdin }, input))
    }

    fn on_output(&mut self, name: &str, index: usize) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        let attached = &mut self.attached;
        container.copy_output(index, &mut |stream, bytes| {
            attached.tee(name, stream, bytes)
        });
        if container.streams[index].is_none() {
            attached.end_stream(name, index);
        }
    }

    fn shut_down(&mut self) {
        self.ending = true;
        for container in self.containers.values() {
            // It cannot be refused: it is this process's own child.
            let _ = container.signal(Signal::SIGKILL);
        }
    }

    /// Without the environments: nobody reads them here, and those of several containers may be too much for one message.
    fn state(&self) -> PodState {
        let status = |container: &Container| ContainerStatus {
            spec: ContainerSpec {
                env: Vec::new(),
                ..container.status.spec.clone()
            },
            ..container.status.clone()
        };
        let containers = self
            .containers
            .iter()
            .map(|(name, container)| (name.clone(), status(container)));
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

fn done(outcome: Result<(), String>) -> Reply {
    match outcome {
        Ok(()) => Reply::Done,
        Err(reason) => Reply::Error { reason },
    }
}
