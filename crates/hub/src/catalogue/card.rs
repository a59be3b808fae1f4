//! What is known of one model.

use serde::{Deserialize, Serialize};

use crate::quant::Quant;

/// A model of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its repository on the model hub, exactly.
    pub id: String,
    /// What people type: `family:size`.
    pub short: String,
    /// What people read.
    pub name: String,
    /// Its family, the part of the short name before the colon.
    pub family: String,
    /// GGUF's `general.architecture`.
    pub architecture: String,
    /// Number of weights, with the embedding counted once where the head shares it.
    pub n_params: u64,
    /// Number of weights in the repository's files, where it differs from `n_params`: some files store the head as well
    /// though it equals the embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_weights_stored: Option<u64>,
    /// Transformer blocks.
    pub n_layer: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Width of the keys, and of the values, of one token in one layer: heads for keys and values times their size. The mean
    /// over the layers where they differ.
    pub n_embd_kv: u32,
    /// Inner width of the feed-forward blocks.
    pub n_ff: u32,
    /// Tokens of the vocabulary.
    pub n_vocab: u32,
    /// Tokens of context that it was trained for.
    pub n_ctx_train: u32,
    /// SPDX identifier, or the licence's name.
    pub licence: String,
    /// Where the licence can be read, if it has no SPDX identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence_url: Option<String>,
    /// Whether the hub gives its files only to those who accepted the licence.
    #[serde(default)]
    pub gated: bool,
    /// What it is for: `chat`, `code`, `reasoning`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether the family's name alone stands for this size.
    #[serde(default)]
    pub is_default: bool,
    /// Format of its files.
    #[serde(default)]
    pub format: CardFormat,
    /// Known sizes of its files.
    #[serde(default)]
    pub quants: Vec<CardQuant>,
}

/// Format of a model's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CardFormat {
    /// The files that this engine reads.
    #[default]
    Gguf,
    /// Safetensors for MLX.
    Mlx,
}

/// Size of a model in one quantisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardQuant {
    /// The quantisation.
    pub quant: Quant,
    /// Bytes of its files.
    pub n_bytes: u64,
    /// Whether the size is only known to two or three digits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approximate: bool,
}

impl Card {
    /// Bytes of the weights: the listed size, else the stored weights times the quantisation's bits; `None` if neither is
    /// known.
    pub fn weight_bytes(&self, quant: &Quant) -> Option<u64> {
        if let Some(listed) = self.quants.iter().find(|listed| listed.quant == *quant) {
            return Some(listed.n_bytes);
        }
        let millibits = u128::from(quant.millibits_per_weight()?);
        u64::try_from(u128::from(self.n_weights()) * millibits / 8000).ok()
    }

    /// Number of weights that the files store.
    pub fn n_weights(&self) -> u64 {
        self.n_weights_stored.unwrap_or(self.n_params)
    }

    /// Bytes of keys and values at 16 bits for a context of so many tokens.
    pub fn kv_bytes(&self, n_ctx: u32) -> u64 {
        let per_token = 4 * u64::from(self.n_embd_kv) * u64::from(self.n_layer);
        per_token.saturating_mul(u64::from(n_ctx))
    }

    /// The size part of the short name.
    pub fn size(&self) -> &str {
        self.short.split_once(':').map_or("", |(_, size)| size)
    }

    /// The card as a user's file of one card.
    ///
    /// # Errors
    /// If a number does not fit into TOML's 64-bit signed integers.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Checks what a user wrote: field, what is expected, what is there.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str, String)> {
        let is_repo =
            self.id.split('/').count() == 2 && self.id.split('/').all(|part| !part.is_empty());
        if !is_repo {
            return Err(("id", "owner/repository", format!("{:?}", self.id)));
        }
        let family = self.short.split_once(':').map(|(family, _)| family);
        if family != Some(self.family.as_str()) || self.size().is_empty() {
            return Err(("short", "the family, a colon and a size", format!("{:?}", self.short)));
        }
        let counts = [
            ("n_layer", self.n_layer),
            ("n_embd", self.n_embd),
            ("n_embd_kv", self.n_embd_kv),
            ("n_ff", self.n_ff),
            ("n_vocab", self.n_vocab),
            ("n_ctx_train", self.n_ctx_train),
        ];
        for (field, got) in counts {
            if !(1..=1 << 24).contains(&got) {
                return Err((field, "1 to 16777216", got.to_string()));
            }
        }
        for (field, got) in [("n_params", self.n_params), ("n_weights_stored", self.n_weights())] {
            if !(1..=1 << 42).contains(&got) {
                return Err((field, "1 to 2^42", got.to_string()));
            }
        }
        Ok(())
    }
}
