//! Few tokens: 16 rows side by side, each multiplied as it lies in memory.

use super::Tile;
use crate::arch::{Ahead, DotSmall, DotSuper, Kernel};
use crate::elementary::LANES;
use crate::matrix::ActivationType;
use crate::quant::{Block, N_SUB, SMALL, SUPER, Small, Super, blocks};

/// Pairs of small blocks that four rows are walked along before the next four: 1024 columns.
const PAIRS: usize = 16;

/// What 16 rows' sums over two small blocks are made of.
#[derive(Clone, Copy)]
struct PairSums<F> {
    fours: [F; 4],
    d: [[u16; LANES]; 2],
}

/// Multiplies a tile of small blocks, two blocks of four rows at a time.
///
/// Four rows are what registers have room for; their sums wait until those of all 16 are there.
#[inline(always)]
pub(super) fn small<K: Kernel + DotSmall<B>, B: Small>(k: K, tile: &Tile<'_>) {
    let rows = blocks_of_rows::<B>(tile);
    let (n_blocks, n_pairs) = (rows[0].len(), rows[0].len() / 2);
    let mut sums = [PairSums { fours: [k.zero_four(); 4], d: [[0; LANES]; 2] }; PAIRS];
    for t in 0..tile.x.n_tokens() {
        let x = tile.x.quantized_row(ActivationType::Q8, t);
        let x_codes = x.codes.as_chunks::<SMALL>().0;
        let (x_pairs, scales) = (x_codes.as_chunks::<2>().0, x.scales.as_chunks::<2>().0);
        let mut acc = k.splat(0.0);
        let mut ahead = Ahead::new(behind(tile));
        let mut first = 0;
        while first < n_pairs {
            let range = first..(first + PAIRS).min(n_pairs);
            for (i, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
                let mut four = [&[] as &[[B; 2]]; 4];
                for (pairs, row) in four.iter_mut().zip(rows) {
                    *pairs = &row.as_chunks::<2>().0[range.clone()];
                }
                four_rows(k, four, &x_pairs[range.clone()], &mut sums, i, &mut ahead);
            }
            for (sums, scales) in sums.iter().zip(&scales[range.clone()]) {
                let isums = k.join_fours(&sums.fours);
                for b in 0..2 {
                    acc = add_small(k, acc, isums[b], &sums.d[b], scales[b]);
                }
            }
            first = range.end;
        }
        if n_blocks % 2 == 1 {
            // The last block has no neighbour but itself.
            let last = n_blocks - 1;
            let x_pair = [[x_codes[last]; 2]];
            for (i, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
                let pairs = rows.map(|row| [[row[last]; 2]]);
                let four = [&pairs[0][..], &pairs[1], &pairs[2], &pairs[3]];
                four_rows(k, four, &x_pair, &mut sums, i, &mut ahead);
            }
            let isum = k.join_fours(&sums[0].fours)[0];
            acc = add_small(k, acc, isum, &sums[0].d[0], x.scales[last]);
        }
        write(k, tile, t, acc);
    }
}

/// Walks along the `i`-th four rows of a tile.
#[inline(always)]
fn four_rows<K: Kernel + DotSmall<B>, B: Small>(
    k: K,
    rows: [&[[B; 2]]; 4],
    x: &[[[i8; SMALL]; 2]],
    sums: &mut [PairSums<K::Four>],
    i: usize,
    ahead: &mut Ahead,
) {
    let rows = [&rows[0][..x.len()], &rows[1][..x.len()], &rows[2][..x.len()], &rows[3][..x.len()]];
    for (p, (x, sums)) in x.iter().zip(sums).enumerate() {
        ahead.fetch(k, 4 * size_of::<[B; 2]>());
        let pairs = [&rows[0][p], &rows[1][p], &rows[2][p], &rows[3][p]];
        sums.fours[i] = k.dot_four(&pairs, x);
        for b in 0..2 {
            for r in 0..4 {
                sums.d[b][4 * i + r] = pairs[r][b].d();
            }
        }
    }
}

#[inline(always)]
fn add_small<K: Kernel>(k: K, acc: K::F, isum: K::I, d: &[u16; LANES], scale: f32) -> K::F {
    k.fma(k.mul(k.load_f16(d), k.splat(scale)), k.i_to_f32(isum), acc)
}

/// Multiplies a tile of super-blocks.
#[inline(always)]
pub(super) fn super_<K: Kernel + DotSuper<B>, B: Super>(k: K, tile: &Tile<'_>) {
    let rows = blocks_of_rows::<B>(tile);
    let behind = behind(tile);
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
            let dot = k.dot_super_rows(
                &at,
                &x_codes[b],
                &x_sums[b],
                Ahead::new(behind.wrapping_add(b * LANES * size_of::<B>())),
            );
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

/// Where the next tile begins.
#[inline(always)]
fn behind(tile: &Tile<'_>) -> *const u8 {
    tile.w.row(tile.rows.start).as_ptr().wrapping_add(tile.w.row_bytes() * LANES)
}

#[inline(always)]
fn write<K: Kernel>(k: K, tile: &Tile<'_>, t: usize, acc: K::F) {
    let mut values = [0.0; LANES];
    k.store(acc, &mut values);
    tile.write(t, &values);
}
