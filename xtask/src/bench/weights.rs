//! What a model's weights cost each token.

use std::path::Path;

use anyhow::Context as _;
use shoal_gguf::{Gguf, TensorInfo};

/// Figures by which speeds become shares of what a machine can do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weights {
    /// Bytes that generating a token reads: all tensors but an embedding that is not the head too.
    pub(super) token_bytes: f64,
    /// Products of a prompt's token: the matrices of the blocks. Attention and the head, which only the last token needs, are
    /// not counted.
    pub(super) prompt_products: f64,
}

impl Weights {
    /// Reads a file's directory.
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        let gguf = Gguf::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::sum(gguf.tensors()))
    }

    pub(super) fn sum(tensors: &[TensorInfo]) -> Self {
        let has_head = tensors.iter().any(|tensor| tensor.name == "output.weight");
        let is_read = |tensor: &&TensorInfo| !(has_head && tensor.name == "token_embd.weight");
        let is_matrix =
            |tensor: &&TensorInfo| tensor.name.starts_with("blk.") && tensor.shape.len() == 2;
        let token_bytes: u64 = tensors.iter().filter(is_read).map(|tensor| tensor.n_bytes).sum();
        let products =
            tensors.iter().filter(is_matrix).map(|tensor| tensor.shape.iter().product::<u64>());
        Self { token_bytes: token_bytes as f64, prompt_products: products.sum::<u64>() as f64 }
    }
}
