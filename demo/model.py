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


def rope_table(hparams: Hparams, device=None):
    """Returns cos and sin of the rotation angles, `[n_ctx_train, head_dim / 2]` each."""
    half = torch.arange(0, hparams.head_dim, 2, dtype=torch.float64, device=device)
    freq = hparams.rope_freq_base ** (-half / hparams.head_dim)
    angle = torch.arange(hparams.n_ctx_train, dtype=torch.float64, device=device)[:, None] * freq
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rotates pairs `2i, 2i + 1` of `x`, `[batch, n_head, n_tokens, head_dim]`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Layer(nn.Module):
    """One transformer block, its matrices named as in GGUF."""

    def __init__(self, hparams: Hparams, dropout: float):
        super().__init__()
        h = self.hparams = hparams
        self.dropout = dropout
        self.attn_norm = RmsNorm(h.n_embd, h.rms_eps)
        self.attn_q = nn.Linear(h.n_embd, h.n_head * h.head_dim, bias=False)
        self.attn_k = nn.Linear(h.n_embd, h.n_head_kv * h.head_dim, bias=False)
        self.attn_v = nn.Linear(h.n_embd, h.n_head_kv * h.head_dim, bias=False)
        self.attn_output = nn.Linear(h.n_head * h.head_dim, h.n_embd, bias=False)
        self.ffn_norm = RmsNorm(h.n_embd, h.rms_eps)
        self.ffn_gate = nn.Linear(h.n_embd, h.n_ff, bias=False)
        self.ffn_up = nn.Linear(h.n_embd, h.n_ff, bias=False)
        self.ffn_down = nn.Linear(h.n_ff, h.n_embd, bias=False)

    def forward(self, x, cos, sin):
        h = self.hparams
        batch, n_tokens, _ = x.shape
        y = self.attn_norm(x)
        q = self.attn_q(y).view(batch, n_tokens, h.n_head, h.head_dim).transpose(1, 2)
        k = self.attn_k(y).view(batch, n_tokens, h.n_head_kv, h.head_dim).transpose(1, 2)
        v = self.attn_v(y).view(batch, n_tokens, h.n_head_kv, h.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = h.n_head // h.n_head_kv
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.attn_output(y.transpose(1, 2).reshape(batch, n_tokens, -1))
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.ffn_norm(x)
        y = self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))
        return x + F.dropout(y, self.dropout, self.training)


class Model(nn.Module):
    """The whole network; `forward` gives the final hidden state, `logits` the scores of chosen rows."""

    def __init__(self, hparams: Hparams, dropout: float = 0.0):
        super().__init__()
        self.hparams = hparams
        self.dropout = dropout
        self.token_embd = nn.Embedding(hparams.n_vocab, hparams.n_embd)
        self.blk = nn.ModuleList(Layer(hparams, dropout) for _ in range(hparams.n_layer))
        self.output_norm = RmsNorm(hparams.n_embd, hparams.rms_eps)
        cos, sin = rope_table(hparams)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        residual_std = 0.02 / (2 * hparams.n_layer) ** 0.5
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                is_residual = "attn_output" in name or "ffn_down" in name
                nn.init.normal_(weight, std=residual_std if is_residual else 0.02)

    def forward(self, ids):
        """Maps ids `[batch, n_tokens]` to hidden states `[batch, n_tokens, n_embd]`."""
        n_tokens = ids.shape[1]
        cos, sin = self.cos[:n_tokens], self.sin[:n_tokens]
        x = F.dropout(self.token_embd(ids), self.dropout, self.training)
        for layer in self.blk:
            x = layer(x, cos, sin)
        return self.output_norm(x)

    def logits(self, hidden):
        """Scores the vocabulary for hidden states `[n, n_embd]`; the head is the embedding."""
        return F.linear(hidden, self.token_embd.weight.to(hidden.dtype))
