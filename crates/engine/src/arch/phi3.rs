//! Phi 3 and 3.5 (arXiv:2404.14219): Llama with fused matrices, and rotations stretched for long contexts
//! (arXiv:2402.13753).

use shoal_kernels::RopeKind;

use super::{Architecture, pre_norm};
use crate::hparams::Keys;
use crate::weights::{LayerWeights, Linear, RopeDivisors, Tensors};
use crate::{Error, Hparams};

/// A pair of a rotation is an element of a head's first half and its counterpart in the second.
pub(super) const PHI3: Architecture = Architecture {
    name: "phi3",
    hparams,
    rope_divisors,
    layer,
    attention: |step, layer| pre_norm::attention(step, layer, RopeKind::Halves),
    feed_forward: pre_norm::feed_forward,
};

/// The 4k models were trained with a window of 2047 positions. llama.cpp computes without it.
fn hparams(keys: &Keys<'_>) -> Result<Hparams, Error> {
    let mut hparams = Hparams::read(keys, &["none", "linear", "longrope"])?;
    let window = keys.optional_count("attention.sliding_window", 0..=u32::MAX)?;
    // Zero means that there is none.
    hparams.window = window.filter(|&window| window > 0).map(|window| window as usize);
    Ok(hparams)
}

/// Two sets of divisors, for contexts up to the original length and beyond. The 4k models have none.
fn rope_divisors(hparams: &Hparams, tensors: &mut Tensors<'_>) -> Result<RopeDivisors, Error> {
    let n = hparams.rope.n_rot / 2;
    let usual = tensors.optional_vector("rope_factors_short.weight", n)?;
    let long = match usual {
        Some(_) => Some(tensors.vector("rope_factors_long.weight", n)?),
        None => None,
    };
    Ok(RopeDivisors { usual, long })
}

fn layer(hparams: &Hparams, tensors: &mut Tensors<'_>) -> Result<LayerWeights, Error> {
    let (n_embd, n_ff) = (hparams.n_embd, hparams.n_ff);
    let (n_q, n_kv) = (hparams.n_embd_q(), hparams.n_embd_kv());
    let qkv = tensors.matrix("attn_qkv.weight", n_q + 2 * n_kv, n_embd)?;
    let gate_up = tensors.matrix("ffn_up.weight", 2 * n_ff, n_embd)?;
    let linear = |start: usize, n_rows: usize| Linear {
        weight: qkv.rows(start..start + n_rows),
        bias: None,
    };
    Ok(LayerWeights {
        attn_q: linear(0, n_q),
        attn_k: linear(n_q, n_kv),
        attn_v: linear(n_q + n_kv, n_kv),
        head_norms: None,
        attn_norm: tensors.vector("attn_norm.weight", n_embd)?,
        attn_output: tensors.matrix("attn_output.weight", n_embd, n_q)?,
        ffn_norm: tensors.vector("ffn_norm.weight", n_embd)?,
        ffn_gate: gate_up.rows(0..n_ff),
        ffn_up: gate_up.rows(n_ff..2 * n_ff),
        ffn_down: tensors.matrix("ffn_down.weight", n_embd, n_ff)?,
    })
}
