//! How x86 multiplies a panel: four columns at a time, a row per 32-bit lane.

use super::{Columns, IntLanes};
use crate::elementary::LANES;
use crate::quant::N_SUB;

/// Products of four bytes or two integers of each row.
pub(super) trait Words: IntLanes {
    /// `acc[r] + Σ w[r] * x` over four codes of each row, less `OFFSET - offset_left(OFFSET)`.
    fn dot4<const OFFSET: i32>(self, acc: Self::I, w: &[[u8; 4]; LANES], x: [i8; 4]) -> Self::I;
    /// `acc[r] + Σ w[r] * x` over two integers of each row.
    fn dot2(self, acc: Self::I, w: &[[i16; 2]; LANES], x: [i16; 2]) -> Self::I;
}

/// See [`Kernel::dot_columns`](super::Kernel::dot_columns).
#[inline(always)]
pub(super) fn dot_columns<K: Words, const OFFSET: i32, const N: usize, const T: usize>(
    k: K,
    acc: &mut [K::I; T],
    w: &[Columns; N],
    x: [&[[i8; 4]; N]; T],
) {
    for i in 0..N {
        for t in 0..T {
            acc[t] = k.dot4::<OFFSET>(acc[t], &w[i].0, x[t][i]);
        }
    }
}

/// See [`Kernel::dot_pairs`](super::Kernel::dot_pairs).
#[inline(always)]
pub(super) fn dot_pairs<K: Words>(
    k: K,
    zero: K::I,
    w: &[[[i16; 2]; LANES]; N_SUB / 2],
    x: &[i16; N_SUB],
) -> K::I {
    let pairs = w.iter().zip(x.as_chunks().0);
    pairs.fold(zero, |sum, (w, x)| k.dot2(sum, w, *x))
}
