//! The driver of one request: it holds the request's log (the prompt and every token so far), feeds the pipeline, and turns
//! tokens into text.
//!
//! ```text
//! position = tokens that the KV caches hold
//! loop:
//!   send chunks of the log from `position`, a few under way at a time; the last one asks for a token
//!   Done without a token  → one fewer under way
//!   Done with a token     → log it, give out its text, and send it as the next chunk
//!   Gap { have }          → once nothing is under way, begin again from `have`
//! ```
//!
//! The log is the whole state of a request: whatever a stage has lost is computed again from it. So is what got lost on the
//! way: steps that are not answered for a while are sent again. An answer that comes twice does no harm, since it says to which
//! position it belongs, and its token is the same.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Instant, SystemTime},
};

use shoal_cluster::Liveness;
use shoal_proto::{
    NodeId, SequenceId, TokenId,
    control::InstanceRecord,
    frame::{Body, Frame, FrameKey, Step, prefix_hash},
};
use tokio::{sync::mpsc, time::Duration};
use tracing::{debug, info};

use crate::{
    Error,
    generate::{Event, FinishReason, GenerateRequest, Timings, Usage},
    instruments::Instruments,
    models::Opened,
    peers::Peers,
    router::{Registration, Router},
    sequences::Sequences,
    stats::Pace,
    stop::StopMatcher,
    trace::{Recorder, Trace},
};

/// Steps of one sequence that may be under way: enough that every stage of a small cluster has one to work on.
pub(crate) const STEPS_IN_FLIGHT_MAX: usize = 4;
/// Tokens of one prefill chunk: small enough that stages overlap and neighbours get their turn, large enough for the prefill
/// kernels to reuse each weight.
const CHUNK_TOKENS: usize = 64;
/// The same where there are no stages to overlap and no neighbours: the kernels unpack each weight once for a chunk.
const CHUNK_TOKENS_ALONE: usize = 256;
/// First wait before unanswered steps are sent again; later ones grow, so that a stage that is only slow is not buried in copies.
const RESEND_MIN: Duration = Duration::from_secs(3);
/// Longest wait for a step. A phone needs seconds for a chunk of a big model beside other requests; a minute without a sign
/// is a failure that nothing else has noticed.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// What a driver works with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) id: NodeId,
    pub(crate) router: Arc<Router>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) sequences: Arc<Sequences>,
    pub(crate) instruments: Instruments,
}

/// A request that has been checked and tokenised.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) opened: Arc<Opened>,
    pub(crate) instance: InstanceRecord,
    pub(crate) request: GenerateRequest,
    pub(crate) prompt: Vec<TokenId>,
    /// When the request came, and how long its preparation took.
    pub(crate) received: Instant,
    pub(crate) prepared: Duration,
}

/// How the pipeline phase of a request ended.
enum Outcome {
    Finished(FinishReason),
    Cancelled,
    Failed(Error),
}

struct Driver {
    ctx: Context,
    job: Job,
    sequence: SequenceId,
    frames: Registration,
    events: mpsc::Sender<Event>,
    /// Prompt and generated tokens.
    log: Vec<TokenId>,
    /// Tokens of the log that have been sent.
    n_sent: usize,
    /// Tokens that every stage has computed.
    n_settled: usize,
    /// Where the steps end that were sent and not answered.
    in_flight: VecDeque<usize>,
    /// When a stage was last heard of, and when unanswered steps are sent again.
    heard: Instant,
    resend_at: Instant,
    /// Where to begin again once nothing is under way.
    gap: Option<usize>,
    n_cached: usize,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pace: Pace,
    recorder: Recorder,
}

/// Drives a request to its end and sends what happens to `events`. Ends early when nobody listens any more.
pub(crate) async fn drive(ctx: Context, job: Job, events: mpsc::Sender<Event>) {
    let started = Instant::now();
    let instance = &job.instance;
    let (sequence, n_shared) = ctx.sequences.take(instance.id, instance.epoch, &job.prompt);
    // At least one token is computed, since its logits are wanted.
    let n_cached = n_shared.min(job.prompt.len() - 1);
    let frames = ctx.router.register(instance.id, sequence);
    let log = job.prompt.clone();
    ctx.instruments.stats.begin(instance.id);
    let recorder = ctx.instruments.traces.begin(trace(&ctx, &job), job.received);
    let mut driver = Driver {
        ctx,
        job,
        sequence,
        frames,
        events,
        log,
        n_sent: n_cached,
        n_settled: n_cached,
        in_flight: VecDeque::new(),
        heard: started,
        resend_at: started + RESEND_MIN,
        gap: None,
        n_cached,
        started,
        first_token: None,
        last_token: None,
        pace: Pace::default(),
        recorder,
    };
    let outcome = driver.run().await;
    driver.end(outcome).await;
}

impl Driver {
    async fn run(&mut self) -> Outcome {
        let n_prompt = count(self.job.prompt.len());
        if self.events.send(Event::Started { n_prompt }).await.is_err() {
            return Outcome::Cancelled;
        }
        let opened = Arc::clone(&self.job.opened);
        let mut text = opened.tokenizer.detokenizer();
        let mut stops = StopMatcher::new(self.job.request.stop.clone());
        let mut changes = self.ctx.peers.changes();
        loop {
            self.send_chunks().await;
            let body = tokio::select! {
                biased;
                () = self.events.closed() => return Outcome::Cancelled,
                frame = self.frames.frames.recv() => match frame {
                    Some(frame) => frame.body,
                    None => return Outcome::Cancelled,
                },
                () = tokio::time::sleep_until(self.resend_at.into()) => {
                    if self.heard.elapsed() > STEP_TIMEOUT {
                        return Outcome::Failed(Error::StageSilent { after: STEP_TIMEOUT });
                    }
                    self.send_again();
                    continue;
                }
                Ok(()) = changes.changed() => {
                    if let Some(error) = self.lost_stage() {
                        return Outcome::Failed(error);
                    }
                    continue;
                }
            };
            self.heard = Instant::now();
            self.resend_at = self.heard + RESEND_MIN;
            match body {
                Body::Done { position, token, timings } => {
                    self.recorder.done(position, token.is_some(), timings);
                    self.in_flight.retain(|&end| end > position as usize);
                    self.n_settled = self.n_settled.max(position as usize);
                    let Some(token) = token else { continue };
                    if position as usize != self.log.len() {
                        debug!(position, "token for a position that is settled");
                        continue;
                    }
                    match self.take_token(token, &mut text, &mut stops).await {
                        None => {}
                        Some(outcome) => return outcome,
                    }
                }
                Body::Gap { have } => {
                    self.in_flight.pop_front();
                    let have = have as usize;
                    self.gap = Some(self.gap.map_or(have, |gap| gap.min(have)));
                }
                Body::Failed { message } => return Outcome::Failed(Error::StageFailed { message }),
                Body::Step(_) | Body::Close => debug!("a driver got a frame meant for a stage"),
            }
        }
    }

    /// Takes the next token into the log and gives out its text. Returns how the request ended, if it did.
    async fn take_token(
        &mut self,
        token: TokenId,
        text: &mut shoal_tokenizer::Detokenizer<'_>,
        stops: &mut StopMatcher,
    ) -> Option<Outcome> {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        if let Some(last) = self.last_token.replace(now) {
            self.pace.push(now - last);
        }
        self.log.push(token);
        let is_end = self.job.opened.tokenizer.is_end_of_generation(token);
        let n_generated = self.log.len() - self.job.prompt.len();
        let enough = self.job.request.max_tokens.is_some_and(|max| n_generated >= max as usize)
            || self.log.len() >= self.job.instance.n_ctx as usize;
        let mut piece = if is_end { String::new() } else { text.push(token) };
        if is_end || enough {
            piece.push_str(&text.finish());
        }
        let (mut out, stopped) = stops.push(&piece);
        let reason = match (is_end || stopped, enough) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        if reason.is_some() && !stopped {
            out.push_str(&stops.finish());
        }
        if !out.is_empty() && self.events.send(Event::Text(out)).await.is_err() {
            return Some(Outcome::Cancelled);
        }
        reason.map(Outcome::Finished)
    }

    /// Prepares to send the steps again that nobody has answered.
    fn send_again(&mut self) {
        let waited = self.resend_at - self.heard;
        self.resend_at += RESEND_MIN.max(waited / 2);
        let Some(end) = self.in_flight.front() else { return };
        debug!(sequence = %self.sequence, end, "steps are sent again");
        // Their beginning is where the step before them ended; a stage that holds more drops it.
        let n_settled = self.n_settled.min(self.n_sent);
        self.gap = Some(self.gap.map_or(n_settled, |gap| gap.min(n_settled)));
        self.in_flight.clear();
        self.recorder.lost();
    }

    /// Sends what can be sent now.
    async fn send_chunks(&mut self) {
        if let Some(have) = self.gap {
            if !self.in_flight.is_empty() {
                return;
            }
            debug!(sequence = %self.sequence, have, "stages lack a part of the sequence");
            self.n_sent = have.min(self.n_sent);
            self.n_settled = self.n_settled.min(have);
            self.n_cached = self.n_cached.min(have);
            self.gap = None;
        }
        let instance = &self.job.instance;
        let is_alone =
            instance.placement.stages.len() == 1 && self.ctx.router.n_drivers(instance.id) == 1;
        let n_tokens = if is_alone { CHUNK_TOKENS_ALONE } else { CHUNK_TOKENS };
        while self.n_sent < self.log.len() && self.in_flight.len() < STEPS_IN_FLIGHT_MAX {
            let end = self.log.len().min(self.n_sent + n_tokens);
            let is_last = end == self.log.len();
            let step = Step {
                position: count(self.n_sent),
                prefix_hash: prefix_hash(&self.log[..self.n_sent]),
                tokens: self.log[self.n_sent..end].to_vec(),
                activations: Vec::new(),
                sampling: is_last.then(|| self.job.request.sampling.clone()),
                timings: Vec::new(),
            };
            self.recorder.sent(count(end), count(end - self.n_sent));
            let first = self.job.instance.placement.stages[0].node;
            self.ctx.router.send(first, self.frame(Body::Step(step))).await;
            self.n_sent = end;
            self.in_flight.push_back(end);
        }
    }

    /// Names a stage whose node is dead.
    fn lost_stage(&self) -> Option<Error> {
        self.ctx.peers.read(|state, now| {
            let mut stages = self.job.instance.placement.stages.iter();
            let dead = stages.find(|stage| state.liveness(stage.node, now) == Liveness::Dead)?;
            Some(Error::StageLost { node: dead.node, layers: dead.layers })
        })
    }

    fn frame(&self, body: Body) -> Frame {
        let key = FrameKey {
            instance: self.job.instance.id,
            epoch: self.job.instance.epoch,
            sequence: self.sequence,
            driver: self.ctx.id,
        };
        Frame { key, body }
    }

    async fn end(self, outcome: Outcome) {
        let instance = &self.job.instance;
        let usage = Usage {
            n_prompt: count(self.job.prompt.len()),
            n_cached: count(self.n_cached),
            n_generated: count(self.log.len() - self.job.prompt.len()),
        };
        let first = self.first_token.unwrap_or_else(Instant::now);
        let timings = Timings { first_token: first - self.started, generation: first.elapsed() };
        let first_token = self.first_token.map(|at| at - self.job.received);
        self.ctx.instruments.stats.end(instance.id, &self.pace, first_token);
        let how = match &outcome {
            Outcome::Finished(FinishReason::Stop) => "stop",
            Outcome::Finished(FinishReason::Length) => "length",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed(_) => "failed",
        };
        self.recorder.end(how, usage.n_cached, usage.n_generated);
        let (event, close) = match outcome {
            Outcome::Finished(reason) => {
                let first_token_ms = first_token.map(|first| first.as_secs_f64() * 1e3);
                let (tokens_per_s, n_stages) = (self.pace.per_s(), instance.placement.stages.len());
                let (n_prompt, n_generated) = (usage.n_prompt, usage.n_generated);
                info!(
                    n_prompt,
                    n_generated, first_token_ms, tokens_per_s, n_stages, "request done"
                );
                let held = self.log[..self.n_sent].to_vec();
                let (id, epoch) = (instance.id, instance.epoch);
                let close = self.ctx.sequences.keep(id, epoch, self.sequence, held);
                (Some(Event::Finished { reason, usage, timings }), close)
            }
            Outcome::Cancelled => {
                info!(n_generated = usage.n_generated, "request cancelled");
                (None, Some(self.sequence))
            }
            Outcome::Failed(error) => {
                info!(%error, "request failed");
                (Some(Event::Failed(error)), Some(self.sequence))
            }
        };
        if let Some(sequence) = close {
            // The stages pass it on in order, so that it overtakes no step that is still on its way.
            let mut frame = self.frame(Body::Close);
            frame.key.sequence = sequence;
            self.ctx.router.send(instance.placement.stages[0].node, frame).await;
        }
        if let Some(event) = event {
            let _ = self.events.send(event).await;
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by the context")
}

/// The beginning of a request's trace.
fn trace(ctx: &Context, job: &Job) -> Trace {
    let started = job.received.elapsed();
    Trace {
        id: 0,
        model: job.instance.model.name.clone(),
        instance: job.instance.id,
        driver: ctx.id,
        stages: job.instance.placement.stages.iter().map(|stage| stage.node).collect(),
        received: SystemTime::now().checked_sub(started).unwrap_or(SystemTime::UNIX_EPOCH),
        prepared: job.prepared,
        started,
        n_prompt: count(job.prompt.len()),
        n_cached: 0,
        n_generated: 0,
        first_token: None,
        ended: None,
        outcome: "running",
        steps: Vec::new(),
        n_steps: 0,
    }
}
