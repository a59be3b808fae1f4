//! The driver of one request: it holds the request's log (the prompt and every token so far), feeds the pipeline, and turns
//! tokens into text.
//!
//! Which steps to send, and how to go on after a loss, is decided by [`shoal_cluster::timeline`]; the driver carries that out,
//! and tells it what happens: to frames, and to the instance, whose newest record it follows from placement to placement.
//!
//! The log is the whole state of a request: whatever a stage has lost is computed again from it. An answer that comes twice
//! does no harm, since it says to which position it belongs, and its token is the same.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use shoal_cluster::{
    Liveness,
    timeline::{Order, Patience, Pipeline, Timeline},
};
use shoal_proto::{
    Epoch, LayerRange, NodeId, SequenceId, TokenId,
    control::{InstanceRecord, Phase, Stage},
    frame::{Body, Frame, FrameKey, Step, prefix_hash},
};
use tokio::{sync::mpsc, time::Duration};
use tracing::{debug, info};

use crate::{
    Error,
    breakers::Breakers,
    clock,
    generate::{Event, FinishReason, GenerateRequest, Timings, Usage},
    instances::Instances,
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
/// Silence after which a driver looks whether the stages' processes are still there: many times what a step takes, and short
/// beside the time until a node is dead by silence alone.
const DOUBT_AFTER: Duration = Duration::from_millis(250);

/// What a driver works with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) id: NodeId,
    pub(crate) router: Arc<Router>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) sequences: Arc<Sequences>,
    pub(crate) instances: Arc<Instances>,
    pub(crate) instruments: Instruments,
    pub(crate) patience: Patience,
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

/// Why an answer waits.
#[derive(Debug)]
enum Trouble {
    /// A stage's node is dead.
    Lost(NodeId, LayerRange),
    /// The instance is being placed anew.
    Replaced,
    /// A frame was lost; what was said.
    Said(String),
}

struct Driver {
    ctx: Context,
    job: Job,
    sequence: SequenceId,
    frames: Registration,
    events: mpsc::Sender<Event>,
    /// Prompt and generated tokens.
    log: Vec<TokenId>,
    breakers: Breakers,
    timeline: Timeline,
    trouble: Option<Trouble>,
    /// Which life of each stage's node has the sequence, as far as it is known.
    lives: Vec<Option<u64>>,
    n_cached: usize,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pace: Pace,
    recorder: Recorder,
}

/// Drives a request to its end and sends what happens to `events`. Ends early when nobody listens any more.
pub(crate) async fn drive(ctx: Context, mut job: Job, events: mpsc::Sender<Event>) {
    let started = Instant::now();
    let mut breakers = Breakers::new(std::mem::take(&mut job.request.breakers));
    let found = &mut job.request.sampling.dry.breakers;
    breakers.find(&job.opened.tokenizer, &job.prompt, found);
    let instance = &job.instance;
    let (sequence, n_shared) = ctx.sequences.take(instance.id, &job.prompt);
    let n_cached = n_shared.min(job.prompt.len() - 1);
    let frames = ctx.router.register(instance.id, sequence);
    let log = job.prompt.clone();
    ctx.instruments.stats.begin(instance.id);
    let recorder = ctx.instruments.traces.begin(trace(&ctx, &job), job.received);
    let timeline = Timeline::new(
        clock::since_start(),
        ctx.patience,
        pipeline(instance, true),
        count(log.len()),
        count(n_cached),
        STEPS_IN_FLIGHT_MAX,
    );
    let mut driver = Driver {
        ctx,
        job,
        sequence,
        frames,
        events,
        log,
        breakers,
        timeline,
        trouble: None,
        lives: Vec::new(),
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

fn pipeline(instance: &InstanceRecord, is_whole: bool) -> Pipeline {
    Pipeline { epoch: instance.epoch, n_stages: instance.placement.stages.len(), is_whole }
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
        let mut heard = Instant::now();
        loop {
            changes.mark_unchanged();
            if let Some(outcome) = self.follow() {
                return outcome;
            }
            if let Some(outcome) = self.carry_out().await {
                return outcome;
            }
            let pause = self.timeline.wake_at().saturating_sub(clock::since_start());
            let frame = tokio::select! {
                biased;
                () = self.events.closed() => return Outcome::Cancelled,
                frame = self.frames.frames.recv() => match frame {
                    Some(frame) => frame,
                    None => return Outcome::Cancelled,
                },
                Ok(()) = changes.changed() => continue,
                () = tokio::time::sleep(pause) => continue,
                () = tokio::time::sleep_until((heard + DOUBT_AFTER).into()) => {
                    self.doubt_stages();
                    heard = Instant::now();
                    continue;
                }
            };
            heard = Instant::now();
            let (now, epoch) = (clock::since_start(), frame.key.epoch);
            match frame.body {
                Body::Done { position, token, timings } => {
                    let is_next = self.timeline.done(now, epoch, position, token.is_some());
                    self.recorder.done(position, is_next, timings);
                    let Some(token) = token.filter(|_| is_next) else { continue };
                    if let Some(outcome) = self.take_token(token, &mut text, &mut stops).await {
                        return outcome;
                    }
                }
                Body::Have { stage, n_tokens, prefix_hash } => {
                    self.take_held(epoch, stage, n_tokens, prefix_hash);
                }
                Body::Lost { reason } => {
                    debug!(sequence = %self.sequence, reason, "a step is lost");
                    self.trouble.get_or_insert(Trouble::Said(reason));
                    self.timeline.lost(now, epoch);
                }
                Body::Failed { message } => return Outcome::Failed(Error::StageFailed { message }),
                Body::Step(_) | Body::Probe { .. } | Body::Close => {
                    debug!("a driver got a frame meant for a stage");
                }
            }
        }
    }

    /// Looks how the instance stands, and moves on to its newest placement. Returns how the request ended, if it was dropped.
    fn follow(&mut self) -> Option<Outcome> {
        let id = self.job.instance.id;
        let (newest, lost, lives) = self.ctx.peers.read(|state, now| {
            let newest = state.instance(id)?;
            let mut stages = newest.placement.stages.iter();
            let lost = stages.find(|stage| state.liveness(stage.node, now) == Liveness::Dead);
            let moved = (*newest != self.job.instance).then(|| newest.clone());
            // A record that is still to come is of life 0.
            let run = |stage: &Stage| Some(state.record(stage.node)?.run).filter(|&run| run != 0);
            let lives: Vec<_> = newest.placement.stages.iter().map(run).collect();
            Some((moved, lost.map(|stage| (stage.node, stage.layers)), lives))
        })?;
        if let Some(newest) = newest {
            if newest.phase == Phase::Dropped {
                let message = "the model was unloaded while it answered".to_owned();
                return Some(Outcome::Failed(Error::StageFailed { message }));
            }
            self.job.instance = newest;
        }
        let is_ready = self.job.instance.phase == Phase::Ready;
        match lost {
            Some((node, layers)) => self.trouble = Some(Trouble::Lost(node, layers)),
            None if !is_ready => self.trouble = Some(Trouble::Replaced),
            None => {}
        }
        let pipeline = pipeline(&self.job.instance, is_ready && lost.is_none());
        let (now, is_same) =
            (clock::since_start(), pipeline.epoch == self.timeline.pipeline().epoch);
        self.timeline.placed(now, pipeline);
        // A node that came back before anybody missed it holds nothing any more.
        let mut both = self.lives.iter().zip(&lives);
        if is_same && both.any(|(known, new)| known.is_some() && new.is_some() && known != new) {
            self.trouble.get_or_insert(Trouble::Said("a node was started again".into()));
            self.timeline.lost(now, pipeline.epoch);
        }
        self.lives = lives;
        None
    }

    /// Takes in what a stage holds: nothing, if its tokens differ from the log's.
    fn take_held(&mut self, epoch: Epoch, stage: u16, n_tokens: u32, hash: u64) {
        let held = self.log.get(..n_tokens as usize);
        let is_ours = held.is_some_and(|held| prefix_hash(held) == hash);
        self.timeline.have(epoch, usize::from(stage), if is_ours { n_tokens } else { 0 });
    }

    /// Does what there is to do now. Returns how the request ended, if it did.
    async fn carry_out(&mut self) -> Option<Outcome> {
        let id = self.job.instance.id;
        let n_stages = self.job.instance.placement.stages.len();
        let is_alone = n_stages == 1 && self.ctx.router.n_drivers(id) == 1;
        let chunk = if is_alone { CHUNK_TOKENS_ALONE } else { CHUNK_TOKENS };
        for order in self.timeline.orders(clock::since_start(), count(chunk)) {
            match order {
                Order::Probe { stage, n_tokens } => {
                    self.recorder.lost();
                    let body = Body::Probe { stage: as_stage(stage), n_tokens };
                    self.send(stage, body).await;
                }
                Order::Send { from, to, last_stage, wants_token } => {
                    let (from, to) = (from as usize, to as usize);
                    let step = Step {
                        position: count(from),
                        prefix_hash: prefix_hash(&self.log[..from]),
                        last_stage: as_stage(last_stage),
                        tokens: self.log[from..to].to_vec(),
                        activations: Vec::new(),
                        sampling: wants_token.then(|| Box::new(self.job.request.sampling.clone())),
                        timings: Vec::new(),
                    };
                    self.n_cached = self.n_cached.min(from);
                    self.recorder.sent(count(to), count(to - from));
                    self.send(0, Body::Step(step)).await;
                }
                Order::Healing => {
                    let why = self.why();
                    info!(sequence = %self.sequence, why, "the answer waits");
                    if self.events.send(Event::Healing { why }).await.is_err() {
                        return Some(Outcome::Cancelled);
                    }
                }
                Order::Resumed { pause, n_recomputed } => {
                    self.trouble = None;
                    info!(sequence = %self.sequence, ?pause, n_recomputed, "the answer goes on");
                    let event = Event::Resumed { pause, n_recomputed };
                    if self.events.send(event).await.is_err() {
                        return Some(Outcome::Cancelled);
                    }
                }
                Order::GiveUp => return Some(Outcome::Failed(self.give_up())),
            }
        }
        None
    }

    fn doubt_stages(&self) {
        for stage in &self.job.instance.placement.stages {
            self.ctx.peers.doubt(stage.node);
        }
    }

    /// What the answer waits for.
    fn why(&self) -> String {
        match &self.trouble {
            Some(Trouble::Lost(node, layers)) => {
                format!("layers {layers} are lost with node {}", node.short())
            }
            Some(Trouble::Replaced) => {
                format!("the model is being placed anew{}", self.why_replaced())
            }
            Some(Trouble::Said(reason)) => reason.clone(),
            None => format!("no answer for {} s", self.ctx.patience.probe_after.as_secs()),
        }
    }

    /// Why the instance is being placed anew, as the end of a sentence; nothing if nobody has said.
    fn why_replaced(&self) -> String {
        let (id, epoch) = (self.job.instance.id, self.job.instance.epoch);
        let why = self.ctx.instances.why(id, epoch);
        why.map_or_else(String::new, |why| format!(": {why}"))
    }

    fn give_up(&mut self) -> Error {
        if let Some(n_times) = self.timeline.lost_in_vain() {
            let message = unkept(n_times, self.log.len(), self.trouble.take().as_ref());
            return Error::StageFailed { message };
        }
        let after = self.ctx.patience.give_up_after;
        match self.trouble.take() {
            Some(Trouble::Lost(node, layers)) => Error::StageLost { node, layers },
            Some(Trouble::Replaced) => Error::StageFailed {
                message: format!(
                    "the model could not be placed anew within {} s{}",
                    after.as_secs(),
                    self.why_replaced()
                ),
            },
            Some(Trouble::Said(message)) => Error::StageFailed { message },
            None => Error::StageSilent { after },
        }
    }

    async fn send(&self, stage: usize, body: Body) {
        let node = self.job.instance.placement.stages[stage].node;
        self.ctx.router.send(node, self.frame(body)).await;
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
        let found = &mut self.job.request.sampling.dry.breakers;
        self.breakers.find(&self.job.opened.tokenizer, &[token], found);
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
                let held = self.log[..self.timeline.n_sent() as usize].to_vec();
                let close = self.ctx.sequences.keep(instance.id, self.sequence, held);
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

fn as_stage(stage: usize) -> u16 {
    u16::try_from(stage).expect("a placement of a home cluster")
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by the context")
}

/// What is said of an answer whose stages lose what they hold of it as often as they compute it.
fn unkept(n_times: u32, n_tokens: usize, trouble: Option<&Trouble>) -> String {
    let last = match trouble {
        Some(Trouble::Said(reason)) => format!("; {reason}"),
        _ => String::new(),
    };
    format!(
        "memory is missing for the {n_tokens} tokens of this conversation: its stages lost them {n_times} times in a row \
         before the next one came, since too many conversations share their KV caches{last}"
    )
}

/// The beginning of a request's trace.
fn trace(ctx: &Context, job: &Job) -> Trace {
    let started = job.received.elapsed();
    let stages = job.instance.placement.stages.iter().map(|stage| stage.node).collect();
    let model = job.instance.model.name.clone();
    let n_prompt = count(job.prompt.len());
    Trace {
        received: SystemTime::now().checked_sub(started).unwrap_or(SystemTime::UNIX_EPOCH),
        prepared: job.prepared,
        started,
        ..Trace::new(model, job.instance.id, ctx.id, stages, n_prompt)
    }
}
