//! What an answer's stream consists of: the node's events become [`Piece`]s, and these the text of server-sent events.
//!
//! A piece is small, a token's text and little more, so that answers can be kept in it; [`Form`] makes the same bytes of it
//! whenever it is asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use serde_json::{Value, json};
use shoal_node::{Event, FinishReason, Usage};
use tokio_util::sync::CancellationToken;

use super::{
    Identity, Running, SYSTEM_FINGERPRINT,
    completion::{UsageObject, finish_reason},
};
use crate::{backend::Answer, error::ApiError};

/// One event of a stream.
#[derive(Debug)]
pub(super) enum Piece {
    Role,
    Text(Box<str>),
    Reason(FinishReason),
    Usage(Usage),
    /// How the answer stands, as JSON.
    Status(Box<str>),
    /// Why there is no more of it, as JSON.
    Failed(Box<str>),
    Done,
}

impl Piece {
    /// Memory that it takes, in bytes.
    pub(super) fn n_bytes(&self) -> usize {
        let text = match self {
            Self::Text(text) | Self::Status(text) | Self::Failed(text) => text.len(),
            Self::Role | Self::Reason(_) | Self::Usage(_) | Self::Done => 0,
        };
        size_of::<Self>() + text
    }
}

/// OpenAI's `chat.completion.chunk`.
#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [ChunkChoice<'a>],
    /// Absent unless the client asked for the usage; then `null` in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageObject>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// What all events of one stream have in common.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) identity: Identity,
    pub(super) include_usage: bool,
}

impl Form {
    /// The text of an event, with its id if the stream can be resumed.
    pub(super) fn render(&self, piece: &Piece, id: Option<u64>) -> String {
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        let delta = |role, content| self.chunk(Delta { role, content }, None);
        let data = match piece {
            Piece::Role => delta(Some("assistant"), Some("")),
            Piece::Text(text) => delta(None, Some(text)),
            Piece::Reason(reason) => self.chunk(Delta::default(), Some(finish_reason(*reason))),
            Piece::Usage(usage) => self.chunk_of(&[], Some((*usage).into())),
            Piece::Status(status) => {
                return format!("{id}event: shoal.status\ndata: {status}\n\n");
            }
            Piece::Failed(error) => error.to_string(),
            Piece::Done => "[DONE]".to_owned(),
        };
        format!("{id}data: {data}\n\n")
    }

    fn chunk(&self, delta: Delta<'_>, finish_reason: Option<&'static str>) -> String {
        self.chunk_of(&[ChunkChoice { index: 0, delta, logprobs: None, finish_reason }], None)
    }

    fn chunk_of(&self, choices: &[ChunkChoice<'_>], usage: Option<UsageObject>) -> String {
        let chunk = Chunk {
            id: &self.identity.id,
            object: "chat.completion.chunk",
            created: self.identity.created_s,
            model: &self.identity.model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices,
            usage: self.include_usage.then_some(usage),
        };
        json!(chunk).to_string()
    }
}

/// What an answer waits for, if anything; shared with whoever shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Note(Arc<Mutex<Option<String>>>);

impl Note {
    fn set(&self, text: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// A comment for a stream that is silent.
    pub(super) fn comment(&self) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // A line end would end the comment.
            Some(note) => format!(": waiting: {}\n\n", note.replace(char::is_control, " ")),
            None => ": waiting\n\n".to_owned(),
        }
    }
}

/// Turns the events of one answer into pieces.
pub(super) struct Pieces<A> {
    include_usage: bool,
    wants_status: bool,
    /// `None` once the answer has ended, so that its place is free before the last bytes are sent.
    running: Option<Running<A>>,
    cancel: CancellationToken,
    /// Pieces that wait to be taken.
    ready: VecDeque<Piece>,
    note: Note,
    was_queued: bool,
}

impl<A: Answer> Pieces<A> {
    pub(super) fn new(running: Running<A>, include_usage: bool, wants_status: bool) -> Self {
        Self {
            include_usage,
            wants_status,
            running: Some(running),
            cancel: CancellationToken::new(),
            ready: VecDeque::from([Piece::Role]),
            note: Note::default(),
            was_queued: false,
        }
    }

    /// Ends the answer, which then fails as cancelled.
    pub(super) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    pub(super) fn note(&self) -> Note {
        self.note.clone()
    }

    /// Waits for the next piece; `None` after the last. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            let running = self.running.as_mut()?;
            let event = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.fail(&ApiError::cancelled());
                    continue;
                }
                event = running.next() => event,
            };
            self.push(event);
        }
    }

    fn push(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Queued { position }) => {
                self.was_queued = true;
                self.note.set(Some(format!("{position} requests are before this one")));
                self.status(&json!({"state": "queued", "position": position}));
            }
            Some(Event::Started { .. }) => {
                self.note.set(None);
                if self.was_queued {
                    self.status(&json!({"state": "started"}));
                }
            }
            Some(Event::Text(text)) => self.ready.push_back(Piece::Text(text.into())),
            Some(Event::Healing { why }) => {
                self.status(&json!({"state": "healing", "why": why}));
                self.note.set(Some(why));
            }
            Some(Event::Resumed { pause, n_recomputed }) => {
                self.note.set(None);
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                self.status(&json!({
                    "state": "resumed", "pause_ms": pause_ms, "n_recomputed": n_recomputed,
                }));
            }
            Some(Event::Finished { reason, usage, .. }) => {
                self.running = None;
                self.ready.push_back(Piece::Reason(reason));
                if self.include_usage {
                    self.ready.push_back(Piece::Usage(usage));
                }
                self.ready.push_back(Piece::Done);
            }
            Some(Event::Failed(error)) => self.fail(&error.into()),
            None => self.fail(&ApiError::cut_off()),
        }
    }

    fn status(&mut self, status: &Value) {
        if self.wants_status {
            self.ready.push_back(Piece::Status(status.to_string().into()));
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.running = None;
        self.ready.push_back(Piece::Failed(error.to_json().to_string().into()));
    }
}
