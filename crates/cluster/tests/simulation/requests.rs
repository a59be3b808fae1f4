//! Requests and their drivers, around the real [`Timeline`]: what the node's driver does, without the text.

use std::{collections::VecDeque, fmt};

use shoal_cluster::{
    Liveness,
    timeline::{Order, Patience, Pipeline, Timeline},
};
use shoal_proto::{
    InstanceId, SequenceId, TokenId,
    control::{InstanceRecord, Phase},
    frame::{FrameKey, prefix_hash},
};

use crate::{
    actor::index,
    model::Undisturbed,
    stage::{Body, Frame, Step, count},
    watch::Watch,
    world::{Ms, What, World, duration, node_id},
};

/// Steps of a request that may be under way.
pub(crate) const STEPS_IN_FLIGHT_MAX: usize = 4;
/// Tokens of a step.
pub(crate) const CHUNK: u32 = 4;
/// Longest prompt of a new conversation, what is added to an old one, and most tokens of an answer.
const PROMPT_MAX: u64 = 24;
const TURN_MAX: u64 = 6;
const ANSWER_MAX: u64 = 24;
/// Longest log.
pub(crate) const N_CTX: u32 = 96;
/// Ended sequences that a node keeps for each instance.
pub(crate) const IDLE_MAX: usize = 4;
/// Most requests that a node drives at once.
const DRIVEN_MAX: usize = 3;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Finished,
    GaveUp,
    /// The model was unloaded.
    Dropped,
    Cancelled,
    /// The node that drove it ended.
    DriverDied,
}

pub(crate) struct Request {
    pub(crate) number: usize,
    pub(crate) node: usize,
    /// The placement that it follows.
    pub(crate) record: InstanceRecord,
    pub(crate) sequence: SequenceId,
    pub(crate) seed: u64,
    pub(crate) n_prompt: usize,
    n_max: usize,
    pub(crate) log: Vec<TokenId>,
    pub(crate) undisturbed: Undisturbed,
    pub(crate) timeline: Timeline,
    pub(crate) patience: Patience,
    pub(crate) inbox: VecDeque<Frame>,
    /// When it looks next, in the world's time.
    wakes_at: Ms,
    pub(crate) ended: Option<How>,
    pub(crate) watch: Watch,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, node, log, .. } = self;
        write!(f, "request {number} of node {node}, {} tokens", log.len())
    }
}

impl World {
    /// Somebody asks a node something.
    pub(crate) fn ask_something(&mut self, node: usize) {
        let now = self.nodes[node].clock(self.now);
        let it = &self.nodes[node];
        let is_whole = |record: &InstanceRecord| {
            let stages = &record.placement.stages;
            let is_dead = |id| it.state.liveness(id, now) == Liveness::Dead;
            record.phase == Phase::Ready && !stages.iter().any(|stage| is_dead(stage.node))
        };
        let ready: Vec<InstanceId> =
            it.state.instances().filter(|it| is_whole(it)).map(|it| it.id).collect();
        if it.drivers.len() >= DRIVEN_MAX {
            return;
        }
        let Some(id) = self.random.pick(&ready) else { return };
        let record = self.nodes[node].state.instance(id).expect("just listed").clone();
        let log = self.new_prompt(node, id);
        let (sequence, n_shared) = self.take_idle(node, id, &log);
        let mut undisturbed = Undisturbed::default();
        log.iter().for_each(|&token| undisturbed.push(token));
        let give_up_after = duration(self.random.pick(&[15_000, 40_000, 90_000]).expect("some"));
        let patience = Patience { give_up_after, ..Patience::default() };
        let pipeline = pipeline(&record, true);
        let (n_log, n_cached) = (count(log.len()), count(n_shared));
        let timeline = Timeline::new(now, patience, pipeline, n_log, n_cached, STEPS_IN_FLIGHT_MAX);
        let number = self.requests.len();
        let n_answer = usize::try_from(self.random.between(1, ANSWER_MAX)).expect("few");
        let n_max = (log.len() + n_answer).min(N_CTX as usize);
        let watch = Watch::new(self.now, n_cached.min(n_log - 1), &record);
        self.trace(|| {
            let n_stages = record.placement.stages.len();
            format!("{node}: request {number} to {id} as {}, {n_stages} stages, {n_log} tokens, {n_shared} cached, to {n_max}, sequence {sequence}", record.epoch)
        });
        self.requests.push(Request {
            number,
            node,
            record,
            sequence,
            seed: self.random.next(),
            n_prompt: log.len(),
            n_max,
            log,
            undisturbed,
            timeline,
            patience,
            inbox: VecDeque::new(),
            wakes_at: Ms::MAX,
            ended: None,
            watch,
        });
        self.nodes[node].drivers.insert((id, sequence), number);
        self.wake(number, self.now);
    }

    /// A new conversation, the next turn of one, or the same question again.
    fn new_prompt(&mut self, node: usize, instance: InstanceId) -> Vec<TokenId> {
        let mine: Vec<usize> = (0..self.requests.len())
            .filter(|&request| {
                let it = &self.requests[request];
                it.node == node && it.record.id == instance && it.ended == Some(How::Finished)
            })
            .collect();
        let (old, kind) = (self.random.pick(&mine), self.random.below(3));
        let (mut prompt, n_new) = match old.map(|old| &self.requests[old]) {
            Some(old) if kind == 0 => (old.log.clone(), TURN_MAX),
            Some(old) if kind == 1 => (old.log[..old.n_prompt].to_vec(), 0),
            _ => (Vec::new(), PROMPT_MAX),
        };
        if prompt.len() + 8 > N_CTX as usize {
            prompt.clear();
        }
        let n_new =
            if n_new == 0 && !prompt.is_empty() { 0 } else { self.random.between(1, n_new.max(1)) };
        for _ in 0..n_new {
            prompt.push(u32::try_from(self.random.below(1000)).expect("small"));
        }
        prompt
    }

    /// The idle sequence that shares most with a prompt, and how much; else a new one.
    fn take_idle(
        &mut self,
        node: usize,
        id: InstanceId,
        prompt: &[TokenId],
    ) -> (SequenceId, usize) {
        let it = &mut self.nodes[node];
        let idle = it.idle.entry(id).or_default();
        let shared = |tokens: &[TokenId]| {
            tokens.iter().zip(prompt).take_while(|(held, wanted)| held == wanted).count()
        };
        let best = (0..idle.len()).max_by_key(|&i| shared(&idle[i].1));
        match best.map(|i| (i, shared(&idle[i].1))) {
            Some((i, n_shared)) if n_shared > 0 || idle.len() >= IDLE_MAX => {
                (idle.remove(i).0.next_use(), n_shared)
            }
            _ => {
                it.next_sequence += 1;
                (SequenceId::first(it.next_sequence), 0)
            }
        }
    }

    /// A driver looks again at `at`.
    pub(crate) fn wake(&mut self, request: usize, at: Ms) {
        let it = &mut self.requests[request];
        if it.ended.is_none() && at < it.wakes_at {
            it.wakes_at = at;
            self.at(at, What::Drive { request });
        }
    }

    /// What a node knows has changed: its drivers look.
    pub(crate) fn wake_drivers(&mut self, node: usize) {
        if self.nodes[node].drivers.is_empty() {
            return;
        }
        let requests: Vec<usize> = self.nodes[node].drivers.values().copied().collect();
        for request in requests {
            self.wake(request, self.now);
        }
    }

    pub(crate) fn drive(&mut self, request: usize) {
        let it = &mut self.requests[request];
        let (node, is_due) = (it.node, it.wakes_at <= self.now);
        if it.ended.is_some() || !is_due {
            return;
        }
        it.wakes_at = Ms::MAX;
        let thaws = self.nodes[node].frozen_until;
        if thaws > self.now {
            self.wake(request, thaws);
            return;
        }
        loop {
            self.follow(request);
            self.carry_out_orders(request);
            let it = &mut self.requests[request];
            if it.ended.is_some() {
                return;
            }
            let Some(frame) = it.inbox.pop_front() else { break };
            self.take_frame(request, &frame);
            if self.requests[request].ended.is_some() {
                return;
            }
        }
        let now = self.nodes[node].clock(self.now);
        let pause = self.requests[request].timeline.wake_at().saturating_sub(now);
        let pause = Ms::try_from(pause.as_millis()).expect("seconds");
        assert!(pause <= 5_000, "a driver looks again within five seconds");
        self.wake(request, self.now + pause.max(1));
    }

    fn follow(&mut self, request: usize) {
        let it = &self.requests[request];
        let (node, id) = (it.node, it.record.id);
        let now = self.nodes[node].clock(self.now);
        let state = &self.nodes[node].state;
        let Some(newest) = state.instance(id) else { return };
        if newest.phase == Phase::Dropped {
            self.end_request(request, How::Dropped);
            return;
        }
        let stages = &newest.placement.stages;
        let is_lost = stages.iter().any(|stage| state.liveness(stage.node, now) == Liveness::Dead);
        let pipeline = pipeline(newest, newest.phase == Phase::Ready && !is_lost);
        let it = &mut self.requests[request];
        if it.record != *newest {
            it.record = newest.clone();
        }
        if it.timeline.pipeline() != pipeline {
            it.watch.placed(it.timeline.pipeline(), pipeline);
            it.timeline.placed(now, pipeline);
        }
    }

    fn take_frame(&mut self, request: usize, frame: &Frame) {
        let world_now = self.now;
        let it = &mut self.requests[request];
        let now = self.nodes[it.node].clock(self.now);
        let epoch = frame.key.epoch;
        match frame.body {
            Body::Done { position, token } => {
                it.watch.done();
                let is_next = it.timeline.done(now, epoch, position, token.is_some());
                if is_next {
                    assert_eq!(epoch, it.record.epoch, "{it} takes a token of a stale epoch");
                    let token = token.expect("it is the next");
                    let right = it.undisturbed.next(it.seed);
                    assert_eq!(token, right, "{it} takes a token that does not follow");
                    it.log.push(token);
                    it.undisturbed.push(token);
                    it.watch.grew(world_now);
                    assert_eq!(it.timeline.n_log() as usize, it.log.len(), "{it}");
                    if it.log.len() >= it.n_max {
                        self.end_request(request, How::Finished);
                    }
                }
            }
            Body::Have { stage, n_tokens, prefix_hash: hash } => {
                let held = it.log.get(..n_tokens as usize);
                let is_ours = held.is_some_and(|held| prefix_hash(held) == hash);
                let n_tokens = if is_ours { n_tokens } else { 0 };
                it.watch.told(epoch == it.record.epoch, stage, n_tokens);
                it.timeline.have(epoch, stage, n_tokens);
            }
            Body::Lost => {
                if epoch == it.record.epoch {
                    it.watch.lost();
                }
                it.timeline.lost(now, epoch);
            }
            Body::Step(_) | Body::Probe { .. } | Body::Close => {
                panic!("a driver got a frame meant for a stage")
            }
        }
    }

    fn carry_out_orders(&mut self, request: usize) {
        let it = &mut self.requests[request];
        if it.ended.is_some() {
            return;
        }
        let now = self.nodes[it.node].clock(self.now);
        let stages: Vec<usize> =
            it.record.placement.stages.iter().map(|stage| index(stage.node)).collect();
        for order in self.requests[request].timeline.orders(now, CHUNK) {
            self.check_order(request, order);
            let it = &self.requests[request];
            let body = match order {
                Order::Probe { stage, n_tokens } => {
                    let body = Body::Probe { stage, n_tokens };
                    self.send_of(request, stages[stage], body);
                    continue;
                }
                Order::Send { from, to, last_stage, wants_token } => Body::Step(Step {
                    position: from,
                    prefix_hash: prefix_hash(&it.log[..from as usize]),
                    last_stage,
                    tokens: it.log[from as usize..to as usize].to_vec(),
                    activations: Vec::new(),
                    sampling: wants_token.then_some(it.seed),
                }),
                Order::Healing | Order::Resumed { .. } => continue,
                Order::GiveUp => {
                    self.end_request(request, How::GaveUp);
                    return;
                }
            };
            self.send_of(request, stages[0], body);
        }
    }

    fn send_of(&mut self, request: usize, to: usize, body: Body) {
        let it = &self.requests[request];
        let key = FrameKey {
            instance: it.record.id,
            epoch: it.record.epoch,
            sequence: it.sequence,
            driver: node_id(it.node),
        };
        self.send_frame(it.node, to, Frame { key, request, body });
    }

    /// A request ends: its sequence is kept for the next one, or closed.
    pub(crate) fn end_request(&mut self, request: usize, how: How) {
        self.check_end(request, how);
        let it = &mut self.requests[request];
        it.ended = Some(how);
        it.inbox.clear();
        let (node, id, sequence) = (it.node, it.record.id, it.sequence);
        self.nodes[node].drivers.remove(&(id, sequence));
        let closed = if how == How::Finished {
            let held = it.log[..it.timeline.n_sent() as usize].to_vec();
            let idle = self.nodes[node].idle.entry(id).or_default();
            idle.push((sequence, held));
            (idle.len() > IDLE_MAX).then(|| idle.remove(0).0)
        } else {
            Some(sequence)
        };
        if let Some(sequence) = closed {
            let it = &self.requests[request];
            let (epoch, driver) = (it.record.epoch, node_id(node));
            let to = index(it.record.placement.stages[0].node);
            let key = FrameKey { instance: id, epoch, sequence, driver };
            self.send_frame(node, to, Frame { key, request, body: Body::Close });
        }
    }
}

pub(crate) fn pipeline(record: &InstanceRecord, is_whole: bool) -> Pipeline {
    Pipeline { epoch: record.epoch, n_stages: record.placement.stages.len(), is_whole }
}
