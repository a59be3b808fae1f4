//! What each instruction set can do: the only code that differs between CPUs.
//!
//! - [`Lanes`] is 16 lanes of f32, on every CPU; float operations are written once over it.
//! - [`Kernel`] adds the exact integer arithmetic of quantised blocks; `matmul` is written once over it. Scalar has its own,
//!   plainer matmul, the specification.
//!
//! Each instruction set is a file with a *proof token*: a value that only its `detect` makes, after it has seen
//! the CPU's features. All methods are `#[inline(always)]` and end up in the token's `run`, the one function that is
//! compiled with these features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod loads;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
mod words;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Base, DotProd, I8mm, Neon};
pub(crate) use scalar::Scalar;

use crate::elementary::{LANES, fold};
use crate::quant::{
    BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K, BlockQ8_0, N_SUB, SMALL, SUPER, Small,
    Super,
};

/// 16 lanes of f32.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// The 16 lanes.
    type F: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Loads 16 floats.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Loads 16 f16 and converts them, exactly.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// Stores 16 floats.
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// Rounds to f16, ties to even, and stores.
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]);
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// Folds the lanes of each of 16 vectors in the canonical order; lane `i` of the result is the fold of `x[i]`.
    #[inline(always)]
    fn fold16(self, x: &[Self::F; LANES]) -> Self::F {
        let mut folds = [0.0; LANES];
        for i in 0..LANES {
            folds[i] = self.fold(x[i]);
        }
        self.load(&folds)
    }

    /// Folds the lanes in the canonical order.
    #[inline(always)]
    fn fold(self, x: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        fold(&lanes)
    }
}

/// Exact integer arithmetic of quantised blocks, for 16 rows of weights at a time.
///
/// Codes with an offset of 128 use all eight bits; all others are below 64.
pub(crate) trait Kernel:
    Lanes
    + DotSmall<BlockQ8_0>
    + DotSmall<BlockQ4_0>
    + DotSmall<BlockQ5_0>
    + DotSuper<BlockQ4K>
    + DotSuper<BlockQ5K>
    + DotSuper<BlockQ6K>
{
    /// Tokens that share a load of weights; as many as there are registers for.
    const TOKENS: usize;

    /// What the caller still has to subtract, times the sum of activations, if codes have the given offset.
    fn offset_left(offset: i32) -> i32;

    /// Asks for a cache line, into the second-level cache; any address will do.
    fn prefetch(self, at: *const u8);

    /// Turns 16 rows of 16 words of four bytes into 16 columns; `out[column][row]`.
    #[inline(always)]
    fn transpose(self, rows: [&[u8; 4 * LANES]; LANES], out: &mut [[[u8; 4]; LANES]; LANES]) {
        for (r, row) in rows.into_iter().enumerate() {
            for (column, word) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                column[r] = *word;
            }
        }
    }

    /// All lanes `x`.
    fn i_splat(self, x: i32) -> Self::I;
    /// Loads 16 integers.
    fn i_load(self, x: &[i32; LANES]) -> Self::I;
    /// `a + b`
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a * b`
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I;
    /// Rounds to f32, ties to even.
    fn i_to_f32(self, x: Self::I) -> Self::F;

    /// Brings 64 codes of 16 rows into the order that `dot_columns` wants.
    #[inline(always)]
    fn pack<const OFFSET: i32>(
        self,
        rows: [&[u8; 4 * LANES]; LANES],
        out: &mut [[[u8; 4]; LANES]; LANES],
    ) {
        self.transpose(rows, out);
    }

    /// Adds `Σ (w[r] - OFFSET + offset_left(OFFSET)) * x[t]` over `4 * N` columns to `acc[t][r]`.
    ///
    /// Two or four vectors of columns that `pack` wrote one behind the other; eight if codes are below 32, or use eight bits.
    fn dot_columns<const OFFSET: i32, const N: usize, const T: usize>(
        self,
        acc: &mut [Self::I; T],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; T],
    );

    /// `Σ w[r] * x` over pairs of integers of each row.
    fn dot_pairs(self, w: &[[[i16; 2]; LANES]; N_SUB / 2], x: &[i16; N_SUB]) -> Self::I;
}

/// Four columns of 16 rows: one 512-bit vector. How the bytes of several of them are arranged is up to the kernel.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Columns(pub(crate) [[u8; 4]; LANES]);

/// 16 lanes of i32, one per row.
pub(crate) trait IntLanes: Lanes {
    /// The 16 lanes.
    type I: Copy;
    /// The sums of two small blocks of four rows, in whatever order.
    type Four: Copy;

    /// Zero.
    fn zero_four(self) -> Self::Four;

    /// The sums of 16 rows, for each of the two blocks.
    fn join_fours(self, fours: &[Self::Four; 4]) -> [Self::I; 2];
}

/// What a decoding kernel asks memory for while it works: the bytes behind its tile, evenly over the tile's blocks.
///
/// Hardware prefetchers do not follow 16 short streams; but the next tile lies directly behind this one, so that it can
/// be fetched in one sweep. The lines go to the second-level cache: the first has too few places for lines under way to
/// keep up with memory, and no room for two tiles. A burst of them would hold up the loads behind it.
#[derive(Clone, Copy)]
pub(crate) struct Ahead(*const u8);

impl Ahead {
    /// From an address on; any will do.
    #[inline(always)]
    pub(crate) fn new(at: *const u8) -> Self {
        Self(at)
    }

    /// Asks for the next `n` bytes.
    #[inline(always)]
    pub(crate) fn fetch<K: Kernel>(&mut self, k: K, n: usize) {
        const LINE: usize = 64;
        for line in 0..n.div_ceil(LINE) {
            k.prefetch(self.0.wrapping_add(line * LINE));
        }
        self.0 = self.0.wrapping_add(n);
    }
}

/// Products with small blocks as they lie in memory.
pub(crate) trait DotSmall<B: Small>: IntLanes {
    /// `Σ (code - OFFSET) * x` over each of two blocks of four rows.
    fn dot_four(self, rows: &[&[B; 2]; 4], x: &[[i8; SMALL]; 2]) -> Self::Four;
}

/// Products with super-blocks as they lie in memory.
///
/// Implementations ask for as much of `ahead` as they read.
pub(crate) trait DotSuper<B: Super>: IntLanes {
    /// `Σ scale * (code - OFFSET) * x` and `Σ min * x` over a block of 16 rows. `sums`: of each 16 of `x`
    fn dot_super_rows(
        self,
        rows: &[&B; LANES],
        x: &[i8; SUPER],
        sums: &[i16; N_SUB],
        ahead: Ahead,
    ) -> SuperDot<Self>;
}

/// What a super-block of 16 rows adds to their outputs, a row per lane; without minima, `msum` and `dmin` are zero.
pub(crate) struct SuperDot<L: IntLanes> {
    /// `Σ scale * (code - OFFSET) * x`
    pub(crate) isum: L::I,
    /// `Σ min * x`
    pub(crate) msum: L::I,
    /// The scales of the blocks.
    pub(crate) d: L::F,
    /// The scales of their minima.
    pub(crate) dmin: L::F,
}
