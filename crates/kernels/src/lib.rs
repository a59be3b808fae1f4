//! The arithmetic of Shoal: every operation of a forward pass on rows of numbers, with one canonical result.
//!
//! # The canonical arithmetic
//!
//! The same inputs give the same bits on any CPU, with any number of threads, in any batch. The scalar kernels in
//! `arch::scalar` are the specification; a SIMD kernel whose bits differ is wrong, whatever its error.
//!
//! - **Quantised weights × activations.** Activations are quantised to 8 bits per block of the weight's block length
//!   ([`ActivationType`]): `scale = max|x| / 127`, `q = round_ties_even(x * (127 / max|x|))`, all zero if `max|x|` is zero or
//!   not finite (a NaN makes it so), or so small that `127 / max|x|` overflows. The dot product of one block is an exact integer `isum` (for K-quants the whole super-block of 256, its
//!   sub-block scales multiplied in as integers). One output is one chain over the row's blocks in ascending order, starting
//!   from `+0.0`:
//!   `acc = fma(d_weight * scale, isum as f32, acc)`, and for types with minima, directly after it,
//!   `acc = fma(-(dmin_weight * scale), msum as f32, acc)`, where `msum = Σ m_j * Σ q` over the sub-blocks `j`.
//!   Integer to float conversion rounds to nearest even. Since a block's sum is exact, a kernel may split it over lanes, rows
//!   and registers as it likes; only the chain is ordered. That serves single rows (decode) and tiles of rows held in lanes
//!   (prefill) alike.
//! - **Float weights × activations** and every other f32 reduction along a row (norms, scores of attention, sums of
//!   softmax) use 16 lanes: element `i` goes to lane `i % 16` by `lane = fma(a, b, lane)` (or `lane += a` for sums), in ascending
//!   order, lanes start at `+0.0`; missing elements of the last group leave their lanes untouched; then the lanes are folded:
//!   `l[j] += l[j + 8]`, `l[j] += l[j + 4]`, `l[j] += l[j + 2]`, `l[0] + l[1]`. f16 is converted to f32 first, exactly.
//! - **Attention** works on chunks of [`ATTENTION_CHUNK`] positions, cut at absolute positions. Per chunk: scores
//!   `s = dot16(q, k) * scale`, their maximum `m`, weights `p = exp(s - m)`, their 16-lane sum `l`, and `o[d] = Σ p * v[d]` by
//!   fma in ascending position from `+0.0`. Chunks are combined in ascending order: with `M` the larger of the running and the
//!   new maximum, `a = exp(M_old - M)`, `b = exp(m - M)`: `o = fma(b, o_chunk, a * o)`, `l` alike; the result is `o / l`.
//! - **Elementary functions** are our own polynomials evaluated with fma ([`exp`]), the same operations in each lane.
//! - No other contraction, no flush to zero, no reassociation.
//!
//! # Dispatch
//!
//! [`Compute`] holds the instruction set found at run time and the thread pool; every operation goes through it. Outputs are
//! computed independently of one another, so how rows are shared among threads cannot change a bit.

#![expect(
    unsafe_code,
    reason = "SIMD, views of file bytes and the thread pool; each use says why it is sound"
)]
#![expect(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

mod activations;
mod arch;
mod attention;
mod compute;
mod elementary;
mod isa;
mod matmul;
mod matrix;
mod pool;
mod quant;
mod rows;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use attention::{ATTENTION_CHUNK, AttentionJob, AttentionShape};
pub use compute::Compute;
pub use elementary::{exp, sum16};
pub use isa::Isa;
pub use matmul::MatmulJob;
pub use matrix::{ActivationType, Matrix, MatrixError, WeightType};
pub use pool::{Pool, Progress};
pub use rows::RopeKind;
