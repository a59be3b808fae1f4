//! [`Compute`]: every operation of a forward pass, on the instruction set and the threads of this machine.

use std::ops::Range;

use crate::activations::{Activations, QuantizedRowMut};
use crate::arch::Lanes;
use crate::attention::{self, AttentionJob, AttentionShape};
use crate::isa::{Isa, Op};
use crate::matmul::{self, MatmulJob};
use crate::matrix::{ActivationType, Matrix};
use crate::pool::{Pool, Progress};
use crate::rows::{Add, RmsNorm, Rope, RopeKind, SiluMul, ToF16};

/// Elements below which another thread costs more (some microseconds) than it saves at about four elements per nanosecond.
const MIN_PARALLEL: usize = 16 * 1024;

/// An instruction set and a thread pool.
#[derive(Debug)]
pub struct Compute {
    isa: Isa,
    pool: Pool,
}

/// Elements that threads write at indices which do not overlap.
pub(crate) struct Shares<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: a `Shares` hands out disjoint parts of an exclusive borrow (see `part`), and those may go to other threads.
unsafe impl<T: Send> Sync for Shares<T> {}

impl<T> Shares<T> {
    /// Takes over `all` for as long as the caller keeps it borrowed.
    pub(crate) fn new(all: &mut [T]) -> Self {
        Self { start: all.as_mut_ptr(), len: all.len() }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// The slice given to `new` is still exclusively borrowed for it, and no two parts alive at a time overlap.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint by contract")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of {}",
            self.len
        );
        // SAFETY: inside the slice, and disjoint by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Quantises rows.
struct Quantize<'a, 'b>(&'a mut [QuantizedRowMut<'b>]);

impl Op for Quantize<'_, '_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        for row in self.0 {
            row.quantize();
        }
    }
}

impl Compute {
    /// The fastest instruction set of this CPU, and `n_threads` threads with the caller's (at least 1).
    pub fn new(n_threads: usize) -> Compute {
        Self::with_isa(Isa::detect(), n_threads)
    }

    /// A given instruction set, and `n_threads` threads with the caller's (at least 1).
    pub fn with_isa(isa: Isa, n_threads: usize) -> Compute {
        Compute { isa, pool: Pool::new(n_threads) }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in use, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Tells how far the computation has come.
    pub fn progress(&self) -> Progress {
        self.pool.progress()
    }

    /// Replaces `acts` by the rows `x: [n_tokens, n_cols]` in each form that occurs in `types`.
    ///
    /// # Panics
    /// If `x` is not whole rows, or a row not whole blocks of a form.
    pub fn quantize(
        &self,
        acts: &mut Activations,
        x: &[f32],
        n_cols: usize,
        types: &[ActivationType],
    ) {
        acts.refill(x, n_cols, types, |rows| {
            let n_rows = rows.len();
            let shares = Shares::new(rows);
            self.pool.run(n_rows, MIN_PARALLEL.div_ceil(n_cols), |range| {
                // SAFETY: `rows` is borrowed until the dispatch is over, whose ranges are disjoint.
                self.isa.run(Quantize(unsafe { shares.part(range) }));
            });
        });
    }

    /// `out[t][r] = Σ_c w[r][c] * x[t][c]`. out: `[n_tokens, n_rows]`.
    ///
    /// # Panics
    /// If shapes do not match or `x` lacks the form that the weights need.
    pub fn matmul(&self, w: &Matrix<'_>, x: &Activations, out: &mut [f32]) {
        self.matmul_many(&mut [MatmulJob { w: *w, out }], x);
    }

    /// Several matrices times the same activations, in one dispatch.
    ///
    /// # Panics
    /// As [`matmul`](Self::matmul).
    pub fn matmul_many(&self, jobs: &mut [MatmulJob<'_, '_>], x: &Activations) {
        matmul::run(self.isa, &self.pool, jobs, x);
    }

    /// Dequantises row `row` of `w` (the embedding of a token). out: `[n_cols]`
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row(&self, w: &Matrix<'_>, row: usize, out: &mut [f32]) {
        w.dequantize_row(row, out);
    }

    /// `out = x * (1 / sqrt(mean(x²) + eps)) * weight`. x, out: `[n_tokens, n_cols]`, weight: `[n_cols]`
    ///
    /// # Panics
    /// If shapes do not match.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "rms_norm: lengths of x and out");
        let n = weight.len();
        assert!(n > 0 && x.len().is_multiple_of(n), "rms_norm: {} floats in rows of {n}", x.len());
        self.split_with(x, out, n, |x, out| self.isa.run(RmsNorm { x, weight, eps, out }));
    }

    /// `x += y`
    ///
    /// # Panics
    /// If lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "add: lengths");
        self.split_with(y, x, 1, |y, x| self.isa.run(Add { x, y }));
    }

    /// Adds `bias: [n]` to each row of `x: [n_tokens, n]`.
    ///
    /// # Panics
    /// If `x` is not whole rows.
    pub fn add_bias(&self, x: &mut [f32], bias: &[f32]) {
        let n = bias.len();
        assert!(n > 0 && x.len().is_multiple_of(n), "add_bias: {} floats in rows of {n}", x.len());
        self.isa.run(Add { x, y: bias });
    }

    /// `gate = silu(gate) * up`, with `silu(g) = g / (1 + exp(-g))`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "silu_mul: lengths");
        self.split_with(up, gate, 1, |up, gate| self.isa.run(SiluMul { gate, up }));
    }

    /// Rotates the first `n_rot` elements of each head in place (RoPE, arXiv:2104.09864).
    ///
    /// - `x`: `[n_tokens, n_head, head_dim]`
    /// - `cos_sin`: `[n_tokens, n_rot / 2, 2]`, cosine and sine, already scaled
    ///
    /// # Panics
    /// If shapes do not match.
    pub fn rope(
        &self,
        x: &mut [f32],
        n_head: usize,
        head_dim: usize,
        n_rot: usize,
        cos_sin: &[f32],
        kind: RopeKind,
    ) {
        let n = n_head * head_dim;
        assert!(n > 0 && x.len().is_multiple_of(n), "rope: {} floats in rows of {n}", x.len());
        assert!(n_rot > 0 && n_rot <= head_dim && n_rot.is_multiple_of(2), "rope: n_rot {n_rot}");
        assert_eq!(cos_sin.len(), x.len() / n * n_rot, "rope: length of cos_sin");
        for (x, cos_sin) in x.chunks_exact_mut(n).zip(cos_sin.chunks_exact(n_rot)) {
            self.isa.run(Rope { x, head_dim, cos_sin, kind });
        }
    }

    /// Rounds to f16 (ties to even), as the KV cache keeps keys and values.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len(), "to_f16: lengths");
        self.isa.run(ToF16 { x, out });
    }

    /// Causal attention of several sequences in one dispatch.
    ///
    /// # Panics
    /// If shapes do not match.
    pub fn attention(&self, jobs: &mut [AttentionJob<'_>], shape: &AttentionShape) {
        attention::run(self.isa, &self.pool, jobs, shape);
    }

    /// Runs `f` on `x` and `out` in pieces of whole rows of `row` elements, on all threads if it is worth it.
    fn split_with(
        &self,
        x: &[f32],
        out: &mut [f32],
        row: usize,
        f: impl Fn(&[f32], &mut [f32]) + Sync,
    ) {
        let rows_per_piece = MIN_PARALLEL.div_ceil(row);
        let shares = Shares::new(out);
        self.pool.run(x.len() / row, rows_per_piece, |rows| {
            let range = rows.start * row..rows.end * row;
            // SAFETY: `out` is borrowed until the dispatch is over, whose ranges are disjoint.
            f(&x[range.clone()], unsafe { shares.part(range) });
        });
    }
}
