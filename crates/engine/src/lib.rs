//! The engine: token ids in, logits out, for any range of a model's layers.
//!
//! - [`Model`]: a GGUF whose hyper-parameters and tensors have been checked. No weight is read.
//! - [`Shard`]: some of its layers, ready to compute a step. The first embeds tokens, the last has the head.
//! - [`Sequence`]: one timeline of tokens on one shard, with its KV cache.
//! - [`sample`]: logits to a token, without state.
//!
//! A step carries [`Segment`]s of any number of sequences. A pipeline passes the activations that one shard
//! gives to the next:
//!
//! ```text
//! tokens ─► Shard 0..4 ─ [n_tokens, n_embd] ─► Shard 4..8 ─ [n_wanted, n_vocab] ─► sample
//! ```
//!
//! Invariants:
//! - The same tokens give the same bits, whatever the split into shards, the batch, the chunks, the number of
//!   threads and the instruction set. Nothing here uses the platform's transcendental functions, which differ.
//! - A step that fails leaves its sequences as they were.
//! - Bytes of a file never panic and allocate nothing beyond what the file's length justifies.
//! - No network, no clock but that of [`calibrate`], no async, and no thread but those of [`Compute`].

mod arch;
mod calibrate;
mod error;
mod evaluate;
mod hparams;
mod model;
mod philox;
mod rope;
mod sampler;
mod sequence;
mod shard;
mod step;
mod weights;

pub use arch::architectures;
pub use calibrate::{Rates, TRIAL_BYTES_MIN, calibrate};
pub use error::Error;
pub use evaluate::evaluate;
pub use hparams::{Hparams, RopeHparams};
pub use model::{Model, Part, Shape};
pub use sampler::sample;
pub use sequence::Sequence;
pub use shard::{Output, Segment, Shard};
pub use shoal_kernels::{Compute, Isa, Progress};
pub use weights::supports_type;
