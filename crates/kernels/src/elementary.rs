//! Elementary functions and the canonical sum, the same operations on every CPU.

/// Lanes of every float reduction along a row.
pub(crate) const LANES: usize = 16;

/// Folds 16 lanes in the canonical order.
#[inline(always)]
pub(crate) fn fold(lanes: &[f32; LANES]) -> f32 {
    let mut l = *lanes;
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            l[j] += l[j + half];
        }
    }
    l[0]
}

/// Sums `x` in 16 lanes, in the canonical order.
pub fn sum16(x: &[f32]) -> f32 {
    sum16_inline(x)
}

#[inline(always)]
pub(crate) fn sum16_inline(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = x.as_chunks::<LANES>();
    for group in groups {
        for j in 0..LANES {
            lanes[j] += group[j];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    fold(&lanes)
}

/// Sums the squares of `x` in 16 lanes, in the canonical order.
#[inline(always)]
pub(crate) fn sum_of_squares16(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = x.as_chunks::<LANES>();
    for group in groups {
        for j in 0..LANES {
            lanes[j] = group[j].mul_add(group[j], lanes[j]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = x.mul_add(*x, *lane);
    }
    fold(&lanes)
}

/// e to the power of `x`: the canonical exponential, within 1 ulp or so of the true value and exact at 0.
///
/// `x = n * ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is its Taylor polynomial of degree 7, whose remainder is below a
/// tenth of an ulp there. Overflows to infinity, underflows through the subnormals to zero, and keeps NaN.
pub fn exp(x: f32) -> f32 {
    exp_inline(x)
}

#[inline(always)]
pub(crate) fn exp_inline(x: f32) -> f32 {
    /// Adding this to a small float rounds it to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the high one has so few bits that `n` times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Beyond these e^x is zero or infinite, and n stays in the range of the scaling below. NaN passes.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p: f32 = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    // 2^n as two factors, both normal numbers, so that only the last product rounds.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let (half, rest) = (n >> 1, n.wrapping_sub(n >> 1));
    p * power_of_two(half) * power_of_two(rest)
}

/// 2 to the power of `n`, for `n` in `-126..=127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127).cast_unsigned()) << 23)
}
