//! The runner of a stage, as the real one takes, checks and answers frames; what it computes is the small [`model`](crate::model).

use std::collections::{BTreeMap, VecDeque};

use shoal_proto::{
    Epoch, LayerRange, NodeId, SequenceId, TokenId,
    control::InstanceRecord,
    frame::{FrameKey, prefix_hash},
};

use crate::{actor::index, model, requests::Request, world::Ms};

/// Most sequences of a stage: more than drivers ever have at once, so that only trouble evicts one that is in use.
const SEQUENCES_MAX: usize = 64;
/// Most rows of a batch.
const BATCH_ROWS_MAX: usize = 12;

#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) key: FrameKey,
    /// The request that it belongs to: for whoever watches, no node looks at it.
    pub(crate) request: usize,
    pub(crate) body: Body,
}

#[derive(Clone)]
pub(crate) enum Body {
    Step(Step),
    Done { position: u32, token: Option<TokenId> },
    Probe { stage: usize, n_tokens: u32 },
    Have { stage: usize, n_tokens: u32, prefix_hash: u64 },
    Lost,
    Close,
}

#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) position: u32,
    pub(crate) prefix_hash: u64,
    pub(crate) last_stage: usize,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) activations: Vec<u64>,
    /// The seed, if a token is wanted.
    pub(crate) sampling: Option<u64>,
}

pub(crate) enum Input {
    Frame(Frame),
    DropDriver(NodeId),
    /// Forget what nobody has used or asked after since.
    Expire(Ms),
    Move(Route),
}

#[derive(Clone, Copy)]
pub(crate) struct Route {
    stage_idx: usize,
    next: Option<usize>,
}

impl Route {
    /// Where a node stands in a placement.
    pub(crate) fn of(record: &InstanceRecord, node: NodeId) -> Option<Self> {
        let stages = &record.placement.stages;
        let stage_idx = stages.iter().position(|stage| stage.node == node)?;
        let next = stages.get(stage_idx + 1).map(|stage| index(stage.node));
        Some(Self { stage_idx, next })
    }
}

#[derive(Default)]
pub(crate) struct Held {
    pub(crate) tokens: Vec<TokenId>,
    /// What each of the stage's layers keeps of each position.
    rows: Vec<Vec<u64>>,
    used_at: u64,
    /// When its driver last used it or asked after it.
    vouched_at: Ms,
}

impl Held {
    fn truncate(&mut self, n_tokens: usize) {
        self.tokens.truncate(n_tokens);
        self.rows.truncate(n_tokens);
    }
}

type HeldKey = (NodeId, SequenceId);

fn held_key(key: &FrameKey) -> HeldKey {
    (key.driver, key.sequence.without_use())
}

pub(crate) struct Runner {
    /// Unlike that of any other.
    pub(crate) number: u64,
    pub(crate) epoch: Epoch,
    pub(crate) layers: LayerRange,
    /// A newer placement that leaves this stage as it is is being made.
    pub(crate) is_fenced: bool,
    pub(crate) is_busy: bool,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) sequences: BTreeMap<HeldKey, Held>,
    route: Route,
    n_batches: u64,
    now: Ms,
}

/// Frames and to whom they go.
pub(crate) type Outgoing = Vec<(usize, Frame)>;

/// What a runner does when it looks into its inbox.
pub(crate) struct Work {
    /// What it says at once.
    pub(crate) at_once: Outgoing,
    /// What it says when its batch is computed.
    pub(crate) computed: Outgoing,
    /// Rows of the batch.
    pub(crate) n_rows: usize,
}

impl Runner {
    pub(crate) fn new(number: u64, record: &InstanceRecord, node: NodeId) -> Option<Self> {
        let route = Route::of(record, node)?;
        Some(Self {
            number,
            epoch: record.epoch,
            layers: record.placement.stages[route.stage_idx].layers,
            is_fenced: false,
            is_busy: false,
            inbox: VecDeque::new(),
            sequences: BTreeMap::new(),
            route,
            n_batches: 0,
            now: 0,
        })
    }

    /// Whether a newer placement leaves the stage as it is.
    pub(crate) fn is_kept(&self, record: &InstanceRecord, node: NodeId) -> bool {
        let mut stages = record.placement.stages.iter();
        self.epoch <= record.epoch
            && stages.any(|stage| stage.node == node && stage.layers == self.layers)
    }

    /// Takes what can be computed together, as the real one does, and computes it.
    pub(crate) fn work(&mut self, now: Ms, requests: &[Request]) -> Work {
        self.now = now;
        let mut work = Work { at_once: Vec::new(), computed: Vec::new(), n_rows: 0 };
        while work.n_rows == 0 && !self.inbox.is_empty() {
            let batch = self.next_batch(&mut work.at_once);
            for (key, request, step) in batch {
                let n_rows = step.tokens.len();
                match self.compute(key, step, &requests[request]) {
                    Ok((to, body)) => {
                        work.computed.push((to, Frame { key, request, body }));
                        work.n_rows += n_rows;
                    }
                    Err(()) => {
                        let lost = Frame { key, request, body: Body::Lost };
                        work.at_once.push((index(key.driver), lost));
                    }
                }
            }
            self.n_batches += 1;
        }
        work
    }

    fn next_batch(&mut self, out: &mut Outgoing) -> Vec<(FrameKey, usize, Step)> {
        let mut batch: Vec<(FrameKey, usize, Step)> = Vec::new();
        let mut n_rows = 0;
        while let Some(input) = self.inbox.pop_front() {
            let is_in_batch =
                |key: &FrameKey| batch.iter().any(|(other, ..)| held_key(other) == held_key(key));
            match input {
                Input::Frame(Frame { key, request, body: Body::Step(step) }) => {
                    let is_full = n_rows > 0 && n_rows + step.tokens.len() > BATCH_ROWS_MAX;
                    if is_in_batch(&key) || is_full {
                        let frame = Frame { key, request, body: Body::Step(step) };
                        self.inbox.push_front(Input::Frame(frame));
                        break;
                    }
                    n_rows += step.tokens.len();
                    batch.push((key, request, step));
                }
                Input::Frame(frame) if is_in_batch(&frame.key) => {
                    self.inbox.push_front(Input::Frame(frame));
                    break;
                }
                Input::Frame(frame) => out.extend(self.answer(&frame)),
                Input::Move(route) if batch.is_empty() => self.route = route,
                Input::Move(route) => {
                    self.inbox.push_front(Input::Move(route));
                    break;
                }
                Input::DropDriver(node) => self.sequences.retain(|(driver, _), _| *driver != node),
                Input::Expire(since) => self.sequences.retain(|_, it| it.vouched_at > since),
            }
        }
        batch
    }

    fn answer(&mut self, frame: &Frame) -> Option<(usize, Frame)> {
        let held = held_key(&frame.key);
        let (to, body) = match frame.body {
            Body::Close => {
                self.sequences.remove(&held);
                (self.route.next?, Body::Close)
            }
            Body::Probe { stage, n_tokens } => {
                let tokens = self.sequences.get_mut(&held).map_or(&[][..], |held| {
                    held.vouched_at = self.now;
                    &held.tokens[..]
                });
                let tokens = &tokens[..tokens.len().min(n_tokens as usize)];
                let (n_tokens, prefix_hash) = (count(tokens.len()), prefix_hash(tokens));
                (index(frame.key.driver), Body::Have { stage, n_tokens, prefix_hash })
            }
            _ => panic!("a stage got a frame meant for a driver"),
        };
        Some((to, Frame { body, ..frame.clone() }))
    }

    fn compute(
        &mut self,
        key: FrameKey,
        step: Step,
        request: &Request,
    ) -> Result<(usize, Body), ()> {
        let mut held = self.take_sequence(&key, &step)?;
        let from = held.tokens.len();
        assert_eq!(from, step.position as usize, "a step goes on from where it says");
        let mut outputs = Vec::with_capacity(step.tokens.len());
        for (row, &token) in step.tokens.iter().enumerate() {
            let mut passed = match step.activations.get(row) {
                Some(&activation) => activation,
                None => model::embed(token),
            };
            let before = held.rows.last();
            let mut kept = Vec::with_capacity(self.layers.n_layer() as usize);
            for (at, layer) in self.layers.iter().enumerate() {
                passed = model::layer(before.map_or(0, |row| row[at]), passed, layer);
                kept.push(passed);
            }
            held.rows.push(kept);
            outputs.push(passed);
        }
        held.tokens.extend(&step.tokens);
        (held.used_at, held.vouched_at) = (self.n_batches, self.now);
        self.check_rows(&held, request);
        let position = step.position + count(step.tokens.len());
        let result = match self.route.next.filter(|_| self.route.stage_idx < step.last_stage) {
            Some(next) => (next, Body::Step(Step { activations: outputs, ..step })),
            None => {
                let sampling = step.sampling.filter(|_| self.route.next.is_none());
                let output = *outputs.last().expect("a step has tokens");
                let token = sampling.map(|seed| model::sample(output, seed));
                (index(key.driver), Body::Done { position, token })
            }
        };
        self.sequences.insert(held_key(&key), held);
        Ok(result)
    }

    /// What is held after a step is what an undisturbed run would hold.
    fn check_rows(&self, held: &Held, request: &Request) {
        let n_tokens = held.tokens.len();
        assert!(
            request.log.get(..n_tokens) == Some(&held.tokens[..]),
            "a stage computes on other tokens than those of {request}"
        );
        let layers = self.layers.start() as usize..self.layers.end() as usize;
        let is_right = |(row, undisturbed): (&Vec<u64>, &[u64; model::N_LAYER as usize])| {
            row[..] == undisturbed[layers.clone()]
        };
        assert!(
            held.rows.iter().zip(&request.undisturbed.rows).all(is_right),
            "a stage computes {request} on a prefix that it does not hold"
        );
    }

    fn take_sequence(&mut self, key: &FrameKey, step: &Step) -> Result<Held, ()> {
        let mut held = match self.sequences.remove(&held_key(key)) {
            Some(held) => held,
            None if step.position > 0 => return Err(()),
            None => {
                self.make_room();
                Held { vouched_at: self.now, ..Held::default() }
            }
        };
        let (n_held, position) = (held.tokens.len(), step.position as usize);
        let have = if position > n_held {
            Some(n_held)
        } else {
            let hash = prefix_hash(&held.tokens[..position]);
            (hash != step.prefix_hash).then_some(0)
        };
        if let Some(have) = have {
            held.truncate(have);
            self.sequences.insert(held_key(key), held);
            return Err(());
        }
        held.truncate(position);
        Ok(held)
    }

    fn make_room(&mut self) {
        if self.sequences.len() < SEQUENCES_MAX {
            return;
        }
        let oldest = self.sequences.iter().min_by_key(|(_, held)| held.used_at);
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            self.sequences.remove(&oldest);
        }
    }
}

pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by the context")
}
