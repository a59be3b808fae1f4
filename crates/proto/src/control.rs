//! The control plane: what nodes tell each other about themselves and about the instances they share.
//!
//! Every message is a version byte and postcard. A message of another version is refused by name, so that two versions of
//! Shoal in one home say what is wrong instead of misreading each other.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ChunkSet, Epoch, InstanceId, LayerRange, NodeId,
    chat::{ChatRequest, ChatResponse},
    model::{FileId, ModelFiles},
    roll::Roll,
};

/// Version of every control message. Raise it on any change to a type of this module.
pub const VERSION: u8 = 6;
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
    /// Which life of the node this is: drawn at random when its process starts. One id with two lives at once is a copied
    /// data directory.
    pub run: u64,
    /// Where it can be dialled.
    pub addrs: Vec<SocketAddr>,
    /// Version of its software.
    pub software: String,
    /// The instruction set that its kernels use, for people.
    pub isa: String,
    /// What its maker calls the device, for people; empty if that is not known.
    pub device: String,
    /// Memory that it gives to models altogether, in bytes: what is free, and what its stages hold.
    pub memory_bytes: u64,
    /// How fast it computes; `None` until it has measured itself.
    pub profile: Option<Profile>,
    /// The models on its disk.
    pub models: Vec<HeldModel>,
    /// The stages that it runs.
    pub stages: Vec<StageRecord>,
    /// Its links to its peers.
    pub links: Vec<LinkRecord>,
    /// Why it gives its layers away, if it does: no plan gives it any.
    pub draining: Option<DrainCause>,
}

/// Why a node gives its layers away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainCause {
    /// Somebody asked for it.
    Asked,
    /// Its process was told to end.
    Ending,
    /// It is too hot to go on at its speed.
    Hot,
    /// Its battery is nearly empty and it is not plugged in.
    LowBattery,
    /// Its system is about to kill processes for their memory.
    LowMemory,
}

impl DrainCause {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Ending => "ending",
            Self::Hot => "hot",
            Self::LowBattery => "low_battery",
            Self::LowMemory => "low_memory",
        }
    }

    /// What people read, after the node's name.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Asked => "is drained",
            Self::Ending => "is ending",
            Self::Hot => "is too hot",
            Self::LowBattery => "is low on battery",
            Self::LowMemory => "is short of memory",
        }
    }

    /// Whether the node takes no layers even if nobody else can.
    pub fn is_firm(self) -> bool {
        matches!(self, Self::Asked | Self::Ending)
    }
}

impl NodeRecord {
    /// Returns the record of a node of which nothing is known yet: any that it publishes itself is newer.
    pub fn unknown(id: NodeId) -> Self {
        Self {
            id,
            version: 0,
            name: String::new(),
            run: 0,
            addrs: Vec::new(),
            software: String::new(),
            isa: String::new(),
            device: String::new(),
            memory_bytes: 0,
            profile: None,
            models: Vec::new(),
            stages: Vec::new(),
            links: Vec::new(),
            draining: None,
        }
    }
}

/// How fast a node computes, measured on its own kernels and corrected by what its stages take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Bytes of four-bit weights that decoding reads and multiplies per second.
    pub decode_bytes_per_s: u64,
    /// Multiply-accumulates per second with many rows at once.
    pub prefill_macs_per_s: u64,
    /// Fixed cost of one step at a stage, in microseconds.
    pub step_us: u32,
}

/// A model on a node's disk, whole or in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldModel {
    /// Its name, as in [`ModelRef::name`].
    pub name: String,
    /// Whether all of it is there.
    pub is_whole: bool,
    /// The layers of which every byte is there.
    pub layers: Vec<LayerRange>,
}

/// How a node feels, told with every heartbeat. What the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Share of its processors that is busy, in percent.
    pub load_percent: Option<u8>,
    /// Memory that it could still give to models without the system killing it, in bytes.
    pub free_bytes: u64,
    /// The warmest of its processor's sensors, in tenths of a degree Celsius.
    pub temperature_dc: Option<i16>,
    /// Its battery.
    pub battery: Option<Battery>,
    /// Answers that it drives.
    pub n_requests: u16,
}

/// A battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Battery {
    /// Its charge, 0 to 100.
    pub percent: u8,
    /// Whether it is plugged in.
    pub is_charging: bool,
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
    /// Memory that it may take, in bytes: weights, and the KV cache of one full sequence.
    pub n_bytes: u64,
}

/// A node's link to another one, as it measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The other node.
    pub node: NodeId,
    /// Round-trip time in microseconds.
    pub rtt_us: u32,
    /// Bytes per second; 0 if not measured yet.
    pub bytes_per_s: u64,
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

/// A placed model. Its coordinator raises the epoch on every change of placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its identity.
    pub id: InstanceId,
    /// The placement's version.
    pub epoch: Epoch,
    /// How far it has come under this epoch. Within one epoch the later phase is the newer record.
    pub phase: Phase,
    /// What it runs.
    pub model: ModelRef,
    /// Where it runs.
    pub placement: Placement,
    /// Positions that every sequence may use.
    pub n_ctx: u32,
    /// Seconds without a request after which it is dropped; `None` for one that somebody placed by hand, which stays.
    pub unload_after_s: Option<u32>,
}

/// How far an instance has come. Ordered: within an epoch it only moves on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Chosen, and nothing done yet.
    Placing,
    /// A stage is lost: another node takes its layers.
    Healing,
    /// Its nodes get the bytes of their layers.
    Fetching,
    /// Its nodes load their layers.
    Loading,
    /// It answers.
    Ready,
    /// It cannot run, and why.
    Failed(String),
    /// It was given up on purpose. The record stays for a while, so that no sleeper brings the instance back.
    Dropped,
}

impl Phase {
    /// The word that people and the API see.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Placing => "placing",
            Self::Healing => "healing",
            Self::Fetching => "fetching",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Dropped => "dropped",
        }
    }
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
        /// Instances that it knows.
        instances: Vec<InstanceRecord>,
    },
    /// "I am alive", once a second.
    Heartbeat {
        /// Version of the sender's record; the receiver asks for the record if it knows only an older one.
        record_version: u64,
        /// Digest of the instances that the sender knows; the receiver asks for them if it knows others.
        instances: u64,
        /// The highest epoch among them.
        epoch: Epoch,
        /// How the sender feels.
        vitals: Vitals,
    },
    /// "This is who belongs to the cluster, as far as I know." Answered with the same.
    Roll(Roll),
    /// "I leave the cluster for good."
    Leave,
    /// "Send this back": measures the link.
    Echo {
        /// Any bytes, at most [`ECHO_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// "This is how far the instance has come", from its coordinator.
    Progress {
        /// The instance.
        instance: InstanceId,
        /// The placement's version.
        epoch: Epoch,
        /// Bytes that its nodes have.
        n_bytes: u64,
        /// Bytes that they need.
        n_total: u64,
    },
    /// "The runner of my stage died", to the instance's coordinator: the node itself is well.
    StageLost {
        /// The instance.
        instance: InstanceId,
        /// The placement's version.
        epoch: Epoch,
        /// Why, for people.
        message: String,
    },
    /// "This node may have died: see for yourself."
    Doubt {
        /// The node.
        node: NodeId,
    },
    /// "Connect to me": the sender's transport keeps to a way to the receiver that is dead.
    Dial,
    /// "Load your stage of this instance."
    Load {
        /// The instance; its placement names the receiver.
        instance: InstanceRecord,
        /// The nodes of its stages, so that each can reach the next.
        peers: Vec<NodeRecord>,
    },
    /// "This is the instance now." Who runs a stage of an older epoch, or of one that was dropped, ends it.
    Publish {
        /// The instance.
        instance: InstanceRecord,
        /// The nodes of its stages, so that a driver can reach the first.
        peers: Vec<NodeRecord>,
        /// Why its nodes have changed, for people; `None` if they have not.
        why: Option<String>,
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
    /// "Give your layers away", or "you may have layers again".
    Drain {
        /// Whether it is taken back.
        is_undone: bool,
    },
    /// "You may have to run these layers soon: see that their bytes are in memory." Answered at once.
    Warm {
        /// The model.
        model: ModelRef,
        /// The layers.
        layers: LayerRange,
    },
    /// "This is what the stages take for a token, and some take much longer than planned", from a driver to the instance's
    /// coordinator.
    Slow {
        /// The instance.
        instance: InstanceId,
        /// The placement's version.
        epoch: Epoch,
        /// Microseconds that each stage computes for a token, in their order.
        compute_us: Vec<u32>,
    },
    /// About the chats that the cluster keeps.
    Chats(ChatRequest),
}

/// Most bytes of an [`Request::Echo`].
pub const ECHO_BYTES_MAX: usize = 256 * 1024;

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
        record: Box<NodeRecord>,
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
    /// To [`Request::Roll`].
    Roll(Roll),
    /// To [`Request::Echo`].
    Echo {
        /// The bytes that came.
        bytes: Vec<u8>,
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
    /// To [`Request::Chats`].
    Chats(ChatResponse),
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
    fn the_bytes_of_a_progress_are_frozen() {
        let (instance, epoch) = (InstanceId(300), Epoch(2));
        let request = Request::Progress { instance, epoch, n_bytes: 1, n_total: 128 };
        assert_eq!(encode(&request), [VERSION, 5, 0xac, 2, 2, 1, 0x80, 1]);
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
