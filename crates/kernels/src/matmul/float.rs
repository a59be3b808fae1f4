//! Float weights: 16 lanes along each row.

use super::Tile;
use crate::arch::Lanes;
use crate::elementary::LANES;
use crate::quant::f16_to_f32;

/// Rows and tokens that are multiplied together: 4 × 4 sums in registers use each load four times.
const ROWS: usize = 4;

/// A float type of weights.
pub(super) trait Float {
    /// Bytes of 16 weights.
    const BYTES: usize;

    /// Loads 16 weights.
    fn load<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F;

    /// Weight `i` of a row.
    fn at(row: &[u8], i: usize) -> f32;
}

/// Element `i` of a row of f32.
pub(super) fn f32_at(row: &[u8], i: usize) -> f32 {
    f32::from_le_bytes(row.as_chunks().0[i])
}

/// Element `i` of a row of f16.
pub(super) fn f16_at(row: &[u8], i: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes(row.as_chunks().0[i]))
}

/// 32-bit floats.
pub(super) struct F32;

impl Float for F32 {
    const BYTES: usize = 4 * LANES;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F {
        let mut x = [0.0; LANES];
        for (x, bytes) in x.iter_mut().zip(bytes.as_chunks().0) {
            *x = f32::from_le_bytes(*bytes);
        }
        lanes.load(&x)
    }

    #[inline(always)]
    fn at(row: &[u8], i: usize) -> f32 {
        f32_at(row, i)
    }
}

/// 16-bit floats.
pub(super) struct F16;

impl Float for F16 {
    const BYTES: usize = 2 * LANES;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, bytes: &[u8]) -> L::F {
        let mut x = [0; LANES];
        for (x, bytes) in x.iter_mut().zip(bytes.as_chunks().0) {
            *x = u16::from_le_bytes(*bytes);
        }
        lanes.load_f16(&x)
    }

    #[inline(always)]
    fn at(row: &[u8], i: usize) -> f32 {
        f16_at(row, i)
    }
}

/// Multiplies a tile.
#[inline(always)]
pub(super) fn tile<L: Lanes, W: Float>(lanes: L, tile: &Tile<'_>) {
    let rows = tile.row_bytes();
    let n_tokens = tile.x.n_tokens();
    let mut t = 0;
    while t < n_tokens {
        if t + 4 <= n_tokens {
            tokens::<L, W, 4>(lanes, tile, &rows, t);
            t += 4;
        } else {
            tokens::<L, W, 1>(lanes, tile, &rows, t);
            t += 1;
        }
    }
}

/// `T` tokens from `first` on.
#[inline(always)]
fn tokens<L: Lanes, W: Float, const T: usize>(
    lanes: L,
    tile: &Tile<'_>,
    rows: &[&[u8]; LANES],
    first: usize,
) {
    let mut x = [tile.x.f32_row(first); T];
    for (t, x) in x.iter_mut().enumerate() {
        *x = tile.x.f32_row(first + t);
    }
    let n_cols = x[0].len();
    let mut values = [[0.0; LANES]; T];
    for (group, rows) in rows.as_chunks::<ROWS>().0.iter().enumerate() {
        let mut acc = [[lanes.splat(0.0); ROWS]; T];
        for i in 0..n_cols / LANES {
            let mut w = [lanes.splat(0.0); ROWS];
            for r in 0..ROWS {
                w[r] = W::load(lanes, &rows[r][i * W::BYTES..(i + 1) * W::BYTES]);
            }
            for t in 0..T {
                let x = lanes.load(x[t][i * LANES..].first_chunk().expect("a whole group"));
                for r in 0..ROWS {
                    acc[t][r] = lanes.fma(w[r], x, acc[t][r]);
                }
            }
        }
        for t in 0..T {
            for r in 0..ROWS {
                values[t][group * ROWS + r] = if n_cols.is_multiple_of(LANES) {
                    lanes.fold(acc[t][r])
                } else {
                    let rest = n_cols / LANES * LANES;
                    fold_with_rest(lanes, acc[t][r], &x[t][rest..], |i| W::at(rows[r], rest + i))
                };
            }
        }
    }
    for (t, values) in values.iter().enumerate() {
        tile.write(first + t, values);
    }
}

/// Adds the last, incomplete group of a dot product and folds; lanes without an element stay untouched.
#[inline(always)]
pub(crate) fn fold_with_rest<L: Lanes>(
    lanes: L,
    acc: L::F,
    x: &[f32],
    weight: impl Fn(usize) -> f32,
) -> f32 {
    let mut last = [0.0; LANES];
    lanes.store(acc, &mut last);
    for (i, (lane, x)) in last.iter_mut().zip(x).enumerate() {
        *lane = weight(i).mul_add(*x, *lane);
    }
    crate::elementary::fold(&last)
}
