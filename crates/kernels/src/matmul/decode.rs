//! Few tokens: 16 rows side by side, each multiplied as it lies in memory.

use super::Tile;
use crate::arch::Kernel;
use crate::elementary::LANES;
use crate::matrix::ActivationType;
use crate::quant::{N_SUB, SMALL, SUPER, Small, Super, blocks};

/// Multiplies a tile of small blocks.
#[inline(always)]
pub(super) fn small<K: Kernel, B: Small, const OFFSET: i32>(k: K, tile: &Tile<'_>) {
    const { assert!(B::OFFSET == OFFSET) };
    let mut rows = [&[] as &[B]; LANES];
    for (blocks_of_row, bytes) in rows.iter_mut().zip(tile.row_bytes()) {
        *blocks_of_row = blocks(bytes);
    }
    for t in 0..tile.x.n_tokens() {
        let x = tile.x.quantized_row(ActivationType::Q8, t);
        let x_codes = x.codes.as_chunks::<SMALL>().0;
        let n_blocks = rows[0].len().min(x_codes.len()).min(x.scales.len()).min(x.sums.len());
        let rows = rows.map(|row| &row[..n_blocks]);
        let mut acc = k.splat(0.0);
        for b in 0..n_blocks {
            if t == 0 {
                prefetch::<K, B>(k, tile, b);
            }
            let mut partials = [k.zero(); LANES];
            let mut d = [0; LANES];
            for r in 0..LANES {
                let block = &rows[r][b];
                partials[r] = k.dot_small::<OFFSET>(&block.codes(), &x_codes[b]);
                d[r] = block.d();
            }
            let left = K::offset_left(OFFSET) * i32::from(x.sums[b]);
            let isum = k.i_add(k.fold_partials(&partials), k.i_splat(-left));
            let scale = k.mul(k.load_f16(&d), k.splat(x.scales[b]));
            acc = k.fma(scale, k.i_to_f32(isum), acc);
        }
        write(k, tile, t, acc);
    }
}

/// Multiplies a tile of super-blocks.
#[inline(always)]
pub(super) fn super_<K: Kernel, B: Super>(k: K, tile: &Tile<'_>) {
    let mut rows = [&[] as &[B]; LANES];
    for (blocks_of_row, bytes) in rows.iter_mut().zip(tile.row_bytes()) {
        *blocks_of_row = blocks(bytes);
    }
    for t in 0..tile.x.n_tokens() {
        let x = tile.x.quantized_row(ActivationType::Q8K, t);
        let (x_codes, x_sums) = (x.codes.as_chunks::<SUPER>().0, x.sums.as_chunks::<N_SUB>().0);
        let n_blocks = rows[0].len().min(x_codes.len()).min(x.scales.len()).min(x_sums.len());
        let rows = rows.map(|row| &row[..n_blocks]);
        let mut acc = k.splat(0.0);
        for b in 0..n_blocks {
            if t == 0 {
                prefetch::<K, B>(k, tile, b);
            }
            let mut partials = [k.zero(); LANES];
            let mut mins = [k.zero(); LANES];
            let (mut d, mut dmin) = ([0; LANES], [0; LANES]);
            for r in 0..LANES {
                let block = &rows[r][b];
                let scales = block.scales();
                partials[r] = k.dot_super(&block.codes(), &scales, &x_codes[b]);
                if B::OFFSET != 0 {
                    // |scale| <= 128 and the offset is 32, so that the product fits.
                    let offsets = scales.map(|scale| i16::from(scale) * B::OFFSET);
                    partials[r] = k.sub(partials[r], k.dot_i16(&offsets, &x_sums[b]));
                }
                if B::HAS_MINS {
                    mins[r] = k.dot_i16(&block.mins().map(i16::from), &x_sums[b]);
                    dmin[r] = block.dmin();
                }
                d[r] = block.d();
            }
            let scale = k.splat(x.scales[b]);
            let isum = k.i_to_f32(k.fold_partials(&partials));
            acc = k.fma(k.mul(k.load_f16(&d), scale), isum, acc);
            if B::HAS_MINS {
                let msum = k.i_to_f32(k.fold_partials(&mins));
                let scale = k.mul(k.mul(k.load_f16(&dmin), scale), k.splat(-1.0));
                acc = k.fma(scale, msum, acc);
            }
        }
        write(k, tile, t, acc);
    }
}

/// Fetches as much of the next tile as one step of this one consumes.
///
/// 16 streams of short rows are more than hardware prefetchers follow. The next tile lies directly behind this one, so that
/// it can be fetched in one sweep, a whole tile ahead.
#[inline(always)]
fn prefetch<K: Kernel, B>(k: K, tile: &Tile<'_>, b: usize) {
    const LINE: usize = 64;
    let step = LANES * size_of::<B>();
    let next = tile.w.row(tile.rows.start).as_ptr().wrapping_add(tile.w.row_bytes() * LANES);
    let start = next.wrapping_add(b * step);
    for line in 0..step.div_ceil(LINE) {
        k.prefetch(start.wrapping_add(line * LINE));
    }
}

#[inline(always)]
fn write<K: Kernel>(k: K, tile: &Tile<'_>, t: usize, acc: K::F) {
    let mut values = [0.0; LANES];
    k.store(acc, &mut values);
    tile.write(t, &values);
}
