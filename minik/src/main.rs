//! The `minik` binary: subcommands, configuration, logging, signals. What it does is in the crates below it.
//!
//! `server` and `agent` run the cluster, `token` lets hosts join, `lab` builds a cluster from network namespaces on one
//! machine, `echo` and `fetch` are the two ends of a connection to try it with.

mod admin;
mod agent_command;
mod duration;
mod echo;
mod exit_code;
mod fetch;
mod lab;
mod pod_exec;
mod progress;
mod server_command;
mod shutdown;
mod token;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A small cluster with complete Kubernetes Services, in one static binary.
#[derive(Parser, Debug)]
#[command(
    name = "minik",
    version,
    about,
    arg_required_else_help = true,
    after_help = exit_code::HELP,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the API server with its store and controllers.
    Server(Box<server_command::ServerArgs>),
    /// Join this host to a cluster and run its Pods and Services.
    Agent(Box<agent_command::AgentArgs>),
    /// Create, list and revoke the tokens that let hosts join.
    Token(token::TokenArgs),
    /// Build and use a multi-node cluster from network namespaces on this machine.
    Lab(lab::LabArgs),
    /// Answer TCP, UDP and HTTP with who answered and who asked.
    Echo(echo::EchoArgs),
    /// Ask an `echo` server, by name or address, and tell who answered.
    Fetch(fetch::FetchArgs),
    /// First process of a lab host.
    #[command(hide = true)]
    LabHost(lab::HostArgs),
    /// Run a command in a Pod of this host.
    #[command(hide = true)]
    PodExec(pod_exec::PodExecArgs),
}

fn main() -> ExitCode {
    // A Pod's shim must stay one small thread: nothing may start before it is told apart.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "shim") {
        return runtime::shim::main(args);
    }
    let cli = Cli::parse();
    match log_to_stderr().and_then(|()| run(&cli.command)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("minik: {}", causes(&error));
            ExitCode::from(exit_code::of(&error))
        }
    }
}

/// An error with its causes; those that an error's own text tells already are not told twice.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(command: &Command) -> Result<u8> {
    if command.prints() {
        end_with_the_reader();
    }
    match command {
        Command::Server(args) => server_command::run(args).map(|()| 0),
        Command::Agent(args) => agent_command::run(args).map(|()| 0),
        Command::Token(args) => token::run(args).map(|()| 0),
        Command::Lab(args) => lab::run(args),
        Command::Echo(args) => echo::run(args).map(|()| 0),
        Command::Fetch(args) => fetch::run(args).map(|()| 0),
        Command::LabHost(args) => lab::run_host(args).map(|()| 0),
        Command::PodExec(args) => pod_exec::run(args),
    }
}

impl Command {
    /// Whether what it prints is all it is for.
    fn prints(&self) -> bool {
        match self {
            Self::Token(_) | Self::Fetch(_) => true,
            Self::Lab(args) => args.only_prints(),
            _ => false,
        }
    }
}

/// `minik ... | head` ends quietly, as any program does; Rust would have it panic.
fn end_with_the_reader() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    #[expect(unsafe_code, reason = "nix marks every change of a handler as unsafe")]
    // SAFETY: the default action runs no code of ours.
    let reset = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    reset.expect("SIGPIPE may be reset");
}

/// `MINIK_LOG` chooses what is logged, for example `debug` or `info,agent=debug`.
fn log_to_stderr() -> Result<()> {
    // hickory logs two lines per query at `info`.
    let filter = match std::env::var("MINIK_LOG") {
        Ok(text) => EnvFilter::try_new(&text)
            .with_context(|| format!("MINIK_LOG {text:?}: give for example info,agent=debug"))?,
        Err(_) => EnvFilter::new("info,hickory_server=warn,hickory_resolver=warn"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("connection refused")
            .context("connect to x: connection refused")
            .context("list the tokens");
        assert_eq!(
            causes(&error),
            "list the tokens: connect to x: connection refused"
        );
    }
}
