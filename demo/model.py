"""The demonstration model: a small Llama in the shapes and conventions of GGUF's `llama` architecture.

RoPE rotates neighbouring pairs `2i, 2i + 1` (llama.cpp's NORM), so that the exported weights need no
permutation. The embedding is tied to the head. Sequences of one batch are padded on the right: attention is
causal, therefore padding never reaches a real position.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Hparams:
    """Sizes of the model; every row of a weight matrix is a multiple of 256, as the K-quants ask."""

    n_vocab: int = 2048
    n_ctx_train: int = 1024
    n_layer: int = 6
    n_embd: int = 256
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    n_ff: int = 768
    rope_freq_base: float = 10000.0
    rms_eps: float = 1e-5


class RmsNorm(nn.Module):
    """Divides by the root mean square over the last axis, then scales."""

    def __init__(self, n_embd: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.eps = eps

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x.float() * scale).to(x.dtype) * self.weight.to(x.dtype)


def rope_table(hparams: Hparams):
    """Returns the rotations as unit complex numbers, `[n_ctx_train, head_dim / 2]`."""
    half = torch.arange(0, hparams.head_dim, 2, dtype=torch.float64)
    freq = hparams.rope_freq_base ** (-half / hparams.head_dim)
    angle = torch.arange(hparams.n_ctx_train, dtype=torch.float64)[:, None] * freq
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def rotate(x, rotation):
    """Rotates pairs `2i, 2i + 1` of `x`, `[batch, n_tokens, n_head, head_dim]`, each as one complex number."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2).to(x.dtype)


class Layer(nn.Module):
    """One transformer block, its matrices named as in GGUF."""

    def __init__(self, hparams: Hparams):
        super().__init__()
        h = self.hparams = hparams
        self.attn_norm = RmsNorm(h.n_embd, h.rms_eps)
        self.attn_q = nn.Linear(h.n_embd, h.n_head * h.head_dim, bias=False)
        self.attn_k = nn.Linear(h.n_embd, h.n_head_kv * h.head_dim, bias=False)
        self.attn_v = nn.Linear(h.n_embd, h.n_head_kv * h.head_dim, bias=False)
        self.attn_output = nn.Linear(h.n_head * h.head_dim, h.n_embd, bias=False)
        self.ffn_norm = RmsNorm(h.n_embd, h.rms_eps)
        self.ffn_gate = nn.Linear(h.n_embd, h.n_ff, bias=False)
        self.ffn_up = nn.Linear(h.n_embd, h.n_ff, bias=False)
        self.ffn_down = nn.Linear(h.n_ff, h.n_embd, bias=False)

    def forward(self, x, rotation, mask):
        h = self.hparams
        batch, n_tokens, _ = x.shape
        y = self.attn_norm(x)
        q, k = self.attn_q(y), self.attn_k(y)
        heads = torch.cat((q, k), dim=-1).view(batch, n_tokens, h.n_head + h.n_head_kv, h.head_dim)
        q, k = rotate(heads, rotation).transpose(1, 2).split((h.n_head, h.n_head_kv), dim=1)
        v = self.attn_v(y).view(batch, n_tokens, h.n_head_kv, h.head_dim).transpose(1, 2)
        # Heads of one group share keys and values: stack them as more query rows.
        group = h.n_head // h.n_head_kv
        q = q.reshape(batch, h.n_head_kv, group * n_tokens, h.head_dim)
        scores = (q @ k.transpose(-1, -2)).unflatten(2, (group, n_tokens))
        weights = torch.softmax(scores.float() * h.head_dim**-0.5 + mask, dim=-1).to(v.dtype)
        y = (weights.flatten(2, 3) @ v).view(batch, h.n_head, n_tokens, h.head_dim)
        x = x + self.attn_output(y.transpose(1, 2).reshape(batch, n_tokens, -1))
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Model(nn.Module):
    """The whole network, with dropout on its input only; `forward` gives the final hidden state, `logits` the scores of chosen rows."""

    def __init__(self, hparams: Hparams, dropout: float = 0.0):
        super().__init__()
        self.hparams = hparams
        self.dropout = dropout
        self.token_embd = nn.Embedding(hparams.n_vocab, hparams.n_embd)
        self.blk = nn.ModuleList(Layer(hparams) for _ in range(hparams.n_layer))
        self.output_norm = RmsNorm(hparams.n_embd, hparams.rms_eps)
        self.register_buffer("rotation", rope_table(hparams), persistent=False)
        residual_std = 0.02 / (2 * hparams.n_layer) ** 0.5
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                is_residual = "attn_output" in name or "ffn_down" in name
                nn.init.normal_(weight, std=residual_std if is_residual else 0.02)

    def forward(self, ids):
        """Maps ids `[batch, n_tokens]` to hidden states `[batch, n_tokens, n_embd]`."""
        n_tokens = ids.shape[1]
        rotation = self.rotation[:n_tokens]
        mask = torch.full((n_tokens, n_tokens), float("-inf")).triu(1)
        x = F.dropout(self.token_embd(ids), self.dropout, self.training)
        for layer in self.blk:
            x = layer(x, rotation, mask)
        return self.output_norm(x)

    def logits(self, hidden):
        """Scores the vocabulary for hidden states `[n, n_embd]`; the head is the embedding."""
        return F.linear(hidden, self.token_embd.weight.to(hidden.dtype))
