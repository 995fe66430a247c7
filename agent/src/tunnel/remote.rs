//! A program in a container, or the container's own, with its streams at a client.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use api::tunnel::{Attach, Exec, Streams, channel, encode};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};
use runtime::{ExecSpec, Pod, RuntimeError};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
};

use super::{
    Node, Refusal,
    body::{Inbound, Outbound, Sender},
    streams::{Input, copy_out},
};
use crate::ready::readable;

/// Where a program's streams are on this side.
struct Session {
    input: Input,
    /// Descriptors to read, with their channels.
    outputs: Vec<(OwnedFd, u8)>,
}

pub(super) async fn exec(
    node: &Arc<Node>,
    wanted: Exec,
    inbound: Inbound,
) -> Result<Outbound, Refusal> {
    let pod = pod(node, &wanted.pod, &wanted.container).await?;
    let spec = ExecSpec {
        container: wanted.container,
        argv: wanted.command,
        tty: wanted.streams.tty,
        dies_with_caller: false,
    };
    let starting = spawn_blocking(move || start(&pod, &spec, wanted.streams));
    let (running, session) = starting.await.expect("the runtime does not panic")?;
    let (to, body) = Outbound::new();
    tokio::spawn(async move {
        let moving = session.start(inbound, &to);
        tokio::select! {
            outcome = exit(running, moving) => finish(&to, &exec_status(outcome)).await,
            () = to.closed() => {}
        }
    });
    Ok(body)
}

pub(super) async fn attach(
    node: &Arc<Node>,
    wanted: Attach,
    inbound: Inbound,
) -> Result<Outbound, Refusal> {
    let pod = pod(node, &wanted.pod, &wanted.container).await?;
    let Attach {
        container, streams, ..
    } = wanted;
    let attaching = spawn_blocking(move || attach_to(&pod, &container, streams));
    let session = attaching.await.expect("the runtime does not panic")?;
    let (to, body) = Outbound::new();
    tokio::spawn(async move {
        let mut moving = session.start(inbound, &to);
        // The shim closes the outputs when the container ends. Who wants none of them stays until he goes.
        let outputs = async {
            if moving.outputs.is_empty() {
                std::future::pending::<()>().await;
            }
            while moving.outputs.join_next().await.is_some() {}
        };
        tokio::select! {
            () = outputs => finish(&to, &success()).await,
            () = to.closed() => {}
        }
    });
    Ok(body)
}

/// The last frame.
async fn finish(to: &Sender, status: &Value) {
    let frame = encode(channel::STATUS, status.to_string().as_bytes());
    // Who is gone does not ask.
    let _ = to.send(Ok(frame)).await;
}

async fn pod(node: &Arc<Node>, pod: &api::tunnel::PodRef, container: &str) -> Result<Pod, Refusal> {
    let (runtime, uid) = (node.runtime.clone(), pod.uid.clone());
    let found = spawn_blocking(move || runtime.pod(&uid)).await;
    match found.expect("the runtime does not panic") {
        Ok(found) => Ok(found),
        Err(RuntimeError::ShimGone { .. }) => {
            let what = format!("container {container}");
            Err(Refusal::not_here(&what, pod, &node.name))
        }
        Err(error) => Err(error.into()),
    }
}

/// A pipe whose end on this side does not wait.
enum Ours {
    Reads,
    Writes,
}

/// (the end on this side, the program's end)
fn pipe(ours: &Ours) -> io::Result<(OwnedFd, OwnedFd)> {
    let (from, to) = pipe2(OFlag::O_CLOEXEC)?;
    let (our, their) = match ours {
        Ours::Reads => (from, to),
        Ours::Writes => (to, from),
    };
    fcntl(&our, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((our, their))
}

fn start(pod: &Pod, spec: &ExecSpec, wanted: Streams) -> Result<(runtime::Exec, Session), Refusal> {
    if wanted.tty {
        let (exec, master) = pod.start_exec_in_terminal(spec)?;
        let master = master.map(OwnedFd::from);
        let outputs = master.as_ref().map(OwnedFd::try_clone).transpose()?;
        let session = Session {
            input: Input::new(master, wanted.stdin, true)?,
            outputs: outputs
                .into_iter()
                .map(|fd| (fd, channel::STDOUT))
                .collect(),
        };
        return Ok((exec, session));
    }
    let null = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
    };
    let (input, input_end) = if wanted.stdin {
        let (ours, theirs) = pipe(&Ours::Writes)?;
        (Some(ours), theirs)
    } else {
        (None, null()?)
    };
    let mut outputs = Vec::new();
    let mut output_end = |is_wanted: bool, channel: u8| {
        if !is_wanted {
            return null();
        }
        let (ours, theirs) = pipe(&Ours::Reads)?;
        outputs.push((ours, channel));
        io::Result::Ok(theirs)
    };
    let output = output_end(wanted.stdout, channel::STDOUT)?;
    let errors = output_end(wanted.stderr, channel::STDERR)?;
    let exec = pod.start_exec(spec, [input_end.as_fd(), output.as_fd(), errors.as_fd()])?;
    let input = Input::new(input, wanted.stdin, false)?;
    Ok((exec, Session { input, outputs }))
}

fn attach_to(pod: &Pod, container: &str, wanted: Streams) -> Result<Session, Refusal> {
    let (output, output_end) = pipe(&Ours::Reads)?;
    let (errors, errors_end) = pipe(&Ours::Reads)?;
    let ends = [output_end.as_fd(), errors_end.as_fd()];
    let attached = pod.attach(container, wanted.stdin, &ends)?;
    let mut outputs = Vec::new();
    // An output that the client does not want is closed here, and the shim forgets it.
    if wanted.stdout {
        outputs.push((output, channel::STDOUT));
    }
    if wanted.stderr && !attached.tty {
        outputs.push((errors, channel::STDERR));
    }
    let input = attached.input.map(OwnedFd::from);
    Ok(Session {
        input: Input::new(input, attached.stdin, attached.tty)?,
        outputs,
    })
}

/// A session whose pieces are on their way.
struct Moving {
    outputs: JoinSet<io::Result<()>>,
    /// Told when the program has ended.
    ended: watch::Sender<bool>,
    /// Stops with this.
    _input: JoinSet<()>,
}

impl Session {
    fn start(self, inbound: Inbound, to: &Sender) -> Moving {
        let (ended, reader) = watch::channel(false);
        let mut outputs = JoinSet::new();
        for (output, channel) in self.outputs {
            outputs.spawn(copy_out(output, channel, to.clone(), reader.clone()));
        }
        let mut input = JoinSet::new();
        input.spawn(self.input.follow(inbound));
        Moving {
            outputs,
            ended,
            _input: input,
        }
    }
}

/// The exit code of a program, once all it wrote has been passed on.
async fn exit(exec: runtime::Exec, mut moving: Moving) -> Result<i32, RuntimeError> {
    let code = wait(exec).await;
    moving.ended.send_replace(true);
    while moving.outputs.join_next().await.is_some() {}
    code
}

async fn wait(exec: runtime::Exec) -> Result<i32, RuntimeError> {
    let exec = readable(exec).map_err(waiting)?;
    loop {
        let mut guard = exec.readable().await.map_err(waiting)?;
        match exec.get_ref().try_wait()? {
            Some(code) => return Ok(code),
            None => guard.clear_ready(),
        }
    }
}

fn waiting(source: io::Error) -> RuntimeError {
    RuntimeError::Io {
        operation: "wait for",
        subject: "a program in a container".to_owned(),
        source,
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// How a program ended, in the words of the remote command protocol, v4 and later (S4).
fn exec_status(outcome: Result<i32, RuntimeError>) -> Value {
    match outcome {
        Ok(0) => success(),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: error executing command in container: {error}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_an_exit_code_is_a_cause() {
        assert_eq!(
            exec_status(Ok(0)),
            json!({"metadata": {}, "status": "Success"})
        );
        let status = exec_status(Ok(3));
        assert_eq!(
            status["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "3"}])
        );
        assert_eq!(status["reason"], "NonZeroExitCode");
        let refused = RuntimeError::Refused {
            uid: "u".to_owned(),
            reason: "start the program: ENOENT".to_owned(),
        };
        let status = exec_status(Err(refused));
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("start the program: ENOENT"), "{message}");
    }
}
