//! Activations, quantised to 8 bits at most once for each block length.

use crate::matrix::ActivationType;
use crate::quant::{SMALL, SUB, SUPER};

/// Rows of activations `[n_tokens, n_cols]` in the forms that weights need; the buffers are reused.
#[derive(Debug, Default)]
pub struct Activations {
    n_tokens: usize,
    n_cols: usize,
    /// Whether `x` is filled.
    has_f32: bool,
    /// `[n_tokens, n_cols]`
    x: Vec<f32>,
    q8: Quantized,
    q8k: Quantized,
}

/// Activations in signed bytes.
#[derive(Debug, Default)]
struct Quantized {
    filled: bool,
    /// `[n_tokens, n_cols]`
    codes: Vec<i8>,
    /// `[n_tokens, n_blocks]`
    scales: Vec<f32>,
    /// Sums of codes, `[n_tokens, n_cols / sum_len]`; 32 * 127 fits.
    sums: Vec<i16>,
}

/// One token's activations in signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct QuantizedRow<'a> {
    /// `[n_cols]`, in `-127..=127`
    pub(crate) codes: &'a [i8],
    /// `[n_blocks]`
    pub(crate) scales: &'a [f32],
    /// Sums of each 32 (Q8) or 16 (Q8K) codes.
    pub(crate) sums: &'a [i16],
}

/// One token's slices that quantisation fills.
pub(crate) struct QuantizedRowMut<'a> {
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i16],
    ty: ActivationType,
}

/// Codes per block and per sum.
fn lengths(ty: ActivationType) -> (usize, usize) {
    match ty {
        ActivationType::F32 => unreachable!("f32 activations are not quantised"),
        ActivationType::Q8 => (SMALL, SMALL),
        ActivationType::Q8K => (SUPER, SUB),
    }
}

impl Activations {
    /// Number of rows.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Length of a row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Row `t` as floats, if that form was asked for.
    pub(crate) fn f32_row(&self, t: usize) -> &[f32] {
        assert!(self.has_f32, "activations were not kept as f32");
        &self.x[t * self.n_cols..][..self.n_cols]
    }

    /// Whether the form `ty` was asked for.
    pub(crate) fn has(&self, ty: ActivationType) -> bool {
        match ty {
            ActivationType::F32 => self.has_f32,
            ActivationType::Q8 => self.q8.filled,
            ActivationType::Q8K => self.q8k.filled,
        }
    }

    /// Row `t` in blocks of 32 or 256.
    #[inline(always)]
    pub(crate) fn quantized_row(&self, ty: ActivationType, t: usize) -> QuantizedRow<'_> {
        let (block_len, sum_len) = lengths(ty);
        let quantized = if ty == ActivationType::Q8 { &self.q8 } else { &self.q8k };
        let (n, n_blocks, n_sums) = (self.n_cols, self.n_cols / block_len, self.n_cols / sum_len);
        QuantizedRow {
            codes: &quantized.codes[t * n..][..n],
            scales: &quantized.scales[t * n_blocks..][..n_blocks],
            sums: &quantized.sums[t * n_sums..][..n_sums],
        }
    }

    /// Sizes the buffers for `x` and calls `fill` with the rows of each quantised form.
    pub(crate) fn refill(
        &mut self,
        x: &[f32],
        n_cols: usize,
        types: &[ActivationType],
        mut fill: impl FnMut(&mut [QuantizedRowMut<'_>]),
    ) {
        assert!(
            n_cols > 0 && x.len().is_multiple_of(n_cols),
            "{} floats in rows of {n_cols}",
            x.len()
        );
        (self.n_tokens, self.n_cols) = (x.len() / n_cols, n_cols);
        self.has_f32 = types.contains(&ActivationType::F32);
        if self.has_f32 {
            self.x.clear();
            self.x.extend_from_slice(x);
        }
        for (ty, quantized) in
            [(ActivationType::Q8, &mut self.q8), (ActivationType::Q8K, &mut self.q8k)]
        {
            quantized.filled = types.contains(&ty);
            if !quantized.filled {
                continue;
            }
            let (block_len, sum_len) = lengths(ty);
            assert!(
                n_cols.is_multiple_of(block_len),
                "{n_cols} activations in blocks of {block_len}"
            );
            quantized.codes.resize(x.len(), 0);
            quantized.scales.resize(x.len() / block_len, 0.0);
            quantized.sums.resize(x.len() / sum_len, 0);
            let mut rows: Vec<_> = x
                .chunks_exact(n_cols)
                .zip(quantized.codes.chunks_exact_mut(n_cols))
                .zip(quantized.scales.chunks_exact_mut(n_cols / block_len))
                .zip(quantized.sums.chunks_exact_mut(n_cols / sum_len))
                .map(|(((x, codes), scales), sums)| QuantizedRowMut { x, codes, scales, sums, ty })
                .collect();
            fill(&mut rows);
        }
    }
}

impl QuantizedRowMut<'_> {
    /// Quantises the row.
    #[inline(always)]
    pub(crate) fn quantize(&mut self) {
        match self.ty {
            ActivationType::F32 => {}
            ActivationType::Q8 => self.quantize_blocks::<SMALL, SMALL>(),
            ActivationType::Q8K => self.quantize_blocks::<SUPER, SUB>(),
        }
    }

    #[inline(always)]
    fn quantize_blocks<const BLOCK: usize, const SUM: usize>(&mut self) {
        let blocks =
            self.x.as_chunks::<BLOCK>().0.iter().zip(self.codes.as_chunks_mut::<BLOCK>().0);
        for ((x, codes), scale) in blocks.zip(self.scales.iter_mut()) {
            *scale = quantize_block(x, codes);
        }
        for (sum, codes) in self.sums.iter_mut().zip(self.codes.as_chunks::<SUM>().0) {
            let mut total = 0;
            for code in codes {
                total += i16::from(*code);
            }
            *sum = total;
        }
    }
}

/// Quantises one block and returns its scale.
#[inline(always)]
fn quantize_block<const BLOCK: usize>(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> f32 {
    /// Adding this to a float in ±127 rounds it to an integer (ties to even), which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // As bits, absolute values order as their floats do, with infinity and then NaN at the top.
    let mut max_bits = 0;
    for x in x {
        max_bits = max_bits.max(x.to_bits() & 0x7fff_ffff);
    }
    let max = f32::from_bits(max_bits);
    let inverse = 127.0 / max;
    if !max.is_finite() || !inverse.is_finite() {
        *codes = [0; BLOCK];
        return 0.0;
    }
    for (code, x) in codes.iter_mut().zip(x) {
        *code = ((x * inverse + ROUND).to_bits() as u8).cast_signed();
    }
    max / 127.0
}
