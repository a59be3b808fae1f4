//! `shoal runner`: the process of a stage, and how a node starts it. Nobody types it.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use shoal_node::RunnerCommand;
use tracing_subscriber::EnvFilter;

use crate::{env, failure::Failure};

/// How the processes of stages are started; `None` where the system cannot.
pub(crate) fn command() -> Option<RunnerCommand> {
    let program = cfg!(unix).then(program)??;
    Some(RunnerCommand { program, args: vec![OsString::from("runner")] })
}

/// This program, which is started again even if another version has taken its place on the disk.
fn program() -> Option<PathBuf> {
    let own = PathBuf::from("/proc/self/exe");
    match env::path(env::TERMUX_EXE) {
        Some(behind_linker) => Some(behind_linker),
        None if cfg!(any(target_os = "linux", target_os = "android")) && own.exists() => Some(own),
        None => std::env::current_exe().ok(),
    }
}

/// Runs a stage on standard input and output, until the node closes them.
#[cfg(unix)]
pub(crate) fn run() -> ExitCode {
    use std::{fs::File, os::fd::AsFd};

    // The node shows the lines that its own filter lets through, with its own clock.
    let filter =
        EnvFilter::try_from_env(env::LOG).unwrap_or_else(|_| EnvFilter::new("warn,shoal=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
    let files = || -> io::Result<(File, File)> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        // Without the buffer of lines that standard output has.
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok((File::from(input), File::from(output)))
    };
    let ran = match files() {
        Ok((input, output)) => {
            shoal_node::run_stage(io::BufReader::new(input), output).map_err(Failure::from)
        }
        Err(error) => Err(Failure::from(error)),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// There are no such processes on this system.
#[cfg(not(unix))]
pub(crate) fn run() -> ExitCode {
    Failure::new(anyhow::anyhow!("stages are threads of the node on this system"), 1).report()
}
