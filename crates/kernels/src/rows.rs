//! Operations on single rows: norms, rotation, the gate of the feed-forward network. Each is plain Rust that the compiler turns
//! into vector code where [`Op::run`] is compiled with a CPU's features; the order of operations is the same on all.

use crate::arch::Lanes;
use crate::elementary::{LANES, exp_inline, sum_of_squares16};
use crate::isa::Op;

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// `2 i` and `2 i + 1`.
    Interleaved,
    /// `i` and `i + n_rot / 2`.
    Halves,
}

/// `out = x * (1 / sqrt(mean(x²) + eps)) * weight`, for rows of `weight.len()`.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let n = self.weight.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let scale = 1.0 / (sum_of_squares16(x) / n as f32 + self.eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

/// `x += y`, for rows of `y.len()`.
pub(crate) struct Add<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) y: &'a [f32],
}

impl Op for Add<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        for x in self.x.chunks_exact_mut(self.y.len()) {
            for (x, y) in x.iter_mut().zip(self.y) {
                *x += y;
            }
        }
    }
}

/// `gate = gate / (1 + exp(-gate)) * up`
pub(crate) struct SiluMul<'a> {
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Op for SiluMul<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = *gate / (1.0 + exp_inline(-*gate)) * up;
        }
    }
}

/// Rotates the first `n_rot` elements of each head of one token.
pub(crate) struct Rope<'a> {
    /// `[n_head, head_dim]`
    pub(crate) x: &'a mut [f32],
    pub(crate) head_dim: usize,
    /// `[n_rot / 2, 2]`
    pub(crate) cos_sin: &'a [f32],
    pub(crate) kind: RopeKind,
}

impl Op for Rope<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let cos_sin = self.cos_sin.as_chunks::<2>().0;
        let n_half = cos_sin.len();
        for head in self.x.chunks_exact_mut(self.head_dim) {
            let head = &mut head[..2 * n_half];
            match self.kind {
                RopeKind::Interleaved => {
                    for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos_sin) {
                        let [a, b] = *pair;
                        *pair = [a * cos - b * sin, a * sin + b * cos];
                    }
                }
                RopeKind::Halves => {
                    let (first, second) = head.split_at_mut(n_half);
                    for ((first, second), [cos, sin]) in first.iter_mut().zip(second).zip(cos_sin) {
                        let (a, b) = (*first, *second);
                        *first = a * cos - b * sin;
                        *second = a * sin + b * cos;
                    }
                }
            }
        }
    }
}

/// Rounds to f16, ties to even.
pub(crate) struct ToF16<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) out: &'a mut [u16],
}

impl Op for ToF16<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for (x, out) in x.iter().zip(out) {
            lanes.store_f16(lanes.load(x), out);
        }
        for (x, out) in x_rest.iter().zip(out_rest) {
            *out = half::f16::from_f32_const(*x).to_bits();
        }
    }
}
