//! What a node and the process of a runner say to each other, through the process's standard input and output.
//!
//! A message is a head of [`HEAD_BYTES`] bytes and a payload:
//!
//! | offset | type | field |
//! |--:|---|---|
//! | 0 | u8 | tag |
//! | 1 | u8 | version, [`VERSION`] |
//! | 2 | `[u8; 2]` | zero |
//! | 4 | u32 | length of the payload in bytes, little-endian |
//! | 8 | | the payload |
//!
//! Frames are those of the data plane, records those of the control plane. Both sides are the same program, so the version
//! never differs unless something is wrong; a process that has lost its mind is the case that matters. Every length is checked
//! against its tag's bound before anything is allocated, and whatever does not decode is a [`WireError`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_proto::{
    NodeId, control,
    frame::{self, Frame, HEADER_BYTES, MAX_PAYLOAD_BYTES},
};

use crate::runner::{Input, Observed, Outgoing, Route, StageSpec};

/// Bytes of a message's head.
pub(crate) const HEAD_BYTES: usize = 8;
/// Version of these messages. Raise it on any change.
const VERSION: u8 = 1;
/// Longest start: the paths of all parts of a model.
const START_BYTES_MAX: usize = control::MAX_MESSAGE_BYTES;
/// Longest text.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Memory that a decoder keeps between messages.
const KEPT_BYTES: usize = 256 * 1024;
const ID_BYTES: usize = 32;
const FRAME_BYTES_MAX: usize = HEADER_BYTES + MAX_PAYLOAD_BYTES;
const MOVE_BYTES_MAX: usize = 64;
const EXPIRE_BYTES: usize = 8;
const BEAT_BYTES: usize = 17;
const OBSERVED_BYTES: usize = 32;

mod tag {
    // From the node.
    pub(super) const START: u8 = 1;
    pub(super) const FRAME: u8 = 2;
    pub(super) const DROP_DRIVER: u8 = 3;
    pub(super) const MOVE: u8 = 4;
    pub(super) const EXPIRE: u8 = 5;
    // From the runner.
    pub(super) const READY: u8 = 16;
    pub(super) const LOAD_FAILED: u8 = 17;
    pub(super) const OUTGOING: u8 = 18;
    pub(super) const OBSERVED: u8 = 19;
    pub(super) const BEAT: u8 = 20;
}

/// A message that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// Not the head of a message.
    #[error("expected a message of version {VERSION}, got the bytes {got:02x?}")]
    Head {
        /// What came.
        got: [u8; HEAD_BYTES],
    },
    /// A length that the kind of message does not have.
    #[error("message {tag}: expected {expected} bytes, got {got}")]
    Length {
        /// The kind.
        tag: u8,
        /// What is allowed.
        expected: String,
        /// What the head says.
        got: usize,
    },
    /// A payload that does not decode.
    #[error("message {tag}: {what}")]
    Payload {
        /// The kind.
        tag: u8,
        /// Why.
        what: String,
    },
}

/// What a runner is to load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The model's name, for messages.
    pub(crate) model: String,
    /// What the model's files must be like, so that nothing else is computed should they have been replaced.
    pub(crate) fingerprint: [u8; 32],
    /// The model's files in the order of its parts, as the system writes paths; none for the demonstration model.
    pub(crate) paths: Vec<Vec<u8>>,
    /// What it computes of the model.
    pub(crate) stage: StageSpec,
}

/// A message to a runner.
#[derive(Debug)]
pub(crate) enum ToRunner {
    /// The first one.
    Start(Box<Start>),
    /// Any other.
    Input(Input),
}

/// A sign of life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Beat {
    /// Inputs that the runner has taken so far.
    pub(crate) n_taken: u64,
    /// Grows as long as it computes anything.
    pub(crate) progress: u64,
    /// Whether it is at work on what it has taken.
    pub(crate) is_busy: bool,
}

/// A message of a runner.
#[derive(Debug)]
pub(crate) enum FromRunner {
    /// The shard is loaded.
    Ready,
    /// It cannot be loaded, and why.
    LoadFailed(String),
    /// A frame for another node, or for this one.
    Outgoing(Outgoing),
    /// A batch is computed.
    Observed(Observed),
    /// It lives.
    Beat(Beat),
}

/// A checked head: what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    tag: u8,
    n_bytes: usize,
}

impl Head {
    /// Reads a head.
    pub(crate) fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, WireError> {
        let [tag, VERSION, 0, 0, length @ ..] = *bytes else {
            return Err(WireError::Head { got: *bytes });
        };
        let n_bytes = u32::from_le_bytes(length) as usize;
        let allowed = match tag {
            tag::START => 0..=START_BYTES_MAX,
            tag::FRAME => HEADER_BYTES..=FRAME_BYTES_MAX,
            tag::DROP_DRIVER => ID_BYTES..=ID_BYTES,
            tag::MOVE => 0..=MOVE_BYTES_MAX,
            tag::EXPIRE => EXPIRE_BYTES..=EXPIRE_BYTES,
            tag::READY => 0..=0,
            tag::LOAD_FAILED => 0..=TEXT_BYTES_MAX,
            tag::OUTGOING => ID_BYTES + HEADER_BYTES..=ID_BYTES + FRAME_BYTES_MAX,
            tag::OBSERVED => OBSERVED_BYTES..=OBSERVED_BYTES,
            tag::BEAT => BEAT_BYTES..=BEAT_BYTES,
            _ => return Err(WireError::Head { got: *bytes }),
        };
        if !allowed.contains(&n_bytes) {
            let expected = format!("{} to {}", allowed.start(), allowed.end());
            return Err(WireError::Length { tag, expected, got: n_bytes });
        }
        Ok(Self { tag, n_bytes })
    }

    /// Bytes of the payload.
    pub(crate) fn n_bytes(self) -> usize {
        self.n_bytes
    }
}

impl ToRunner {
    /// Encodes the message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start(start) => message(tag::START, &[&control::encode(start)]),
            Self::Input(Input::Frame(frame)) => message(tag::FRAME, &[&frame.encode()]),
            Self::Input(Input::DropDriver(node)) => message(tag::DROP_DRIVER, &[&node.0]),
            Self::Input(Input::Move(route)) => message(tag::MOVE, &[&control::encode(route)]),
            Self::Input(Input::Expire(age)) => {
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                message(tag::EXPIRE, &[&age_ms.to_le_bytes()])
            }
        }
    }

    /// Decodes the payload that follows a head.
    pub(crate) fn decode(head: Head, payload: &[u8]) -> Result<Self, WireError> {
        match head.tag {
            tag::START => {
                decode_record(head.tag, payload).map(|start| Self::Start(Box::new(start)))
            }
            tag::FRAME => {
                decode_frame(head.tag, payload).map(|frame| Self::Input(Input::Frame(frame)))
            }
            tag::DROP_DRIVER => {
                let (node, _) = split_id(head.tag, payload)?;
                Ok(Self::Input(Input::DropDriver(node)))
            }
            tag::MOVE => {
                let route: Route = decode_record(head.tag, payload)?;
                Ok(Self::Input(Input::Move(route)))
            }
            tag::EXPIRE => {
                let age_ms = payload.try_into().map_err(|_| malformed(head.tag, &"no age"))?;
                let age = Duration::from_millis(u64::from_le_bytes(age_ms));
                Ok(Self::Input(Input::Expire(age)))
            }
            _ => Err(malformed(head.tag, &"not for a runner")),
        }
    }
}

impl FromRunner {
    /// Encodes the message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => message(tag::READY, &[]),
            Self::LoadFailed(text) => {
                let end = text.floor_char_boundary(TEXT_BYTES_MAX);
                message(tag::LOAD_FAILED, &[&text.as_bytes()[..end]])
            }
            Self::Outgoing(Outgoing { to, frame }) => {
                message(tag::OUTGOING, &[&to.0, &frame.encode()])
            }
            Self::Observed(observed) => {
                let took_ns = u64::try_from(observed.took.as_nanos()).unwrap_or(u64::MAX);
                let n_rows = observed.n_rows as u64;
                let values = [observed.n_bytes, observed.n_macs, n_rows, took_ns];
                message(tag::OBSERVED, &values.map(u64::to_le_bytes).each_ref().map(|it| &it[..]))
            }
            Self::Beat(Beat { n_taken, progress, is_busy }) => {
                let (n_taken, progress) = (n_taken.to_le_bytes(), progress.to_le_bytes());
                message(tag::BEAT, &[&n_taken, &progress, &[u8::from(*is_busy)]])
            }
        }
    }

    /// Decodes the payload that follows a head.
    pub(crate) fn decode(head: Head, payload: &[u8]) -> Result<Self, WireError> {
        // The head has bounded the length of each of these.
        let u64_at = |at: usize| {
            u64::from_le_bytes(std::array::from_fn(|i| payload.get(at + i).copied().unwrap_or(0)))
        };
        match head.tag {
            tag::READY => Ok(Self::Ready),
            tag::LOAD_FAILED => Ok(Self::LoadFailed(String::from_utf8_lossy(payload).into_owned())),
            tag::OUTGOING => {
                let (to, frame) = split_id(head.tag, payload)?;
                let frame = decode_frame(head.tag, frame)?;
                Ok(Self::Outgoing(Outgoing { to, frame }))
            }
            tag::OBSERVED => Ok(Self::Observed(Observed {
                n_bytes: u64_at(0),
                n_macs: u64_at(8),
                n_rows: usize::try_from(u64_at(16)).unwrap_or(usize::MAX),
                took: Duration::from_nanos(u64_at(24)),
            })),
            tag::BEAT => Ok(Self::Beat(Beat {
                n_taken: u64_at(0),
                progress: u64_at(8),
                is_busy: payload.last().is_some_and(|&last| last != 0),
            })),
            _ => Err(malformed(head.tag, &"not of a runner")),
        }
    }
}

/// Messages out of bytes that come in pieces of any size. Holds at most one message that is not complete and one piece.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    /// Where the next message begins.
    at: usize,
}

impl Decoder {
    /// Takes in the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        if self.bytes.is_empty() {
            // What a long message needed is not needed for ever.
            self.bytes.shrink_to(KEPT_BYTES);
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Returns the next message of a runner, if all of it has come.
    pub(crate) fn next(&mut self) -> Result<Option<FromRunner>, WireError> {
        let rest = &self.bytes[self.at..];
        let Some((head, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let head = Head::decode(head)?;
        let Some(payload) = rest.get(..head.n_bytes()) else { return Ok(None) };
        let message = FromRunner::decode(head, payload)?;
        self.at += HEAD_BYTES + head.n_bytes();
        Ok(Some(message))
    }
}

fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let n_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(n_bytes).expect("messages are bounded far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEAD_BYTES + n_bytes);
    bytes.extend_from_slice(&[tag, VERSION, 0, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn malformed(tag: u8, what: &impl ToString) -> WireError {
    WireError::Payload { tag, what: what.to_string() }
}

fn decode_record<T: serde::de::DeserializeOwned>(tag: u8, payload: &[u8]) -> Result<T, WireError> {
    control::decode(payload).map_err(|error| malformed(tag, &error))
}

fn decode_frame(tag: u8, bytes: &[u8]) -> Result<Frame, WireError> {
    let (header, payload) =
        bytes.split_first_chunk().ok_or_else(|| malformed(tag, &"shorter than a frame"))?;
    let header = frame::decode_header(header).map_err(|error| malformed(tag, &error))?;
    frame::decode_payload(&header, payload).map_err(|error| malformed(tag, &error))
}

fn split_id(tag: u8, bytes: &[u8]) -> Result<(NodeId, &[u8]), WireError> {
    let (id, rest) =
        bytes.split_first_chunk().ok_or_else(|| malformed(tag, &"shorter than an id"))?;
    Ok((NodeId(*id), rest))
}

#[cfg(test)]
mod tests;
