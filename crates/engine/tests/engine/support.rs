//! Small models of every architecture, and pipelines of shards over them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_engine::{Compute, Model, Segment, Sequence, Shard};
use shoal_gguf::Gguf;
use shoal_proto::{LayerRange, TokenId};

/// One shape of each kind: with and without biases, rotation factors, norms of heads, fused matrices, tied embeddings, grouped
/// heads, and rows that are no multiple of 256.
pub(crate) const SHAPES: [&str; 6] =
    ["tiny-tinyllama", "tiny-llama3", "tiny-qwen2", "tiny-qwen2-224", "tiny-qwen3", "tiny-phi3"];

/// Layers of each of them.
pub(crate) const N_LAYER: u32 = 4;

/// Size of the vocabulary of each of them.
const N_VOCAB: u32 = 512;

/// The file of a synthetic model, as bytes that live as long as the tests.
pub(crate) fn bytes(shape: &'static str, file_type: &'static str) -> &'static [u8] {
    type Made = BTreeMap<(&'static str, &'static str), &'static [u8]>;
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((shape, file_type)).or_insert_with(|| {
        Vec::leak(xtask::synth::model(shape, file_type, 1).expect("a shape that there is"))
    })
}

/// A synthetic model in the mix of types that people use.
pub(crate) fn model(shape: &'static str) -> Arc<Model> {
    model_of(shape, "q4_k_m")
}

/// A synthetic model.
pub(crate) fn model_of(shape: &'static str, file_type: &'static str) -> Arc<Model> {
    let gguf = Gguf::from_static(bytes(shape, file_type)).expect("a synthetic model is valid");
    Model::new(Arc::new(gguf)).expect("a synthetic model has what it needs")
}

/// Tokens that look random.
pub(crate) fn tokens(n: usize, seed: u32) -> Vec<TokenId> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(1);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % N_VOCAB
        })
        .collect()
}

/// One sequence through consecutive shards.
pub(crate) struct Pipeline {
    shards: Vec<Shard>,
    sequences: Vec<Sequence>,
}

impl Pipeline {
    /// - `cuts`: the layers at which shards begin, beyond the first
    pub(crate) fn new(model: &Arc<Model>, cuts: &[u32], n_ctx: usize) -> Self {
        let starts: Vec<u32> = [0].into_iter().chain(cuts.iter().copied()).collect();
        let ends = cuts.iter().copied().chain([model.n_layer()]);
        let shards: Vec<Shard> = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| {
                let layers = LayerRange::new(start, end).expect("cuts ascend");
                Shard::load(Arc::clone(model), layers).expect("the layers are there")
            })
            .collect();
        let sequences = shards
            .iter()
            .map(|shard| Sequence::new(shard, n_ctx).expect("a context that it was trained for"))
            .collect();
        Self { shards, sequences }
    }

    /// One shard of all layers.
    pub(crate) fn whole(model: &Arc<Model>, n_ctx: usize) -> Self {
        Self::new(model, &[], n_ctx)
    }

    /// Computes one step and returns the bits of the last token's logits.
    pub(crate) fn step(&mut self, compute: &Compute, tokens: &[TokenId]) -> Vec<u32> {
        let mut activations = Vec::new();
        let mut logits = Vec::new();
        for (shard, sequence) in self.shards.iter_mut().zip(&mut self.sequences) {
            let segment =
                Segment { sequence, tokens, activations: &activations, want_logits: true };
            let output = shard.forward(compute, &mut [segment]).expect("a step that fits");
            logits = bits(output.logits);
            activations = output.activations.to_vec();
        }
        assert!(activations.is_empty(), "the last shard gives logits only");
        assert_eq!(logits.len(), N_VOCAB as usize);
        logits
    }

    /// Computes one step of several pipelines with the same cuts as one batch through the shards of the first;
    /// returns the bits of their last tokens' logits.
    pub(crate) fn step_together(
        pipelines: &mut [Self],
        compute: &Compute,
        tokens: &[&[TokenId]],
    ) -> Vec<u32> {
        let mut activations: Vec<Vec<f32>> = vec![Vec::new(); tokens.len()];
        let mut logits = Vec::new();
        for shard_idx in 0..pipelines[0].shards.len() {
            let (first, others) = pipelines.split_first_mut().expect("at least one");
            let shard = &mut first.shards[shard_idx];
            let sequences = [&mut first.sequences[shard_idx]]
                .into_iter()
                .chain(others.iter_mut().map(|pipeline| &mut pipeline.sequences[shard_idx]));
            let mut segments: Vec<Segment<'_>> = sequences
                .zip(tokens.iter().zip(&activations))
                .map(|(sequence, (tokens, activations))| Segment {
                    sequence,
                    tokens,
                    activations,
                    want_logits: true,
                })
                .collect();
            let n_embd = shard.hparams().n_embd;
            let output = shard.forward(compute, &mut segments).expect("a step that fits");
            logits = bits(output.logits);
            let mut rest = output.activations;
            activations = Vec::new();
            for tokens in tokens {
                let (own, others) = rest.split_at(rest.len().min(tokens.len() * n_embd));
                activations.push(own.to_vec());
                rest = others;
            }
        }
        logits
    }

    /// The last shard and its sequence; of a whole model the only ones.
    pub(crate) fn last(&mut self) -> (&mut Shard, &mut Sequence) {
        let shard = self.shards.last_mut().expect("a pipeline has a shard");
        (shard, self.sequences.last_mut().expect("each shard has a sequence"))
    }
}

/// The bits of numbers, so that a comparison tells zeros apart and NaNs alike.
pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// What computes in most tests.
pub(crate) fn compute() -> Compute {
    Compute::new(2)
}
