//! Causal attention with a fixed chunking of positions, so that its result does not depend on batching.
//!
//! For each token and head, chunk by chunk of absolute positions: scores, their maximum, exponentials, the weighted sum of
//! values; then the chunk is combined with those before it (as in FlashAttention, arXiv:2205.14135). A unit of work is one
//! head of a few tokens of one sequence: the chunk of keys and values stays in the cache for all of them.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;

use crate::arch::Lanes;
use crate::compute::Shares;
use crate::elementary::{LANES, exp_inline, sum16_inline};
use crate::isa::{Isa, Op};
use crate::matmul::fold_with_rest;
use crate::pool::Pool;
use crate::quant::f16_to_f32;

/// Positions whose scores are computed together; chunks begin at multiples of it. Part of the canonical arithmetic.
pub const ATTENTION_CHUNK: usize = 256;

/// Tokens of one sequence that share the loads of a chunk's keys and values.
const TOKENS: usize = 8;

/// What all jobs of a dispatch have in common.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Heads of queries; a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Heads of keys and values.
    pub n_head_kv: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// What scores are multiplied by, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions back a token sees, itself included; all if `None`.
    pub window: Option<usize>,
}

/// Rows of one sequence: row `t` attends to the positions up to `position + t`.
#[derive(Debug)]
pub struct AttentionJob<'a> {
    /// `[n_tokens, n_head, head_dim]`
    pub q: &'a [f32],
    /// `[n_head_kv, n_ctx, head_dim]`, f16 bits, filled up to `position + n_tokens`
    pub k: &'a [u16],
    /// `[n_head_kv, n_ctx, head_dim]`, f16 bits, filled up to `position + n_tokens`
    pub v: &'a [u16],
    /// Positions that `k` and `v` have room for.
    pub n_ctx: usize,
    /// The position of the first row.
    pub position: usize,
    /// `[n_tokens, n_head, head_dim]`
    pub out: &'a mut [f32],
}

/// Runs all jobs in one dispatch.
pub(crate) fn run(isa: Isa, pool: &Pool, jobs: &mut [AttentionJob<'_>], shape: &AttentionShape) {
    let &AttentionShape { n_head, n_head_kv, head_dim, window, .. } = shape;
    assert!(head_dim > 0 && n_head_kv > 0, "attention: {shape:?}");
    assert!(n_head.is_multiple_of(n_head_kv), "attention: {shape:?}");
    assert!(window != Some(0), "attention: a window of no positions");
    let row = n_head * head_dim;
    let mut n_units = 0;
    let parts: Vec<_> = jobs
        .iter_mut()
        .map(|job| {
            let n_tokens = job.q.len() / row;
            assert_eq!(job.q.len(), n_tokens * row, "attention: length of q");
            assert_eq!(job.out.len(), job.q.len(), "attention: length of out");
            assert_eq!(job.k.len(), n_head_kv * job.n_ctx * head_dim, "attention: length of k");
            assert_eq!(job.v.len(), job.k.len(), "attention: length of v");
            assert!(job.position + n_tokens <= job.n_ctx, "attention: positions beyond the cache");
            let start = n_units;
            n_units += n_tokens.div_ceil(TOKENS) * n_head;
            (start, n_tokens, Shares::new(job.out), job.q, job.k, job.v, job.n_ctx, job.position)
        })
        .collect();
    pool.run(n_units, 1, |range| {
        for unit in range {
            let part = &parts[parts.partition_point(|part| part.0 <= unit) - 1];
            let &(start, n_tokens, ref out, q, k, v, n_ctx, position) = part;
            let (tokens, head) = ((unit - start) / n_head * TOKENS, (unit - start) % n_head);
            let kv_start = head / (n_head / n_head_kv) * n_ctx * head_dim;
            isa.run(Head {
                shape,
                head,
                tokens: tokens..(tokens + TOKENS).min(n_tokens),
                position,
                q,
                k: &k[kv_start..][..n_ctx * head_dim],
                v: &v[kv_start..][..n_ctx * head_dim],
                out,
            });
        }
    });
}

/// One head of a few tokens of a sequence.
struct Head<'a> {
    shape: &'a AttentionShape,
    head: usize,
    tokens: Range<usize>,
    position: usize,
    /// `[n_tokens, n_head, head_dim]`
    q: &'a [f32],
    /// `[n_ctx, head_dim]`
    k: &'a [u16],
    /// `[n_ctx, head_dim]`
    v: &'a [u16],
    out: &'a Shares<f32>,
}

/// What a token has summed up over the chunks so far.
#[derive(Clone, Default)]
struct Running {
    max: f32,
    sum: f32,
    /// Whether a chunk has been added.
    begun: bool,
    /// `[head_dim]`
    o: Vec<f32>,
}

thread_local! {
    /// Sums of the tokens of a unit, and the weighted values of one chunk; kept from unit to unit.
    static SCRATCH: RefCell<(Vec<Running>, Vec<f32>)> = RefCell::default();
}

impl Op for Head<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let head_dim = self.shape.head_dim;
        let (mut running, mut o_chunk) = SCRATCH.with(RefCell::take);
        running.resize(TOKENS, Running::default());
        o_chunk.resize(head_dim, 0.0);
        for running in &mut running {
            running.begun = false;
            running.o.resize(head_dim, 0.0);
        }
        let n_positions = self.position + self.tokens.end;
        let first = self.seen_by(self.tokens.start).start;
        for chunk in first / ATTENTION_CHUNK..n_positions.div_ceil(ATTENTION_CHUNK) {
            let chunk = chunk * ATTENTION_CHUNK..(chunk + 1) * ATTENTION_CHUNK;
            for (t, running) in self.tokens.clone().zip(&mut running) {
                let seen = self.seen_by(t);
                let range = seen.start.max(chunk.start)..seen.end.min(chunk.end);
                if !range.is_empty() {
                    self.add_chunk(lanes, t, range, running, &mut o_chunk);
                }
            }
        }
        for (t, running) in self.tokens.clone().zip(&running) {
            let start = self.row_start(t);
            // SAFETY: units of one dispatch have different rows or heads, and the outputs are borrowed until it is over.
            let out = unsafe { self.out.part(start..start + head_dim) };
            for (out, o) in out.iter_mut().zip(&running.o) {
                *out = o / running.sum;
            }
        }
        SCRATCH.with(|scratch| scratch.replace((running, o_chunk)));
    }
}

impl Head<'_> {
    /// The positions that row `t` attends to; never empty.
    #[inline(always)]
    fn seen_by(&self, t: usize) -> Range<usize> {
        let end = self.position + t + 1;
        end.saturating_sub(self.shape.window.unwrap_or(end))..end
    }

    /// Where row `t` of this head begins in `q` and `out`.
    #[inline(always)]
    fn row_start(&self, t: usize) -> usize {
        (t * self.shape.n_head + self.head) * self.shape.head_dim
    }

    /// Attends to the positions in `range`, a part of one chunk, and combines the result with the chunks before.
    #[inline(always)]
    fn add_chunk<L: Lanes>(
        &self,
        lanes: L,
        t: usize,
        range: Range<usize>,
        running: &mut Running,
        o_chunk: &mut [f32],
    ) {
        let head_dim = self.shape.head_dim;
        let q = &self.q[self.row_start(t)..][..head_dim];
        let mut scores = [0.0; ATTENTION_CHUNK];
        let scores = &mut scores[..range.len()];
        let kv = range.start * head_dim..range.end * head_dim;
        score(lanes, q, &self.k[kv.clone()], self.shape.scale, scores);
        let mut max = f32::NEG_INFINITY;
        for score in scores.iter() {
            max = if *score > max { *score } else { max };
        }
        for score in scores.iter_mut() {
            *score = exp_inline(*score - max);
        }
        let sum = sum16_inline(scores);
        weigh(lanes, scores, &self.v[kv], o_chunk);
        if !running.begun {
            (running.begun, running.max, running.sum) = (true, max, sum);
            running.o.copy_from_slice(o_chunk);
            return;
        }
        let new_max = if max > running.max { max } else { running.max };
        let (a, b) = (exp_inline(running.max - new_max), exp_inline(max - new_max));
        running.max = new_max;
        running.sum = b.mul_add(sum, a * running.sum);
        for (o, o_chunk) in running.o.iter_mut().zip(o_chunk.iter()) {
            *o = b.mul_add(*o_chunk, a * *o);
        }
    }
}

/// `scores[i] = dot16(q, k[i]) * scale`. k: `[n, head_dim]`
#[inline(always)]
fn score<L: Lanes>(lanes: L, q: &[f32], k: &[u16], scale: f32, scores: &mut [f32]) {
    let head_dim = q.len();
    let (q_groups, q_rest) = q.as_chunks::<LANES>();
    let mut groups = scores.chunks_mut(LANES);
    let mut k_groups = k.chunks(LANES * head_dim);
    for (scores, k) in (&mut groups).zip(&mut k_groups) {
        let mut acc = [lanes.splat(0.0); LANES];
        if q_rest.is_empty() && scores.len() == LANES {
            for r in 0..LANES {
                let k = k[r * head_dim..][..head_dim].as_chunks::<LANES>().0;
                for (q, k) in q_groups.iter().zip(k) {
                    acc[r] = lanes.fma(lanes.load(q), lanes.load_f16(k), acc[r]);
                }
            }
            let folds = lanes.mul(lanes.fold16(&acc), lanes.splat(scale));
            let scores: &mut [f32; LANES] = scores.first_chunk_mut().expect("16 scores");
            lanes.store(folds, scores);
            continue;
        }
        for (score, k) in scores.iter_mut().zip(k.chunks_exact(head_dim)) {
            let (k, k_rest) = k.as_chunks::<LANES>();
            let mut acc = lanes.splat(0.0);
            for (q, k) in q_groups.iter().zip(k) {
                acc = lanes.fma(lanes.load(q), lanes.load_f16(k), acc);
            }
            *score = fold_with_rest(lanes, acc, q_rest, |i| f16_to_f32(k_rest[i])) * scale;
        }
    }
}

/// `out[d] = Σ p[i] * v[i][d]` by fma in ascending `i`. v: `[n, head_dim]`
#[inline(always)]
fn weigh<L: Lanes>(lanes: L, p: &[f32], v: &[u16], out: &mut [f32]) {
    let head_dim = out.len();
    let mut d = 0;
    while d < head_dim {
        match head_dim - d {
            128.. => d += weigh_groups::<L, 8>(lanes, p, v, d, out),
            64..128 => d += weigh_groups::<L, 4>(lanes, p, v, d, out),
            16..64 => d += weigh_groups::<L, 1>(lanes, p, v, d, out),
            _ => {
                let mut sum = 0.0f32;
                for (p, v) in p.iter().zip(v.chunks_exact(head_dim)) {
                    sum = p.mul_add(f16_to_f32(v[d]), sum);
                }
                out[d] = sum;
                d += 1;
            }
        }
    }
}

/// `N` groups of 16 elements from `d` on; returns how many elements that is.
#[inline(always)]
fn weigh_groups<L: Lanes, const N: usize>(
    lanes: L,
    p: &[f32],
    v: &[u16],
    d: usize,
    out: &mut [f32],
) -> usize {
    let mut acc = [lanes.splat(0.0); N];
    for (p, v) in p.iter().zip(v.chunks_exact(out.len())) {
        let p = lanes.splat(*p);
        let v = v[d..d + N * LANES].as_chunks::<LANES>().0;
        for i in 0..N {
            acc[i] = lanes.fma(p, lanes.load_f16(&v[i]), acc[i]);
        }
    }
    for (acc, out) in acc.into_iter().zip(out[d..].as_chunks_mut::<LANES>().0) {
        lanes.store(acc, out);
    }
    N * LANES
}
