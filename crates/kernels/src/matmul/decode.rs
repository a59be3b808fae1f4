//! Few tokens: 16 rows side by side, each multiplied as it lies in memory.

use super::Tile;
use crate::arch::{Ahead, DotSmall, DotSuper, Kernel};
use crate::elementary::LANES;
use crate::matrix::ActivationType;
use crate::quant::{Block, N_SUB, SMALL, SUPER, Small, Super, blocks};

/// Multiplies a tile of small blocks, two blocks at a time.
#[inline(always)]
pub(super) fn small<K: Kernel + DotSmall<B>, B: Small>(k: K, tile: &Tile<'_>) {
    let rows = blocks_of_rows::<B>(tile);
    let n_blocks = rows[0].len();
    for t in 0..tile.x.n_tokens() {
        let x = tile.x.quantized_row(ActivationType::Q8, t);
        let x_codes = x.codes.as_chunks::<SMALL>().0;
        let (x_pairs, x_scales) = (x_codes.as_chunks::<2>().0, x.scales.as_chunks::<2>().0);
        let mut acc = k.splat(0.0);
        let add = |acc: K::F, isum: K::I, d: &[u16; LANES], scale: f32| {
            k.fma(k.mul(k.load_f16(d), k.splat(scale)), k.i_to_f32(isum), acc)
        };
        for (p, (x, scales)) in x_pairs.iter().zip(x_scales).take(n_blocks / 2).enumerate() {
            let mut pairs = [pair_at(rows[0], p); LANES];
            for (pair, row) in pairs.iter_mut().zip(&rows) {
                *pair = pair_at(row, p);
            }
            let isums = k.dot_small_rows(&pairs, x, ahead::<B>(tile, 2 * p));
            for i in 0..2 {
                let mut d = [0; LANES];
                for (d, pair) in d.iter_mut().zip(&pairs) {
                    *d = pair[i].d();
                }
                acc = add(acc, isums[i], &d, scales[i]);
            }
        }
        if n_blocks % 2 == 1 {
            // The last block, twice.
            let last = n_blocks - 1;
            let pairs = rows.map(|row| [row[last]; 2]);
            let isums =
                k.dot_small_rows(&pairs.each_ref(), &[x_codes[last]; 2], ahead::<B>(tile, last));
            acc = add(acc, isums[0], &rows.map(|row| row[last].d()), x.scales[last]);
        }
        write(k, tile, t, acc);
    }
}

/// Multiplies a tile of super-blocks.
#[inline(always)]
pub(super) fn super_<K: Kernel + DotSuper<B>, B: Super>(k: K, tile: &Tile<'_>) {
    let rows = blocks_of_rows::<B>(tile);
    for t in 0..tile.x.n_tokens() {
        let x = tile.x.quantized_row(ActivationType::Q8K, t);
        let (x_codes, x_sums) = (x.codes.as_chunks::<SUPER>().0, x.sums.as_chunks::<N_SUB>().0);
        let n_blocks = rows[0].len().min(x_codes.len()).min(x.scales.len()).min(x_sums.len());
        let mut acc = k.splat(0.0);
        for b in 0..n_blocks {
            let mut at = [&rows[0][b]; LANES];
            for (at, row) in at.iter_mut().zip(&rows) {
                *at = &row[b];
            }
            let dot = k.dot_super_rows(&at, &x_codes[b], &x_sums[b], ahead::<B>(tile, b));
            let scale = k.splat(x.scales[b]);
            acc = k.fma(k.mul(dot.d, scale), k.i_to_f32(dot.isum), acc);
            if B::HAS_MINS {
                let scale = k.mul(k.mul(dot.dmin, scale), k.splat(-1.0));
                acc = k.fma(scale, k.i_to_f32(dot.msum), acc);
            }
        }
        write(k, tile, t, acc);
    }
}

/// The tile's rows in blocks, all of the same length.
#[inline(always)]
fn blocks_of_rows<'a, B: Block>(tile: &Tile<'a>) -> [&'a [B]; LANES] {
    let mut rows = [&[] as &[B]; LANES];
    let n_blocks = tile.w.row_bytes() / size_of::<B>();
    for (blocks_of_row, bytes) in rows.iter_mut().zip(tile.row_bytes()) {
        *blocks_of_row = &blocks(bytes)[..n_blocks];
    }
    rows
}

/// Blocks `2 * p` and `2 * p + 1`.
#[inline(always)]
fn pair_at<B>(row: &[B], p: usize) -> &[B; 2] {
    &row.as_chunks::<2>().0[p]
}

/// Where to fetch ahead from at block `b`: the same place in the next tile, as far as this one is consumed.
#[inline(always)]
fn ahead<B: Block>(tile: &Tile<'_>, b: usize) -> Ahead {
    let next = tile.w.row(tile.rows.start).as_ptr().wrapping_add(tile.w.row_bytes() * LANES);
    Ahead::new(next.wrapping_add(b * LANES * size_of::<B>()))
}

#[inline(always)]
fn write<K: Kernel>(k: K, tile: &Tile<'_>, t: usize, acc: K::F) {
    let mut values = [0.0; LANES];
    k.store(acc, &mut values);
    tile.write(t, &values);
}
