//! `minik lab exec`.

use std::{io::ErrorKind, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use agent::client;
use anyhow::{Context, Result, bail};
use api::core::Pod;
use clap::Args;

use super::{namespace::command_inside, state::Lab};
use crate::admin::Admin;

/// What a shell answers when there is no such program.
const NOT_FOUND: u8 = 127;
/// How long the API server gets to say where a Pod is.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// What to run, and where.
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Run inside this Pod instead of on the host itself: NAME or NAMESPACE/NAME.
    #[arg(long)]
    pod: Option<String>,
    /// Name of the host, as `minik lab status` lists it; with --pod, the Pod's node unless given.
    #[arg(required_unless_present = "pod")]
    host: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command and returns its exit code, 128 + the signal's number when a signal ended it.
pub(crate) fn run(lab: &Lab, args: &ExecArgs) -> Result<u8> {
    let host = match (&args.host, &args.pod) {
        (Some(host), _) => host.clone(),
        (None, Some(pod)) => node_of(lab, pod)?,
        (None, None) => bail!("no HOST given"),
    };
    lab.host(&host)?;
    let argv = match &args.pod {
        None => args.command.clone(),
        Some(pod) => in_pod(lab, &host, pod, &args.command)?,
    };
    let (program, arguments) = argv.split_first().context("no command given")?;
    let mut command = command_inside(lab.pid(&host)?, program)?;
    match command.args(arguments).status() {
        Ok(status) => exit_code(status),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("minik: there is no program {program:?} on {host}");
            Ok(NOT_FOUND)
        }
        other => other
            .with_context(|| format!("run {program} on {host}"))
            .and_then(exit_code),
    }
}

/// The node a Pod runs on, as the API server has it.
fn node_of(lab: &Lab, pod: &str) -> Result<String> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    lab.hosts()?;
    let client = Admin::read(&lab.server_data_dir())?.client(&lab.api_url()?)?;
    let path = client::Path::core("pods").namespace(namespace).name(name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let found = runtime.block_on(async {
        let path = path.to_string();
        tokio::time::timeout(API_TIMEOUT, client.get::<Pod>(&path)).await
    });
    let pod = found
        .context("the API server does not answer")
        .and_then(|answer| Ok(answer?))
        .with_context(|| format!("find the node of Pod {namespace}/{name} (or give its HOST)"))?;
    if pod.spec.node_name.is_empty() {
        bail!("Pod {namespace}/{name} is on no node yet: `kubectl describe pod {name}` tells why");
    }
    Ok(pod.spec.node_name.into())
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
