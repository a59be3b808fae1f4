//! The tensors of a model, in the order in which llama.cpp's quantiser writes them: those of no layer first,
//! then layer by layer, by name.

use super::shape::{Arch, Rope, Shape};

/// What a tensor is for: decides its type and the scale of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    TokenEmbd,
    Output,
    /// Weights of the RMSNorm before the output.
    OutputNorm,
    /// Weights of any other RMSNorm.
    Norm,
    AttnQ,
    AttnK,
    AttnV,
    /// Phi 3's query, key and value in one.
    AttnQkv,
    AttnOutput,
    FfnGate,
    FfnUp,
    FfnDown,
    /// Bias of query or key.
    BiasQk,
    /// Bias of value.
    BiasV,
    /// Llama 3's divisors of the rotation frequencies.
    RopeFreqs,
    /// Phi 3's for contexts up to the original length.
    RopeShort,
    /// Phi 3's for longer ones.
    RopeLong,
}

/// A tensor to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Of a tensor of no layer: 0.
    pub(crate) layer: u32,
    /// Outermost dimension first.
    pub(crate) shape: Vec<u64>,
}

/// Lists the tensors of a model.
pub(crate) fn tensors(shape: &Shape) -> Vec<Tensor> {
    let (n_embd, n_vocab) = (u64::from(shape.n_embd), u64::from(shape.n_vocab));
    let n_rot_half = u64::from(shape.head_dim()) / 2;
    let mut list = List { tensors: Vec::new(), layer: None };
    if !shape.is_tied {
        list.push("output.weight", Role::Output, &[n_vocab, n_embd]);
    }
    list.push("output_norm.weight", Role::OutputNorm, &[n_embd]);
    match shape.rope {
        Rope::Plain => {}
        Rope::Llama3 { .. } => list.push("rope_freqs.weight", Role::RopeFreqs, &[n_rot_half]),
        Rope::Long { .. } => {
            list.push("rope_factors_long.weight", Role::RopeLong, &[n_rot_half]);
            list.push("rope_factors_short.weight", Role::RopeShort, &[n_rot_half]);
        }
    }
    list.push("token_embd.weight", Role::TokenEmbd, &[n_vocab, n_embd]);
    for layer in 0..shape.n_layer {
        list.layer = Some(layer);
        push_layer(&mut list, shape);
    }
    list.tensors
}

fn push_layer(list: &mut List, shape: &Shape) {
    let (n_embd, n_ff) = (u64::from(shape.n_embd), u64::from(shape.n_ff));
    let n_embd_q = u64::from(shape.n_embd_q());
    let n_embd_kv = u64::from(shape.n_head_kv * shape.head_dim());
    let has_bias = shape.arch == Arch::Qwen2;
    let is_fused = shape.arch == Arch::Phi3;
    let has_head_norms = shape.arch == Arch::Qwen3;
    let head_dim = u64::from(shape.head_dim());

    if has_bias {
        list.push("attn_k.bias", Role::BiasQk, &[n_embd_kv]);
    }
    if !is_fused {
        list.push("attn_k.weight", Role::AttnK, &[n_embd_kv, n_embd]);
    }
    if has_head_norms {
        list.push("attn_k_norm.weight", Role::Norm, &[head_dim]);
    }
    list.push("attn_norm.weight", Role::Norm, &[n_embd]);
    list.push("attn_output.weight", Role::AttnOutput, &[n_embd, n_embd_q]);
    if has_bias {
        list.push("attn_q.bias", Role::BiasQk, &[n_embd_q]);
    }
    if is_fused {
        list.push("attn_qkv.weight", Role::AttnQkv, &[n_embd_q + 2 * n_embd_kv, n_embd]);
    } else {
        list.push("attn_q.weight", Role::AttnQ, &[n_embd_q, n_embd]);
    }
    if has_head_norms {
        list.push("attn_q_norm.weight", Role::Norm, &[head_dim]);
    }
    if has_bias {
        list.push("attn_v.bias", Role::BiasV, &[n_embd_kv]);
    }
    if !is_fused {
        list.push("attn_v.weight", Role::AttnV, &[n_embd_kv, n_embd]);
    }
    list.push("ffn_down.weight", Role::FfnDown, &[n_embd, n_ff]);
    if !is_fused {
        list.push("ffn_gate.weight", Role::FfnGate, &[n_ff, n_embd]);
    }
    list.push("ffn_norm.weight", Role::Norm, &[n_embd]);
    // Phi 3 keeps gate and up in one tensor, gate first.
    list.push("ffn_up.weight", Role::FfnUp, &[if is_fused { 2 * n_ff } else { n_ff }, n_embd]);
}

struct List {
    tensors: Vec<Tensor>,
    layer: Option<u32>,
}

impl List {
    fn push(&mut self, name: &str, role: Role, shape: &[u64]) {
        let name = match self.layer {
            None => name.to_owned(),
            Some(layer) => format!("blk.{layer}.{name}"),
        };
        let layer = self.layer.unwrap_or(0);
        self.tensors.push(Tensor { name, role, layer, shape: shape.to_vec() });
    }
}
