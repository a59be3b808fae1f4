//! What a model predicts after each token of a given text: the basis of every comparison with another engine.

use shoal_kernels::Compute;
use shoal_proto::TokenId;

use crate::shard::Wanted;
use crate::{Error, Segment, Sequence, Shard};

/// Tokens of one step: enough to be fast, few enough that their logits fit in memory for any vocabulary.
const ROWS: usize = 32;

/// Computes the log-probabilities of the next token after each of `tokens`.
///
/// - `shard`: all layers of a model
/// - `n_ctx`: the context length, which chooses between two sets of rotation factors where a model has them
/// - `row`: called with the index of each token and `[n_vocab]` natural logarithms
///
/// # Errors
/// If the shard is only a part of its model, or the tokens cannot be computed.
pub fn evaluate(
    shard: &mut Shard,
    compute: &Compute,
    n_ctx: usize,
    tokens: &[TokenId],
    mut row: impl FnMut(usize, &[f32]),
) -> Result<(), Error> {
    let (layers, n_layer) = (shard.layers(), shard.model().n_layer());
    if layers.n_layer() != n_layer {
        return Err(Error::NotWhole { layers, n_layer });
    }
    let n_vocab = shard.hparams().n_vocab;
    let mut sequence = Sequence::new(shard, n_ctx)?;
    for (i, tokens) in tokens.chunks(ROWS).enumerate() {
        let segment =
            Segment { sequence: &mut sequence, tokens, activations: &[], want_logits: true };
        let output = shard.step(compute, &mut [segment], Wanted::All)?;
        for (j, logits) in output.logits.chunks_exact_mut(n_vocab).enumerate() {
            log_softmax(logits);
            row(i * ROWS + j, logits);
        }
    }
    Ok(())
}

/// Replaces logits by log-probabilities. In f64, since this is what others are measured against.
fn log_softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - f64::from(max))).sum();
    let log_sum = libm::log(sum) + f64::from(max);
    for x in logits {
        *x = (f64::from(*x) - log_sum) as f32;
    }
}
