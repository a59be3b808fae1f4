//! What a request for an answer is, and how the answer comes.

use std::time::Duration;

use shoal_proto::SamplingParams;
use tokio::sync::mpsc;

pub use shoal_tokenizer::ChatMessage;

use crate::{Error, requests::Witness};

/// Events that may wait for a slow reader before the driver waits with it.
pub(crate) const EVENTS_MAX: usize = 64;

/// What the answer continues.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, put into the model's own chat template.
    Chat(Vec<ChatMessage>),
    /// Text as it stands.
    Raw(String),
}

/// A request for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// `demo`, a path to a GGUF, or the id of a placed model.
    pub model: String,
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// Texts that no repetition extends over, for [`SamplingParams::dry`], whose own breakers are found from these.
    pub breakers: Vec<String>,
    /// Most tokens to generate; `None` means until the context is full.
    pub max_tokens: Option<u32>,
    /// The answer ends before the first of these; at most 16, none empty.
    pub stop: Vec<String>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Tokens of the prompt that the KV caches already held.
    pub n_cached: u32,
    /// Tokens generated, the one that ended the answer included.
    pub n_generated: u32,
}

/// How long a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From the request to the first token: the prompt's time.
    pub first_token: Duration,
    /// From the first token to the last.
    pub generation: Duration,
}

/// What happens to an answer, in this order: any number of `Queued`, `Started`, any number of `Text`, `Healing` and `Resumed`,
/// and one `Finished` or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// The request waits for its turn.
    Queued {
        /// Requests that wait before it.
        position: usize,
    },
    /// The prompt is accepted.
    Started {
        /// Tokens of the prompt.
        n_prompt: u32,
    },
    /// The next piece of the answer, whole characters, never empty.
    Text(String),
    /// The answer has to wait: a stage is lost, or silent.
    Healing {
        /// What it waits for.
        why: String,
    },
    /// The answer goes on, with not a token lost or repeated.
    Resumed {
        /// How long it has waited.
        pause: Duration,
        /// Tokens that were computed again.
        n_recomputed: u32,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// Its tokens.
        usage: Usage,
        /// Its times.
        timings: Timings,
    },
    /// The answer cannot be completed.
    Failed(Error),
}

/// An answer in the making. Dropping it cancels the request and frees its sequence on every stage.
#[derive(Debug)]
pub struct Generation {
    pub(crate) events: mpsc::Receiver<Event>,
    /// Sees what is told, for whoever watches the node.
    pub(crate) witness: Witness,
}

impl Generation {
    /// Waits for the next event; `None` after `Finished` or `Failed`.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        event.iter().for_each(|event| self.witness.see(event));
        event
    }
}
