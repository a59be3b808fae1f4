//! The metadata of a synthetic model: the keys of the real files, in their order.

use shoal_gguf::Value;

use super::mix::FileType;
use super::shape::{Arch, Rope, Shape};
use super::vocab::Vocab;

/// ggml's version of the quantised formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Lists all metadata of a model.
pub(crate) fn entries(shape: &Shape, file_type: FileType, vocab: Vocab) -> Vec<(String, Value)> {
    let mut list: Vec<(String, Value)> = Vec::new();
    let mut push = |key: &str, value: Value| list.push((key.to_owned(), value));
    push("general.architecture", shape.arch.name().into());
    push("general.type", "model".into());
    push("general.name", shape.title.into());
    push("general.description", "random weights in the shape of a real model".into());
    let mut hparam = |key: &str, value: Value| push(&format!("{}.{key}", shape.arch.name()), value);
    hparam("block_count", shape.n_layer.into());
    hparam("context_length", shape.n_ctx_train.into());
    hparam("embedding_length", shape.n_embd.into());
    hparam("feed_forward_length", shape.n_ff.into());
    hparam("attention.head_count", shape.n_head.into());
    hparam("attention.head_count_kv", shape.n_head_kv.into());
    hparam("rope.freq_base", shape.rope_freq_base.into());
    hparam("attention.layer_norm_rms_epsilon", shape.rms_eps.into());
    if let Some(length) = shape.key_length {
        hparam("attention.key_length", length.into());
        hparam("attention.value_length", length.into());
    }
    if !matches!(shape.arch, Arch::Qwen2 | Arch::Qwen3) {
        hparam("rope.dimension_count", shape.head_dim().into());
    }
    match shape.rope {
        Rope::Plain => {}
        Rope::Llama3 { .. } => {
            hparam("attention.key_length", shape.head_dim().into());
            hparam("attention.value_length", shape.head_dim().into());
            hparam("vocab_size", shape.n_vocab.into());
        }
        Rope::Long { n_ctx_original, attn_factor } => {
            // Longer than any context: the files of this model say so, and nobody slides the window.
            hparam("attention.sliding_window", (2 * shape.n_ctx_train).into());
            hparam("rope.scaling.original_context_length", n_ctx_original.into());
            hparam("rope.scaling.attn_factor", attn_factor.into());
        }
    }
    push("general.file_type", file_type.id().into());
    list.extend(vocab.entries);
    list.push(("general.quantization_version".to_owned(), QUANTIZATION_VERSION.into()));
    list
}
