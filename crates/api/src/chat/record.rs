//! An answer that is written into a chat of the node while it comes.
//!
//! Whoever draws the answer shows each event to a [`Recorder`]; a task of its own writes what there is every two seconds and
//! at the end. So the answer is kept whether or not a client is there to read it, and after the loss of the node's process
//! what was written last is there, marked as interrupted at the next start.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use shoal_node::{
    Event, FinishReason, Timings, Usage,
    chats::{NewMessage, TEXT_BYTES_MAX},
    proto::{
        chat::{ChatId, MessageId, Progress, Role},
        control::Phase,
    },
};
use tokio::{sync::Notify, time};
use tracing::warn;

use super::{
    Identity,
    completion::{UsageObject, finish_reason},
};
use crate::{App, backend::Backend, error::ApiError};

/// Between two writes of an answer that comes: what a power cut may cost, and what a flash memory bears.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);

/// Where an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The chat.
    pub(crate) chat: ChatId,
    /// The answer's message.
    pub(crate) message: MessageId,
    /// The message that it answers.
    pub(crate) parent: Option<MessageId>,
}

/// Sees what comes of an answer. Dropping it says that nobody wants more.
#[derive(Debug)]
pub(super) struct Recorder(Arc<Record>);

#[derive(Debug)]
struct Record {
    written: Mutex<Written>,
    ended: Notify,
}

/// What there is of an answer.
#[derive(Clone)]
struct Written {
    /// Counts the changes.
    n_changes: u64,
    text: String,
    progress: Progress,
    finished: Option<(FinishReason, Usage, Timings)>,
    error: Value,
    n_healed: u64,
    healed: Duration,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text is nobody's business.
        f.debug_struct("Written").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the answer to its chat and begins to follow it.
pub(super) async fn begin<B: Backend>(
    app: &App<B>,
    place: Place,
    identity: &Identity,
) -> Result<Recorder, ApiError> {
    let written = Written {
        n_changes: 0,
        text: String::new(),
        progress: Progress::Running,
        finished: None,
        error: Value::Null,
        n_healed: 0,
        healed: Duration::ZERO,
    };
    let message = NewMessage {
        id: Some(place.message),
        parent: place.parent,
        role: Role::Assistant,
        text: String::new(),
        progress: Progress::Running,
        meta: written.meta(&app.backend, identity).to_string(),
        is_selected: true,
    };
    app.backend.chats().append(place.chat, message).await?;
    let record = Arc::new(Record { written: Mutex::new(written), ended: Notify::new() });
    let following = follow(app.backend.clone(), Arc::clone(&record), place, identity.clone());
    app.answers.spawn(following);
    Ok(Recorder(record))
}

/// Writes what there is, now and then, until the answer has ended.
async fn follow<B: Backend>(backend: B, record: Arc<Record>, place: Place, identity: Identity) {
    let mut n_written = 0;
    loop {
        let _ = time::timeout(WRITE_INTERVAL, record.ended.notified()).await;
        let written = record.lock().clone();
        let has_ended = written.progress != Progress::Running;
        if written.n_changes == n_written && !has_ended {
            continue;
        }
        n_written = written.n_changes;
        let meta = written.meta(&backend, &identity).to_string();
        let chats = backend.chats();
        let (text, progress) = (written.text, written.progress);
        let kept = chats.update_answer(place.chat, place.message, text, progress, meta).await;
        if let Err(error) = kept {
            let error = shoal_node::chain(&error);
            warn!(chat = %place.chat, id = identity.id, error, "an answer is not kept in its chat");
        }
        if has_ended {
            return;
        }
    }
}

impl Recorder {
    /// Takes in what came; `None` for an answer that was cut off.
    pub(super) fn see(&self, event: Option<&Event>) {
        let mut written = self.0.lock();
        match event {
            Some(Event::Text(text)) if written.text.len() + text.len() <= TEXT_BYTES_MAX => {
                written.text.push_str(text);
            }
            Some(Event::Resumed { pause, .. }) => {
                written.n_healed += 1;
                written.healed += *pause;
            }
            Some(Event::Finished { reason, usage, timings }) => {
                written.progress = Progress::Done;
                written.finished = Some((*reason, *usage, *timings));
            }
            Some(Event::Failed(error)) => {
                written.progress = Progress::Failed;
                written.error = ApiError::from(error.clone()).to_json()["error"].take();
            }
            None if written.progress == Progress::Running => {
                written.progress = Progress::Interrupted;
            }
            _ => return,
        }
        written.n_changes += 1;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut written = self.0.lock();
        if written.progress == Progress::Running {
            written.progress = Progress::Stopped;
        }
        drop(written);
        self.0.ended.notify_one();
    }
}

impl Written {
    /// What is known about the answer.
    fn meta<B: Backend>(&self, backend: &B, identity: &Identity) -> Value {
        let timings = self.finished.map(|(_, _, timings)| timings);
        let usage = self.finished.map(|(_, usage, _)| usage);
        let first_token_ms = timings.map(|it| it.first_token.as_millis());
        json!({
            "completion": identity.id,
            "node": backend.id().to_string(),
            "model": identity.model,
            "finish_reason": self.finished.map(|(reason, ..)| finish_reason(reason)),
            "usage": usage.map(UsageObject::from),
            "tokens_per_s": timings.zip(usage).and_then(|(timings, usage)| speed(timings, usage)),
            "first_token_ms": first_token_ms.and_then(|ms| u64::try_from(ms).ok()),
            "devices": devices(backend, &identity.model),
            "n_healed": self.n_healed,
            "healed_ms": u64::try_from(self.healed.as_millis()).unwrap_or(u64::MAX),
            "error": self.error,
        })
    }
}

/// Tokens per second after the first.
fn speed(timings: Timings, usage: Usage) -> Option<f64> {
    let seconds = timings.generation.as_secs_f64();
    let n_tokens = usage.n_generated.checked_sub(1)?;
    (n_tokens > 0 && seconds > 0.0).then(|| f64::from(n_tokens) / seconds)
}

/// The devices that compute the model, and what each has of it.
fn devices<B: Backend>(backend: &B, model: &str) -> Value {
    let instances = backend.instances().into_iter();
    let mut runs = instances.filter(|it| it.record.model.name == model);
    let Some(instance) = runs.find(|it| it.record.phase == Phase::Ready) else { return json!([]) };
    let nodes = backend.nodes();
    let stages = instance.record.placement.stages.iter().map(|stage| {
        let node = nodes.iter().find(|node| node.record.id == stage.node);
        json!({
            "id": stage.node.to_string(),
            "name": node.map(|node| node.record.name.as_str()),
            "layers": [stage.layers.start(), stage.layers.end()],
        })
    });
    stages.collect()
}
