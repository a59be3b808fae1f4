//! How signed bytes are multiplied: what `sdot` and `smmla` do in one instruction takes several without them.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::panel;
use crate::arch::Columns;

/// Products of bytes on one kind of CPU; a value proves that this CPU is one.
pub(crate) trait Tier: Copy + Eq + Send + Sync {
    /// Tokens that share a load of weights in a prompt; as many as there are registers for.
    const TOKENS: usize;

    /// Whether panels keep eight columns of each row together, instead of four.
    const EIGHTS: bool;

    /// Looks at the CPU.
    fn detect() -> Option<Self>;

    /// Adds `Σ w * x` to `acc`, spread over its lanes in some way. `w`: at least -128, `x`: at least -127
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;

    /// Adds `Σ w * x` to `acc`, spread over its lanes in some way. `w`: at most 63, no sign
    fn dot_narrow(self, acc: int32x4_t, w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t;

    /// What [`Kernel::dot_columns`](crate::arch::Kernel::dot_columns) does.
    fn dot_columns<const OFFSET: i32, const N: usize, const T: usize>(
        self,
        acc: &mut [[int32x4_t; 4]; T],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; T],
    );
}

/// NEON and no more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base(());

/// NEON with `sdot`: products of bytes, four to a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DotProd(());

/// NEON with `sdot` and `smmla`: products of two rows of eight bytes with two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct I8mm(DotProd);

// SAFETY of the blocks below: each 64-bit ARM CPU has NEON.
impl Tier for Base {
    const TOKENS: usize = 2;
    const EIGHTS: bool = false;

    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    #[inline(always)]
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            // Two products are at most 2 * 128 * 127 = 32512.
            let products = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let products = vmlal_high_s8(products, w, x);
            vpadalq_s16(acc, products)
        }
    }

    #[inline(always)]
    fn dot_narrow(self, acc: int32x4_t, w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            // Four products are at most 4 * 63 * 127 = 32004.
            let products = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
            let products = vmlal_high_s8(products, w[0], x[0]);
            let products = vmlal_s8(products, vget_low_s8(w[1]), vget_low_s8(x[1]));
            let products = vmlal_high_s8(products, w[1], x[1]);
            vpadalq_s16(acc, products)
        }
    }

    #[inline(always)]
    fn dot_columns<const OFFSET: i32, const N: usize, const T: usize>(
        self,
        acc: &mut [[int32x4_t; 4]; T],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; T],
    ) {
        if OFFSET == 128 {
            panel::wide(acc, w, x);
        } else {
            panel::narrow(acc, w, x);
        }
    }
}

impl Tier for DotProd {
    const TOKENS: usize = 4;
    const EIGHTS: bool = false;

    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }

    #[inline(always)]
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        let mut out = acc;
        // SAFETY: the token proves that the CPU has the instruction, which changes no more than its result.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {out:v}.4s, {w:v}.16b, {x:v}.16b",
                out = inout(vreg) out,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        out
    }

    #[inline(always)]
    fn dot_narrow(self, acc: int32x4_t, w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t {
        self.dot(self.dot(acc, w[0], x[0]), w[1], x[1])
    }

    #[inline(always)]
    fn dot_columns<const OFFSET: i32, const N: usize, const T: usize>(
        self,
        acc: &mut [[int32x4_t; 4]; T],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; T],
    ) {
        panel::words(self, acc, w, x);
    }
}

impl Tier for I8mm {
    const TOKENS: usize = 4;
    const EIGHTS: bool = true;

    fn detect() -> Option<Self> {
        let dotprod = DotProd::detect()?;
        is_aarch64_feature_detected!("i8mm").then_some(Self(dotprod))
    }

    #[inline(always)]
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        self.0.dot(acc, w, x)
    }

    #[inline(always)]
    fn dot_narrow(self, acc: int32x4_t, w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t {
        self.0.dot_narrow(acc, w, x)
    }

    #[inline(always)]
    fn dot_columns<const OFFSET: i32, const N: usize, const T: usize>(
        self,
        acc: &mut [[int32x4_t; 4]; T],
        w: &[Columns; N],
        x: [&[[i8; 4]; N]; T],
    ) {
        panel::eights(self, acc, w, x);
    }
}

impl DotProd {
    /// Adds `Σ w * x` of each four bytes to their lane; `x` are the `LANE`-th four.
    #[inline(always)]
    pub(super) fn dot_lane<const LANE: usize>(
        self,
        acc: int32x4_t,
        w: int8x16_t,
        x: int8x16_t,
    ) -> int32x4_t {
        let mut out = acc;
        // SAFETY: the token proves that the CPU has the instruction, which changes no more than its result.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {out:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                out = inout(vreg) out,
                w = in(vreg) w,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        out
    }
}

impl I8mm {
    /// Adds the products of two rows of eight bytes with two: `x[0]` with `w[0]` and `w[1]`, then `x[1]` with both.
    #[inline(always)]
    pub(super) fn multiply(self, acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        let mut out = acc;
        // SAFETY: the token proves that the CPU has the instruction, which changes no more than its result.
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "smmla {out:v}.4s, {x:v}.16b, {w:v}.16b",
                out = inout(vreg) out,
                x = in(vreg) x,
                w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        out
    }
}
