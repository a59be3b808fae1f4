//! Qwen 3 (arXiv:2505.09388): Llama with a norm of each head's query and key before the rotation, and heads that need not
//! divide the residual stream.

use shoal_kernels::RopeKind;

use super::Architecture;
use super::pre_norm::{self, Bias};
use crate::hparams::Keys;
use crate::weights::{HeadNorms, LayerWeights, RopeDivisors, Tensors};
use crate::{Error, Hparams};

/// A pair of a rotation is an element of a head's first half and its counterpart in the second.
pub(super) const QWEN3: Architecture = Architecture {
    name: "qwen3",
    hparams,
    rope_divisors: |_, _| Ok(RopeDivisors::default()),
    layer,
    attention: |step, layer| pre_norm::attention(step, layer, RopeKind::Halves),
    feed_forward: pre_norm::feed_forward,
};

fn hparams(keys: &Keys<'_>) -> Result<Hparams, Error> {
    let hparams = Hparams::read(keys, &["none", "linear"])?;
    keys.refuse_window(hparams.n_ctx_train)?;
    Ok(hparams)
}

fn layer(hparams: &Hparams, tensors: &mut Tensors<'_>) -> Result<LayerWeights, Error> {
    let head_norms = HeadNorms {
        q: tensors.vector("attn_q_norm.weight", hparams.head_dim)?,
        k: tensors.vector("attn_k_norm.weight", hparams.head_dim)?,
    };
    // The published models have no biases; their makers' code can have them.
    let layer = pre_norm::layer(hparams, tensors, Bias::Optional)?;
    Ok(LayerWeights { head_norms: Some(head_norms), ..layer })
}
