//! Which tensor gets which type: the rules of llama.cpp's quantiser (`llama-quant.cpp`), for the file types
//! and architectures that are synthesised here, without an importance matrix.

use std::fmt;

use anyhow::Context as _;
use shoal_gguf::TensorType;

use super::layout::{Role, Tensor};
use super::shape::Shape;

/// What a model's weights are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FileType {
    /// Mixed: mostly q4_K, with q6_K where it matters most
    #[value(name = "q4_k_m")]
    Q4KM,
    /// q8_0 throughout
    #[value(name = "q8_0")]
    Q8_0,
    /// q4_0, with q6_K for the output
    #[value(name = "q4_0")]
    Q4_0,
    /// f16 throughout
    #[value(name = "f16")]
    F16,
}

impl FileType {
    /// llama.cpp's number, the value of `general.file_type`.
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
        }
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q4KM => "q4_k_m",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::F16 => "f16",
        })
    }
}

/// Returns the type of a tensor.
pub(crate) fn tensor_type(
    file_type: FileType,
    shape: &Shape,
    tensor: &Tensor,
) -> anyhow::Result<TensorType> {
    if tensor.shape.len() < 2 {
        return Ok(TensorType::F32);
    }
    let is_output =
        tensor.role == Role::Output || (shape.is_tied && tensor.role == Role::TokenEmbd);
    let wanted = match (file_type, tensor.role) {
        (FileType::F16, _) => TensorType::F16,
        (FileType::Q8_0, _) => TensorType::Q8_0,
        (FileType::Q4_0 | FileType::Q4KM, _) if is_output => TensorType::Q6K,
        (FileType::Q4_0, _) => TensorType::Q4_0,
        (FileType::Q4KM, Role::AttnV | Role::FfnDown)
            if has_more_bits(tensor.layer, shape.n_layer) =>
        {
            TensorType::Q6K
        }
        // The rule of 2024, when the files that people have were made; since then the quantiser treats
        // attn_qkv like attn_v.
        (FileType::Q4KM, Role::AttnQkv) => TensorType::Q5K,
        (FileType::Q4KM, _) => TensorType::Q4K,
    };
    fitting(wanted, tensor)
}

/// Bytes of a tensor in a file of this type.
pub(crate) fn n_bytes(file_type: FileType, shape: &Shape, tensor: &Tensor) -> anyhow::Result<u64> {
    let ty = tensor_type(file_type, shape, tensor)?;
    ty.n_bytes(&tensor.shape).with_context(|| format!("tensor {}: no size", tensor.name))
}

/// The layers whose most sensitive matrices get more bits: the first and last eighth, and every third
/// between.
fn has_more_bits(layer: u32, n_layer: u32) -> bool {
    let eighth = n_layer / 8;
    layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2
}

/// Rows that are no whole number of super-blocks fall back to the next larger type with blocks of 32.
fn fitting(wanted: TensorType, tensor: &Tensor) -> anyhow::Result<TensorType> {
    let fits = |ty: TensorType| ty.n_bytes(&tensor.shape).is_some();
    let fallback = match wanted {
        TensorType::Q4K => TensorType::Q5_0,
        TensorType::Q5K => TensorType::Q5_1,
        TensorType::Q6K => TensorType::Q8_0,
        other => other,
    };
    [wanted, fallback].into_iter().find(|&ty| fits(ty)).with_context(|| {
        format!("tensor {}: expected rows of a multiple of 32, got {:?}", tensor.name, tensor.shape)
    })
}
