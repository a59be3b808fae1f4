//! What can be wrong with a model, or with a step that is asked of it.

use shoal_proto::{LayerRange, TokenId};

/// Why a model cannot be used, or a step not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model is of a kind that this engine has no forward pass for.
    #[error("metadata general.architecture: expected one of {known}, got {found:?}")]
    UnknownArchitecture {
        /// The architectures that there are.
        known: String,
        /// The one that the file names.
        found: String,
    },
    /// A metadata key is absent or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] shoal_gguf::Error),
    /// A hyper-parameter has a value that makes no sense, or asks for something that is not supported.
    #[error("metadata {key}: expected {expected}, got {found}")]
    Hparam {
        /// The metadata key.
        key: String,
        /// What would have been right.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A tensor is missing, superfluous, or of another type or shape than the hyper-parameters ask for.
    #[error("tensor {name}: expected {expected}, got {found}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// Types and shape (outermost dimension first) that would have been right.
        expected: String,
        /// Type and shape that the file has.
        found: String,
    },
    /// A shard was asked for that reaches beyond the model.
    #[error("layers: expected a range within 0..{n_layer}, got {layers}")]
    Layers {
        /// The layers asked for.
        layers: LayerRange,
        /// How many the model has.
        n_layer: u32,
    },
    /// Only a whole model can be evaluated.
    #[error("layers: expected all of 0..{n_layer}, got {layers}")]
    NotWhole {
        /// The shard's layers.
        layers: LayerRange,
        /// How many the model has.
        n_layer: u32,
    },
    /// A context was asked for that the model was not trained for.
    #[error("context: expected 1 to {n_ctx_train} positions, got {n_ctx}")]
    Context {
        /// The positions asked for.
        n_ctx: usize,
        /// The most that the model was trained with.
        n_ctx_train: u32,
    },
    /// The system refuses the memory for a KV cache.
    #[error("out of memory: a KV cache of {n_bytes} bytes was refused")]
    OutOfMemory {
        /// Bytes of the keys or values of one layer.
        n_bytes: u64,
    },
    /// A step does not fit in a sequence's context. Nothing was changed.
    #[error("the context is full: expected at most {n_ctx} tokens, got {wanted}")]
    ContextFull {
        /// The positions that there are.
        n_ctx: usize,
        /// How many the sequence would have after the step.
        wanted: usize,
    },
    /// A segment without tokens.
    #[error("segment {segment_idx}: expected at least one token, got none")]
    EmptySegment {
        /// Which segment of the step, from 0.
        segment_idx: usize,
    },
    /// A token that is not in the vocabulary.
    #[error("segment {segment_idx}: expected token ids below {n_vocab}, got {token}")]
    Token {
        /// Which segment of the step, from 0.
        segment_idx: usize,
        /// The token.
        token: TokenId,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// Activations that do not belong to the segment's tokens.
    #[error("segment {segment_idx}: expected {expected} activations, got {found}")]
    Activations {
        /// Which segment of the step, from 0.
        segment_idx: usize,
        /// `n_tokens * n_embd`, or 0 on a shard that has the embedding.
        expected: usize,
        /// How many numbers came.
        found: usize,
    },
    /// A sequence that was made for another shard.
    #[error(
        "segment {segment_idx}: expected a sequence of layers {expected} of this model, got one of layers {found} of {model}"
    )]
    ForeignSequence {
        /// Which segment of the step, from 0.
        segment_idx: usize,
        /// The shard's layers.
        expected: LayerRange,
        /// The sequence's.
        found: LayerRange,
        /// "the same" or "another".
        model: &'static str,
    },
}
