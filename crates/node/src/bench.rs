//! How fast a model runs on this device alone: the engine under a clock, nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shoal_engine::{Compute, Model, Segment, Sequence, Shard};
use shoal_proto::{LayerRange, TokenId};

use crate::Error;

/// Rows of one prefill step.
const PREFILL_ROWS: usize = 512;

/// Tokens of each work that are computed before the clock starts: a chunk that takes every path of long ones.
const WARM_UP_TOKENS: usize = 20;

/// What to measure: every number of prompt tokens, and generation in every number of sequences, at every depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchConfig {
    /// `demo` or a path.
    pub model: String,
    /// Tokens of each prompt.
    pub n_prompts: Vec<usize>,
    /// Tokens to generate in each sequence; 0 for none.
    pub n_generate: usize,
    /// Tokens that are in the context before the clock starts.
    pub depths: Vec<usize>,
    /// Sequences that generate at once; at least 1 each.
    pub n_sequences: Vec<usize>,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Measurements of each.
    pub n_repeat: usize,
    /// The instruction set by name; `None` for the best.
    pub isa: Option<String>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchResult {
    /// The model's name.
    pub model: String,
    /// The instruction set.
    pub isa: String,
    /// Threads.
    pub n_threads: usize,
    /// In the order of the configuration, prompts first at each depth.
    pub speeds: Vec<Speed>,
    /// From the call to a model that is ready to compute.
    pub load: Duration,
    /// Largest resident memory of this process so far, in bytes; `None` if the system does not tell.
    pub peak_rss_bytes: Option<u64>,
}

/// One kind of work and how fast it went.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Whether tokens were read as a prompt, in long steps, and not generated one by one.
    pub is_prompt: bool,
    /// Tokens of each sequence.
    pub n_tokens: usize,
    /// Tokens before them.
    pub depth: usize,
    /// Sequences at once.
    pub n_sequences: usize,
    /// Tokens of all sequences per second, one for each measurement.
    pub per_s: Vec<f64>,
}

/// Measures a model. Blocks for as long as that takes.
///
/// # Errors
/// If the model cannot be used or the counts do not fit its context.
pub fn run(config: &BenchConfig) -> Result<BenchResult, Error> {
    let started = Instant::now();
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Model {
        name: config.model.clone(),
        source: Arc::from(source),
    };
    let source = shoal_hub::open(&config.model).map_err(|error| unusable(error.into()))?;
    let model = Model::new(source.gguf).map_err(|error| unusable(error.into()))?;
    let whole = LayerRange::new(0, model.n_layer()).expect("a model has layers");
    let shard = Shard::load(model, whole)?;
    let compute = crate::compute(Some(config.n_threads), config.isa.as_deref())?;
    let load = started.elapsed();

    let mut bench = Bench { shard, compute };
    let mut speeds = Vec::new();
    for &depth in &config.depths {
        let prompts = config.n_prompts.iter().map(|&n| work(true, n, depth, 1));
        let batches = config.n_sequences.iter();
        let generation = batches.map(|&n| work(false, config.n_generate, depth, n));
        let works: Vec<Speed> =
            prompts.chain(generation).filter(|work| work.n_tokens > 0).collect();
        for mut work in works {
            bench.measure(&mut work, config.n_repeat)?;
            speeds.push(work);
        }
    }
    Ok(BenchResult {
        model: source.name,
        isa: bench.compute.isa().to_string(),
        n_threads: bench.compute.n_threads(),
        speeds,
        load,
        peak_rss_bytes: crate::memory::peak_rss_bytes(),
    })
}

/// A model that is ready to be measured.
struct Bench {
    shard: Shard,
    compute: Compute,
}

/// Work that has not been measured.
fn work(is_prompt: bool, n_tokens: usize, depth: usize, n_sequences: usize) -> Speed {
    Speed { is_prompt, n_tokens, depth, n_sequences, per_s: Vec::new() }
}

impl Bench {
    /// Measures some work `n_repeat` times.
    fn measure(&mut self, work: &mut Speed, n_repeat: usize) -> Result<(), Error> {
        let n_vocab = self.shard.hparams().n_vocab;
        let token =
            |i: usize| TokenId::try_from(i * 7919 % n_vocab).expect("vocabularies are small");
        let tokens: Vec<TokenId> = (0..work.depth + work.n_tokens).map(token).collect();
        let mut sequences = (0..work.n_sequences)
            .map(|_| Sequence::new(&self.shard, tokens.len().max(1)))
            .collect::<Result<Vec<_>, _>>()?;
        let (before, measured) = tokens.split_at(work.depth);
        for sequence in &mut sequences {
            self.compute(std::slice::from_mut(sequence), before, PREFILL_ROWS)?;
        }
        let n_rows = if work.is_prompt { PREFILL_ROWS } else { 1 };
        self.compute(&mut sequences, &measured[..measured.len().min(WARM_UP_TOKENS)], n_rows)?;
        for _ in 0..n_repeat {
            sequences.iter_mut().for_each(|sequence| sequence.truncate(work.depth));
            let started = Instant::now();
            self.compute(&mut sequences, measured, n_rows)?;
            let n_tokens = (measured.len() * work.n_sequences) as f64;
            work.per_s.push(n_tokens / started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Gives each sequence the same tokens, `n_rows` at a step.
    fn compute(
        &mut self,
        sequences: &mut [Sequence],
        tokens: &[TokenId],
        n_rows: usize,
    ) -> Result<(), Error> {
        for tokens in tokens.chunks(n_rows) {
            let mut segments: Vec<Segment<'_>> = sequences
                .iter_mut()
                .map(|sequence| Segment { sequence, tokens, activations: &[], want_logits: true })
                .collect();
            self.shard.forward(&self.compute, &mut segments)?;
        }
        Ok(())
    }
}
