//! One timeline of tokens on one shard, with the keys and values that its layers computed for them.

use std::fmt;
use std::sync::Arc;

use shoal_proto::{LayerRange, TokenId};

use crate::{Error, Model, Shard};

/// The tokens of a conversation and the KV cache of a shard's layers for them.
///
/// Whether a sequence was computed at once, in pieces, or rebuilt after a loss makes no difference to a bit of
/// what it holds: [`sync`](Self::sync) is all that reuse and recovery need.
pub struct Sequence {
    pub(crate) model: Arc<Model>,
    pub(crate) layers: LayerRange,
    pub(crate) n_ctx: usize,
    /// Tokens whose keys and values are in the caches. Positions beyond them hold leftovers that nothing reads.
    pub(crate) tokens: Vec<TokenId>,
    /// One cache per layer.
    pub(crate) caches: Vec<KvCache>,
}

/// Keys and values of one layer in f16, `[n_head_kv, n_ctx, head_dim]` each.
///
/// Allocated as zeroed memory, whose pages the system provides when they are first written: a long context
/// costs nothing before it is used.
pub(crate) struct KvCache {
    pub(crate) k: Vec<u16>,
    pub(crate) v: Vec<u16>,
}

impl Sequence {
    /// Makes an empty sequence for a shard.
    ///
    /// - `n_ctx`: the most tokens that it can hold. For a model with two sets of rotation factors this decides
    ///   which apply, so all shards of a model must be given the same.
    ///
    /// # Errors
    /// If `n_ctx` is zero or beyond the context that the model was trained with, or the system refuses the memory.
    pub fn new(shard: &Shard, n_ctx: usize) -> Result<Self, Error> {
        let (model, layers) = (Arc::clone(shard.model()), shard.layers());
        let hparams = model.hparams();
        let n_ctx_train = hparams.n_ctx_train;
        if n_ctx == 0 || n_ctx > n_ctx_train as usize {
            return Err(Error::Context { n_ctx, n_ctx_train });
        }
        let len = n_ctx.saturating_mul(hparams.n_embd_kv());
        let caches = layers
            .iter()
            .map(|_| Ok(KvCache { k: zeroed(len)?, v: zeroed(len)? }))
            .collect::<Result<_, Error>>()?;
        Ok(Self { model, layers, n_ctx, tokens: Vec::new(), caches })
    }

    /// The tokens that are computed.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The most tokens that it can hold.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Keeps the longest beginning that `prefix` shares and forgets the rest; returns how many tokens remain. The
    /// caller computes `prefix[n..]`.
    ///
    /// If all of `prefix` remains there is nothing to compute and no logits come of it: who wants those of its
    /// last token [truncates](Self::truncate) by one.
    pub fn sync(&mut self, prefix: &[TokenId]) -> usize {
        let n_shared =
            self.tokens.iter().zip(prefix).take_while(|(ours, theirs)| ours == theirs).count();
        self.truncate(n_shared);
        n_shared
    }

    /// Forgets all but the first `n` tokens.
    pub fn truncate(&mut self, n: usize) {
        self.tokens.truncate(n);
    }
}

/// Zeroed memory that no page backs before it is written.
fn zeroed(len: usize) -> Result<Vec<u16>, Error> {
    // `vec!` is the only lazily zeroed allocation, and it ends the process where there is no memory. So ask first.
    let asked = Vec::<u16>::new().try_reserve_exact(len);
    asked.map_err(|_| Error::OutOfMemory { n_bytes: 2 * len as u64 })?;
    Ok(vec![0; len])
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequence")
            .field("layers", &self.layers)
            .field("n_ctx", &self.n_ctx)
            .field("n_tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

impl KvCache {
    /// Writes the keys or values of consecutive positions.
    ///
    /// - `cache`: `[n_head_kv, n_ctx, head_dim]`
    /// - `rows`: `[n_tokens, n_head_kv, head_dim]`
    pub(crate) fn write(
        cache: &mut [u16],
        rows: &[u16],
        position: usize,
        n_ctx: usize,
        head_dim: usize,
    ) {
        let n_head_kv = cache.len() / (n_ctx * head_dim);
        for (token_idx, row) in rows.chunks_exact(n_head_kv * head_dim).enumerate() {
            for (head_idx, head) in row.chunks_exact(head_dim).enumerate() {
                let at = (head_idx * n_ctx + position + token_idx) * head_dim;
                cache[at..at + head_dim].copy_from_slice(head);
            }
        }
    }
}
