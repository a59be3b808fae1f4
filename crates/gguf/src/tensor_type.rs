//! The element types of tensors: ggml's numbering and block sizes.

use std::fmt;

/// How a tensor's elements are stored: a number format or a quantised block format.
///
/// Elements come in blocks of [`block_len`](Self::block_len) along the innermost dimension; plain formats
/// have blocks of one. The list holds every ggml type with a fixed block size; whether Shoal can compute
/// with a type is the engine's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 4-bit blocks of 32 with one scale.
    Q4_0,
    /// 4-bit blocks of 32 with scale and minimum.
    Q4_1,
    /// 5-bit blocks of 32 with one scale.
    Q5_0,
    /// 5-bit blocks of 32 with scale and minimum.
    Q5_1,
    /// 8-bit blocks of 32 with one scale.
    Q8_0,
    /// 8-bit blocks of 32 with scale and sum; an activation format.
    Q8_1,
    /// 2-bit super-blocks of 256.
    Q2K,
    /// 3-bit super-blocks of 256.
    Q3K,
    /// 4-bit super-blocks of 256 with 6-bit scales and minima per 32.
    Q4K,
    /// 5-bit super-blocks of 256 with 6-bit scales and minima per 32.
    Q5K,
    /// 6-bit super-blocks of 256 with 8-bit scales per 16.
    Q6K,
    /// 8-bit super-blocks of 256; an activation format.
    Q8K,
    /// 2.06 bits per weight, codebook.
    IQ2XXS,
    /// 2.31 bits per weight, codebook.
    IQ2XS,
    /// 3.06 bits per weight, codebook.
    IQ3XXS,
    /// 1.56 bits per weight, codebook.
    IQ1S,
    /// 4-bit blocks of 32 on a non-linear grid.
    IQ4NL,
    /// 3.44 bits per weight, codebook.
    IQ3S,
    /// 2.56 bits per weight, codebook.
    IQ2S,
    /// 4-bit super-blocks of 256 on a non-linear grid.
    IQ4XS,
    /// 8-bit integers.
    I8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// IEEE double precision.
    F64,
    /// 1.75 bits per weight, codebook.
    IQ1M,
    /// The upper half of IEEE single precision.
    BF16,
    /// Ternary, 1.69 bits per weight.
    TQ1_0,
    /// Ternary, 2.06 bits per weight.
    TQ2_0,
    /// 4-bit floats in blocks of 32 with a shared power-of-two scale (OCP microscaling).
    MXFP4,
    /// 4-bit floats in blocks of 64 with an 8-bit float scale per 16 (NVIDIA's).
    NVFP4,
    /// 1-bit blocks of 128 with one scale.
    Q1_0,
    /// 2-bit blocks of 64 with one scale.
    Q2_0,
}

/// One row per type: ggml's id, elements per block, bytes per block, ggml's name.
struct Row {
    ty: TensorType,
    id: u32,
    block_len: u64,
    block_bytes: u64,
    name: &'static str,
}

const fn row(ty: TensorType, id: u32, block_len: u64, block_bytes: u64, name: &'static str) -> Row {
    Row { ty, id, block_len, block_bytes, name }
}

/// In the order of the enum, so that a type's discriminant is its index here (a test holds it). Ids 4 and 5
/// (q4_2, q4_3), 31 to 33 and 36 to 38 (repacked layouts that only lived in memory) were withdrawn by ggml.
const ROWS: [Row; 35] = [
    row(TensorType::F32, 0, 1, 4, "f32"),
    row(TensorType::F16, 1, 1, 2, "f16"),
    row(TensorType::Q4_0, 2, 32, 18, "q4_0"),
    row(TensorType::Q4_1, 3, 32, 20, "q4_1"),
    row(TensorType::Q5_0, 6, 32, 22, "q5_0"),
    row(TensorType::Q5_1, 7, 32, 24, "q5_1"),
    row(TensorType::Q8_0, 8, 32, 34, "q8_0"),
    row(TensorType::Q8_1, 9, 32, 36, "q8_1"),
    row(TensorType::Q2K, 10, 256, 84, "q2_K"),
    row(TensorType::Q3K, 11, 256, 110, "q3_K"),
    row(TensorType::Q4K, 12, 256, 144, "q4_K"),
    row(TensorType::Q5K, 13, 256, 176, "q5_K"),
    row(TensorType::Q6K, 14, 256, 210, "q6_K"),
    row(TensorType::Q8K, 15, 256, 292, "q8_K"),
    row(TensorType::IQ2XXS, 16, 256, 66, "iq2_xxs"),
    row(TensorType::IQ2XS, 17, 256, 74, "iq2_xs"),
    row(TensorType::IQ3XXS, 18, 256, 98, "iq3_xxs"),
    row(TensorType::IQ1S, 19, 256, 50, "iq1_s"),
    row(TensorType::IQ4NL, 20, 32, 18, "iq4_nl"),
    row(TensorType::IQ3S, 21, 256, 110, "iq3_s"),
    row(TensorType::IQ2S, 22, 256, 82, "iq2_s"),
    row(TensorType::IQ4XS, 23, 256, 136, "iq4_xs"),
    row(TensorType::I8, 24, 1, 1, "i8"),
    row(TensorType::I16, 25, 1, 2, "i16"),
    row(TensorType::I32, 26, 1, 4, "i32"),
    row(TensorType::I64, 27, 1, 8, "i64"),
    row(TensorType::F64, 28, 1, 8, "f64"),
    row(TensorType::IQ1M, 29, 256, 56, "iq1_m"),
    row(TensorType::BF16, 30, 1, 2, "bf16"),
    row(TensorType::TQ1_0, 34, 256, 54, "tq1_0"),
    row(TensorType::TQ2_0, 35, 256, 66, "tq2_0"),
    row(TensorType::MXFP4, 39, 32, 17, "mxfp4"),
    row(TensorType::NVFP4, 40, 64, 36, "nvfp4"),
    row(TensorType::Q1_0, 41, 128, 18, "q1_0"),
    row(TensorType::Q2_0, 42, 64, 18, "q2_0"),
];

impl TensorType {
    /// Returns the type with ggml's number `id`, or `None` if there is none that this crate knows.
    pub fn from_id(id: u32) -> Option<Self> {
        ROWS.iter().find(|row| row.id == id).map(|row| row.ty)
    }

    /// Returns the type with ggml's name, e.g. `q4_K`.
    pub fn from_name(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.ty)
    }

    /// Iterates over all types, in the order of their ids.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.ty)
    }

    /// ggml's number for the type, as a file stores it.
    pub fn id(self) -> u32 {
        self.row().id
    }

    /// Elements per block. Rows hold whole blocks.
    pub fn block_len(self) -> u64 {
        self.row().block_len
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> u64 {
        self.row().block_bytes
    }

    /// ggml's name for the type, e.g. `q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Bytes of a tensor of this type, or `None` if its rows are no whole number of blocks or the size
    /// overflows.
    ///
    /// - `shape`: outermost dimension first
    pub fn n_bytes(self, shape: &[u64]) -> Option<u64> {
        let row_len = shape.last().copied().unwrap_or(1);
        if !row_len.is_multiple_of(self.block_len()) {
            return None;
        }
        let n_elements = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim))?;
        (n_elements / self.block_len()).checked_mul(self.block_bytes())
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_indexed_by_the_discriminant_and_ids_are_unique() {
        for (i, row) in ROWS.iter().enumerate() {
            assert_eq!(row.ty as usize, i, "{}", row.name);
            assert_eq!(TensorType::from_id(row.id), Some(row.ty), "{}", row.name);
            assert_eq!(TensorType::from_name(row.name), Some(row.ty));
        }
    }

    #[test]
    fn refuses_ids_that_ggml_withdrew_or_never_gave() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 1000, u32::MAX] {
            assert_eq!(TensorType::from_id(id), None, "{id}");
        }
    }

    #[test]
    fn sizes_count_whole_blocks_only_and_never_overflow() {
        assert_eq!(TensorType::Q4K.n_bytes(&[3, 512]), Some(3 * 2 * 144));
        assert_eq!(TensorType::Q4K.n_bytes(&[512, 3]), None);
        assert_eq!(TensorType::F32.n_bytes(&[]), Some(4));
        assert_eq!(TensorType::F64.n_bytes(&[1 << 61]), None);
        assert_eq!(TensorType::F32.n_bytes(&[1 << 40, 1 << 40]), None);
    }
}
