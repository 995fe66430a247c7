//! A program in the container: exit code 0 is success.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::read,
};
use runtime::{ExecSpec, RuntimeError};
use tokio::{io::unix::AsyncFd, task::spawn_blocking};

use super::{OUTPUT_LIMIT_BYTES, Outcome};
use crate::ready::readable;

const PIECE_BYTES: usize = 4 << 10;
/// As much as a pipe holds.
const PIECES: usize = 16;

#[derive(Clone, Debug)]
pub(in crate::pods) struct Command {
    pub(super) pod: Arc<runtime::Pod>,
    pub(super) container: String,
    pub(super) argv: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("read its output: {0}")]
    Io(#[from] io::Error),
}

impl Command {
    pub(super) async fn run(&self) -> Outcome {
        let command = self.clone();
        let started = spawn_blocking(move || command.start()).await;
        let ended = match started.expect("the runtime does not panic") {
            Ok((exec, output)) => watch(exec, output).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok((0, _)) => Outcome::Success,
            Ok((_, output)) => Outcome::Failure(String::from_utf8_lossy(&output).into_owned()),
            Err(error) => Outcome::Error(error.to_string()),
        }
    }

    pub(super) fn too_late(&self, limit: Duration) -> String {
        let command = self.argv.join(" ");
        format!("command timed out: {command:?} timed out after {limit:?}")
    }

    fn start(&self) -> Result<(runtime::Exec, OwnedFd), ExecError> {
        let (output, end) = io::pipe()?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        let null = File::open("/dev/null")?;
        let spec = ExecSpec {
            container: self.container.clone(),
            argv: self.argv.clone(),
            tty: false,
            // Whoever waits for it no longer drops it, and with it the program.
            dies_with_caller: true,
        };
        let stdio = [null.as_fd(), end.as_fd(), end.as_fd()];
        Ok((self.pod.start_exec(&spec, stdio)?, output.into()))
    }
}

/// The exit code, and the beginning of what it wrote.
async fn watch(exec: runtime::Exec, output: OwnedFd) -> Result<(i32, Vec<u8>), ExecError> {
    let (exec, output) = (readable(exec)?, readable(output)?);
    let (mut kept, mut is_open) = (Vec::new(), true);
    let code = loop {
        tokio::select! {
            code = exit_code(&exec) => break code?,
            ready = output.readable(), if is_open => {
                let mut ready = ready?;
                // Read on even when enough is kept: a full pipe would stop the program.
                is_open = keep(&output, &mut kept);
                ready.clear_ready();
            }
        }
    };
    // What it has left behind may hold the pipe open: only what is there now counts.
    keep(&output, &mut kept);
    Ok((code, kept))
}

async fn exit_code(exec: &AsyncFd<runtime::Exec>) -> Result<i32, ExecError> {
    loop {
        let mut guard = exec.readable().await?;
        match exec.get_ref().try_wait()? {
            Some(code) => return Ok(code),
            None => guard.clear_ready(),
        }
    }
}

/// Reads what is there; `false` when there never will be more.
fn keep(output: &AsyncFd<OwnedFd>, kept: &mut Vec<u8>) -> bool {
    let mut piece = [0; PIECE_BYTES];
    for _ in 0..PIECES {
        match read(output.get_ref(), &mut piece) {
            Ok(0) => return false,
            Ok(length) => {
                let room = OUTPUT_LIMIT_BYTES - kept.len();
                kept.extend_from_slice(&piece[..length.min(room)]);
            }
            Err(nix::errno::Errno::EAGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
