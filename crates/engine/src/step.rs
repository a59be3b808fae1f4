//! One step of a shard under way: the rows of all segments, and the operations that layers are composed of.
//!
//! Rows of all segments lie one after another. Every operation but attention treats them alike; attention
//! looks at each segment's own cache. Since no row's result depends on another segment's, batches change no bit.

use shoal_gguf::Gguf;
use shoal_kernels::{Activations, AttentionJob, AttentionShape, Compute, MatmulJob, RopeKind};

use crate::rope::Rope;
use crate::sequence::KvCache;
use crate::weights::{HeadNorms, Linear, Vector, Weight};
use crate::{Hparams, Model, Segment};

/// What is reused from step to step. In the shapes, `n_tokens` counts the rows of all segments.
#[derive(Default)]
pub(crate) struct Buffers {
    /// The residual stream, `[n_tokens, n_embd]`.
    pub(crate) x: Vec<f32>,
    /// A branch off it: its norm, later what is added to it. `[n_tokens, n_embd]`
    branch: Vec<f32>,
    /// Queries, `[n_tokens, n_head, head_dim]`.
    q: Vec<f32>,
    /// Keys, `[n_tokens, n_head_kv, head_dim]`.
    k: Vec<f32>,
    /// Values, `[n_tokens, n_head_kv, head_dim]`.
    v: Vec<f32>,
    /// Keys or values as f16, on their way into the caches.
    half: Vec<u16>,
    /// What attention gathers, `[n_tokens, n_head, head_dim]`.
    gathered: Vec<f32>,
    /// `[n_tokens, n_ff]`
    gate: Vec<f32>,
    /// `[n_tokens, n_ff]`
    up: Vec<f32>,
    /// Cosines and sines of the rows' positions, `[n_tokens, n_rot / 2, 2]`.
    cos_sin: Vec<f32>,
    /// `[n_wanted, n_vocab]`
    pub(crate) logits: Vec<f32>,
    /// What is multiplied with matrices, quantised.
    activations: Activations,
}

/// A step under way.
pub(crate) struct Step<'s, 'a> {
    compute: &'s Compute,
    gguf: &'s Gguf,
    hparams: &'s Hparams,
    segments: &'s mut [Segment<'a>],
    buffers: &'s mut Buffers,
    /// Rows of the residual stream.
    n_tokens: usize,
    /// Which of the shard's layers is being computed.
    layer_idx: usize,
}

impl<'s, 'a> Step<'s, 'a> {
    /// Prepares a step: angles of all rows, an empty residual stream.
    pub(crate) fn new(
        compute: &'s Compute,
        model: &'s Model,
        rope: &Rope,
        segments: &'s mut [Segment<'a>],
        buffers: &'s mut Buffers,
    ) -> Self {
        buffers.cos_sin.clear();
        buffers.x.clear();
        buffers.logits.clear();
        let mut n_tokens = 0;
        for segment in &*segments {
            let (position, n_ctx) = (segment.sequence.tokens.len(), segment.sequence.n_ctx);
            rope.push(position, segment.tokens.len(), n_ctx, &mut buffers.cos_sin);
            n_tokens += segment.tokens.len();
        }
        let (gguf, hparams) = (model.gguf(), model.hparams());
        Self { compute, gguf, hparams, segments, buffers, n_tokens, layer_idx: 0 }
    }

    /// Fills the residual stream with the tokens' embeddings.
    pub(crate) fn embed(&mut self, token_embd: &Weight) {
        let (n_embd, table) = (self.hparams.n_embd, token_embd.matrix(self.gguf));
        self.buffers.x.resize(self.n_tokens * n_embd, 0.0);
        let tokens = self.segments.iter().flat_map(|segment| segment.tokens);
        for (&token, row) in tokens.zip(self.buffers.x.chunks_exact_mut(n_embd)) {
            self.compute.dequantize_row(&table, token as usize, row);
        }
    }

    /// Fills the residual stream with what the shard before this one computed.
    pub(crate) fn take_activations(&mut self) {
        for segment in &*self.segments {
            self.buffers.x.extend_from_slice(segment.activations);
        }
    }

    /// Says which of the shard's layers comes.
    pub(crate) fn enter_layer(&mut self, layer_idx: usize) {
        self.layer_idx = layer_idx;
    }

    /// Normalises the residual stream into the branch.
    pub(crate) fn norm(&mut self, weight: &Vector) {
        let Buffers { x, branch, .. } = &mut *self.buffers;
        branch.resize(x.len(), 0.0);
        self.compute.rms_norm(x, weight.values(self.gguf), self.hparams.norm_eps, branch);
    }

    /// Computes queries, keys and values of the branch.
    pub(crate) fn project_qkv(&mut self, q: &Linear, k: &Linear, v: &Linear) {
        let Buffers { branch, q: q_out, k: k_out, v: v_out, activations, .. } = &mut *self.buffers;
        let weights = [&q.weight, &k.weight, &v.weight];
        let outs = [&mut *q_out, &mut *k_out, &mut *v_out];
        project(self.compute, self.gguf, activations, branch, weights, outs);
        for (linear, out) in [(q, q_out), (k, k_out), (v, v_out)] {
            if let Some(bias) = &linear.bias {
                self.compute.add_bias(out, bias.values(self.gguf));
            }
        }
    }

    /// Normalises each head's query and key.
    pub(crate) fn norm_heads(&mut self, norms: &HeadNorms) {
        let Buffers { q, k, branch, .. } = &mut *self.buffers;
        for (rows, weight) in [(q, &norms.q), (k, &norms.k)] {
            // The branch has served: what is added to the residual stream comes later.
            branch.resize(rows.len(), 0.0);
            self.compute.rms_norm(rows, weight.values(self.gguf), self.hparams.norm_eps, branch);
            std::mem::swap(rows, branch);
        }
    }

    /// Rotates queries and keys by their positions.
    pub(crate) fn rotate(&mut self, kind: RopeKind) {
        let Hparams { n_head, n_head_kv, head_dim, rope, .. } = self.hparams;
        let Buffers { q, k, cos_sin, .. } = &mut *self.buffers;
        self.compute.rope(q, *n_head, *head_dim, rope.n_rot, cos_sin, kind);
        self.compute.rope(k, *n_head_kv, *head_dim, rope.n_rot, cos_sin, kind);
    }

    /// Writes keys and values into the segments' caches, behind the tokens that they hold.
    pub(crate) fn store_kv(&mut self) {
        let (n_embd_kv, head_dim) = (self.hparams.n_embd_kv(), self.hparams.head_dim);
        let Buffers { k, v, half, .. } = &mut *self.buffers;
        half.resize(k.len(), 0);
        for (rows, is_key) in [(k, true), (v, false)] {
            self.compute.to_f16(rows, half);
            let mut rows = half.as_slice();
            for segment in &mut *self.segments {
                let (own, rest) = rows.split_at(segment.tokens.len() * n_embd_kv);
                let sequence = &mut *segment.sequence;
                let cache = &mut sequence.caches[self.layer_idx];
                let cache = if is_key { &mut cache.k } else { &mut cache.v };
                KvCache::write(cache, own, sequence.tokens.len(), sequence.n_ctx, head_dim);
                rows = rest;
            }
        }
    }

    /// Gathers values for the queries: causal attention of each segment to its own cache.
    pub(crate) fn attend(&mut self) {
        let n_embd_q = self.hparams.n_embd_q();
        let Buffers { q, gathered, .. } = &mut *self.buffers;
        gathered.resize(q.len(), 0.0);
        let (mut q, mut out) = (q.as_slice(), gathered.as_mut_slice());
        let mut jobs = Vec::with_capacity(self.segments.len());
        for segment in &*self.segments {
            let n = segment.tokens.len() * n_embd_q;
            let (own_q, own_out);
            (own_q, q) = q.split_at(n);
            (own_out, out) = out.split_at_mut(n);
            let cache = &segment.sequence.caches[self.layer_idx];
            jobs.push(AttentionJob {
                q: own_q,
                k: &cache.k,
                v: &cache.v,
                n_ctx: segment.sequence.n_ctx,
                position: segment.sequence.tokens.len(),
                out: own_out,
            });
        }
        let Hparams { n_head, n_head_kv, head_dim, window, .. } = *self.hparams;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { n_head, n_head_kv, head_dim, scale, window };
        self.compute.attention(&mut jobs, &shape);
    }

    /// Adds the projection of what attention gathered to the residual stream.
    pub(crate) fn add_attn_output(&mut self, weight: &Weight) {
        let Buffers { gathered, branch, activations, .. } = &mut *self.buffers;
        project(self.compute, self.gguf, activations, gathered, [weight], [&mut *branch]);
        self.add_branch();
    }

    /// Computes both halves of a gated feed-forward network of the branch.
    pub(crate) fn project_gate_up(&mut self, gate: &Weight, up: &Weight) {
        let Buffers { branch, gate: gate_out, up: up_out, activations, .. } = &mut *self.buffers;
        let outs = [gate_out, up_out];
        project(self.compute, self.gguf, activations, branch, [gate, up], outs);
    }

    /// Gates: `gate = silu(gate) * up`.
    pub(crate) fn gate(&mut self) {
        let Buffers { gate, up, .. } = &mut *self.buffers;
        self.compute.silu_mul(gate, up);
    }

    /// Adds the projection of the gated network to the residual stream.
    pub(crate) fn add_ffn_down(&mut self, weight: &Weight) {
        let Buffers { gate, branch, activations, .. } = &mut *self.buffers;
        project(self.compute, self.gguf, activations, gate, [weight], [&mut *branch]);
        self.add_branch();
    }

    /// Drops all rows of the residual stream but those of `rows`, which ascend. What follows must not attend.
    pub(crate) fn keep_rows(&mut self, rows: &[usize]) {
        let (n_embd, x) = (self.hparams.n_embd, &mut self.buffers.x);
        for (to, &from) in rows.iter().enumerate() {
            x.copy_within(from * n_embd..(from + 1) * n_embd, to * n_embd);
        }
        x.truncate(rows.len() * n_embd);
        self.n_tokens = rows.len();
    }

    /// Computes the logits of all rows that are left.
    pub(crate) fn head(&mut self, output_norm: &Vector, output: &Weight) {
        self.norm(output_norm);
        let Buffers { branch, logits, activations, .. } = &mut *self.buffers;
        project(self.compute, self.gguf, activations, branch, [output], [logits]);
    }

    fn add_branch(&mut self) {
        let Buffers { x, branch, .. } = &mut *self.buffers;
        self.compute.add(x, branch);
    }
}

/// Multiplies the same rows with one or several matrices, in one dispatch.
///
/// - `rows`: `[n_tokens, n_cols]`, `weights[i]`: `[n_rows, n_cols]`, `outs[i]`: becomes `[n_tokens, n_rows]`
fn project<const N: usize>(
    compute: &Compute,
    gguf: &Gguf,
    activations: &mut Activations,
    rows: &[f32],
    weights: [&Weight; N],
    outs: [&mut Vec<f32>; N],
) {
    let n_cols = weights[0].n_cols();
    let n_tokens = rows.len() / n_cols;
    let types = weights.map(|weight| weight.weight_type().activation());
    compute.quantize(activations, rows, n_cols, &types);
    let mut weights = weights.into_iter();
    let mut jobs = outs.map(|out| {
        let weight = weights.next().expect("as many outputs as weights");
        out.resize(n_tokens * weight.n_rows(), 0.0);
        MatmulJob { w: weight.matrix(gguf), out }
    });
    compute.matmul_many(&mut jobs, activations);
}
