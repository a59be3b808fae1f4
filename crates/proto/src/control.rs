//! The control plane: what nodes tell each other about themselves and about the instances they share.
//!
//! Every message is a version byte and postcard. A message of another version is refused by name, so that two versions of
//! Shoal in one home say what is wrong instead of misreading each other.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ChunkSet, Epoch, InstanceId, LayerRange, NodeId,
    model::{FileId, ModelFiles},
};

/// Version of every control message. Raise it on any change to a type of this module.
pub const VERSION: u8 = 2;
/// Largest control message in bytes: records of some hundred nodes fit.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// What a node publishes about itself. Only the node itself writes it; the highest `version` wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Whose record this is.
    pub id: NodeId,
    /// Grows with every change; starts at the node's start time in milliseconds, so that a restart outranks the past.
    pub version: u64,
    /// The name that its owner gave it.
    pub name: String,
    /// Where it can be dialled.
    pub addrs: Vec<SocketAddr>,
    /// Version of its software.
    pub software: String,
    /// The instruction set that its kernels use, for people.
    pub isa: String,
    /// Memory that it would give to models, in bytes.
    pub memory_bytes: u64,
    /// The stages that it runs.
    pub stages: Vec<StageRecord>,
}

/// One shard that a node holds ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The instance that it belongs to.
    pub instance: InstanceId,
    /// The placement's version.
    pub epoch: Epoch,
    /// Its layers.
    pub layers: LayerRange,
}

/// A model, named so that another node finds the same bytes on its own disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// `demo`, the name of a model in the store, or a path.
    pub name: String,
    /// How another node can get its files; `None` for `demo` and for a path, which every node must have itself.
    pub files: Option<ModelFiles>,
    /// BLAKE3 of the GGUF's header, metadata and tensor directory, and of the file's size.
    pub fingerprint: [u8; 32],
    /// Number of its layers.
    pub n_layer: u32,
}

/// Which node runs which layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The node.
    pub node: NodeId,
    /// Its layers.
    pub layers: LayerRange,
}

/// The stages of an instance in the order in which activations pass them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// At least one; consecutive from layer 0 to the last.
    pub stages: Vec<Stage>,
}

impl Placement {
    /// Whether the stages cover the layers `0..n_layer` without gap or overlap.
    pub fn covers(&self, n_layer: u32) -> bool {
        let end = self
            .stages
            .iter()
            .try_fold(0, |end, stage| (stage.layers.start() == end).then_some(stage.layers.end()));
        end == Some(n_layer)
    }
}

/// A placed model. Whoever owns it raises the epoch on every change of placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its identity.
    pub id: InstanceId,
    /// The placement's version.
    pub epoch: Epoch,
    /// What it runs.
    pub model: ModelRef,
    /// Where it runs.
    pub placement: Placement,
    /// Positions that every sequence may use.
    pub n_ctx: u32,
}

/// A question of one node to another; each has exactly one [`Response`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// "Here I am": the sender's record, and the records of the peers that it knows.
    Hello {
        /// The sender's record.
        record: NodeRecord,
        /// Peers that it knows.
        peers: Vec<NodeRecord>,
    },
    /// "I am alive", once a second.
    Heartbeat {
        /// Version of the sender's record; the receiver asks for the record if it knows only an older one.
        record_version: u64,
    },
    /// "Load your stage of this instance."
    Load {
        /// The instance; its placement names the receiver.
        instance: InstanceRecord,
        /// The nodes of its stages, so that each can reach the next.
        peers: Vec<NodeRecord>,
    },
    /// "This instance is ready; requests for its model may use it."
    Publish {
        /// The instance.
        instance: InstanceRecord,
        /// The nodes of its stages, so that a driver can reach the first.
        peers: Vec<NodeRecord>,
    },
    /// "Drop your stage of this instance, and forget it."
    Unload {
        /// The instance.
        instance: InstanceId,
        /// Up to this epoch.
        epoch: Epoch,
    },
    /// "See that you have what your stage of this model needs." Answered at once: the sender asks again until it is there.
    Obtain {
        /// The model.
        model: ModelFiles,
        /// The layers that are needed; `None` for the header alone.
        layers: Option<LayerRange>,
    },
    /// "Do you have a model of this name, or know its files?"
    FindModel {
        /// Its name.
        name: String,
    },
    /// "Which chunks of this file do you hold? I hold these."
    Holding {
        /// The file.
        file: FileId,
        /// The sender's side, so that both share out what neither has.
        own: Holding,
    },
    /// "What are the hashes of these chunks?"
    Hashes {
        /// The file.
        file: FileId,
        /// The first chunk.
        first: u32,
        /// How many; at most [`HASHES_MAX`].
        count: u32,
    },
}

/// Most hashes of one answer, so that it fits a message.
pub const HASHES_MAX: u32 = 16 * 1024;

/// What a node holds of a file, and what it is doing about the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The chunks that it can give.
    pub held: ChunkSet,
    /// The chunks that it still wants for itself; empty unless it is downloading.
    pub wanted: ChunkSet,
    /// Those of them that it is fetching from outside the cluster at this moment.
    pub fetching: ChunkSet,
    /// Bytes that it has fetched from outside since it began: a peer whose count stands still is not waited for.
    pub n_fetched: u64,
    /// Whether it has checked the whole file against its SHA-256, so that its hashes can be relied upon.
    pub is_verified: bool,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Hello`]: the same from the other side, and the instances that it knows.
    Hello {
        /// The answerer's record.
        record: NodeRecord,
        /// Peers that it knows.
        peers: Vec<NodeRecord>,
        /// Instances that it knows.
        instances: Vec<InstanceRecord>,
    },
    /// Done.
    Ok,
    /// To [`Request::Heartbeat`]: send me your record with a `Hello`.
    SendRecord,
    /// To [`Request::Obtain`]: under way.
    Obtaining {
        /// Bytes that are there.
        n_bytes: u64,
        /// Bytes that are needed.
        n_total: u64,
    },
    /// To [`Request::FindModel`].
    Model(Option<ModelFiles>),
    /// To [`Request::Holding`].
    Holding(Holding),
    /// To [`Request::Hashes`]: BLAKE3 of each chunk asked for, as far as the node holds all of them.
    Hashes(Vec<[u8; 32]>),
    /// Not done, and why, for the user.
    Refused {
        /// What was wrong.
        message: String,
    },
}

/// A request of the transfer plane: consecutive chunks of a file. The answer is one byte, [`TRANSFER_FOLLOWS`] and then the
/// BLAKE3 hashes of the chunks as the giver knows them (32 bytes each) and their bytes, or [`TRANSFER_REFUSED`] and a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// The file.
    pub file: FileId,
    /// The first chunk.
    pub first: u32,
    /// How many; at most [`TRANSFER_CHUNKS_MAX`].
    pub count: u32,
}

/// Most chunks of one transfer: 16 MiB.
pub const TRANSFER_CHUNKS_MAX: u32 = 64;
/// First byte of a transfer.
pub const TRANSFER_FOLLOWS: u8 = 0;
/// First byte of a refusal; the rest is text.
pub const TRANSFER_REFUSED: u8 = 1;

/// A control message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The other node runs another version of Shoal.
    #[error(
        "control message version: expected {VERSION}, got {got}: update the older of the two nodes"
    )]
    Version {
        /// The version that came.
        got: u8,
    },
    /// Nothing came.
    #[error("control message: expected a version byte and a message, got 0 bytes")]
    Empty,
    /// Bytes that are no message.
    #[error("control message of {bytes} bytes does not decode: {reason}")]
    Malformed {
        /// Length of the message.
        bytes: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// Encodes a message: the version byte, then postcard.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("records are plain data and always encode")
}

/// Decodes a message of this version.
///
/// # Errors
/// If it is of another version, does not decode, or has bytes left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ControlError> {
    let (&version, body) = bytes.split_first().ok_or(ControlError::Empty)?;
    if version != VERSION {
        return Err(ControlError::Version { got: version });
    }
    let malformed = |reason: String| ControlError::Malformed { bytes: bytes.len(), reason };
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(malformed(format!("{} bytes left over", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage(node: u8, start: u32, end: u32) -> Stage {
        let layers = LayerRange::new(start, end).expect("not empty");
        Stage { node: NodeId([node; 32]), layers }
    }

    #[test]
    fn the_bytes_of_an_unload_are_frozen() {
        let request = Request::Unload { instance: InstanceId(300), epoch: Epoch(2) };
        assert_eq!(encode(&request), [VERSION, 4, 0xac, 2, 2]);
    }

    #[test]
    fn a_placement_with_a_gap_does_not_cover_the_model() {
        let whole = Placement { stages: vec![stage(1, 0, 2), stage(2, 2, 6)] };
        assert!(whole.covers(6) && !whole.covers(7));
        assert!(!Placement { stages: vec![stage(1, 0, 2), stage(2, 3, 6)] }.covers(6));
        assert!(!Placement { stages: vec![] }.covers(6));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&Response::Ok);
        bytes[0] = VERSION + 1;
        assert_eq!(decode::<Response>(&bytes), Err(ControlError::Version { got: VERSION + 1 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }
}
