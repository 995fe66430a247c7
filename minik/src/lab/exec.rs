//! `minik lab exec`.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{namespace::command_inside, state::Lab};

/// What to run, and where.
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Run inside this Pod of the host instead of on the host itself: NAME or NAMESPACE/NAME.
    #[arg(long)]
    pod: Option<String>,
    /// Name of the host, as `minik lab status` lists it.
    host: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command and returns its exit code, 128 + the signal's number when a signal ended it.
pub(crate) fn run(lab: &Lab, args: &ExecArgs) -> Result<u8> {
    lab.host(&args.host)?;
    let argv = match &args.pod {
        None => args.command.clone(),
        Some(pod) => in_pod(lab, &args.host, pod, &args.command)?,
    };
    let (program, arguments) = argv.split_first().context("no command given")?;
    let mut command = command_inside(lab.pid(&args.host)?, program)?;
    let status = command
        .args(arguments)
        .status()
        .with_context(|| format!("run {program} on {}", args.host))?;
    exit_code(status)
}

/// The command that enters a Pod once it runs on the Pod's node.
fn in_pod(lab: &Lab, host: &str, pod: &str, command: &[String]) -> Result<Vec<String>> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let own = own
        .to_str()
        .context("this program's path is not UTF-8")?
        .to_owned();
    let run_dir = lab.host_dir(host).join("run");
    let Some(run_dir) = run_dir.to_str() else {
        bail!("{} is not UTF-8", run_dir.display())
    };
    let mut argv = vec![
        own,
        "pod-exec".to_owned(),
        "--run-dir".to_owned(),
        run_dir.to_owned(),
        pod.to_owned(),
    ];
    argv.push("--".to_owned());
    argv.extend(command.iter().cloned());
    Ok(argv)
}

fn exit_code(status: ExitStatus) -> Result<u8> {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    u8::try_from(code.context("the command ended in an unknown way")?).context("exit code")
}
