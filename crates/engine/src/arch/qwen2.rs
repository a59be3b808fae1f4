//! Qwen 2 and 2.5 (arXiv:2407.10671): Llama with biases at queries, keys and values.

use shoal_kernels::RopeKind;

use super::Architecture;
use super::pre_norm::{self, Bias};
use crate::hparams::Keys;
use crate::weights::RopeDivisors;
use crate::{Error, Hparams};

/// A pair of a rotation is an element of a head's first half and its counterpart in the second.
pub(super) const QWEN2: Architecture = Architecture {
    name: "qwen2",
    hparams,
    rope_divisors: |_, _| Ok(RopeDivisors::default()),
    layer: |hparams, tensors| pre_norm::layer(hparams, tensors, Bias::Required),
    attention: |step, layer| pre_norm::attention(step, layer, RopeKind::Halves),
    feed_forward: pre_norm::feed_forward,
};

fn hparams(keys: &Keys<'_>) -> Result<Hparams, Error> {
    let hparams = Hparams::read(keys, &["none", "linear"])?;
    keys.refuse_window(hparams.n_ctx_train)?;
    Ok(hparams)
}
