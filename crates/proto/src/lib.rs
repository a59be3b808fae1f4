//! The vocabulary that every part of Shoal shares: identifiers, layer ranges, sampling parameters, the records and
//! control messages of the cluster, the frames of the data plane, and how each is encoded.
//!
//! Control messages are postcard with a version byte ([`control`]); data frames are a fixed little-endian header and raw
//! payload ([`frame`]). Nothing here performs I/O.

pub mod chat;
mod chunks;
pub mod control;
pub mod frame;
mod id;
mod layers;
pub mod model;
pub mod roll;
mod sampling;
pub mod stored;

pub use chunks::ChunkSet;
pub use id::{Epoch, InstanceId, NodeId, ParseNodeIdError, SequenceId};
pub use layers::{LayerRange, LayerRangeError};
pub use sampling::{BIASES_MAX, BREAKERS_MAX, Dry, Sampler, SamplingError, SamplingParams};

/// Index of a token in a model's vocabulary.
pub type TokenId = u32;
