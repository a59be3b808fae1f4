//! Answers that are under way, by their ids; and those that outlive their client's connection for a while.
//!
//! An answer that can be resumed is drawn by a task of its own, which keeps its pieces; each client reads them from where it
//! was. Without a reader the task waits for the grace period, and then drops the answer, which cancels it. What has ended is
//! kept for as long again.
//!
//! All pieces together take at most [`KEPT_BYTES_MAX`]. Beyond that the oldest ended answer goes; without any, the longest
//! that is under way loses its beginning. A client that asks for what is gone is told so, never given less.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::pieces::{Form, Note, Piece, Pieces};
use crate::{backend::Answer, error::ApiError};

/// Most memory of kept pieces: a few hundred thousand tokens.
pub(super) const KEPT_BYTES_MAX: usize = 16 << 20;
/// Counted for an answer beside its pieces.
const ANSWER_BYTES: usize = 512;
/// Ids of kept answers that are remembered when they are gone.
const GONE_MAX: usize = 256;

/// The answers of this node that have an id which clients know.
#[derive(Debug)]
pub(crate) struct Answers {
    n_bytes_max: usize,
    inner: Mutex<Inner>,
    /// Those that draw kept answers; they end with their answers.
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Inner {
    listed: HashMap<String, CancellationToken>,
    kept: HashMap<String, Kept>,
    /// Kept answers that have ended, the oldest first.
    ended: VecDeque<String>,
    gone: VecDeque<String>,
    n_bytes: usize,
}

/// What is kept of an answer.
#[derive(Debug)]
struct Kept {
    form: Form,
    note: Note,
    cancel: CancellationToken,
    /// Without the first `n_dropped`.
    pieces: VecDeque<Piece>,
    n_dropped: u64,
    n_bytes: usize,
    is_ended: bool,
    changed: watch::Sender<()>,
    n_readers: watch::Sender<usize>,
}

impl Kept {
    /// The id that the next event will have.
    fn end(&self) -> u64 {
        self.n_dropped + self.pieces.len() as u64
    }
}

/// The answer is under way; dropping this says that it is no more.
#[derive(Debug)]
pub(super) struct Listed {
    answers: Arc<Answers>,
    id: String,
}

/// One client's place in a kept answer.
#[derive(Debug)]
pub(super) struct Reader {
    answers: Arc<Answers>,
    id: String,
    /// The id of the next event.
    at: u64,
    note: Note,
    changed: watch::Receiver<()>,
    n_readers: watch::Sender<usize>,
    is_over: bool,
}

/// What a reader finds.
enum Found {
    /// An event's text, and whether it is the last.
    Event(String, bool),
    Nothing,
    End,
    Gone(ApiError),
}

impl Default for Answers {
    fn default() -> Self {
        Self::with_room(KEPT_BYTES_MAX)
    }
}

impl Answers {
    /// No answers, and room for `n_bytes_max` of kept ones.
    pub(super) fn with_room(n_bytes_max: usize) -> Self {
        Self { n_bytes_max, inner: Mutex::default(), tasks: TaskTracker::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what ends with an answer.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Lists an answer that ends with its client, so that it can be cancelled by its id.
    pub(super) fn list(self: &Arc<Self>, id: String, cancel: CancellationToken) -> Listed {
        self.lock().listed.insert(id.clone(), cancel);
        Listed { answers: Arc::clone(self), id }
    }

    /// Whether an answer of this id is under way, so that it can be cancelled.
    pub(crate) fn is_listed(&self, id: &str) -> bool {
        let inner = self.lock();
        inner.listed.contains_key(id) || inner.kept.get(id).is_some_and(|kept| !kept.is_ended)
    }

    /// Keeps an answer from its beginning; it outlives its last reader by `grace`.
    pub(super) fn keep<A: Answer>(
        self: &Arc<Self>,
        form: Form,
        pieces: Pieces<A>,
        grace: Duration,
    ) -> Reader {
        let id = form.identity.id.clone();
        let kept = Kept {
            form,
            note: pieces.note(),
            cancel: pieces.cancel(),
            pieces: VecDeque::new(),
            n_dropped: 0,
            n_bytes: ANSWER_BYTES,
            is_ended: false,
            changed: watch::Sender::new(()),
            n_readers: watch::Sender::new(0),
        };
        let reader = self.reader(&id, &kept, 0);
        let mut inner = self.lock();
        inner.n_bytes += ANSWER_BYTES;
        inner.kept.insert(id.clone(), kept);
        drop(inner);
        let readers = reader.n_readers.subscribe();
        self.tasks.spawn(draw(Arc::clone(self), id, pieces, readers, grace));
        reader
    }

    fn reader(self: &Arc<Self>, id: &str, kept: &Kept, at: u64) -> Reader {
        kept.n_readers.send_modify(|n| *n += 1);
        Reader {
            answers: Arc::clone(self),
            id: id.to_owned(),
            at,
            note: kept.note.clone(),
            changed: kept.changed.subscribe(),
            n_readers: kept.n_readers.clone(),
            is_over: false,
        }
    }

    /// A new reader of a kept answer: of what came after event `last`, or of all.
    ///
    /// # Errors
    /// If there is no such answer or event, or it is gone.
    pub(super) fn attach(
        self: &Arc<Self>,
        id: &str,
        last: Option<u64>,
    ) -> Result<Reader, ApiError> {
        let inner = self.lock();
        let Some(kept) = inner.kept.get(id) else { return Err(inner.unknown(id)) };
        let at = last.map_or(0, |last| last.saturating_add(1));
        if at > kept.end() {
            let message = format!("expected an event before {}, got {}", kept.end(), at - 1);
            return Err(ApiError::invalid("last-event-id", message));
        }
        if at < kept.n_dropped {
            return Err(events_gone(kept, at));
        }
        Ok(self.reader(id, kept, at))
    }

    /// Cancels an answer that is under way, or forgets one that has ended.
    ///
    /// # Errors
    /// If there is no such answer, or it is gone.
    pub(super) fn cancel(&self, id: &str) -> Result<(), ApiError> {
        let mut inner = self.lock();
        if let Some(cancel) = inner.listed.get(id) {
            cancel.cancel();
            return Ok(());
        }
        match inner.kept.get(id) {
            Some(kept) if !kept.is_ended => kept.cancel.cancel(),
            Some(_) => inner.remove(id),
            None => return Err(inner.unknown(id)),
        }
        Ok(())
    }

    fn push(&self, id: &str, piece: Piece) {
        let mut inner = self.lock();
        let Some(kept) = inner.kept.get_mut(id) else { return };
        let n_bytes = piece.n_bytes();
        kept.n_bytes += n_bytes;
        kept.pieces.push_back(piece);
        kept.changed.send_replace(());
        inner.n_bytes += n_bytes;
        while inner.n_bytes > self.n_bytes_max && inner.make_room() {}
    }

    fn end(&self, id: &str) {
        let mut inner = self.lock();
        let Some(kept) = inner.kept.get_mut(id) else { return };
        kept.is_ended = true;
        kept.changed.send_replace(());
        inner.ended.push_back(id.to_owned());
    }

    fn look(&self, id: &str, at: u64) -> Found {
        let inner = self.lock();
        let Some(kept) = inner.kept.get(id) else { return Found::Gone(inner.unknown(id)) };
        let Some(i) = at.checked_sub(kept.n_dropped) else {
            return Found::Gone(events_gone(kept, at));
        };
        match usize::try_from(i).ok().and_then(|i| kept.pieces.get(i)) {
            Some(piece) => {
                let is_last = matches!(piece, Piece::Done | Piece::Failed(_));
                Found::Event(kept.form.render(piece, Some(at)), is_last)
            }
            None if kept.is_ended => Found::End,
            None => Found::Nothing,
        }
    }
}

fn events_gone(kept: &Kept, at: u64) -> ApiError {
    let message = format!(
        "events {at} to {} of the answer are gone: there is no memory for more",
        kept.n_dropped - 1
    );
    ApiError::gone("events_gone", message)
}

impl Inner {
    fn unknown(&self, id: &str) -> ApiError {
        if self.gone.iter().any(|gone| gone == id) {
            return ApiError::gone("answer_gone", format!("answer {id} is not kept any more"));
        }
        let message = format!("no answer {id} is under way or kept here");
        ApiError::not_found("answer_not_found", message)
    }

    fn remove(&mut self, id: &str) {
        let Some(kept) = self.kept.remove(id) else { return };
        self.n_bytes -= kept.n_bytes;
        self.ended.retain(|ended| ended != id);
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(id.to_owned());
        // Readers find that it is gone.
        kept.changed.send_replace(());
    }

    /// Frees some memory; returns whether there was any to free.
    fn make_room(&mut self) -> bool {
        if let Some(oldest) = self.ended.front().cloned() {
            self.remove(&oldest);
            return true;
        }
        let Some(longest) = self.kept.values_mut().max_by_key(|kept| kept.n_bytes) else {
            return false;
        };
        let Some(piece) = longest.pieces.pop_front() else { return false };
        longest.n_dropped += 1;
        longest.n_bytes -= piece.n_bytes();
        self.n_bytes -= piece.n_bytes();
        true
    }
}

/// Draws an answer to its end, or until nobody has read it for `grace`; then keeps it for as long again.
async fn draw<A: Answer>(
    answers: Arc<Answers>,
    id: String,
    mut pieces: Pieces<A>,
    mut readers: watch::Receiver<usize>,
    grace: Duration,
) {
    let mut deserted = pin!(async {
        // An error means that the answer was removed, and nobody can come any more.
        while readers.wait_for(|&n| n == 0).await.is_ok() {
            let came = tokio::time::timeout(grace, readers.wait_for(|&n| n > 0)).await;
            if !matches!(came, Ok(Ok(_))) {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            piece = pieces.next() => match piece {
                Some(piece) => answers.push(&id, piece),
                None => break,
            },
            () = &mut deserted => {
                answers.lock().remove(&id);
                return;
            }
        }
    }
    drop(pieces);
    answers.end(&id);
    tokio::time::sleep(grace).await;
    answers.lock().remove(&id);
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.answers.lock().listed.remove(&self.id);
    }
}

impl Reader {
    /// Waits for the next event's text; `None` after the last. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Option<String> {
        loop {
            if self.is_over {
                return None;
            }
            // Before the look, so that what changes after it is noticed.
            self.changed.mark_unchanged();
            match self.answers.look(&self.id, self.at) {
                Found::Event(text, is_last) => {
                    self.at += 1;
                    self.is_over = is_last;
                    return Some(text);
                }
                Found::End => return None,
                Found::Gone(error) => {
                    self.is_over = true;
                    return Some(format!("data: {}\n\n", error.to_json()));
                }
                // An error means that it was removed, which the next look finds.
                Found::Nothing => drop(self.changed.changed().await),
            }
        }
    }

    /// A comment for a stream that is silent.
    pub(super) fn comment(&self) -> String {
        self.note.comment()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.n_readers.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Identity;

    fn put(answers: &Arc<Answers>, id: &str) -> Reader {
        let identity = Identity { id: id.to_owned(), created_s: 1, model: "demo".to_owned() };
        let kept = Kept {
            form: Form { identity, include_usage: false },
            note: Note::default(),
            cancel: CancellationToken::new(),
            pieces: VecDeque::new(),
            n_dropped: 0,
            n_bytes: ANSWER_BYTES,
            is_ended: false,
            changed: watch::Sender::new(()),
            n_readers: watch::Sender::new(0),
        };
        let reader = answers.reader(id, &kept, 0);
        let mut inner = answers.lock();
        inner.n_bytes += ANSWER_BYTES;
        inner.kept.insert(id.to_owned(), kept);
        reader
    }

    fn fill(answers: &Answers, id: &str, n: usize) {
        (0..n).for_each(|_| answers.push(id, Piece::Text("x".repeat(100).into())));
    }

    #[track_caller]
    fn refused(answers: &Arc<Answers>, id: &str) -> String {
        let error = answers.attach(id, None).expect_err("gone").to_json();
        error["error"]["code"].as_str().expect("a code").to_owned()
    }

    #[tokio::test]
    async fn beyond_the_bound_the_oldest_that_has_ended_goes_first() {
        let answers = Arc::new(Answers::with_room(18_000));
        let readers = ["a", "b", "c"].map(|id| put(&answers, id));
        for id in ["b", "a"] {
            fill(&answers, id, 40);
            answers.end(id);
        }
        fill(&answers, "c", 60);
        assert_eq!(refused(&answers, "b"), "answer_gone");
        assert!(answers.attach("a", None).is_ok() && answers.attach("c", None).is_ok());
        fill(&answers, "c", 60);
        assert_eq!(refused(&answers, "a"), "answer_gone");
        fill(&answers, "c", 400);
        assert_eq!(refused(&answers, "c"), "events_gone", "its beginning is gone");
        assert!(answers.attach("c", Some(518)).is_ok(), "its end is not");
        let (n_bytes, counted) = {
            let inner = answers.lock();
            (inner.n_bytes, inner.kept.values().map(|kept| kept.n_bytes).sum::<usize>())
        };
        assert!(n_bytes <= 18_000, "{n_bytes}");
        assert_eq!(n_bytes, counted);
        let [.., mut c] = readers;
        let told = c.next().await.expect("an error");
        assert!(told.starts_with("data: {\"error\"") && told.contains("events_gone"), "{told}");
        assert_eq!(c.next().await, None, "less than all never looks whole");
    }
}
