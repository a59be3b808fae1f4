//! Llama, and what is built like it: TinyLlama, Llama 3.x, Mistral, SmolLM2.

use shoal_kernels::RopeKind;

use super::Architecture;
use super::pre_norm::{self, Bias};
use crate::hparams::Keys;
use crate::weights::{RopeDivisors, Tensors};
use crate::{Error, Hparams};

/// Files have the rows of `attn_q` and `attn_k` permuted so that a pair is two neighbours.
pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    hparams,
    rope_divisors,
    // Some relatives have biases at queries, keys and values; any other bias is refused as unknown.
    layer: |hparams, tensors| pre_norm::layer(hparams, tensors, Bias::Optional),
    attention: |step, layer| pre_norm::attention(step, layer, RopeKind::Interleaved),
    feed_forward: pre_norm::feed_forward,
};

fn hparams(keys: &Keys<'_>) -> Result<Hparams, Error> {
    let hparams = Hparams::read(keys, &["none", "linear"])?;
    keys.refuse_window(hparams.n_ctx_train)?;
    Ok(hparams)
}

/// Llama 3 scales its longer wavelengths; the file has the result.
fn rope_divisors(hparams: &Hparams, tensors: &mut Tensors<'_>) -> Result<RopeDivisors, Error> {
    let usual = tensors.optional_vector("rope_freqs.weight", hparams.rope.n_rot / 2)?;
    Ok(RopeDivisors { usual, long: None })
}
