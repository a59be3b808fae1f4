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
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

use crate::elementary::{LANES, fold};
use crate::quant::{N_SUB, SMALL, SUPER};

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
pub(crate) trait Kernel: Lanes {
    /// Tokens that share a load of weights; as many as there are registers for.
    const TOKENS: usize;
    /// 16 lanes of i32, one per row.
    type I: Copy;
    /// Some lanes of i32 whose sum is the result for one row.
    type Partial: Copy;

    /// What the caller still has to subtract, times the sum of activations, if codes have the given offset.
    fn offset_left(offset: i32) -> i32;

    /// Asks for a cache line; any address will do.
    fn prefetch(self, at: *const u8);

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

    /// Zero.
    fn zero(self) -> Self::Partial;
    /// `a - b`
    fn sub(self, a: Self::Partial, b: Self::Partial) -> Self::Partial;
    /// `Σ w * x` over a small block, with codes less `OFFSET - offset_left(OFFSET)`.
    fn dot_small<const OFFSET: i32>(self, w: &[u8; SMALL], x: &[i8; SMALL]) -> Self::Partial;
    /// `Σ scale * w * x` over a super-block whose codes are below 64.
    fn dot_super(self, w: &[u8; SUPER], scales: &[i8; N_SUB], x: &[i8; SUPER]) -> Self::Partial;
    /// `Σ a * b`
    fn dot_i16(self, a: &[i16; N_SUB], b: &[i16; N_SUB]) -> Self::Partial;
    /// The sum of the lanes of each.
    fn fold_partials(self, x: &[Self::Partial; LANES]) -> Self::I;

    /// `acc[r] + Σ w[r] * x` over four codes of each row, less `OFFSET - offset_left(OFFSET)`.
    fn dot4<const OFFSET: i32>(self, acc: Self::I, w: &[[u8; 4]; LANES], x: [i8; 4]) -> Self::I;
    /// `acc[r] + Σ w[r] * x` over two integers of each row.
    fn dot2(self, acc: Self::I, w: &[[i16; 2]; LANES], x: [i16; 2]) -> Self::I;
}
