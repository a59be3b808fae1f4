"""Packs float32 rows into the block formats of GGUF: Q4_K, Q6_K and Q8_0.

The layouts are those that ggml defines; the choice of scales is ours. For each block a grid of candidate
scales is tried and the one with the least squared error is kept, which for matrices as small as these costs
seconds and halves the error of the plain rounding rule.

All functions take `[n_rows, n_columns]` float32 with `n_columns` a multiple of the block and return
`[n_rows, n_bytes]` uint8.
"""

import numpy as np

SUPER = 256


def q8_0(rows: np.ndarray) -> np.ndarray:
    """Packs blocks of 32: an f16 scale, then 32 signed bytes."""
    blocks = rows.reshape(-1, 32).astype(np.float32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    quants = np.clip(np.rint(blocks * inverse), -127, 127).astype(np.int8)
    packed = np.concatenate([scale.astype(np.float16).view(np.uint8), quants.view(np.uint8)], axis=1)
    return packed.reshape(rows.shape[0], -1)


def q4_k(rows: np.ndarray) -> np.ndarray:
    """Packs super-blocks of 256: f16 `d` and `dmin`, eight 6-bit scales and minima, 256 nibbles.

    A weight is `d * scale * q - dmin * minimum` with `q` in 0..=15; groups of 32 share scale and minimum.
    """
    groups = rows.reshape(-1, 8, 32).astype(np.float32)
    scale, minimum = fit_affine(groups, 15)
    d, scale_bits = to_six_bits(scale)
    dmin, minimum_bits = to_six_bits(minimum)
    step = d.astype(np.float32)[:, None] * scale_bits
    offset = dmin.astype(np.float32)[:, None] * minimum_bits
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(step[..., None] > 0, (groups + offset[..., None]) / step[..., None], 0)
    quants = np.clip(np.rint(level), 0, 15).astype(np.uint8)

    low, high = scale_bits.astype(np.uint8), minimum_bits.astype(np.uint8)
    scales = np.empty((len(groups), 12), dtype=np.uint8)
    scales[:, 0:4] = (low[:, 0:4] & 63) | ((low[:, 4:8] >> 4) << 6)
    scales[:, 4:8] = (high[:, 0:4] & 63) | ((high[:, 4:8] >> 4) << 6)
    scales[:, 8:12] = (low[:, 4:8] & 15) | ((high[:, 4:8] & 15) << 4)

    pairs = quants.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    packed = np.concatenate([as_bytes(d), as_bytes(dmin), scales, nibbles], axis=1)
    return packed.reshape(rows.shape[0], -1)


def q6_k(rows: np.ndarray) -> np.ndarray:
    """Packs super-blocks of 256: 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, f16 `d`.

    A weight is `d * scale * q` with `q` in -32..=31; groups of 16 share a scale.
    """
    groups = rows.reshape(-1, 16, 16).astype(np.float32)
    scale = fit_symmetric(groups, 32)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)[:, 0]
    d = (largest / np.float32(-128)).astype(np.float16)
    wide = d.astype(np.float32)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale_bits = np.where(wide != 0, np.clip(np.rint(scale / wide), -128, 127), 0).astype(np.int8)
        step = wide * scale_bits
        level = np.where(step[..., None] != 0, groups / step[..., None], 0)
    quants = (np.clip(np.rint(level), -32, 31) + 32).astype(np.uint8)

    # Each half of 128 weights is four runs of 32: nibbles hold runs 0|2 and 1|3, `high` two bits of all four.
    runs = quants.reshape(-1, 2, 4, 32)
    low = np.stack(
        [
            (runs[:, :, 0] & 15) | ((runs[:, :, 2] & 15) << 4),
            (runs[:, :, 1] & 15) | ((runs[:, :, 3] & 15) << 4),
        ],
        axis=2,
    ).reshape(-1, 128)
    top = runs >> 4
    high = (top[:, :, 0] | (top[:, :, 1] << 2) | (top[:, :, 2] << 4) | (top[:, :, 3] << 6)).reshape(-1, 64)
    packed = np.concatenate([low, high, scale_bits.view(np.uint8), as_bytes(d)], axis=1)
    return packed.reshape(rows.shape[0], -1)


def fit_affine(groups: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds scale and minimum (both not negative) per group, by search and least squares."""
    low = np.minimum(groups.min(axis=2), 0)
    span = np.maximum(groups.max(axis=2), 0) - low
    best_error = np.full(low.shape, np.inf, dtype=np.float32)
    best_scale, best_minimum = np.zeros_like(low), np.zeros_like(low)
    for shrink in np.linspace(0.75, 1.1, 36, dtype=np.float32):
        scale = np.maximum(span * shrink / levels, np.float32(1e-12))
        start = low * min(float(shrink), 1.0)
        quants = np.clip(np.rint((groups - start[..., None]) / scale[..., None]), 0, levels)
        # Least squares for `scale * quants - minimum` at these quants.
        n = groups.shape[2]
        sum_q, sum_x = quants.sum(2), groups.sum(2)
        sum_qq, sum_qx = (quants * quants).sum(2), (quants * groups).sum(2)
        det = n * sum_qq - sum_q * sum_q
        with np.errstate(divide="ignore", invalid="ignore"):
            fit_scale = np.where(det > 0, (n * sum_qx - sum_q * sum_x) / det, scale)
            fit_minimum = np.where(det > 0, (sum_q * sum_qx - sum_qq * sum_x) / det, -start)
            through_zero = np.where(sum_qq > 0, sum_qx / sum_qq, scale)
        fit_scale = np.where(fit_minimum < 0, through_zero, fit_scale)
        fit_minimum = np.maximum(fit_minimum, 0)
        error = ((fit_scale[..., None] * quants - fit_minimum[..., None] - groups) ** 2).sum(2)
        better = (error < best_error) & (fit_scale > 0)
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, fit_scale, best_scale)
        best_minimum = np.where(better, fit_minimum, best_minimum)
    return best_scale, best_minimum


def fit_symmetric(groups: np.ndarray, levels: int) -> np.ndarray:
    """Finds a signed scale per group for `q` in `-levels..levels`, by search and least squares."""
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)[..., 0]
    best_error = np.full(extreme.shape, np.inf, dtype=np.float32)
    best_scale = np.zeros_like(extreme)
    for reach in np.linspace(levels - 1.9, levels + 0.9, 29, dtype=np.float32):
        scale = -extreme / reach
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where(scale[..., None] != 0, groups / scale[..., None], 0)
        quants = np.clip(np.rint(level), -levels, levels - 1)
        sum_qq, sum_qx = (quants * quants).sum(2), (quants * groups).sum(2)
        with np.errstate(divide="ignore", invalid="ignore"):
            fit = np.where(sum_qq > 0, sum_qx / sum_qq, 0)
        error = ((fit[..., None] * quants - groups) ** 2).sum(2)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, fit, best_scale)
    return best_scale


def to_six_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stores the eight values of each super-block in 6 bits beside one f16 factor."""
    factor = (values.max(axis=1) / np.float32(63)).astype(np.float16)
    wide = factor.astype(np.float32)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(wide > 0, np.clip(np.rint(values / wide), 0, 63), 0)
    return factor, bits.astype(np.float32)


def as_bytes(halves: np.ndarray) -> np.ndarray:
    """Shows f16 numbers as two bytes each."""
    return np.ascontiguousarray(halves.astype(np.float16)).view(np.uint8).reshape(-1, 2)
