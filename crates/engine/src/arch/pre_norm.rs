//! The block that Llama introduced and most models since share (arXiv:2302.13971): norms before the branches,
//! rotated queries and keys (in some models with a norm of each head before), grouped heads, and a gated feed-forward network.
//!
//! ```text
//! x += W_output · attention(rope(W_q · norm(x)), rope(W_k · norm(x)), W_v · norm(x))
//! x += W_down · (silu(W_gate · norm(x)) * (W_up · norm(x)))
//! ```

use shoal_kernels::RopeKind;

use crate::step::Step;
use crate::weights::{LayerWeights, Linear, Tensors};
use crate::{Error, Hparams};

/// Whether queries, keys and values have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// Each may have one.
    Optional,
    /// Each must have one.
    Required,
}

/// Finds the tensors of a layer in which every matrix is a tensor of its own.
pub(super) fn layer(
    hparams: &Hparams,
    tensors: &mut Tensors<'_>,
    bias: Bias,
) -> Result<LayerWeights, Error> {
    let (n_embd, n_ff) = (hparams.n_embd, hparams.n_ff);
    let (n_embd_q, n_embd_kv) = (hparams.n_embd_q(), hparams.n_embd_kv());
    let mut linear = |name: &str, n_rows: usize| -> Result<Linear, Error> {
        let weight = tensors.matrix(&format!("{name}.weight"), n_rows, n_embd)?;
        let name = format!("{name}.bias");
        let bias = match bias {
            Bias::Optional => tensors.optional_vector(&name, n_rows)?,
            Bias::Required => Some(tensors.vector(&name, n_rows)?),
        };
        Ok(Linear { weight, bias })
    };
    Ok(LayerWeights {
        attn_q: linear("attn_q", n_embd_q)?,
        attn_k: linear("attn_k", n_embd_kv)?,
        attn_v: linear("attn_v", n_embd_kv)?,
        head_norms: None,
        attn_norm: tensors.vector("attn_norm.weight", n_embd)?,
        attn_output: tensors.matrix("attn_output.weight", n_embd, n_embd_q)?,
        ffn_norm: tensors.vector("ffn_norm.weight", n_embd)?,
        ffn_gate: tensors.matrix("ffn_gate.weight", n_ff, n_embd)?,
        ffn_up: tensors.matrix("ffn_up.weight", n_ff, n_embd)?,
        ffn_down: tensors.matrix("ffn_down.weight", n_embd, n_ff)?,
    })
}

/// Adds grouped-query attention to the residual stream, and keys and values to the caches.
pub(super) fn attention(step: &mut Step<'_, '_>, layer: &LayerWeights, rope: RopeKind) {
    step.norm(&layer.attn_norm);
    step.project_qkv(&layer.attn_q, &layer.attn_k, &layer.attn_v);
    if let Some(norms) = &layer.head_norms {
        step.norm_heads(norms);
    }
    step.rotate(rope);
    step.store_kv();
    step.attend();
    step.add_attn_output(&layer.attn_output);
}

/// Adds SwiGLU (arXiv:2002.05202) to the residual stream.
pub(super) fn feed_forward(step: &mut Step<'_, '_>, layer: &LayerWeights) {
    step.norm(&layer.ffn_norm);
    step.project_gate_up(&layer.ffn_gate, &layer.ffn_up);
    step.gate();
    step.add_ffn_down(&layer.ffn_down);
}
