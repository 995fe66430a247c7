//! `minik pod-exec`: a command in a Pod of this host, through the Pod's shim.

use std::{os::fd::AsFd, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use runtime::{Config, ExecSpec, Pod, Runtime};

/// Which Pod, and what to run.
#[derive(Args, Debug)]
pub(crate) struct PodExecArgs {
    /// The agent's --run-dir.
    #[arg(long, default_value = "/run/minik")]
    run_dir: PathBuf,
    /// The Pod: NAME, or NAMESPACE/NAME.
    pod: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command in the Pod's first running container and returns its exit code.
pub(crate) fn run(args: &PodExecArgs) -> Result<u8> {
    let (namespace, name) = args.pod.split_once('/').unwrap_or(("default", &args.pod));
    // Only the running directory matters: this process neither makes Pods nor ends any.
    let runtime = Runtime::new(Config {
        run_dir: args.run_dir.clone(),
        log_dir: args.run_dir.clone(),
        cgroup_parent: String::new(),
        exe: PathBuf::new(),
        built_in: PathBuf::new(),
    })?;
    let pods = runtime.list().context("look for the Pods of this host")?;
    let called = |pod: &Pod| format!("{}/{}", pod.spec().namespace, pod.spec().name);
    let here: Vec<_> = pods.iter().map(called).collect();
    let wanted = format!("{namespace}/{name}");
    let pod = pods
        .into_iter()
        .find(|pod| called(pod) == wanted)
        .with_context(|| {
            let here = if here.is_empty() {
                "none".to_owned()
            } else {
                here.join(", ")
            };
            format!("no Pod {wanted} runs on this host; these do: {here}")
        })?;
    let state = pod.state()?;
    let running = state
        .containers
        .iter()
        .find(|(_, container)| container.state.is_running());
    let (container, _) =
        running.with_context(|| format!("no container of Pod {namespace}/{name} is running"))?;
    let spec = ExecSpec {
        container: container.clone(),
        argv: args.command.clone(),
        tty: false,
        dies_with_caller: false,
    };
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let code = pod
        .exec(&spec, [input.as_fd(), output.as_fd(), errors.as_fd()])
        .with_context(|| format!("run {:?} in Pod {wanted}", args.command[0]))?;
    u8::try_from(code).context("exit code")
}
