//! The `shoal` program: arguments, output and exit codes. What it does is in the libraries.

mod amount;
mod args;
mod bench;
mod cards;
mod client;
mod device;
mod env;
mod failure;
mod import;
mod library;
mod list;
mod membership;
mod offers;
mod opened;
mod output;
mod period;
mod phases;
mod plan;
mod progress;
mod pull;
mod rate;
mod remove;
mod run;
mod runner;
mod search;
mod serve;
mod show;
mod span;
mod stop;
mod table;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Args, Command, ModelsArgs, ModelsCommand, NodesCommand},
    failure::Failure,
};

/// Worker threads of the asynchronous shell; inference has its own.
const SHELL_THREADS: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Runner) = args.command {
        return runner::run();
    }
    // A node tells its operator what it does; a command says nothing unless something is wrong.
    let level = match args.command {
        None | Some(Command::Serve(_)) => "warn,shoal=info",
        Some(_) => "warn",
    };
    let filter = EnvFilter::try_from_env(env::LOG).unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SHELL_THREADS)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(args)),
        Err(error) => {
            Err(Failure::from(anyhow::Error::from(error).context("threads cannot be started")))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(args: Args) -> Result<(), Failure> {
    match args.command {
        None => serve::serve(args.serve).await,
        Some(Command::Serve(args)) => serve::serve(args).await,
        Some(Command::Run(args)) => run::run(args).await,
        Some(Command::Bench(args)) => bench::bench(&args).await,
        Some(Command::Models(args)) => models(args).await,
        Some(Command::Pull(args)) => pull::pull(args).await,
        Some(Command::List(args)) => list::list(&args).await,
        Some(Command::Show(args)) => show::show(&args).await,
        Some(Command::Rm(args)) => remove::remove(&args).await,
        Some(Command::Import(args)) => import::import(&args).await,
        Some(Command::Verify(args)) => verify::verify(&args).await,
        Some(Command::Nodes(args)) => match args.command {
            None => client::nodes(&args.client),
            Some(NodesCommand::Forget(args)) => membership::forget(&args),
        },
        Some(Command::Plan(args)) => plan::plan(&args),
        Some(Command::Place(args)) => client::place(&args).await,
        Some(Command::Unplace(args)) => client::unplace(&args),
        Some(Command::Invite(args)) => membership::invite(&args),
        Some(Command::Join(args)) => membership::join(&args),
        Some(Command::Leave(args)) => membership::leave(&args),
        Some(Command::Drain(args)) => membership::drain(&args),
        Some(Command::Doctor(args)) => membership::doctor(&args),
        // It needs none of this.
        Some(Command::Runner) => Ok(()),
    }
}

async fn models(args: ModelsArgs) -> Result<(), Failure> {
    match args.command {
        None => offers::offers(&args.offers).await,
        Some(ModelsCommand::Search(args)) => search::search(&args).await,
        Some(ModelsCommand::Add(args)) => cards::add(&args),
        Some(ModelsCommand::Remove(args)) => cards::remove(&args),
    }
}
