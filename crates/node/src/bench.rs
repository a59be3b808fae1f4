//! How fast a model runs on this device alone: the engine under a clock, nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shoal_engine::{Model, Segment, Sequence, Shard};
use shoal_proto::{LayerRange, TokenId};

use crate::Error;

/// Rows of one prefill step.
const PREFILL_ROWS: usize = 512;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchConfig {
    /// `demo` or a path.
    pub model: String,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens to generate after an empty context.
    pub n_generate: usize,
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
    /// Prompt tokens per second, one for each measurement.
    pub prompt_per_s: Vec<f64>,
    /// Generated tokens per second, one for each measurement.
    pub generate_per_s: Vec<f64>,
    /// From the call to a model that is ready to compute.
    pub load: Duration,
    /// Largest resident memory of this process so far, in bytes; `None` if the system does not tell.
    pub peak_rss_bytes: Option<u64>,
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
    let n_vocab = model.hparams().n_vocab;
    let mut shard = Shard::load(model, whole)?;
    let compute = crate::compute(Some(config.n_threads), config.isa.as_deref())?;
    let load = started.elapsed();

    let token = |i: usize| TokenId::try_from(i * 7919 % n_vocab).expect("vocabularies are small");
    let prompt: Vec<TokenId> = (0..config.n_prompt.max(config.n_generate)).map(token).collect();
    let n_ctx = prompt.len().max(1);
    let mut measure = |tokens: &[TokenId], n_rows: usize| -> Result<f64, Error> {
        let mut sequence = Sequence::new(&shard, n_ctx)?;
        let started = Instant::now();
        for tokens in tokens.chunks(n_rows) {
            let segment =
                Segment { sequence: &mut sequence, tokens, activations: &[], want_logits: true };
            shard.forward(&compute, &mut [segment])?;
        }
        Ok(tokens.len() as f64 / started.elapsed().as_secs_f64())
    };
    // The first run pages the weights in and is not counted.
    measure(&prompt[..config.n_generate.min(2)], 1)?;
    let mut repeat = |n_tokens: usize, n_rows: usize| -> Result<Vec<f64>, Error> {
        let n_repeat = if n_tokens == 0 { 0 } else { config.n_repeat };
        (0..n_repeat).map(|_| measure(&prompt[..n_tokens], n_rows)).collect()
    };
    let prompt_per_s = repeat(config.n_prompt, PREFILL_ROWS)?;
    let generate_per_s = repeat(config.n_generate, 1)?;
    Ok(BenchResult {
        model: source.name,
        isa: compute.isa().to_string(),
        n_threads: compute.n_threads(),
        prompt_per_s,
        generate_per_s,
        load,
        peak_rss_bytes: crate::memory::peak_rss_bytes(),
    })
}
