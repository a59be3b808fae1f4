//! Weights times activations: tiles of 16 rows, handed out to threads.
//!
//! A tile of quantised weights goes one of two ways. For few tokens (`decode`) each row is multiplied as it lies in memory,
//! 16 rows side by side, so that weights stream at the speed of memory. For many (`prefill`) the 16 rows are first unpacked into a
//! panel in which a vector holds a few columns of all of them; then no sum over lanes is needed, and the panel, which
//! stays in the cache, serves all tokens.

mod decode;
mod float;
mod prefill;

pub(crate) use float::fold_with_rest;

use std::ops::Range;

use crate::activations::Activations;
use crate::arch::{Kernel, scalar};
use crate::compute::Shares;
use crate::elementary::LANES;
use crate::isa::{Isa, Level};
use crate::matrix::{ActivationType, Matrix, WeightType};
use crate::pool::Pool;
use crate::quant::{BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0};

/// Up to this many tokens are multiplied one by one; from there on unpacking a panel pays.
const DECODE_TOKENS: usize = 3;

/// Bytes of weights per chunk of work, at least: some microseconds at 10 GB/s, so that the cursor costs little.
const MIN_CHUNK_BYTES: usize = 64 * 1024;
/// And at most: the first tile of a chunk is not prefetched, so that longer chunks are faster, up to here.
const MAX_CHUNK_BYTES: usize = 1024 * 1024;
/// Between the two, a dispatch has this many chunks per thread, so that threads of different speed finish together.
const CHUNKS_PER_THREAD: usize = 8;

/// One product in [`Compute::matmul_many`](crate::Compute::matmul_many).
#[derive(Debug)]
pub struct MatmulJob<'w, 'o> {
    /// `[n_rows, n_cols]`
    pub w: Matrix<'w>,
    /// `[n_tokens, n_rows]`
    pub out: &'o mut [f32],
}

/// Up to 16 rows of a matrix, all tokens.
pub(crate) struct Tile<'a> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    x: &'a Activations,
    out: &'a Shares<f32>,
}

/// Multiplies all jobs in one dispatch.
pub(crate) fn run(isa: Isa, pool: &Pool, jobs: &mut [MatmulJob<'_, '_>], x: &Activations) {
    let mut tiles = 0;
    let mut bytes = 0;
    let parts: Vec<_> = jobs
        .iter_mut()
        .map(|job| {
            let (w, n_tokens) = (&job.w, x.n_tokens());
            let ty = w.weight_type();
            assert_eq!(w.n_cols(), x.n_cols(), "matmul: columns of {w:?} and of its activations");
            assert_eq!(
                job.out.len(),
                n_tokens * w.n_rows(),
                "matmul: outputs of {w:?}, {n_tokens} tokens"
            );
            assert!(
                x.has(ty.activation()),
                "matmul: {w:?} needs {:?} activations",
                ty.activation()
            );
            let start = tiles;
            tiles += w.n_rows().div_ceil(LANES);
            bytes += w.n_rows() * ty.row_bytes(w.n_cols());
            (start, job.w, Shares::new(job.out))
        })
        .collect();
    if x.n_tokens() == 0 || tiles == 0 {
        return;
    }
    let bytes_per_tile = bytes.div_ceil(tiles).max(1);
    let chunk_bytes = (bytes / (CHUNKS_PER_THREAD * pool.n_threads()))
        .clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES)
        / x.n_tokens();
    let chunk = (chunk_bytes / bytes_per_tile).max(1);
    pool.run(tiles, chunk, |range| {
        for tile in range {
            let part = parts.partition_point(|part| part.0 <= tile) - 1;
            // Jobs without rows have no tiles, but share the start of the next one, which comes after them.
            let (start, w, out) = &parts[part];
            let first = (tile - start) * LANES;
            let tile = Tile { w, rows: first..(first + LANES).min(w.n_rows()), x, out };
            match isa.0 {
                Level::Scalar(_) => tile.run_scalar(),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2(kernel) => kernel.matmul(&tile),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512(kernel) => kernel.matmul(&tile),
                #[cfg(target_arch = "aarch64")]
                Level::Neon(kernel) => kernel.matmul(&tile),
                #[cfg(target_arch = "aarch64")]
                Level::NeonDotProd(kernel) => kernel.matmul(&tile),
                #[cfg(target_arch = "aarch64")]
                Level::NeonI8mm(kernel) => kernel.matmul(&tile),
            }
        }
    });
}

impl<'a> Tile<'a> {
    /// Writes the outputs of token `t`; those beyond the tile's rows are dropped.
    #[inline(always)]
    fn write(&self, t: usize, values: &[f32; LANES]) {
        let start = t * self.w.n_rows() + self.rows.start;
        // SAFETY: tiles of one dispatch have different rows, and the outputs are borrowed until it is over.
        let out = unsafe { self.out.part(start..start + self.rows.len()) };
        out.copy_from_slice(&values[..out.len()]);
    }

    /// The bytes of the tile's rows; where there are fewer than 16, the last is repeated.
    #[inline(always)]
    fn row_bytes(&self) -> [&'a [u8]; LANES] {
        let mut rows = [self.w.row(self.rows.start); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = self.w.row((self.rows.start + i).min(self.rows.end - 1));
        }
        rows
    }

    /// The specification: one dot product after the other.
    fn run_scalar(&self) {
        let ty = self.w.weight_type();
        for t in 0..self.x.n_tokens() {
            let quantized = match ty.activation() {
                ActivationType::F32 => None,
                ty => Some(self.x.quantized_row(ty, t)),
            };
            let mut values = [0.0; LANES];
            for (value, i) in values.iter_mut().zip(self.rows.clone()) {
                let row = self.w.row(i);
                *value = match (ty, &quantized) {
                    (WeightType::Q8_0, Some(x)) => scalar::dot_small::<BlockQ8_0>(row, x),
                    (WeightType::Q4_0, Some(x)) => scalar::dot_small::<BlockQ4_0>(row, x),
                    (WeightType::Q5_0, Some(x)) => scalar::dot_small::<BlockQ5_0>(row, x),
                    (WeightType::Q4K, Some(x)) => scalar::dot_super::<BlockQ4K>(row, x),
                    (WeightType::Q5K, Some(x)) => scalar::dot_super::<BlockQ5K>(row, x),
                    (WeightType::Q6K, Some(x)) => scalar::dot_super::<BlockQ6K>(row, x),
                    (WeightType::F16, _) => {
                        scalar::dot_f32(|i| float::f16_at(row, i), self.x.f32_row(t))
                    }
                    (_, _) => scalar::dot_f32(|i| float::f32_at(row, i), self.x.f32_row(t)),
                };
            }
            self.write(t, &values);
        }
    }

    /// Multiplies with vectors.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "only x86-64 and 64-bit ARM have kernels")
    )]
    #[inline(always)]
    pub(crate) fn run<K: Kernel>(&self, kernel: K) {
        let few = self.x.n_tokens() <= DECODE_TOKENS;
        match self.w.weight_type() {
            WeightType::F32 => float::tile::<K, float::F32>(kernel, self),
            WeightType::F16 => float::tile::<K, float::F16>(kernel, self),
            WeightType::Q8_0 if few => decode::small::<K, BlockQ8_0>(kernel, self),
            WeightType::Q4_0 if few => decode::small::<K, BlockQ4_0>(kernel, self),
            WeightType::Q5_0 if few => decode::small::<K, BlockQ5_0>(kernel, self),
            WeightType::Q4K if few => decode::super_::<K, BlockQ4K>(kernel, self),
            WeightType::Q5K if few => decode::super_::<K, BlockQ5K>(kernel, self),
            WeightType::Q6K if few => decode::super_::<K, BlockQ6K>(kernel, self),
            WeightType::Q8_0 => prefill::small::<K, BlockQ8_0, 128>(kernel, self),
            WeightType::Q4_0 => prefill::small::<K, BlockQ4_0, 8>(kernel, self),
            WeightType::Q5_0 => prefill::small::<K, BlockQ5_0, 16>(kernel, self),
            WeightType::Q4K => prefill::super_::<K, BlockQ4K>(kernel, self),
            WeightType::Q5K => prefill::super_::<K, BlockQ5K>(kernel, self),
            WeightType::Q6K => prefill::super_::<K, BlockQ6K>(kernel, self),
        }
    }
}
