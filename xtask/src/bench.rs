//! `cargo xtask bench`: Shoal beside other engines on the same files, in turn, and beside what the machine can do at best.
//!
//! One round runs every engine once in each of its configurations, and the roofline before them; the order turns from round to
//! round. What is compared is the median over rounds of the ratio within a round, since neighbours come and go. Measurements
//! can be kept in a file and continued later: a table is made of all of it.
//!
//! - `engine`: how each engine is called; `output`: what it prints; `process`: its time and memory
//! - `weights`: what a token reads and multiplies; `record`: measurements; `table`: what is printed

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use self::engine::{Engine, Work};
use self::record::{Record, Sample};
use self::weights::Weights;
use crate::tidy;

mod engine;
mod output;
mod process;
mod record;
mod table;
mod weights;

#[cfg(test)]
mod tests;

/// Tokens of the prompt whose time is the first token's.
const FIRST_TOKEN_PROMPT: usize = 20;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An engine to compare with, as NAME=PATH; can be given again. llama.cpp and ik_llama.cpp: the directory of llama-bench;
    /// cera: its program; candle: a program with llama-bench's options and JSON; shoal: another build of it
    #[arg(long, value_name = "NAME=PATH")]
    against: Vec<String>,
    /// Measure this build of Shoal, and build none
    #[arg(long, value_name = "PATH")]
    shoal: Option<PathBuf>,
    /// Model files
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    models: Vec<PathBuf>,
    /// Numbers of threads, with commas between
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Tokens of the prompts, with commas between
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "128,512")]
    prompt: Vec<usize>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64)]
    generate: usize,
    /// Tokens in the context before generation, with commas between
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Sequences that generate at once, with commas between; only Shoal is measured with more than one
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// How often everything is measured; 0 prints what the record has
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Do not measure how long a program takes from its start to the first token
    #[arg(long)]
    no_start: bool,
    /// Keep the measurements in this file of JSON lines, and go on from what it has
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print the medians as JSON too
    #[arg(long)]
    json: bool,
}

/// Runs `cargo xtask bench`.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut record = Record::open(args.record.as_deref())?;
    if args.rounds > 0 {
        let roofline = build(&["-p", "shoal-kernels", "--example", "roofline"], "roofline")?;
        let shoal = args.shoal.clone();
        let shoal = shoal.map_or_else(|| build(&["-p", "shoal"], "shoal"), Ok)?;
        let mut engines = vec![Engine::shoal(shoal)];
        for text in &args.against {
            let engine = Engine::parse(text)?;
            match engine.is_there() {
                true => engines.push(engine),
                false => eprintln!("LEFT OUT: {text}: there is no such file"),
            }
        }
        for model in &args.models {
            for &n_threads in &args.threads {
                measure(args, model, n_threads, &roofline, &engines, &mut record)?;
            }
        }
    }
    for model in &args.models {
        let weights = Weights::of(model)?;
        let rows = table::rows(&record, &name(model), &weights);
        println!("{}", table::markdown(&name(model), &rows));
        if args.json {
            println!("{}", table::json(&name(model), &rows));
        }
    }
    Ok(())
}

/// What a model is called in tables: its file's name without the ending.
fn name(model: &Path) -> String {
    model.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Builds a program in the release profile and returns its path.
fn build(what: &[&str], program: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["build", "--release", "--message-format", "json"])
        .args(what)
        .current_dir(tidy::root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build of {program}: {}", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executable = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_wanted = message["target"]["name"] == program;
        is_wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    executable.next_back().with_context(|| format!("cargo named no program {program}"))
}

/// All rounds of one model with one number of threads.
fn measure(
    args: &Args,
    model: &Path,
    n_threads: usize,
    roofline: &Path,
    engines: &[Engine],
    record: &mut Record,
) -> anyhow::Result<()> {
    let mut prompts = vec![FIRST_TOKEN_PROMPT];
    prompts.extend(args.prompt.iter().filter(|&&n| n > 0));
    let work = Work {
        model: model.to_owned(),
        n_threads,
        prompts,
        generate: args.generate,
        depths: args.depth.clone(),
        batches: args.batch.clone(),
        with_start: !args.no_start,
    };
    let first_round = record.n_rounds(&name(model), n_threads);
    for round in first_round..first_round + args.rounds {
        let sample = |engine: &str, variant: &str, test: &str, value: f64| Sample {
            model: name(model),
            n_threads,
            round,
            engine: engine.to_owned(),
            variant: variant.to_owned(),
            test: test.to_owned(),
            value,
        };
        let figures = process::run(Command::new(roofline).arg(n_threads.to_string()))?;
        for (test, value) in output::roofline(&figures.stdout)? {
            record.add(sample("machine", "", test, value))?;
        }
        for i in 0..engines.len() {
            let engine = &engines[(i + round) % engines.len()];
            for variant in engine.variants() {
                // A yardstick that fails is missing from the table, which is said; the rest goes on.
                match engine.measure(variant, &work) {
                    Ok(measured) => {
                        for (test, value) in measured {
                            record.add(sample(&engine.name, variant, &test, value))?;
                        }
                    }
                    Err(error) if engine.is_shoal() => return Err(error),
                    Err(error) => eprintln!("LEFT OUT: {} {variant}: {error:#}", engine.name),
                }
            }
        }
    }
    Ok(())
}
