//! Measurements, as they come in and in a file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

/// One figure of one engine in one round.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) model: String,
    pub(super) n_threads: usize,
    pub(super) round: usize,
    pub(super) engine: String,
    /// The configuration of the engine.
    pub(super) variant: String,
    /// What was measured, as in [`output`](super::output).
    pub(super) test: String,
    /// In the unit that the test implies.
    pub(super) value: f64,
}

/// All measurements, each written to the file at once: what a run that is ended has measured is not lost.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) samples: Vec<Sample>,
    file: Option<File>,
}

impl Record {
    /// Reads the file, if there is one.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self { samples: Vec::new(), file: None }) };
        let shown = || format!("the record {}", path.display());
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(shown)?,
        };
        let samples =
            text.lines().map(|line| parse(line).with_context(|| format!("{}: {line}", shown())));
        let samples = samples.collect::<anyhow::Result<_>>()?;
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(shown)?;
        Ok(Self { samples, file: Some(file) })
    }

    pub(super) fn add(&mut self, sample: Sample) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", text(&sample)).context("cannot write the record")?;
        }
        self.samples.push(sample);
        Ok(())
    }

    /// Rounds that there have been of a model with this number of threads.
    pub(super) fn n_rounds(&self, model: &str, n_threads: usize) -> usize {
        let here = |sample: &&Sample| sample.model == model && sample.n_threads == n_threads;
        self.samples.iter().filter(here).map(|sample| sample.round + 1).max().unwrap_or(0)
    }
}

pub(super) fn text(sample: &Sample) -> Value {
    json!({
        "model": sample.model, "n_threads": sample.n_threads, "round": sample.round, "engine": sample.engine,
        "variant": sample.variant, "test": sample.test, "value": sample.value,
    })
}

pub(super) fn parse(line: &str) -> anyhow::Result<Sample> {
    let value: Value = serde_json::from_str(line)?;
    let string =
        |key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    let count = |key: &str| {
        let number = value[key].as_u64().and_then(|number| usize::try_from(number).ok());
        number.with_context(|| format!("no {key}"))
    };
    Ok(Sample {
        model: string("model")?,
        n_threads: count("n_threads")?,
        round: count("round")?,
        engine: string("engine")?,
        variant: string("variant")?,
        test: string("test")?,
        value: value["value"].as_f64().context("no value")?,
    })
}
