//! Where the time of each request went: the last requests that this node drove, step by step. A trace holds times, counts and
//! names of models and nodes; never text, tokens or keys.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use shoal_proto::{InstanceId, NodeId, frame::StageTiming};

use crate::{
    requests::Requests,
    totals::{Counters, Totals},
};

/// Requests that are kept.
const TRACES_MAX: usize = 64;
/// Steps of a request that are all kept; of those after them every [`SAMPLE_EVERY`]th is, up to [`STEPS_MAX`].
const STEPS_WHOLE: usize = 512;
const SAMPLE_EVERY: usize = 16;
const STEPS_MAX: usize = 2048;
/// Most steps of an answer that tell how fast it is now.
const STEPS_RECENT: usize = 16;

/// One step of a request on its way through the stages and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTrace {
    /// Position of the token after its last one.
    pub end: u32,
    /// Tokens that it computed.
    pub n_tokens: u32,
    /// Whether it gave a token.
    pub has_token: bool,
    /// When it was sent, since the request was received.
    pub sent: Duration,
    /// From there until its answer came.
    pub took: Duration,
    /// What the stages took, in their order; see [`StageTiming`].
    pub stages: Vec<StageTiming>,
}

impl StepTrace {
    /// What is left of the round trip when the stages' own time is taken away: the network, and the nodes' handing on.
    pub fn hops(&self) -> Duration {
        let stages = self.stages.iter().map(|stage| {
            Duration::from_micros(u64::from(stage.queued_us) + u64::from(stage.compute_us))
        });
        self.took.saturating_sub(stages.sum())
    }
}

/// A request and where its time went. Times are since it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its number, from 1 since the node's start.
    pub id: u64,
    /// The name of its model.
    pub model: String,
    /// The instance that answers it.
    pub instance: InstanceId,
    /// The node that drives it.
    pub driver: NodeId,
    /// The nodes of the instance's stages, in their order.
    pub stages: Vec<NodeId>,
    /// When it was received.
    pub received: SystemTime,
    /// How long opening the model, the chat template and the tokenizer took together.
    pub prepared: Duration,
    /// When its first step could be sent.
    pub started: Duration,
    /// Tokens of its prompt.
    pub n_prompt: u32,
    /// Tokens of the prompt that the stages held already.
    pub n_cached: u32,
    /// Tokens of its answer so far.
    pub n_generated: u32,
    /// When its first token came.
    pub first_token: Option<Duration>,
    /// When it ended; `None` while it is under way.
    pub ended: Option<Duration>,
    /// How it ended: `running`, `stop`, `length`, `cancelled` or `failed`.
    pub outcome: &'static str,
    /// Its steps: all of the first 512, then every sixteenth, 2048 at most.
    pub steps: Vec<StepTrace>,
    /// Steps that were answered, those that are not kept included.
    pub n_steps: usize,
}

impl Trace {
    /// Returns the trace of a request that begins: its number and its times are still 0, and it has done nothing.
    pub fn new(
        model: String,
        instance: InstanceId,
        driver: NodeId,
        stages: Vec<NodeId>,
        n_prompt: u32,
    ) -> Self {
        Self {
            id: 0,
            model,
            instance,
            driver,
            stages,
            received: SystemTime::UNIX_EPOCH,
            prepared: Duration::ZERO,
            started: Duration::ZERO,
            n_prompt,
            n_cached: 0,
            n_generated: 0,
            first_token: None,
            ended: None,
            outcome: "running",
            steps: Vec::new(),
            n_steps: 0,
        }
    }
}

/// The traces of the latest requests.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    kept: Mutex<Kept>,
    counters: Arc<Counters>,
    /// The same requests, from before they had their turn.
    pub(crate) requests: Arc<Requests>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first.
    traces: VecDeque<Arc<Mutex<Trace>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traces {
    /// What all requests did together.
    pub(crate) fn totals(&self) -> Totals {
        self.counters.read()
    }

    /// The latest requests, the newest first, without their steps.
    pub(crate) fn list(&self) -> Vec<Trace> {
        let kept: Vec<_> = lock(&self.kept).traces.iter().rev().cloned().collect();
        let head = |trace: &Arc<Mutex<Trace>>| {
            let mut trace = lock(trace);
            let steps = std::mem::take(&mut trace.steps);
            let head = trace.clone();
            trace.steps = steps;
            head
        };
        kept.iter().map(head).collect()
    }

    /// What the latest steps of the answers under way took, by instance; nothing older than `age`.
    pub(crate) fn recent(&self, age: Duration) -> Vec<(InstanceId, Vec<StepTrace>)> {
        let kept: Vec<_> = lock(&self.kept).traces.iter().cloned().collect();
        let mut recent: Vec<(InstanceId, Vec<StepTrace>)> = Vec::new();
        for trace in &kept {
            let trace = lock(trace);
            let Some(since) = trace.received.elapsed().ok().filter(|_| trace.ended.is_none())
            else {
                continue;
            };
            let is_recent = |step: &&StepTrace| step.sent + step.took + age >= since;
            let steps = trace.steps.iter().rev().take_while(is_recent).take(STEPS_RECENT).cloned();
            match recent.iter_mut().find(|(instance, _)| *instance == trace.instance) {
                Some((_, all)) => all.extend(steps),
                None => recent.push((trace.instance, steps.collect())),
            }
        }
        recent
    }

    /// A request by its number, if it is still kept.
    pub(crate) fn get(&self, id: u64) -> Option<Trace> {
        let kept: Vec<_> = lock(&self.kept).traces.iter().cloned().collect();
        kept.iter().map(|trace| lock(trace)).find(|trace| trace.id == id).map(|trace| trace.clone())
    }

    /// Begins the trace of a request; gives it its number.
    pub(crate) fn begin(&self, trace: Trace, received: Instant) -> Recorder {
        let instance = trace.instance;
        let trace = Arc::new(Mutex::new(trace));
        let id = self.requests.begin(instance, received, &trace);
        lock(&trace).id = id;
        let mut kept = lock(&self.kept);
        kept.traces.push_back(Arc::clone(&trace));
        if kept.traces.len() > TRACES_MAX {
            kept.traces.pop_front();
        }
        let counters = Arc::clone(&self.counters);
        let requests = Arc::clone(&self.requests);
        Recorder { received, trace, sent: VecDeque::new(), counters, requests }
    }
}

/// Writes the trace of one request.
#[derive(Debug)]
pub(crate) struct Recorder {
    received: Instant,
    trace: Arc<Mutex<Trace>>,
    /// Steps under way: their end, their tokens and when they were sent.
    sent: VecDeque<(u32, u32, Instant)>,
    counters: Arc<Counters>,
    requests: Arc<Requests>,
}

impl Recorder {
    /// A step was sent that ends before position `end`.
    pub(crate) fn sent(&mut self, end: u32, n_tokens: u32) {
        self.sent.push_back((end, n_tokens, Instant::now()));
    }

    /// What is under way is given up: it will be sent again.
    pub(crate) fn lost(&mut self) {
        self.sent.clear();
    }

    /// The answer of the step that ends at `end` came.
    pub(crate) fn done(&mut self, end: u32, has_token: bool, stages: Vec<StageTiming>) {
        let Some(at) = self.sent.iter().position(|(other, ..)| *other == end) else { return };
        let (_, n_tokens, sent) = self.sent[at];
        // Answers come in order: those before it are not to come any more.
        self.sent.drain(..=at);
        let took = sent.elapsed();
        self.counters.step(took, has_token, &stages);
        let mut trace = lock(&self.trace);
        trace.n_generated += u32::from(has_token);
        trace.n_steps += 1;
        let is_of_token = has_token && n_tokens == 1 && end > trace.n_prompt;
        let is_kept = trace.n_steps <= STEPS_WHOLE || trace.n_steps.is_multiple_of(SAMPLE_EVERY);
        if is_kept && trace.steps.len() < STEPS_MAX {
            let sent = sent - self.received;
            trace.steps.push(StepTrace { end, n_tokens, has_token, sent, took, stages });
        }
        if has_token && trace.first_token.is_none() {
            trace.first_token = Some(self.received.elapsed());
        }
        drop(trace);
        let n_prompt = if is_of_token { 0 } else { n_tokens };
        self.requests.count(&self.trace, u32::from(has_token), n_prompt);
    }

    /// The request ended.
    pub(crate) fn end(&self, outcome: &'static str, n_cached: u32, n_generated: u32) {
        let mut trace = lock(&self.trace);
        trace.ended = Some(self.received.elapsed());
        (trace.outcome, trace.n_cached, trace.n_generated) = (outcome, n_cached, n_generated);
        let tokens = [trace.n_prompt, n_cached, n_generated];
        self.counters.request(outcome, tokens, trace.first_token);
        self.requests.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let node = NodeId([1; 32]);
        Trace::new("m".into(), InstanceId(1), node, vec![node], 3)
    }

    #[test]
    fn the_oldest_requests_are_forgotten() {
        let traces = Traces::default();
        for _ in 0..TRACES_MAX + 3 {
            traces.begin(trace(), Instant::now());
        }
        let ids: Vec<u64> = traces.list().iter().map(|trace| trace.id).collect();
        assert_eq!(ids, (4..=67).rev().collect::<Vec<u64>>());
        assert!(traces.get(3).is_none() && traces.get(4).is_some());
    }

    #[test]
    fn a_long_answer_is_sampled() {
        let traces = Traces::default();
        let mut recorder = traces.begin(trace(), Instant::now());
        for end in 1..=100_000 {
            recorder.sent(end, 1);
            recorder.done(end, true, Vec::new());
        }
        recorder.end("length", 2, 100_000);
        let got = traces.get(1).expect("kept");
        assert_eq!((got.steps.len(), got.n_steps), (STEPS_MAX, 100_000));
        assert_eq!((got.steps[511].end, got.steps[512].end, got.steps[513].end), (512, 528, 544));
        assert_eq!((got.outcome, got.n_cached), ("length", 2));
        assert!(got.first_token <= got.ended && got.ended.is_some());
        let listed = &traces.list()[0];
        assert!(listed.steps.is_empty(), "a list is short");
        assert_eq!(traces.get(1).expect("kept").steps.len(), STEPS_MAX, "and takes nothing away");
    }

    #[test]
    fn answers_that_nobody_waits_for_are_no_steps() {
        let traces = Traces::default();
        let mut recorder = traces.begin(trace(), Instant::now());
        recorder.sent(64, 64);
        recorder.sent(100, 36);
        recorder.done(100, true, Vec::new());
        recorder.done(64, false, Vec::new());
        recorder.sent(101, 1);
        recorder.lost();
        recorder.done(101, true, Vec::new());
        let got = traces.get(1).expect("kept");
        assert_eq!(got.steps.iter().map(|step| step.end).collect::<Vec<_>>(), [100]);
        assert_eq!(got.n_generated, 1);
    }

    #[test]
    fn hops_are_what_the_stages_did_not_take() {
        let stage = StageTiming { queued_us: 100, compute_us: 400, n_rows: 1 };
        let mut step = StepTrace {
            end: 1,
            n_tokens: 1,
            has_token: true,
            sent: Duration::ZERO,
            took: Duration::from_millis(3),
            stages: vec![stage; 2],
        };
        assert_eq!(step.hops(), Duration::from_millis(2));
        step.stages[0].compute_us = u32::MAX;
        assert_eq!(step.hops(), Duration::ZERO, "a stage that lies makes no panic");
    }
}
