//! The runner of a stage: it owns one shard of one instance and every sequence on it, and computes the steps that reach it.
//!
//! A runner takes [`Input`]s and gives [`Outgoing`] frames, and shares nothing else with the node. It is a process of its own
//! that a supervisor watches over, or a thread of this one where nobody has said which program to start. What
//! computes is the same; only its [`Host`] differs. Steps that are waiting when it looks are computed as one batch; since every
//! row's result is independent of the others, that changes no bit.

#[cfg(unix)]
pub(crate) mod child;
mod handle;
#[cfg(unix)]
mod lines;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod supervise;
#[cfg(unix)]
mod supervisor;
#[cfg(all(test, unix))]
mod tests;
#[cfg(unix)]
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use shoal_engine::{Compute, Model, Part, Progress, Segment, Sequence, Shape, Shard};
use shoal_proto::{
    LayerRange, NodeId, SequenceId,
    control::InstanceRecord,
    frame::{
        Body, EMPTY_PREFIX_HASH, Frame, FrameKey, MAX_TIMINGS, StageTiming, Step,
        extend_prefix_hash, prefix_hash,
    },
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

pub(crate) use self::handle::{LostStage, RunnerHandle, Spec};
pub use self::handle::{RunnerCommand, RunnerStatus};
use crate::Error;

/// Frames that may wait for a runner. Each sequence has at most [`crate::driver::STEPS_IN_FLIGHT_MAX`] steps under way, so this
/// is never full in a well-behaved cluster; a full inbox makes the sender wait.
const INBOX_MAX: usize = 1024;
/// How much lower than the node's a runner's priority is: with a weight of a third it takes what is left over, and a busy device
/// still computes.
pub(crate) const NICENESS: i32 = 5;
/// Most rows of one batch: enough to fill the prefill kernels, few enough that a decoding neighbour is not held up for long.
const BATCH_ROWS_MAX: usize = 256;
/// Most sequences of one shard; each reserves (lazily paged) KV cache for the whole context.
const SEQUENCES_MAX: usize = 256;

/// What a runner computes of its model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageSpec {
    /// The layers.
    pub(crate) layers: LayerRange,
    /// Positions of every sequence.
    pub(crate) n_ctx: u32,
    /// Where it stands in its pipeline.
    pub(crate) route: Route,
    /// Threads to compute with; `None` for all cores.
    pub(crate) n_threads: Option<u32>,
    /// The instruction set by name; `None` for the best.
    pub(crate) isa: Option<String>,
}

/// What reaches a runner.
#[derive(Debug)]
pub(crate) enum Input {
    /// A step to compute, or a sequence to forget.
    Frame(Frame),
    /// Forget every sequence that this node drove: it is gone.
    DropDriver(NodeId),
    /// Forget every sequence that nobody has used or asked after for so long: its driver's goodbye was lost.
    Expire(Duration),
    /// The same stage of a newer placement: what is held is kept.
    Move(Route),
}

/// Where a stage stands in its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// Its index.
    pub(crate) stage_idx: usize,
    /// Who has the next stage.
    pub(crate) next: Option<NodeId>,
}

impl Route {
    pub(crate) fn of(instance: &InstanceRecord, stage_idx: usize) -> Self {
        let next = instance.placement.stages.get(stage_idx + 1).map(|stage| stage.node);
        Self { stage_idx, next }
    }
}

/// What a runner sends.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// To whom.
    pub(crate) to: NodeId,
    /// The frame.
    pub(crate) frame: Frame,
}

/// An input and when it reached the runner.
type Arrived = (Instant, Input);

/// A step in a batch.
#[derive(Debug)]
struct Waiting {
    arrived: Instant,
    key: FrameKey,
    step: Step,
}

/// What a batch took, for the profile of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Bytes that it read.
    pub(crate) n_bytes: u64,
    /// Multiply-accumulates of each of its rows.
    pub(crate) n_macs: u64,
    /// Its rows.
    pub(crate) n_rows: usize,
    /// What it took.
    pub(crate) took: Duration,
}

/// What a runner gives its results to.
pub(crate) trait Host {
    /// Takes a frame on its way. `false` if nobody listens any more.
    fn send(&self, outgoing: Outgoing) -> bool;
    /// Learns from a batch.
    fn observe(&self, observed: Observed);
    /// Notes how many inputs the runner has taken so far, and whether it is at work on them or waits for more.
    fn at_work(&self, n_taken: u64, is_busy: bool);
}

/// A sequence and the hash of all its tokens.
#[derive(Debug)]
struct Held {
    sequence: Sequence,
    hash: u64,
    /// The batch that it was last in.
    used_at: u64,
    /// When its driver last used it or asked after it.
    vouched_at: Instant,
}

type HeldKey = (NodeId, SequenceId);

struct Runner<H> {
    shard: Shard,
    compute: Compute,
    n_ctx: usize,
    route: Route,
    /// What a batch reads, and what each of its rows computes.
    n_bytes: u64,
    n_macs: u64,
    sequences: HashMap<HeldKey, Held>,
    n_batches: u64,
    host: H,
}

fn held_key(key: &FrameKey) -> HeldKey {
    (key.driver, key.sequence.without_use())
}

impl<H: Host> Runner<H> {
    fn load(spec: &StageSpec, model: Arc<Model>, host: H) -> Result<Self, Error> {
        let layers = spec.layers;
        let work = work(&model.shape(), layers);
        let shard = Shard::load(model, layers)?;
        let n_threads = spec.n_threads.map(|n_threads| n_threads as usize);
        let compute = crate::compute(n_threads, spec.isa.as_deref())?;
        info!(%layers, isa = %compute.isa(), n_threads = compute.n_threads(), "stage ready");
        Ok(Self {
            shard,
            compute,
            n_ctx: spec.n_ctx as usize,
            route: spec.route,
            n_bytes: work.n_bytes,
            n_macs: work.n_macs,
            sequences: HashMap::new(),
            n_batches: 0,
            host,
        })
    }

    /// Tells how far the computation has come.
    fn progress(&self) -> Progress {
        self.compute.progress()
    }

    fn run(mut self, mut inputs: mpsc::Receiver<Arrived>) {
        let mut waiting = VecDeque::new();
        let mut n_taken = 0;
        loop {
            if waiting.is_empty() {
                self.host.at_work(n_taken, false);
                match inputs.blocking_recv() {
                    Some(input) => waiting.push_back(input),
                    None => break,
                }
                n_taken += 1;
            }
            while let Ok(input) = inputs.try_recv() {
                waiting.push_back(input);
                n_taken += 1;
            }
            self.host.at_work(n_taken, true);
            let batch = self.next_batch(&mut waiting);
            if !batch.is_empty() && !self.compute_batch(batch) {
                break;
            }
        }
        debug!(layers = %self.shard.layers(), "stage ends");
    }

    /// Takes the steps that can be computed together from the front of the queue, and carries out what is no step. A second
    /// step of one sequence waits for the next batch.
    fn next_batch(&mut self, waiting: &mut VecDeque<Arrived>) -> Vec<Waiting> {
        let mut batch: Vec<Waiting> = Vec::new();
        let mut n_rows = 0;
        while let Some((arrived, input)) = waiting.pop_front() {
            match input {
                Input::Frame(Frame { key, body: Body::Step(step) }) => {
                    let again = batch.iter().any(|other| held_key(&other.key) == held_key(&key));
                    let full = n_rows > 0 && n_rows + step.tokens.len() > BATCH_ROWS_MAX;
                    if again || full {
                        let frame = Frame { key, body: Body::Step(step) };
                        waiting.push_front((arrived, Input::Frame(frame)));
                        break;
                    }
                    n_rows += step.tokens.len();
                    batch.push(Waiting { arrived, key, step });
                }
                Input::Frame(Frame { key, body: body @ (Body::Close | Body::Probe { .. }) }) => {
                    // Neither overtakes a step of its sequence.
                    if batch.iter().any(|other| held_key(&other.key) == held_key(&key)) {
                        waiting.push_front((arrived, Input::Frame(Frame { key, body })));
                        break;
                    }
                    self.answer(key, &body);
                }
                Input::Move(route) if batch.is_empty() => self.route = route,
                Input::Move(route) => {
                    waiting.push_front((arrived, Input::Move(route)));
                    break;
                }
                Input::Frame(frame) => warn!(?frame, "a stage got a frame meant for a driver"),
                Input::DropDriver(node) => self.sequences.retain(|(driver, _), _| *driver != node),
                Input::Expire(age) => {
                    self.sequences.retain(|_, held| held.vouched_at.elapsed() < age);
                }
            }
        }
        batch
    }

    /// Carries out what is neither a step nor meant for a driver.
    fn answer(&mut self, key: FrameKey, body: &Body) {
        let held = held_key(&key);
        match body {
            Body::Close => {
                self.sequences.remove(&held);
                if let Some(next) = self.route.next {
                    self.send(next, Frame { key, body: Body::Close });
                }
            }
            &Body::Probe { stage, n_tokens } => {
                let tokens = self.sequences.get_mut(&held).map_or(&[][..], |it| {
                    it.vouched_at = Instant::now();
                    it.sequence.tokens()
                });
                let tokens = &tokens[..tokens.len().min(n_tokens as usize)];
                let n_tokens = u32::try_from(tokens.len()).expect("bounded by the context");
                let body = Body::Have { stage, n_tokens, prefix_hash: prefix_hash(tokens) };
                self.send(key.driver, Frame { key, body });
            }
            _ => {}
        }
    }

    /// Computes a batch and sends what comes of it. `false` if nobody listens any more.
    fn compute_batch(&mut self, batch: Vec<Waiting>) -> bool {
        let mut ready = Vec::with_capacity(batch.len());
        for waiting in batch {
            match self.take_sequence(&waiting.key, &waiting.step) {
                Ok(held) => ready.push((waiting, held)),
                Err(body) => {
                    let key = waiting.key;
                    if !self.send(key.driver, Frame { key, body: *body }) {
                        return false;
                    }
                }
            }
        }
        if ready.is_empty() {
            return true;
        }
        let mut segments: Vec<Segment<'_>> = ready
            .iter_mut()
            .map(|(Waiting { step, .. }, held)| Segment {
                sequence: &mut held.sequence,
                tokens: &step.tokens,
                activations: &step.activations,
                want_logits: step.sampling.is_some(),
            })
            .collect();
        let n_rows = segments.iter().map(|segment| segment.tokens.len()).sum();
        let began = Instant::now();
        let frames = match self.shard.forward(&self.compute, &mut segments) {
            Ok(output) => {
                let (n_bytes, n_macs, took) = (self.n_bytes, self.n_macs, began.elapsed());
                self.host.observe(Observed { n_bytes, n_macs, n_rows, took });
                let (rows, logits) = (output.activations.to_vec(), output.logits.to_vec());
                self.results(&mut ready, &rows, logits, began)
            }
            Err(error) => {
                let message = format!("layers {}: {error}", self.shard.layers());
                warn!(%message, "step failed");
                let failed = |(Waiting { key, .. }, _): &(Waiting, Held)| {
                    (
                        key.driver,
                        Frame { key: *key, body: Body::Failed { message: message.clone() } },
                    )
                };
                ready.iter().map(failed).collect()
            }
        };
        self.n_batches += 1;
        for (waiting, mut held) in ready {
            (held.used_at, held.vouched_at) = (self.n_batches, Instant::now());
            self.sequences.insert(held_key(&waiting.key), held);
        }
        frames.into_iter().all(|(to, frame)| self.send(to, frame))
    }

    /// Turns a batch's output into frames: for the next stage, or from the last one to the drivers.
    fn results(
        &self,
        ready: &mut [(Waiting, Held)],
        rows: &[f32],
        mut logits: Vec<f32>,
        began: Instant,
    ) -> Vec<(NodeId, Frame)> {
        let hparams = self.shard.hparams();
        let (n_embd, n_vocab) = (hparams.n_embd, hparams.n_vocab);
        let n_rows = ready.iter().map(|(waiting, _)| waiting.step.tokens.len()).sum();
        let (mut row, mut wanted) = (0, 0);
        let mut frames = Vec::with_capacity(ready.len());
        for (Waiting { arrived, key, step }, held) in ready {
            let n_tokens = step.tokens.len();
            held.hash = extend_prefix_hash(held.hash, &step.tokens);
            let position = step.position + u32::try_from(n_tokens).expect("a bounded step");
            // The step is done with here: what it owns goes on to the next frame.
            let mut timings = std::mem::take(&mut step.timings);
            let Route { stage_idx, next } = self.route;
            let frame = if let Some(next) = next.filter(|_| stage_idx < step.last_stage.into()) {
                let activations = rows[row * n_embd..(row + n_tokens) * n_embd].to_vec();
                pass(&mut timings, *arrived, began, n_rows);
                let step = Step {
                    position: step.position,
                    prefix_hash: step.prefix_hash,
                    last_stage: step.last_stage,
                    tokens: std::mem::take(&mut step.tokens),
                    activations,
                    sampling: step.sampling.take(),
                    timings,
                };
                (next, Body::Step(step))
            } else {
                let sampling = step.sampling.as_ref().filter(|_| next.is_none());
                let token = sampling.map(|params| {
                    let logits = &mut logits[wanted * n_vocab..(wanted + 1) * n_vocab];
                    shoal_engine::sample(logits, params, held.sequence.tokens())
                });
                wanted += usize::from(token.is_some());
                pass(&mut timings, *arrived, began, n_rows);
                (key.driver, Body::Done { position, token, timings })
            };
            row += n_tokens;
            frames.push((frame.0, Frame { key: *key, body: frame.1 }));
        }
        frames
    }

    /// Takes the sequence of a step out of the map, cut back to where the step begins; or says why it cannot be computed.
    fn take_sequence(&mut self, key: &FrameKey, step: &Step) -> Result<Held, Box<Body>> {
        let mut held = match self.sequences.remove(&held_key(key)) {
            Some(held) => held,
            None if step.position > 0 => return Err(lacks(0, step)),
            None => {
                self.make_room();
                let sequence = Sequence::new(&self.shard, self.n_ctx)
                    .map_err(|error| Box::new(Body::Failed { message: error.to_string() }))?;
                let (used_at, vouched_at) = (self.n_batches, Instant::now());
                Held { sequence, hash: EMPTY_PREFIX_HASH, used_at, vouched_at }
            }
        };
        let n_held = held.sequence.tokens().len();
        let position = step.position as usize;
        let have = if position > n_held {
            Some(n_held)
        } else {
            let hash = if position == n_held {
                held.hash
            } else {
                prefix_hash(&held.sequence.tokens()[..position])
            };
            // The tokens differ somewhere: nothing of what is held can be trusted.
            (hash != step.prefix_hash).then_some(0)
        };
        if let Some(have) = have {
            held.sequence.truncate(have);
            held.hash = prefix_hash(held.sequence.tokens());
            self.sequences.insert(held_key(key), held);
            return Err(lacks(have, step));
        }
        held.sequence.truncate(position);
        held.hash = step.prefix_hash;
        Ok(held)
    }

    /// Drops the sequence that was used least recently if there are too many. Whoever drives it will be told that it is lost.
    fn make_room(&mut self) {
        if self.sequences.len() < SEQUENCES_MAX {
            return;
        }
        let oldest = self.sequences.iter().min_by_key(|(_, held)| held.used_at);
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            debug!(sequence = %oldest.1, "a sequence makes room");
            self.sequences.remove(&oldest);
        }
    }

    fn send(&self, to: NodeId, frame: Frame) -> bool {
        self.host.send(Outgoing { to, frame })
    }
}

/// The answer to a step whose sequence is not held up to where it begins.
fn lacks(have: usize, step: &Step) -> Box<Body> {
    let reason = format!("a stage holds {have} of {} tokens", step.position);
    Box::new(Body::Lost { reason })
}

/// What a stage reads for a batch and computes for each of its rows: its layers, and the head at the end. The embedding is left
/// out, since only a row of it is read.
fn work(shape: &Shape, layers: LayerRange) -> Part {
    let (start, end) = (layers.start() as usize, layers.end() as usize);
    let head = (end == shape.layers.len()).then_some(&shape.head);
    let parts = shape.layers.get(start..end).unwrap_or_default().iter().chain(head);
    parts.fold(Part::default(), |sum, part| Part {
        n_bytes: sum.n_bytes + part.n_bytes,
        n_macs: sum.n_macs + part.n_macs,
    })
}

/// Adds what this stage took for a step to what the stages before it took.
fn pass(timings: &mut Vec<StageTiming>, arrived: Instant, began: Instant, n_rows: usize) {
    // Nobody can do anything with the timings of more stages than there are layers in a model.
    if timings.len() < MAX_TIMINGS {
        timings.push(StageTiming {
            queued_us: micros(began.saturating_duration_since(arrived)),
            compute_us: micros(began.elapsed()),
            n_rows: u32::try_from(n_rows).unwrap_or(u32::MAX),
        });
    }
}

/// A duration in microseconds; everything from 71 minutes on is the longest.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
