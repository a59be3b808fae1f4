//! Everything around the code that is not the product: `cargo xtask arm`, `bench`, `ci`, `dashboard`, `synth` and `tidy`.

#![expect(clippy::print_stderr, reason = "a command-line program")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{arm, bench, ci, dashboard, synth, tidy};

/// Tasks of the Shoal repository.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Test the kernels, and what else knows no network, on emulated ARM CPUs.
    Arm(arm::Args),
    /// Measure Shoal beside other engines on the same files, in turn.
    Bench(bench::Args),
    /// Run every check that a change has to pass.
    Ci,
    /// Build the page in dashboard/, or check it.
    Dashboard(dashboard::Args),
    /// Check the layout: who depends on whom, file sizes, names, leftovers.
    Tidy,
    /// Write a model file with random weights in the shape of a real model.
    Synth(synth::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Arm(args) => arm::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Ci => ci::run(),
        Task::Dashboard(args) => dashboard::run(&args),
        Task::Tidy => tidy::run(),
        Task::Synth(args) => synth::run(&args),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    ExitCode::FAILURE
}
