//! Chats: what is kept of a conversation, how two copies of it become one, and how it is written.
//!
//! Every device of a cluster holds every chat, and each may change its copy while it hears of no other. So a chat is a value
//! that merges: [`Entry::merge`] is commutative, associative and idempotent, and whoever has seen the same changes, in
//! whatever order and however often, holds the same bytes.
//!
//! - Messages are a set that only grows. A message does not change, except for an answer while it is written, which only the
//!   node that writes it does: then the higher `revision` stands.
//! - Of each other field the last writer's value stands, by a stamp of a counter and a node. The counter is the time, or one
//!   more than any that the writer has seen if its clock is behind.
//! - A deleted chat stays deleted, whatever others add to it meanwhile.
//!
//! On disk it is `SHOALCHT`, a version byte, a checksum of what follows, and postcard.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{NodeId, stored};

/// What a file of a chat begins with.
const MAGIC: &[u8; 8] = b"SHOALCHT";
/// Version of the file. Raise it on any change to [`Entry`] or what it holds.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = MAGIC.len() + 1 + 8;
/// Largest encoded chat that is read or taken from a peer: what several devices have added apart from each other, each up to
/// what one of them may hold.
pub const ENTRY_BYTES_MAX: usize = 32 << 20;
/// Most bytes of a chat in one [`ChatResponse::Part`].
pub const PART_BYTES_MAX: usize = 512 * 1024;
/// Most chats that a digest names.
pub const CHATS_MAX: usize = 20_000;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text).map(Self)
            }
        }
    };
}

random_id! {
    /// A chat: 128 random bits, written as 32 lower-case hexadecimal digits.
    ChatId
}
random_id! {
    /// A message of a chat, written in the same way.
    MessageId
}

/// A text that is no id of a chat or a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 lower-case hexadecimal digits, got {got:?}")]
pub struct ParseIdError {
    /// The text, cut.
    pub got: String,
}

fn parse(text: &str) -> Result<[u8; 16], ParseIdError> {
    let error = || ParseIdError { got: text.chars().take(40).collect() };
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 32 || !text.bytes().all(is_digit) {
        return Err(error());
    }
    let value = u128::from_str_radix(text, 16).map_err(|_| error())?;
    Ok(value.to_be_bytes())
}

/// When a field was written, as far as order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970, or one more than the highest that the writer had seen.
    pub counter: u64,
    /// The writer: of two equal counters the higher id's stands.
    pub node: NodeId,
}

/// A value of which the last writer's stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Field<T> {
    /// When it was written. First, so that it decides.
    pub stamp: Stamp,
    /// The value.
    pub value: T,
}

/// What is kept of a chat beside its messages.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When it was created, in milliseconds since 1970, and the node where.
    pub created: (u64, NodeId),
    /// When it was changed last, by the clocks of whoever did.
    pub changed_ms: u64,
    /// Its title; may be empty.
    pub title: Field<String>,
    /// The model that it is held with.
    pub model: Field<String>,
    /// The system prompt.
    pub system: Field<String>,
    /// Parameters of its requests: a JSON object as text, which nobody here reads.
    pub parameters: Field<String>,
    /// The message that the shown conversation ends with.
    pub leaf: Field<Option<MessageId>>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Instructions.
    System,
}

impl Role {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
        }
    }
}

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Progress {
    /// More of it comes.
    Running,
    /// It is whole.
    Done,
    /// Its client ended it.
    Stopped,
    /// The node that wrote it has ended.
    Interrupted,
    /// It could not be completed.
    Failed,
}

impl Progress {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// A message.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Message {
    /// Counts what its writer has written of it. First, so that it decides which of two stands.
    pub revision: u64,
    /// How far it is.
    pub progress: Progress,
    /// The message that it follows; `None` at a beginning.
    pub parent: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub text: String,
    /// When it was added, in milliseconds since 1970.
    pub created_ms: u64,
    /// The node that has added it.
    pub writer: NodeId,
    /// What is known about it: a JSON object as text, which nobody here reads.
    pub meta: String,
}

/// A chat: its head, and a tree of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// All but the messages.
    pub head: Head,
    /// The messages.
    pub messages: BTreeMap<MessageId, Message>,
}

/// What a device keeps under a chat's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A chat.
    Live(Box<Chat>),
    /// A chat that was deleted.
    Deleted {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Where it had been created.
        origin: NodeId,
    },
}

// What people write is nobody else's business: it does not get into logs by way of a message that is shown in one.

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Head");
        shown.field("created", &self.created).field("changed_ms", &self.changed_ms);
        shown.field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Message");
        shown.field("revision", &self.revision).field("progress", &self.progress);
        shown.field("parent", &self.parent).field("role", &self.role);
        shown.field("text_bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ChatResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest { chats } => write!(f, "Digest of {} chats", chats.len()),
            Self::Ok => f.write_str("Ok"),
            Self::Part { n_total, bytes, .. } => {
                write!(f, "Part: {} of {n_total} bytes", bytes.len())
            }
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

impl<T: Ord> Field<T> {
    fn merge(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }
}

impl Head {
    /// The highest counter of any of its fields.
    pub fn counter(&self) -> u64 {
        let stamps = [&self.title, &self.model, &self.system, &self.parameters];
        let counters = stamps.iter().map(|field| field.stamp.counter);
        counters.chain([self.leaf.stamp.counter]).max().unwrap_or_default()
    }

    fn merge(&mut self, other: Self) {
        self.created = self.created.min(other.created);
        self.changed_ms = self.changed_ms.max(other.changed_ms);
        self.title.merge(other.title);
        self.model.merge(other.model);
        self.system.merge(other.system);
        self.parameters.merge(other.parameters);
        self.leaf.merge(other.leaf);
    }
}

impl Message {
    /// A hash of all of it.
    pub fn hash(&self) -> u64 {
        stored::checksum(&postcard::to_stdvec(self).expect("plain data always encodes"))
    }
}

impl Chat {
    /// Takes in what another copy of this chat has.
    pub fn merge(&mut self, other: Self) {
        self.head.merge(other.head);
        for (id, message) in other.messages {
            match self.messages.get_mut(&id) {
                Some(own) if *own >= message => {}
                Some(own) => *own = message,
                None => drop(self.messages.insert(id, message)),
            }
        }
    }

    /// The same chat with those messages only that somebody lacks who holds `known` (ids and [hashes](Message::hash)).
    #[must_use]
    pub fn without(&self, known: &[(MessageId, u64)]) -> Self {
        let known: BTreeSet<(MessageId, u64)> = known.iter().copied().collect();
        let lacks =
            |(id, message): &(&MessageId, &Message)| !known.contains(&(**id, message.hash()));
        let messages = self.messages.iter().filter(lacks);
        let messages = messages.map(|(id, message)| (*id, message.clone())).collect();
        Self { head: self.head.clone(), messages }
    }
}

impl Entry {
    /// Takes in another copy. Returns whether that changed anything.
    pub fn merge(&mut self, other: Self) -> bool {
        match (&mut *self, other) {
            (Self::Live(own), Self::Live(other)) => {
                let before = Chat::clone(own);
                own.merge(*other);
                before != **own
            }
            (Self::Live(_), deleted @ Self::Deleted { .. }) => {
                *self = deleted;
                true
            }
            (Self::Deleted { .. }, Self::Live(_)) => false,
            (Self::Deleted { at_ms, origin }, Self::Deleted { at_ms: other, origin: of }) => {
                let before = (*at_ms, *origin);
                (*at_ms, *origin) = (before.0.max(other), before.1.min(of));
                before != (*at_ms, *origin)
            }
        }
    }

    /// Where the chat was created.
    pub fn origin(&self) -> NodeId {
        match self {
            Self::Live(chat) => chat.head.created.1,
            Self::Deleted { origin, .. } => *origin,
        }
    }

    /// Encodes it, for the disk and for peers. Equal entries have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("plain data always encodes");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&stored::checksum(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Decodes what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If it is of another version, or not what was written.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChatError> {
        let truncated = ChatError::Truncated { got: bytes.len() };
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(ChatError::TooLarge { got: bytes.len() });
        }
        let (&magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated.clone())?;
        if &magic != MAGIC {
            return Err(ChatError::NoChat { got: magic });
        }
        let (&version, rest) = rest.split_first().ok_or_else(|| truncated.clone())?;
        if version != VERSION {
            return Err(ChatError::Version { got: version });
        }
        let (&expected, body) = rest.split_first_chunk::<8>().ok_or(truncated)?;
        let (expected, got) = (u64::from_le_bytes(expected), stored::checksum(body));
        if expected != got {
            return Err(ChatError::Damaged { expected, got });
        }
        let malformed = |reason: String| ChatError::Malformed { bytes: body.len(), reason };
        match postcard::take_from_bytes(body) {
            Ok((entry, [])) => Ok(entry),
            Ok((_, rest)) => Err(malformed(format!("{} bytes left over", rest.len()))),
            Err(error) => Err(malformed(error.to_string())),
        }
    }
}

/// The hash of an encoded entry, by which devices tell whether they hold the same.
pub fn hash(encoded: &[u8]) -> u64 {
    stored::checksum(encoded)
}

/// A chat that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// It ends before its header does.
    #[error("expected a header of {HEADER_BYTES} bytes, got {got}")]
    Truncated {
        /// Bytes that are there.
        got: usize,
    },
    /// No chat is that large.
    #[error("expected a chat of at most {ENTRY_BYTES_MAX} bytes, got {got}")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// It is something else.
    #[error("expected a chat, which begins with {:?}, got {got:?}", MAGIC.as_slice())]
    NoChat {
        /// What it begins with.
        got: [u8; 8],
    },
    /// Another version of Shoal wrote it.
    #[error("expected a chat of version {VERSION}, got {got}")]
    Version {
        /// The version that it has.
        got: u8,
    },
    /// Its bytes are not those that were written.
    #[error("expected bytes with the checksum {expected:016x}, got {got:016x}")]
    Damaged {
        /// The checksum that was written.
        expected: u64,
        /// The one that its bytes have.
        got: u64,
    },
    /// Bytes that are no chat.
    #[error("{bytes} bytes do not decode: {reason}")]
    Malformed {
        /// Length of what follows the header.
        bytes: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// What devices ask each other about their chats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatRequest {
    /// "Which chats do you hold?"
    Digest,
    /// "These have changed here." Answered at once; who holds something else fetches them.
    Changed {
        /// The chats, with the hashes of their encoded entries; at most [`CHATS_MAX`].
        chats: Vec<(ChatId, u64)>,
    },
    /// "Give me what I lack of this chat."
    Fetch {
        /// The chat.
        chat: ChatId,
        /// The messages that the sender holds, with their hashes.
        known: Vec<(MessageId, u64)>,
        /// The first byte of the encoded answer that is wanted.
        offset: u64,
    },
}

/// The answer to a [`ChatRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatResponse {
    /// To [`ChatRequest::Digest`].
    Digest {
        /// As in [`ChatRequest::Changed`].
        chats: Vec<(ChatId, u64)>,
    },
    /// To [`ChatRequest::Changed`].
    Ok,
    /// To [`ChatRequest::Fetch`]: some of the bytes of an encoded entry.
    Part {
        /// Hash of all its bytes: with another one than the last part's, the chat has changed meanwhile.
        hash: u64,
        /// How many they are.
        n_total: u64,
        /// At most [`PART_BYTES_MAX`] of them, and at least one unless the offset is at the end.
        bytes: Vec<u8>,
    },
    /// To [`ChatRequest::Fetch`]: the chat is not here.
    Unknown,
}

#[cfg(test)]
mod tests;
