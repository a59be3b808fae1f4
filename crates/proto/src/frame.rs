//! The data plane's frames: what a driver and the stages of a pipeline send each other.
//!
//! A frame is a header of [`HEADER_BYTES`] bytes, little-endian, and a payload whose length the header implies:
//!
//! | offset | type | field |
//! |--:|---|---|
//! | 0 | `[u8; 4]` | magic `SHF4` |
//! | 4 | u8 | kind |
//! | 5 | u8 | n_timings: stages that the step has passed |
//! | 6 | u16 | stage: the last one that a step is for; which one is asked, or answers |
//! | 8 | u64 | instance |
//! | 16 | u64 | epoch |
//! | 24 | u64 | sequence |
//! | 32 | `[u8; 32]` | driver: the node that drives the sequence and receives its tokens |
//! | 64 | u32 | position of the first token |
//! | 68 | u32 | n_tokens |
//! | 72 | u32 | n_embd: columns of the activations, 0 if there are none |
//! | 76 | u32 | n_extra: bytes of the extra part |
//! | 80 | u64 | prefix hash |
//! | 88 | u64 | zero |
//! | 96 | | `[n_tokens]` u32, `[n_tokens, n_embd]` f32, `[n_timings, 3]` u32, `[n_extra]` bytes |
//!
//! [`decode_header`] bounds every length before a byte of payload is read, so a hostile header cannot make a node allocate
//! more than [`MAX_PAYLOAD_BYTES`]. A step that names a position is a `sync`: each stage checks that what it holds of the
//! sequence reaches that position with the same tokens ([`prefix_hash`]), drops what lies beyond, and appends. Whatever could
//! not be done is answered with [`Body::Lost`]; the driver then asks each stage what it holds ([`Body::Probe`],
//! [`Body::Have`]) and goes on from there. A step need not go to the end: stages after its last one hold its tokens already.
//! Prefix reuse and recovery are this one path.
//!
//! A step gathers the [`StageTiming`] of every stage that it passes, and its `Done` brings them to the driver. They are
//! differences on each node's own clock, so that no clocks need to agree; what is left of the round trip is the network's.

use crate::{Epoch, InstanceId, NodeId, SamplingParams, SequenceId, TokenId};

/// Size of a frame's header in bytes.
pub const HEADER_BYTES: usize = 96;
/// Most tokens of one step: prefill is cut into chunks far below this.
pub const MAX_STEP_TOKENS: usize = 512;
/// Widest activation row: four times the widest model that a home cluster holds.
pub const MAX_EMBD: usize = 32_768;
/// Most bytes of the extra part: sampling parameters or an error message.
pub const MAX_EXTRA_BYTES: usize = 64 * 1024;
/// Largest payload in bytes. A full chunk of the widest model does not fit; the driver cuts chunks to fit.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Most stages whose timings a step carries; the timings of stages beyond are left out.
pub const MAX_TIMINGS: usize = 64;

const TIMING_BYTES: usize = 12;
const MAGIC: [u8; 4] = *b"SHF4";

/// Which timeline a frame belongs to, and under which placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// The placed model.
    pub instance: InstanceId,
    /// The placement's version.
    pub epoch: Epoch,
    /// The timeline, unique for its driver.
    pub sequence: SequenceId,
    /// The node that drives the sequence.
    pub driver: NodeId,
}

/// A message of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The timeline that it belongs to.
    pub key: FrameKey,
    /// What it says.
    pub body: Body,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Driver → stage 0 (no activations) and stage → next stage (with activations): compute these tokens.
    Step(Step),
    /// The last stage of a step → driver: the step that ended before `position` is done; the token for `position`, if one was
    /// asked for.
    Done {
        /// Position after the step's last token.
        position: u32,
        /// The token sampled for that position.
        token: Option<TokenId>,
        /// What the stages took for the step, in the order of the stages; at most [`MAX_TIMINGS`].
        timings: Vec<StageTiming>,
    },
    /// Driver → each stage: what do you hold of the sequence?
    Probe {
        /// Which stage is asked.
        stage: u16,
        /// Tokens of the sequence that the driver knows: what a stage holds beyond them is of no use.
        n_tokens: u32,
    },
    /// Stage → driver: the answer.
    Have {
        /// Which stage answers.
        stage: u16,
        /// Tokens that it holds, at most those asked for.
        n_tokens: u32,
        /// Their hash, as [`prefix_hash`] computes it: the driver compares it with that of its own log.
        prefix_hash: u64,
    },
    /// Whoever could not deliver or compute a frame → driver: it is lost, and so is what followed it. The driver recovers.
    Lost {
        /// For the log, and for the user if it lasts.
        reason: String,
    },
    /// Stage → driver: the step failed and will fail again; what happened.
    Failed {
        /// For the user.
        message: String,
    },
    /// Driver → stage 0 → each next stage: forget the sequence. It travels the way of the steps, so that it overtakes none.
    Close,
}

/// Tokens to compute, on their way through the stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Position of the first token in the sequence.
    pub position: u32,
    /// Hash of the tokens before `position`, as [`prefix_hash`] computes it.
    pub prefix_hash: u64,
    /// The last stage that the step is for, which answers [`Body::Done`]; those after it hold its tokens already. A step that
    /// is to be sampled goes to the placement's last stage.
    pub last_stage: u16,
    /// The tokens, `[n_tokens]`; every stage keeps them to know what its KV cache holds.
    pub tokens: Vec<TokenId>,
    /// The previous stage's output `[n_tokens, n_embd]`, row-major; empty for stage 0.
    pub activations: Vec<f32>,
    /// How to sample the token that follows the last one; `None` while a prompt is not complete.
    pub sampling: Option<Box<SamplingParams>>,
    /// What the stages before took for the step, in their order; at most [`MAX_TIMINGS`].
    pub timings: Vec<StageTiming>,
}

/// What one stage took for a step, by that node's monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTiming {
    /// From when the step reached the node until its batch began, in microseconds.
    pub queued_us: u32,
    /// From when its batch began until the step's result was there, in microseconds.
    pub compute_us: u32,
    /// Rows of that batch, those of other steps included.
    pub n_rows: u32,
}

/// A frame that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are wrong: another protocol, or another version of this one.
    #[error("frame magic: expected {MAGIC:02x?}, got {got:02x?}")]
    Magic {
        /// What came.
        got: [u8; 4],
    },
    /// A kind that this version does not know.
    #[error("frame kind: expected 1 to 7, got {got}")]
    Kind {
        /// What came.
        got: u8,
    },
    /// A count beyond its bound, or reserved bytes in use.
    #[error("frame field {field}: expected {expected}, got {got}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What came.
        got: u64,
    },
    /// The payload is not as long as the header says.
    #[error("frame payload: expected {expected} bytes, got {got}")]
    Length {
        /// Bytes that the header implies.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The extra part does not decode.
    #[error("frame extra part: {what} does not decode")]
    Extra {
        /// What it should have been.
        what: &'static str,
    },
}

/// A checked header: how many payload bytes follow, and what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    key: FrameKey,
    kind: u8,
    stage: u16,
    position: u32,
    n_tokens: usize,
    n_embd: usize,
    n_timings: usize,
    n_extra: usize,
    prefix_hash: u64,
}

mod kind {
    pub(super) const STEP: u8 = 1;
    pub(super) const DONE: u8 = 2;
    pub(super) const PROBE: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const LOST: u8 = 5;
    pub(super) const FAILED: u8 = 6;
    pub(super) const CLOSE: u8 = 7;
}

impl Header {
    /// Length of the payload in bytes, at most [`MAX_PAYLOAD_BYTES`].
    pub fn payload_bytes(&self) -> usize {
        self.n_tokens * 4 * (1 + self.n_embd) + self.n_timings * TIMING_BYTES + self.n_extra
    }
}

/// Returns a 64-bit hash of a sequence's tokens: FNV-1a over their little-endian bytes. It guards against mistakes, not
/// against an adversary; every peer is authenticated.
pub fn prefix_hash(tokens: &[TokenId]) -> u64 {
    extend_prefix_hash(EMPTY_PREFIX_HASH, tokens)
}

/// Hash of no tokens.
pub const EMPTY_PREFIX_HASH: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues a [`prefix_hash`] with more tokens.
pub fn extend_prefix_hash(hash: u64, tokens: &[TokenId]) -> u64 {
    tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Frame {
    /// Encodes the frame, header and payload.
    ///
    /// # Panics
    /// If a frame holds more tokens or timings or wider activations than the bounds allow, or activations of another shape than
    /// `[n_tokens, n_embd]`: the sender's mistake.
    pub fn encode(&self) -> Vec<u8> {
        let Parts { kind, stage, position, prefix_hash, tokens, activations, timings, extra } =
            self.parts();
        let n_embd = activations.len().checked_div(tokens.len()).unwrap_or(0);
        assert_eq!(activations.len(), n_embd * tokens.len(), "activations are [n_tokens, n_embd]");
        assert!(tokens.len() <= MAX_STEP_TOKENS && n_embd <= MAX_EMBD, "a step within the bounds");
        assert!(timings.len() <= MAX_TIMINGS, "timings of at most {MAX_TIMINGS} stages");
        let n_timings = u8::try_from(timings.len()).expect("bounded above");
        let n_payload =
            tokens.len() * 4 * (1 + n_embd) + timings.len() * TIMING_BYTES + extra.len();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + n_payload);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[kind, n_timings]);
        bytes.extend_from_slice(&stage.to_le_bytes());
        for id in [self.key.instance.0, self.key.epoch.0, self.key.sequence.0] {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes.extend_from_slice(&self.key.driver.0);
        let to_u32 = |count: usize| u32::try_from(count).expect("bounded above");
        for count in [position, to_u32(tokens.len()), to_u32(n_embd), to_u32(extra.len())] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend_from_slice(&prefix_hash.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
        activations.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        for timing in timings {
            for value in [timing.queued_us, timing.compute_us, timing.n_rows] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&extra);
        bytes
    }

    /// What goes into each field.
    fn parts(&self) -> Parts<'_> {
        let text = |kind, text: &str| Parts {
            kind,
            extra: text.as_bytes()[..text.floor_char_boundary(MAX_EXTRA_BYTES)].to_vec(),
            ..Parts::default()
        };
        match &self.body {
            Body::Step(step) => Parts {
                kind: kind::STEP,
                stage: step.last_stage,
                position: step.position,
                prefix_hash: step.prefix_hash,
                tokens: &step.tokens,
                activations: &step.activations,
                timings: &step.timings,
                extra: step.sampling.as_ref().map_or_else(Vec::new, |sampling| {
                    postcard::to_allocvec(sampling).expect("plain numbers always encode")
                }),
            },
            Body::Done { position, token, timings } => Parts {
                kind: kind::DONE,
                position: *position,
                tokens: token.as_slice(),
                timings,
                ..Parts::default()
            },
            &Body::Probe { stage, n_tokens } => {
                Parts { kind: kind::PROBE, stage, position: n_tokens, ..Parts::default() }
            }
            &Body::Have { stage, n_tokens, prefix_hash } => Parts {
                kind: kind::HAVE,
                stage,
                position: n_tokens,
                prefix_hash,
                ..Parts::default()
            },
            Body::Lost { reason } => text(kind::LOST, reason),
            Body::Failed { message } => text(kind::FAILED, message),
            Body::Close => Parts { kind: kind::CLOSE, ..Parts::default() },
        }
    }
}

/// The fields of a frame beside its key.
#[derive(Default)]
struct Parts<'a> {
    kind: u8,
    stage: u16,
    position: u32,
    prefix_hash: u64,
    tokens: &'a [TokenId],
    activations: &'a [f32],
    timings: &'a [StageTiming],
    extra: Vec<u8>,
}

/// What must be zero of the fields that not every kind uses: one frame has one encoding.
fn unused(kind: u8, position: u32, stage: u16, prefix_hash: u64) -> u64 {
    let unless = |is_used: bool, value: u64| if is_used { 0 } else { value };
    let has_hash = matches!(kind, kind::STEP | kind::HAVE);
    let has_stage = matches!(kind, kind::STEP | kind::PROBE | kind::HAVE);
    let has_position = !matches!(kind, kind::LOST | kind::FAILED | kind::CLOSE);
    unless(has_hash, prefix_hash)
        | unless(has_stage, stage.into())
        | unless(has_position, position.into())
}

/// Reads and checks a frame's header.
///
/// # Errors
/// If it is no header of this version, or announces more than the bounds allow.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let magic = std::array::from_fn(|i| bytes[i]);
    if magic != MAGIC {
        return Err(FrameError::Magic { got: magic });
    }
    let kind = bytes[4];
    if !(kind::STEP..=kind::CLOSE).contains(&kind) {
        return Err(FrameError::Kind { got: kind });
    }
    let stage = u16::from_le_bytes([bytes[6], bytes[7]]);
    let reserved = u64_at(88) | unused(kind, u32_at(64), stage, u64_at(80));
    let [n_tokens, n_embd, n_extra] = [68, 72, 76].map(u32_at);
    let tokens_expected = match kind {
        kind::STEP => (1..=MAX_STEP_TOKENS, "1 to 512"),
        kind::DONE => (0..=1, "0 or 1"),
        _ => (0..=0, "0"),
    };
    let embd_max = if kind == kind::STEP { MAX_EMBD } else { 0 };
    let extra_max =
        if matches!(kind, kind::STEP | kind::LOST | kind::FAILED) { MAX_EXTRA_BYTES } else { 0 };
    let timings_max = if matches!(kind, kind::STEP | kind::DONE) { MAX_TIMINGS } else { 0 };
    let n_timings = usize::from(bytes[5]);
    let field = |field, expected, got| FrameError::Field { field, expected, got };
    if reserved != 0 {
        return Err(field("reserved", "0", reserved));
    }
    let (n_tokens_usize, n_embd_usize, n_extra_usize) =
        (n_tokens as usize, n_embd as usize, n_extra as usize);
    if !tokens_expected.0.contains(&n_tokens_usize) {
        return Err(field("n_tokens", tokens_expected.1, n_tokens.into()));
    }
    if n_timings > timings_max {
        let expected = "at most 64, and 0 unless a step or its end";
        return Err(field("n_timings", expected, bytes[5].into()));
    }
    if n_embd_usize > embd_max {
        return Err(field("n_embd", "at most 32768, and 0 unless a step", n_embd.into()));
    }
    if n_extra_usize > extra_max {
        return Err(field(
            "n_extra",
            "at most 65536, and 0 unless a step or failure",
            n_extra.into(),
        ));
    }
    let header = Header {
        key: FrameKey {
            instance: InstanceId(u64_at(8)),
            epoch: Epoch(u64_at(16)),
            sequence: SequenceId(u64_at(24)),
            driver: NodeId(std::array::from_fn(|i| bytes[32 + i])),
        },
        kind,
        stage,
        position: u32_at(64),
        n_tokens: n_tokens_usize,
        n_embd: n_embd_usize,
        n_timings,
        n_extra: n_extra_usize,
        prefix_hash: u64_at(80),
    };
    if header.payload_bytes() > MAX_PAYLOAD_BYTES {
        return Err(field("payload", "at most 16 MiB", header.payload_bytes() as u64));
    }
    Ok(header)
}

/// Reads the payload that follows a header.
///
/// # Errors
/// If it has another length than the header says, or its extra part does not decode.
pub fn decode_payload(header: &Header, payload: &[u8]) -> Result<Frame, FrameError> {
    if payload.len() != header.payload_bytes() {
        return Err(FrameError::Length { expected: header.payload_bytes(), got: payload.len() });
    }
    let (tokens, rest) = payload.split_at(header.n_tokens * 4);
    let (activations, rest) = rest.split_at(header.n_tokens * header.n_embd * 4);
    let (timings, extra) = rest.split_at(header.n_timings * TIMING_BYTES);
    let timings = timings.as_chunks::<TIMING_BYTES>().0.iter().map(decode_timing).collect();
    let mut tokens = tokens.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let body = match header.kind {
        kind::DONE => Body::Done { position: header.position, token: tokens.next(), timings },
        kind::PROBE => Body::Probe { stage: header.stage, n_tokens: header.position },
        kind::HAVE => Body::Have {
            stage: header.stage,
            n_tokens: header.position,
            prefix_hash: header.prefix_hash,
        },
        kind::LOST => Body::Lost { reason: decode_text(extra, "reason")? },
        kind::FAILED => Body::Failed { message: decode_text(extra, "message")? },
        kind::CLOSE => Body::Close,
        _ => Body::Step(Step {
            position: header.position,
            prefix_hash: header.prefix_hash,
            last_stage: header.stage,
            tokens: tokens.collect(),
            activations: activations.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            sampling: decode_sampling(extra)?,
            timings,
        }),
    };
    Ok(Frame { key: header.key, body })
}

fn decode_timing(bytes: &[u8; TIMING_BYTES]) -> StageTiming {
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    StageTiming { queued_us: u32_at(0), compute_us: u32_at(4), n_rows: u32_at(8) }
}

fn decode_text(extra: &[u8], what: &'static str) -> Result<String, FrameError> {
    String::from_utf8(extra.to_vec()).map_err(|_| FrameError::Extra { what })
}

fn decode_sampling(extra: &[u8]) -> Result<Option<Box<SamplingParams>>, FrameError> {
    if extra.is_empty() {
        return Ok(None);
    }
    let error = FrameError::Extra { what: "sampling parameters" };
    match postcard::take_from_bytes::<Box<SamplingParams>>(extra) {
        Ok((params, [])) if params.validate().is_ok() => Ok(Some(params)),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests;
