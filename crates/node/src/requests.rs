//! The requests for answers that this node drives, from their coming to their end, and what they produce: for people who watch.
//! Nothing here knows a prompt or a text.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use shoal_proto::{InstanceId, NodeId, control::InstanceRecord};
use tokio::sync::watch;

use crate::{
    Event, Node,
    instruments::Instruments,
    journal::{Journal, words},
    trace::Trace,
};

/// Requests that are kept: those under way, and the latest that have ended.
const REQUESTS_MAX: usize = 64;
/// Instances whose tokens are counted; a node drives answers of a few.
const METERS_MAX: usize = 64;
/// Pieces of the second over which a speed is taken, and the length of each.
const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_millis(100);

/// Who asked for an answer, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The name that the answer has for its client.
    pub answer: Option<String>,
    /// Who the client is, for people.
    pub by: Option<String>,
}

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestState {
    /// It waits for its turn.
    Queued,
    /// Its prompt is being computed.
    Prefill,
    /// It gives tokens.
    Decoding,
    /// It waits for a stage that is lost.
    Healing,
    /// Its answer is complete.
    Done,
    /// Its answer could not be completed.
    Failed,
    /// Its client went away, or somebody ended it.
    Cancelled,
}

impl RequestState {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Prefill => "prefill",
            Self::Decoding => "decoding",
            Self::Healing => "healing",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it will not change any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A request that this node drives.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestStatus {
    /// Its number since the node's start; that of its trace as well.
    pub id: u64,
    /// Who asked.
    pub caller: Caller,
    /// The model.
    pub model: String,
    /// The instance that answers it.
    pub instance: InstanceId,
    /// How it stands.
    pub state: RequestState,
    /// Requests that wait before it, while it is queued.
    pub position: Option<usize>,
    /// Why it heals or has failed, in words.
    pub why: Option<String>,
    /// Tokens of its prompt.
    pub n_prompt: u32,
    /// Those of them that were in KV caches, once it has ended.
    pub n_cached: Option<u32>,
    /// Tokens of its answer so far.
    pub n_tokens: u32,
    /// Tokens per second after the first, without the time for which it healed.
    pub tokens_per_s: Option<f64>,
    /// From its coming to its first token.
    pub first_token: Option<Duration>,
    /// How often it has gone on after a loss.
    pub n_healed: u32,
    /// How long it has waited for that altogether.
    pub healed: Duration,
    /// When it came.
    pub started: SystemTime,
    /// How long it has taken so far, or until its end.
    pub took: Duration,
    /// The nodes of the stages, in their order.
    pub stages: Vec<NodeId>,
}

/// What an instance has produced for the answers that this node drives, since the node's start.
#[derive(Debug, Clone, PartialEq)]
pub struct Production {
    /// The instance.
    pub instance: InstanceId,
    /// Its model.
    pub model: String,
    /// The nodes of its stages, in their order.
    pub stages: Vec<NodeId>,
    /// Tokens generated.
    pub n_tokens: u64,
    /// Tokens of prompts computed, those that were computed again included.
    pub n_prompt: u64,
    /// Tokens generated per second, over the last second.
    pub tokens_per_s: f64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    caller: Caller,
    model: String,
    instance: InstanceId,
    stages: Vec<NodeId>,
    n_prompt: u32,
    received: Instant,
    started: SystemTime,
    position: Option<usize>,
    waits_since: Option<Instant>,
    why: Option<String>,
    n_healed: u32,
    healed: Duration,
    /// Once it has had its turn.
    trace: Option<Arc<Mutex<Trace>>>,
    /// When it was given up before that.
    given_up: Option<Instant>,
}

/// Counts the tokens of an instance.
#[derive(Debug)]
struct Meter {
    model: String,
    stages: Vec<NodeId>,
    n_tokens: u64,
    n_prompt: u64,
    /// Tokens of each tenth of the last second, and which tenth since the beginning the last one is.
    recent: [u32; BUCKETS],
    newest: u128,
}

impl Meter {
    fn new(trace: &Trace) -> Self {
        Self {
            model: trace.model.clone(),
            stages: trace.stages.clone(),
            n_tokens: 0,
            n_prompt: 0,
            recent: [0; BUCKETS],
            newest: 0,
        }
    }

    /// Forgets what is older than a second.
    fn advance(&mut self, now: Duration) {
        let bucket = now.as_millis() / BUCKET.as_millis();
        let n_new = bucket.saturating_sub(self.newest).min(BUCKETS as u128);
        for i in 0..n_new {
            self.recent[slot(bucket - i)] = 0;
        }
        self.newest = self.newest.max(bucket);
    }

    fn count(&mut self, now: Duration, n_tokens: u32, n_prompt: u32) {
        self.advance(now);
        self.recent[slot(self.newest)] += n_tokens;
        self.n_tokens += u64::from(n_tokens);
        self.n_prompt += u64::from(n_prompt);
    }

    fn per_s(&mut self, now: Duration) -> f64 {
        self.advance(now);
        self.recent.iter().map(|&n| f64::from(n)).sum()
    }
}

/// Which of the pieces a tenth of a second is counted in.
fn slot(bucket: u128) -> usize {
    usize::try_from(bucket % BUCKETS as u128).unwrap_or_default()
}

/// The requests of a node.
#[derive(Debug)]
pub(crate) struct Requests {
    began: Instant,
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    n_begun: u64,
    /// The oldest first.
    entries: VecDeque<Entry>,
    meters: HashMap<InstanceId, Meter>,
    n_tokens: u64,
    n_prompt: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Self { began: Instant::now(), kept: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

/// What is known of a request when it comes.
#[derive(Debug)]
struct Coming {
    caller: Caller,
    model: String,
    instance: InstanceId,
    stages: Vec<NodeId>,
    n_prompt: u32,
    received: Instant,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Notes a request that waits for its turn. Returns its number.
    fn come(&self, coming: Coming) -> u64 {
        let Coming { caller, model, instance, stages, n_prompt, received } = coming;
        let mut kept = self.lock();
        if kept.entries.len() >= REQUESTS_MAX {
            let oldest = kept.entries.iter().position(Entry::is_over).unwrap_or(0);
            kept.entries.remove(oldest);
        }
        kept.n_begun += 1;
        let id = kept.n_begun;
        let started = SystemTime::now().checked_sub(received.elapsed());
        kept.entries.push_back(Entry {
            id,
            caller,
            model,
            instance,
            stages,
            n_prompt,
            received,
            started: started.unwrap_or(SystemTime::UNIX_EPOCH),
            position: None,
            waits_since: None,
            why: None,
            n_healed: 0,
            healed: Duration::ZERO,
            trace: None,
            given_up: None,
        });
        drop(kept);
        self.change();
        id
    }

    /// The turn of the request that was received then has come. Returns its number; a new one for a request that nobody noted.
    pub(crate) fn begin(
        &self,
        instance: InstanceId,
        received: Instant,
        trace: &Arc<Mutex<Trace>>,
    ) -> u64 {
        let mut kept = self.lock();
        let is_it = |entry: &&mut Entry| {
            entry.instance == instance && entry.received == received && entry.trace.is_none()
        };
        let id = match kept.entries.iter_mut().find(is_it) {
            Some(entry) => {
                entry.trace = Some(Arc::clone(trace));
                entry.position = None;
                entry.id
            }
            None => {
                kept.n_begun += 1;
                kept.n_begun
            }
        };
        drop(kept);
        self.change();
        id
    }

    /// A step of an answer was answered. The caller does not hold the trace.
    pub(crate) fn count(&self, trace: &Arc<Mutex<Trace>>, n_tokens: u32, n_prompt: u32) {
        let instance = lock(trace).instance;
        let now = self.began.elapsed();
        let mut kept = self.lock();
        kept.n_tokens += u64::from(n_tokens);
        kept.n_prompt += u64::from(n_prompt);
        if kept.meters.len() >= METERS_MAX && !kept.meters.contains_key(&instance) {
            let oldest = kept.meters.iter().min_by_key(|(_, meter)| meter.newest);
            let oldest = oldest.map(|(instance, _)| *instance);
            oldest.and_then(|instance| kept.meters.remove(&instance));
        }
        let meter = kept.meters.entry(instance).or_insert_with(|| Meter::new(&lock(trace)));
        meter.count(now, n_tokens, n_prompt);
        drop(kept);
        self.change();
    }

    /// A request ended.
    pub(crate) fn end(&self) {
        self.change();
    }

    /// Takes in what the client of a request is told.
    fn hear(&self, id: u64, journal: &Journal, event: &Event) {
        let mut kept = self.lock();
        let Some(entry) = kept.entries.iter_mut().find(|entry| entry.id == id) else { return };
        let of = (entry.instance, entry.model.clone());
        let end_wait = |entry: &mut Entry| {
            if let Some(since) = entry.waits_since.take() {
                entry.healed += since.elapsed();
            }
        };
        let note = match event {
            Event::Queued { position } => {
                entry.position = Some(*position);
                None
            }
            Event::Healing { why } => {
                end_wait(entry);
                (entry.waits_since, entry.why) = (Some(Instant::now()), Some(why.clone()));
                None
            }
            Event::Resumed { pause, n_recomputed } => {
                entry.waits_since = None;
                entry.n_healed += 1;
                entry.healed += *pause;
                entry.why = None;
                Some(words::answer_healed((of.0, &of.1), *pause, *n_recomputed))
            }
            Event::Failed(error) => {
                end_wait(entry);
                entry.why = Some(crate::error::chain(error));
                Some(words::answer_failed((of.0, &of.1), error))
            }
            Event::Started { .. } | Event::Text(_) | Event::Finished { .. } => return,
        };
        drop(kept);
        self.change();
        note.into_iter().for_each(|note| journal.note(note));
    }

    /// The client of a request has gone, or has all of its answer.
    fn let_go(&self, id: u64) {
        let mut kept = self.lock();
        if let Some(entry) = kept.entries.iter_mut().find(|entry| entry.id == id) {
            entry.given_up.get_or_insert_with(Instant::now);
        }
        drop(kept);
        self.change();
    }

    /// The requests, the newest first.
    pub(crate) fn list(&self) -> Vec<RequestStatus> {
        self.lock().entries.iter().rev().map(Entry::status).collect()
    }

    /// What instances have produced.
    pub(crate) fn production(&self) -> Vec<Production> {
        let now = self.began.elapsed();
        let mut kept = self.lock();
        let production = |(instance, meter): (&InstanceId, &mut Meter)| Production {
            instance: *instance,
            model: meter.model.clone(),
            stages: meter.stages.clone(),
            n_tokens: meter.n_tokens,
            n_prompt: meter.n_prompt,
            tokens_per_s: meter.per_s(now),
        };
        kept.meters.iter_mut().map(production).collect()
    }

    /// Tokens generated, and tokens of prompts computed, of all instances.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let kept = self.lock();
        (kept.n_tokens, kept.n_prompt)
    }
}

impl Entry {
    fn is_over(&self) -> bool {
        match &self.trace {
            Some(trace) => lock(trace).ended.is_some(),
            None => self.given_up.is_some(),
        }
    }

    fn status(&self) -> RequestStatus {
        let mut status = RequestStatus {
            id: self.id,
            caller: self.caller.clone(),
            model: self.model.clone(),
            instance: self.instance,
            state: RequestState::Queued,
            position: self.position,
            why: self.why.clone(),
            n_prompt: self.n_prompt,
            n_cached: None,
            n_tokens: 0,
            tokens_per_s: None,
            first_token: None,
            n_healed: self.n_healed,
            healed: self.healed + self.waits_since.map_or(Duration::ZERO, |since| since.elapsed()),
            started: self.started,
            took: self.received.elapsed(),
            stages: self.stages.clone(),
        };
        let Some(trace) = &self.trace else {
            if let Some(at) = self.given_up {
                status.state = RequestState::Cancelled;
                status.took = at.saturating_duration_since(self.received);
            }
            return status;
        };
        let trace = lock(trace);
        status.n_tokens = trace.n_generated;
        status.first_token = trace.first_token;
        status.took = trace.ended.unwrap_or(status.took);
        status.n_cached = trace.ended.map(|_| trace.n_cached);
        status.state = match trace.outcome {
            "stop" | "length" => RequestState::Done,
            "failed" => RequestState::Failed,
            "cancelled" => RequestState::Cancelled,
            _ if self.waits_since.is_some() => RequestState::Healing,
            _ if trace.n_generated == 0 => RequestState::Prefill,
            _ => RequestState::Decoding,
        };
        if status.state.is_over() {
            status.healed = self.healed;
        }
        status.tokens_per_s = trace.first_token.and_then(|first| {
            let busy = status.took.saturating_sub(first).saturating_sub(status.healed);
            let n_after = f64::from(trace.n_generated.saturating_sub(1));
            (n_after > 0.0 && busy > Duration::ZERO).then(|| n_after / busy.as_secs_f64())
        });
        status
    }
}

fn lock(trace: &Arc<Mutex<Trace>>) -> MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees what the client of a request sees.
#[derive(Debug)]
pub(crate) struct Witness {
    requests: Arc<Requests>,
    journal: Arc<Journal>,
    id: u64,
}

impl Witness {
    /// Takes in an event.
    pub(crate) fn see(&self, event: &Event) {
        self.requests.hear(self.id, &self.journal, event);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.requests.let_go(self.id);
    }
}

impl Node {
    /// The requests that this node drives, the newest first: those under way, and the latest that have ended.
    pub fn requests(&self) -> Vec<RequestStatus> {
        let mut requests = self.inner().instruments.traces.requests.list();
        for request in requests.iter_mut().filter(|request| !request.state.is_over()) {
            self.bring_up_to_date(request.instance, &mut request.stages);
        }
        requests
    }

    /// What instances have produced for the answers that this node drives.
    pub fn production(&self) -> Vec<Production> {
        let mut production = self.inner().instruments.traces.requests.production();
        for of in &mut production {
            self.bring_up_to_date(of.instance, &mut of.stages);
        }
        production
    }

    /// Ticks when a request or what instances have produced changes.
    pub fn request_changes(&self) -> watch::Receiver<u64> {
        self.inner().instruments.traces.requests.changed.subscribe()
    }

    /// Notes a request that stands in line, for those who watch.
    pub(crate) fn witness(
        &self,
        caller: Caller,
        instance: &InstanceRecord,
        n_prompt: u32,
        received: Instant,
    ) -> Witness {
        let Instruments { traces, journal, .. } = &self.inner().instruments;
        let id = traces.requests.come(Coming {
            caller,
            model: instance.model.name.clone(),
            instance: instance.id,
            stages: instance.placement.stages.iter().map(|stage| stage.node).collect(),
            n_prompt,
            received,
        });
        Witness { requests: Arc::clone(&traces.requests), journal: Arc::clone(journal), id }
    }

    /// An instance may have been placed anew since.
    fn bring_up_to_date(&self, instance: InstanceId, stages: &mut Vec<NodeId>) {
        self.inner().peers().read(|state, _| {
            if let Some(record) = state.instance(instance) {
                *stages = record.placement.stages.iter().map(|stage| stage.node).collect();
            }
        });
    }
}

#[cfg(test)]
mod tests;
