//! The hyper-parameters of a model, read from metadata that anybody may have written.
//!
//! Every count has an upper bound far above any real model, so that no product of two or three of them can
//! overflow, and so that no header alone can make the engine allocate much. What the counts promise must then
//! be there as tensors of the right shape (see `weights`), which ties memory to the length of the file.

use std::fmt::Display;
use std::ops::RangeInclusive;

use shoal_gguf::Metadata;

use crate::Error;

/// Layers. The deepest known models have 126.
const N_LAYER_MAX: u32 = 1024;
/// Width of the residual stream, and of all heads together. Known: 16,384.
const N_EMBD_MAX: u32 = 1 << 16;
/// Heads. Known: 128.
const N_HEAD_MAX: u32 = 1 << 10;
/// Dimensions of a head. Known: 256.
const HEAD_DIM_MAX: u32 = 1 << 10;
/// Width of the feed-forward network. Known: 53,248.
const N_FF_MAX: u32 = 1 << 20;
/// Size of the vocabulary. Known: 262,144.
const N_VOCAB_MAX: u32 = 1 << 22;
/// Positions. Known: 10 million.
const N_CTX_MAX: u32 = 1 << 24;

/// Numbers that define the shape of a model and constants of its forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Hparams {
    /// The value of `general.architecture`.
    pub architecture: String,
    /// Transformer layers.
    pub n_layer: u32,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads of a layer.
    pub n_head: usize,
    /// Key and value heads of a layer; divides `n_head`.
    pub n_head_kv: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Positions that the model was trained for.
    pub n_ctx_train: u32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// How positions become rotations.
    pub rope: RopeHparams,
    /// Positions that a token attends to, itself included; `None` means all before it.
    pub window: Option<usize>,
}

/// Constants of the rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeHparams {
    /// Dimensions of a head that are rotated; even.
    pub n_rot: usize,
    /// Base of the geometric series of frequencies.
    pub freq_base: f32,
    /// Divides positions (linear scaling, arXiv:2306.15595).
    pub factor: f32,
    /// Multiplies the rotated vectors (long-rope, arXiv:2402.13753).
    pub attn_factor: f32,
    /// Context length that the model had before it was extended.
    pub n_ctx_original: u32,
}

impl Hparams {
    /// Width of all query heads together.
    pub fn n_embd_q(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn n_embd_kv(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Reads what all architectures of this engine have.
    ///
    /// - `rope_scalings`: the kinds of scaling (`rope.scaling.type`) that the architecture knows
    pub(crate) fn read(keys: &Keys<'_>, rope_scalings: &[&str]) -> Result<Self, Error> {
        keys.refuse_unsupported()?;
        let n_layer = keys.count("block_count", 1..=N_LAYER_MAX)?;
        let n_embd = keys.count("embedding_length", 1..=N_EMBD_MAX)?;
        let n_head = keys.count("attention.head_count", 1..=N_HEAD_MAX)?;
        let n_head_kv =
            keys.optional_count("attention.head_count_kv", 1..=N_HEAD_MAX)?.unwrap_or(n_head);
        if !n_head.is_multiple_of(n_head_kv) {
            let expected = format!("a divisor of the {n_head} heads");
            return Err(keys.bad("attention.head_count_kv", &expected, n_head_kv));
        }
        let head_dim = keys.head_dim(n_embd, n_head)?;
        let n_ctx_train = keys.count("context_length", 1..=N_CTX_MAX)?;
        Ok(Self {
            architecture: keys.architecture.to_owned(),
            n_layer,
            n_embd: n_embd as usize,
            n_head: n_head as usize,
            n_head_kv: n_head_kv as usize,
            head_dim: head_dim as usize,
            n_ff: keys.count("feed_forward_length", 1..=N_FF_MAX)? as usize,
            n_vocab: keys.n_vocab()? as usize,
            n_ctx_train,
            norm_eps: keys.require_float("attention.layer_norm_rms_epsilon", 0.0..=1.0)?,
            rope: keys.rope(head_dim, n_ctx_train, rope_scalings)?,
            window: None,
        })
    }
}

/// Metadata of one architecture: keys are given without its prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

/// Keys that would change the computation in ways that no architecture of this engine knows.
const UNSUPPORTED: [&str; 8] = [
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
];

impl<'a> Keys<'a> {
    pub(crate) fn new(metadata: &'a Metadata, architecture: &'a str) -> Self {
        Self { metadata, architecture }
    }

    /// Reads a count that may be absent.
    pub(crate) fn optional_count(
        &self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, Error> {
        match self.metadata.u32(&self.key(name))? {
            Some(value) if !range.contains(&value) => {
                let expected = format!("{} to {}", range.start(), range.end());
                Err(self.bad(name, &expected, value))
            }
            value => Ok(value),
        }
    }

    /// Reads a float that may be absent.
    pub(crate) fn optional_float(
        &self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, Error> {
        match self.metadata.f32(&self.key(name))? {
            Some(value) if !range.contains(&value) => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                Err(self.bad(name, &expected, value))
            }
            value => Ok(value),
        }
    }

    /// An error about the value of a key.
    pub(crate) fn bad(&self, name: &str, expected: &str, found: impl Display) -> Error {
        Error::Hparam {
            key: self.key(name),
            expected: expected.to_owned(),
            found: found.to_string(),
        }
    }

    /// Refuses a sliding window that would matter, for architectures that are not known to have one.
    pub(crate) fn refuse_window(&self, n_ctx_train: u32) -> Result<(), Error> {
        match self.metadata.u32(&self.key("attention.sliding_window"))? {
            Some(window @ 1..) if window < n_ctx_train => {
                let expected = format!("no window below the context of {n_ctx_train}");
                Err(self.bad("attention.sliding_window", &expected, window))
            }
            _ => Ok(()),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn count(&self, name: &str, range: RangeInclusive<u32>) -> Result<u32, Error> {
        self.metadata.require_u32(&self.key(name))?;
        Ok(self.optional_count(name, range)?.expect("it is there"))
    }

    fn require_float(&self, name: &str, range: RangeInclusive<f32>) -> Result<f32, Error> {
        self.metadata.require_f32(&self.key(name))?;
        Ok(self.optional_float(name, range)?.expect("it is there"))
    }

    fn refuse_unsupported(&self) -> Result<(), Error> {
        if let Some(n_expert @ 1..) = self.metadata.u32(&self.key("expert_count"))? {
            return Err(self.bad("expert_count", "no experts", n_expert));
        }
        if self.metadata.bool(&self.key("attention.causal"))? == Some(false) {
            return Err(self.bad("attention.causal", "causal attention", false));
        }
        for name in UNSUPPORTED {
            if let Some(value) = self.metadata.get(&self.key(name)) {
                return Err(self.bad(name, "nothing", value));
            }
        }
        Ok(())
    }

    fn head_dim(&self, n_embd: u32, n_head: u32) -> Result<u32, Error> {
        let head_dim = match self.optional_count("attention.key_length", 1..=HEAD_DIM_MAX)? {
            Some(head_dim) => head_dim,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                let expected = format!("a divisor of the width {n_embd}");
                return Err(self.bad("attention.head_count", &expected, n_head));
            }
        };
        if head_dim > HEAD_DIM_MAX || head_dim * n_head > N_EMBD_MAX {
            let expected =
                format!("heads of at most {HEAD_DIM_MAX} dimensions, {N_EMBD_MAX} in all of them");
            return Err(self.bad(
                "attention.head_count",
                &expected,
                format!("{n_head} of {head_dim}"),
            ));
        }
        match self.optional_count("attention.value_length", 1..=HEAD_DIM_MAX)? {
            Some(value_length) if value_length != head_dim => {
                let expected = format!("the keys' length, {head_dim}");
                Err(self.bad("attention.value_length", &expected, value_length))
            }
            _ => Ok(head_dim),
        }
    }

    /// The length of the token list; for a model without one, `vocab_size`.
    fn n_vocab(&self) -> Result<u32, Error> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let n_vocab = match self.metadata.strings(TOKENS)? {
            None => return self.count("vocab_size", 1..=N_VOCAB_MAX),
            Some(tokens) => u32::try_from(tokens.len()).unwrap_or(u32::MAX),
        };
        if !(1..=N_VOCAB_MAX).contains(&n_vocab) {
            return Err(Error::Hparam {
                key: TOKENS.to_owned(),
                expected: format!("1 to {N_VOCAB_MAX} tokens"),
                found: n_vocab.to_string(),
            });
        }
        Ok(n_vocab)
    }

    fn rope(
        &self,
        head_dim: u32,
        n_ctx_train: u32,
        scalings: &[&str],
    ) -> Result<RopeHparams, Error> {
        let n_rot = match self.optional_count("rope.dimension_count", 1..=head_dim)? {
            Some(n_rot) => n_rot,
            None => head_dim,
        };
        if !n_rot.is_multiple_of(2) {
            return Err(self.bad("rope.dimension_count", "an even number", n_rot));
        }
        Ok(RopeHparams {
            n_rot: n_rot as usize,
            // The format's documented default; files of 2023 rely on it.
            freq_base: self.optional_float("rope.freq_base", 1.0..=1e12)?.unwrap_or(10_000.0),
            factor: self.rope_factor(scalings)?,
            attn_factor: self
                .optional_float("rope.scaling.attn_factor", 1e-3..=1e3)?
                .unwrap_or(1.0),
            n_ctx_original: self
                .optional_count("rope.scaling.original_context_length", 1..=N_CTX_MAX)?
                .unwrap_or(n_ctx_train),
        })
    }

    /// What positions are divided by. A factor without a type means linear scaling, as llama.cpp has it.
    fn rope_factor(&self, scalings: &[&str]) -> Result<f32, Error> {
        let scaling = self.metadata.str(&self.key("rope.scaling.type"))?.unwrap_or("linear");
        if !scalings.contains(&scaling) {
            let found = format!("{scaling:?}");
            return Err(self.bad("rope.scaling.type", &format!("one of {scalings:?}"), found));
        }
        // The second is the older name of the first. Zero means that there is no factor.
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            let factor = self.optional_float(name, 0.0..=1e6)?.filter(|&factor| factor != 0.0);
            match (scaling, factor) {
                ("linear", Some(factor)) => return Ok(factor),
                ("longrope", Some(factor)) if factor != 1.0 => {
                    return Err(self.bad(name, "nothing beside long-rope factors", factor));
                }
                _ => {}
            }
        }
        Ok(1.0)
    }
}
