//! Many tokens: 16 rows are unpacked into a panel that keeps a few columns of all rows together.

use std::cell::RefCell;

use super::Tile;
use crate::arch::{Columns, Kernel};
use crate::elementary::LANES;
use crate::matrix::ActivationType;
use crate::quant::{N_SUB, SMALL, SUB, SUPER, Small, Super, blocks};

/// What belongs to one block of 16 rows beside its codes.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct SmallScales([u16; LANES]);

/// What belongs to one super-block of 16 rows beside its codes.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct SuperScales {
    /// Scales of the sub-blocks; formats that share them between two fill only the first of each pair.
    scales: [[i32; LANES]; N_SUB],
    /// Pairs of minima, or of scales times the offset.
    pairs: [[[i16; 2]; LANES]; N_SUB / 2],
    d: [u16; LANES],
    dmin: [u16; LANES],
}

/// The unpacked rows of one tile; each thread keeps one.
#[derive(Default)]
struct Panel {
    codes: Vec<Columns>,
    small: Vec<SmallScales>,
    super_: Vec<SuperScales>,
}

thread_local! {
    static PANEL: RefCell<Panel> = RefCell::default();
}

/// Lends out this thread's panel.
fn take_panel() -> Panel {
    PANEL.with(RefCell::take)
}

fn give_back(panel: Panel) {
    PANEL.with(|place| place.replace(panel));
}

/// Bytes in a vector: four of each of 16 rows.
const VECTOR: usize = 4 * LANES;

/// Brings 16 rows of `N` codes into the kernel's order.
#[inline(always)]
fn pack<K: Kernel, const OFFSET: i32, const N: usize>(
    k: K,
    rows: &[[u8; N]; LANES],
    out: &mut [Columns],
) {
    let mut columns = [[[0; 4]; LANES]; LANES];
    for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
        let part = |r: usize| rows[r][i * VECTOR..].first_chunk().expect("a whole vector");
        k.pack::<OFFSET>(std::array::from_fn(part), &mut columns);
        for (out, column) in out.iter_mut().zip(columns) {
            out.0 = column;
        }
    }
}

/// Writes integers one after the other.
#[inline(always)]
fn write_words<T: Copy, const N: usize, const M: usize>(
    words: &[T; M],
    out: &mut [u8],
    bytes: impl Fn(T) -> [u8; N],
) {
    for (word, out) in words.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = bytes(*word);
    }
}

/// Multiplies a tile of small blocks.
#[inline(always)]
pub(super) fn small<K: Kernel, B: Small, const OFFSET: i32>(k: K, tile: &Tile<'_>) {
    let mut panel = take_panel();
    let n_blocks = tile.w.n_cols() / SMALL;
    // Two blocks fill a vector: after an odd number of them, half of the last vectors is nobody's.
    let n_pairs = n_blocks.div_ceil(2);
    panel.codes.resize(n_pairs * LANES, Columns([[0; 4]; LANES]));
    panel.small.resize(n_blocks, SmallScales([0; LANES]));
    let rows = tile.row_bytes().map(blocks::<B>);
    let mut codes = [[0; VECTOR]; LANES];
    for (pair, out) in panel.codes.chunks_exact_mut(LANES).enumerate() {
        for b in 2 * pair..n_blocks.min(2 * pair + 2) {
            let at = (b % 2) * SMALL;
            for (r, row) in rows.iter().enumerate() {
                codes[r][at..at + SMALL].copy_from_slice(&row[b].codes());
                panel.small[b].0[r] = row[b].d();
            }
        }
        pack::<K, OFFSET, VECTOR>(k, &codes, out);
    }
    for_tokens(k, tile, &SmallTokens::<OFFSET>(&panel));
    give_back(panel);
}

/// Multiplies a tile of super-blocks.
#[inline(always)]
pub(super) fn super_<K: Kernel, B: Super>(k: K, tile: &Tile<'_>) {
    let mut panel = take_panel();
    let n_blocks = tile.w.n_cols() / SUPER;
    panel.codes.resize(n_blocks * (SUPER / 4), Columns([[0; 4]; LANES]));
    let empty = SuperScales {
        scales: [[0; LANES]; N_SUB],
        pairs: [[[0; 2]; LANES]; N_SUB / 2],
        d: [0; LANES],
        dmin: [0; LANES],
    };
    panel.super_.resize(n_blocks, empty);
    let rows = tile.row_bytes().map(blocks::<B>);
    let mut codes = [[0; SUPER]; LANES];
    let mut scales = [[0; VECTOR]; LANES];
    let mut pairs = [[0; VECTOR]; LANES];
    let mut columns = [[[0; 4]; LANES]; LANES];
    let vectors = panel.codes.as_chunks_mut::<{ SUPER / 4 }>().0;
    for (b, (vectors, out)) in vectors.iter_mut().zip(&mut panel.super_).enumerate() {
        for (r, row) in rows.iter().enumerate() {
            let block = &row[b];
            codes[r] = block.codes();
            (out.d[r], out.dmin[r]) = (block.d(), block.dmin());
            write_words(&block.scales().map(i32::from), &mut scales[r], i32::to_le_bytes);
            let of_sums = if B::HAS_MINS {
                block.mins().map(i16::from)
            } else {
                block.scales().map(|scale| i16::from(scale) * -B::OFFSET)
            };
            write_words(&of_sums, &mut pairs[r], i16::to_le_bytes);
        }
        pack::<K, 0, SUPER>(k, &codes, vectors);
        k.transpose(scales.each_ref(), &mut columns);
        out.scales = columns.map(|column| column.map(i32::from_le_bytes));
        k.transpose(pairs.each_ref(), &mut columns);
        for (pairs, column) in out.pairs.iter_mut().zip(columns) {
            *pairs =
                column.map(|[a, b, c, d]| [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]);
        }
    }
    for_tokens(k, tile, &SuperTokens::<B>(&panel, std::marker::PhantomData));
    give_back(panel);
}

/// Multiplies a panel by some tokens.
trait Tokens {
    /// Tokens `first..first + T`.
    fn run<K: Kernel, const T: usize>(&self, k: K, tile: &Tile<'_>, first: usize);
}

/// Walks through all tokens in steps of `K::TOKENS` and less at the end.
#[inline(always)]
fn for_tokens<K: Kernel>(k: K, tile: &Tile<'_>, tokens: &impl Tokens) {
    let n_tokens = tile.x.n_tokens();
    let mut t = 0;
    while t < n_tokens {
        let left = n_tokens - t;
        if K::TOKENS >= 8 && left >= 8 {
            tokens.run::<K, 8>(k, tile, t);
            t += 8;
        } else if K::TOKENS >= 4 && left >= 4 {
            tokens.run::<K, 4>(k, tile, t);
            t += 4;
        } else if left >= 2 {
            tokens.run::<K, 2>(k, tile, t);
            t += 2;
        } else {
            tokens.run::<K, 1>(k, tile, t);
            t += 1;
        }
    }
}

struct SmallTokens<'a, const OFFSET: i32>(&'a Panel);

impl<const OFFSET: i32> Tokens for SmallTokens<'_, OFFSET> {
    #[inline(always)]
    fn run<K: Kernel, const T: usize>(&self, k: K, tile: &Tile<'_>, first: usize) {
        let mut x = [tile.x.quantized_row(ActivationType::Q8, first); T];
        for (t, x) in x.iter_mut().enumerate() {
            *x = tile.x.quantized_row(ActivationType::Q8, first + t);
        }
        let mut acc = [k.splat(0.0); T];
        let panel = self.0.codes.as_chunks::<{ SMALL / 4 }>().0.iter().zip(&self.0.small);
        for (b, (codes, d)) in panel.enumerate() {
            let mut isum = [k.i_splat(0); T];
            let mut x_codes = [&[[0; 4]; SMALL / 4]; T];
            for t in 0..T {
                let left = K::offset_left(OFFSET) * i32::from(x[t].sums[b]);
                isum[t] = k.i_splat(-left);
                x_codes[t] = columns(&x[t].codes[b * SMALL..], 0);
            }
            k.dot_columns::<OFFSET, { SMALL / 4 }, T>(&mut isum, codes, x_codes);
            let d = k.load_f16(&d.0);
            for t in 0..T {
                let scale = k.mul(d, k.splat(x[t].scales[b]));
                acc[t] = k.fma(scale, k.i_to_f32(isum[t]), acc[t]);
            }
        }
        write(k, tile, first, &acc);
    }
}

struct SuperTokens<'a, B>(&'a Panel, std::marker::PhantomData<B>);

impl<B: Super> Tokens for SuperTokens<'_, B> {
    #[inline(always)]
    fn run<K: Kernel, const T: usize>(&self, k: K, tile: &Tile<'_>, first: usize) {
        let mut x = [tile.x.quantized_row(ActivationType::Q8K, first); T];
        for (t, x) in x.iter_mut().enumerate() {
            *x = tile.x.quantized_row(ActivationType::Q8K, first + t);
        }
        let mut acc = [k.splat(0.0); T];
        let panel = self.0.codes.as_chunks::<{ SUPER / 4 }>().0.iter().zip(&self.0.super_);
        for (b, (codes, scales)) in panel.enumerate() {
            let mut x_codes = [&[0; SUPER]; T];
            for t in 0..T {
                x_codes[t] = x[t].codes[b * SUPER..].first_chunk().expect("a whole block");
            }
            // `Σ min * x`, or what the offset adds where there are no minima.
            let sums = |t: usize| {
                let x_sums = x[t].sums[b * N_SUB..].first_chunk().expect("a whole block");
                k.dot_pairs(&scales.pairs, x_sums)
            };
            let isum = if B::SHARED == 2 {
                scaled::<K, T, { 2 * SUB / 4 }>(k, codes, scales, x_codes)
            } else {
                scaled::<K, T, { SUB / 4 }>(k, codes, scales, x_codes)
            };
            let (d, dmin) = (k.load_f16(&scales.d), k.load_f16(&scales.dmin));
            for t in 0..T {
                let scale = k.splat(x[t].scales[b]);
                if B::HAS_MINS {
                    acc[t] = k.fma(k.mul(d, scale), k.i_to_f32(isum[t]), acc[t]);
                    let scale = k.mul(k.mul(dmin, scale), k.splat(-1.0));
                    acc[t] = k.fma(scale, k.i_to_f32(sums(t)), acc[t]);
                } else {
                    let isum = k.i_add(isum[t], sums(t));
                    acc[t] = k.fma(k.mul(d, scale), k.i_to_f32(isum), acc[t]);
                }
            }
        }
        write(k, tile, first, &acc);
    }
}

/// The activations that meet the `i`-th `4 * N` columns.
#[inline(always)]
fn columns<const N: usize>(codes: &[i8], i: usize) -> &[[i8; 4]; N] {
    codes.as_chunks::<4>().0[i * N..].first_chunk().expect("a whole sub-block")
}

/// `Σ scale * code * x` over a super-block; a scale is shared by `4 * N` columns.
#[inline(always)]
fn scaled<K: Kernel, const T: usize, const N: usize>(
    k: K,
    codes: &[Columns; SUPER / 4],
    scales: &SuperScales,
    x: [&[i8; SUPER]; T],
) -> [K::I; T] {
    let mut isum = [k.i_splat(0); T];
    for (j, codes) in codes.as_chunks::<N>().0.iter().enumerate() {
        let scale = k.i_load(&scales.scales[j * (4 * N / SUB)]);
        let mut dot = [k.i_splat(0); T];
        k.dot_columns::<0, N, T>(&mut dot, codes, x.map(|x| columns(x, j)));
        for t in 0..T {
            isum[t] = k.i_add(isum[t], k.i_mul(dot[t], scale));
        }
    }
    isum
}

#[inline(always)]
fn write<K: Kernel, const T: usize>(k: K, tile: &Tile<'_>, first: usize, acc: &[K::F; T]) {
    for (t, acc) in acc.iter().enumerate() {
        let mut values = [0.0; LANES];
        k.store(*acc, &mut values);
        tile.write(first + t, &values);
    }
}
