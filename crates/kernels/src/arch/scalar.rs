//! Plain Rust: the specification of every result.

use super::Lanes;
use crate::activations::QuantizedRow;
use crate::elementary::{LANES, fold};
use crate::quant::{N_SUB, SMALL, SUB, SUPER, Small, Super, blocks, f16_to_f32};

/// Plain Rust on any CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar;

impl Lanes for Scalar {
    type F = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        x.map(f16_to_f32)
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        *out = x;
    }

    #[inline(always)]
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]) {
        *out = x.map(|x| half::f16::from_f32_const(x).to_bits());
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

/// A row of small blocks times a row of activations.
pub(crate) fn dot_small<B: Small>(row: &[u8], x: &QuantizedRow<'_>) -> f32 {
    let mut acc = 0.0f32;
    for (b, block) in blocks::<B>(row).iter().enumerate() {
        let x_codes = &x.codes[b * SMALL..][..SMALL];
        let mut isum = 0;
        for (code, x) in block.codes().iter().zip(x_codes) {
            isum += (i32::from(*code) - B::OFFSET) * i32::from(*x);
        }
        acc = (f16_to_f32(block.d()) * x.scales[b]).mul_add(isum as f32, acc);
    }
    acc
}

/// A row of super-blocks times a row of activations.
pub(crate) fn dot_super<B: Super>(row: &[u8], x: &QuantizedRow<'_>) -> f32 {
    let mut acc = 0.0f32;
    for (b, block) in blocks::<B>(row).iter().enumerate() {
        let (codes, scales, mins) = (block.codes(), block.scales(), block.mins());
        let (mut isum, mut msum) = (0, 0);
        for j in 0..N_SUB {
            let (mut dot, mut x_sum) = (0, 0);
            for i in j * SUB..(j + 1) * SUB {
                let x = i32::from(x.codes[b * SUPER + i]);
                dot += (i32::from(codes[i]) - i32::from(B::OFFSET)) * x;
                x_sum += x;
            }
            isum += i32::from(scales[j]) * dot;
            msum += i32::from(mins[j]) * x_sum;
        }
        let scale = x.scales[b];
        acc = (f16_to_f32(block.d()) * scale).mul_add(isum as f32, acc);
        if B::HAS_MINS {
            acc = (-(f16_to_f32(block.dmin()) * scale)).mul_add(msum as f32, acc);
        }
    }
    acc
}

/// A row of floats, given as 16 at a time, times a row of activations.
pub(crate) fn dot_f32(weight: impl Fn(usize) -> f32, x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (i, x) in x.iter().enumerate() {
        lanes[i % LANES] = weight(i).mul_add(*x, lanes[i % LANES]);
    }
    fold(&lanes)
}
