//! Weight types and matrices in a GGUF's own bytes.

use std::fmt;
use std::ops::Range;

use crate::quant::{
    self, BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0, SMALL, SUPER,
};

/// How the weights of a [`Matrix`] are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Blocks of 32 signed bytes.
    Q8_0,
    /// Blocks of 32 nibbles.
    Q4_0,
    /// Blocks of 32 five-bit codes.
    Q5_0,
    /// Super-blocks of 256 nibbles, with minima.
    Q4K,
    /// Super-blocks of 256 five-bit codes, with minima.
    Q5K,
    /// Super-blocks of 256 six-bit codes.
    Q6K,
}

impl WeightType {
    /// Every type, for tests and tables.
    pub const ALL: [WeightType; 8] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::Q8_0,
        WeightType::Q4_0,
        WeightType::Q5_0,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
    ];

    /// Weights per block; rows are a whole number of blocks.
    pub fn block_len(self) -> usize {
        match self {
            WeightType::F32 | WeightType::F16 => 1,
            WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 => SMALL,
            WeightType::Q4K | WeightType::Q5K | WeightType::Q6K => SUPER,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::F16 => 2,
            WeightType::Q8_0 => size_of::<BlockQ8_0>(),
            WeightType::Q4_0 => size_of::<BlockQ4_0>(),
            WeightType::Q5_0 => size_of::<BlockQ5_0>(),
            WeightType::Q4K => size_of::<BlockQ4K>(),
            WeightType::Q5K => size_of::<BlockQ5K>(),
            WeightType::Q6K => size_of::<BlockQ6K>(),
        }
    }

    /// What activations are converted to before they meet weights of this type.
    pub fn activation(self) -> ActivationType {
        match self {
            WeightType::F32 | WeightType::F16 => ActivationType::F32,
            WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 => ActivationType::Q8,
            WeightType::Q4K | WeightType::Q5K | WeightType::Q6K => ActivationType::Q8K,
        }
    }

    /// Bytes of a row of `n_cols` weights.
    ///
    /// # Panics
    /// If `n_cols` is no multiple of [`block_len`](Self::block_len).
    pub fn row_bytes(self, n_cols: usize) -> usize {
        assert!(
            n_cols.is_multiple_of(self.block_len()),
            "{n_cols} columns of {self}: no whole blocks"
        );
        n_cols / self.block_len() * self.block_bytes()
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightType::F32 => "f32",
            WeightType::F16 => "f16",
            WeightType::Q8_0 => "q8_0",
            WeightType::Q4_0 => "q4_0",
            WeightType::Q5_0 => "q5_0",
            WeightType::Q4K => "q4_K",
            WeightType::Q5K => "q5_K",
            WeightType::Q6K => "q6_K",
        })
    }
}

/// How activations are stored while they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationType {
    /// As they are.
    F32,
    /// Signed bytes with a scale per 32.
    Q8,
    /// Signed bytes with a scale per 256.
    Q8K,
}

/// Why bytes are not a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// The rows are no whole number of blocks, or empty.
    #[error("matrix of {ty}: expected columns in blocks of {}, got {n_cols}", ty.block_len())]
    Columns {
        /// The type of the weights.
        ty: WeightType,
        /// Columns asked for.
        n_cols: usize,
    },
    /// The number of bytes is not that of the shape.
    #[error("matrix of {ty} [{n_rows}, {n_cols}]: its bytes do not have that size, got {got}")]
    Bytes {
        /// The type of the weights.
        ty: WeightType,
        /// Rows asked for.
        n_rows: usize,
        /// Columns asked for.
        n_cols: usize,
        /// Bytes given.
        got: usize,
    },
}

/// A weight matrix `[n_rows, n_cols]` in a GGUF's own bytes (any alignment).
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({} [{}, {}])", self.ty, self.n_rows, self.n_cols)
    }
}

impl<'a> Matrix<'a> {
    /// Views `bytes` as `n_rows` rows of `n_cols` weights.
    ///
    /// # Errors
    /// If rows are not whole blocks or `bytes` has not exactly the size of the shape.
    pub fn new(
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, MatrixError> {
        if n_cols == 0 || !n_cols.is_multiple_of(ty.block_len()) {
            return Err(MatrixError::Columns { ty, n_cols });
        }
        let row_bytes = (n_cols / ty.block_len()).checked_mul(ty.block_bytes());
        match row_bytes {
            Some(row_bytes) if row_bytes.checked_mul(n_rows) == Some(bytes.len()) => {
                Ok(Self { ty, n_rows, n_cols, row_bytes, bytes })
            }
            _ => Err(MatrixError::Bytes { ty, n_rows, n_cols, got: bytes.len() }),
        }
    }

    /// Number of rows: outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Number of columns: inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// How the weights are stored.
    pub fn weight_type(&self) -> WeightType {
        self.ty
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.n_rows, "row {i} of {self:?}");
        &self.bytes[i * self.row_bytes..(i + 1) * self.row_bytes]
    }

    /// Bytes from one row to the next.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The rows in `range` as a matrix, as needed for fused tensors (q, k and v in one).
    ///
    /// # Panics
    /// If the range is not inside the matrix.
    pub fn rows(&self, range: Range<usize>) -> Matrix<'a> {
        assert!(range.start <= range.end && range.end <= self.n_rows, "rows {range:?} of {self:?}");
        let bytes = &self.bytes[range.start * self.row_bytes..range.end * self.row_bytes];
        Matrix { n_rows: range.len(), bytes, ..*self }
    }

    /// Dequantises row `i` into `out`: `[n_cols]`.
    pub(crate) fn dequantize_row(&self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.n_cols, "row of {self:?}");
        let row = self.row(i);
        match self.ty {
            WeightType::F32 => {
                for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            WeightType::F16 => {
                for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = quant::f16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            WeightType::Q8_0 => quant::dequantize_small::<BlockQ8_0>(row, out),
            WeightType::Q4_0 => quant::dequantize_small::<BlockQ4_0>(row, out),
            WeightType::Q5_0 => quant::dequantize_small::<BlockQ5_0>(row, out),
            WeightType::Q4K => quant::dequantize_super::<BlockQ4K>(row, out),
            WeightType::Q5K => quant::dequantize_super::<BlockQ5K>(row, out),
            WeightType::Q6K => quant::dequantize_super::<BlockQ6K>(row, out),
        }
    }
}
