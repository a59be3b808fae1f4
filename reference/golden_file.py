"""The golden file: what a reference implementation predicts after each token of one sequence.

The format is described in README.md ("Format"); this module and the reader in the engine's tests are its two
implementations. Log-probabilities are kept as unsigned 16-bit steps of 1/1024 nat: the rounding (at most
0.0005 nat) adds about 1e-7 to a KL divergence, and reading needs no 16-bit floats.
"""

import struct
from dataclasses import dataclass

import numpy as np

MAGIC = b"SHOALGLD"
VERSION = 1
STEPS_PER_NAT = 1024.0
HEADER = struct.Struct("<8sIIIII32s4x")


@dataclass
class Golden:
    """Predictions for one sequence.

    - `model_hash`: BLAKE3 of the GGUF, 32 bytes
    - `n_ctx`: the context length that the reference ran with (it selects Phi 3's rope factors)
    - `tokens`: `[n_positions]` u32; row `i` predicts the token after `tokens[..= i]`
    - `ids`: `[n_positions, top_k]` u32, most probable first, or `None` for the full distribution
    - `logprobs`: `[n_positions, top_k or n_vocab]` f32, natural logarithm
    """

    model_hash: bytes
    n_ctx: int
    n_vocab: int
    tokens: np.ndarray
    logprobs: np.ndarray
    ids: np.ndarray | None = None


def log_softmax(logits):
    """Returns log-probabilities of `logits`, `[n_rows, n_vocab]`, computed in f64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def from_logits(logits, tokens, model_hash, n_ctx, top_k=0):
    """Makes a `Golden` of `logits`, `[n_positions, n_vocab]`; `top_k = 0` keeps the full distribution."""
    logprobs = log_softmax(logits)
    n_vocab = logprobs.shape[1]
    ids = None
    if top_k:
        ids = np.argsort(-logprobs, axis=-1, kind="stable")[:, :top_k].astype(np.uint32)
        logprobs = np.take_along_axis(logprobs, ids.astype(np.int64), axis=-1)
    tokens = np.asarray(tokens, dtype=np.uint32)
    return Golden(model_hash, n_ctx, n_vocab, tokens, logprobs.astype(np.float32), ids)


def write(path, golden):
    """Writes `golden` to `path`."""
    n_positions = len(golden.tokens)
    top_k = 0 if golden.ids is None else golden.ids.shape[1]
    steps = np.clip(np.rint(-golden.logprobs * STEPS_PER_NAT), 0, 65535).astype("<u2")
    with open(path, "wb") as out:
        out.write(
            HEADER.pack(MAGIC, VERSION, golden.n_vocab, n_positions, top_k, golden.n_ctx, golden.model_hash)
        )
        out.write(golden.tokens.astype("<u4").tobytes())
        if golden.ids is not None:
            out.write(golden.ids.astype("<u4").tobytes())
        out.write(steps.tobytes())


def read(path):
    """Reads the golden file at `path`; raises `ValueError` where it is not one."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < HEADER.size:
        raise ValueError(f"{path}: expected at least {HEADER.size} bytes, got {len(data)}")
    magic, version, n_vocab, n_positions, top_k, n_ctx, model_hash = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"{path}: expected {MAGIC!r} version {VERSION}, got {magic!r} version {version}")
    n_columns = top_k or n_vocab
    n_bytes = HEADER.size + 4 * n_positions + n_positions * n_columns * (6 if top_k else 2)
    if len(data) != n_bytes:
        raise ValueError(f"{path}: expected {n_bytes} bytes, got {len(data)}")
    at = HEADER.size
    tokens = np.frombuffer(data, "<u4", n_positions, at)
    at += tokens.nbytes
    ids = None
    if top_k:
        ids = np.frombuffer(data, "<u4", n_positions * top_k, at).reshape(n_positions, top_k)
        at += ids.nbytes
    steps = np.frombuffer(data, "<u2", n_positions * n_columns, at).reshape(n_positions, n_columns)
    return Golden(model_hash, n_ctx, n_vocab, tokens, -steps.astype(np.float32) / STEPS_PER_NAT, ids)


def kl_divergence(p, q):
    """Returns KL(p ‖ q) in nats per row, of log-probabilities `[n_rows, n]`, each row renormalised first."""
    p, q = log_softmax(p), log_softmax(q)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def with_rest(golden, logprobs):
    """Returns `golden`'s and another full distribution over the same buckets: its top k, then all the rest.

    - `logprobs`: `[n_positions, n_vocab]`, the other distribution
    """
    if golden.ids is None:
        return golden.logprobs, logprobs
    other = np.take_along_axis(logprobs, golden.ids.astype(np.int64), axis=-1)
    return _append_rest(golden.logprobs), _append_rest(other)


def _append_rest(logprobs):
    mass = np.exp(logprobs.astype(np.float64)).sum(axis=-1, keepdims=True)
    rest = np.log(np.maximum(1.0 - mass, 1e-9))
    return np.concatenate((logprobs, rest), axis=-1)
