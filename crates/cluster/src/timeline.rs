//! One request as a state machine: which steps its driver sends, and how it goes on after a loss.
//!
//! The driver holds the *log* of a request, its prompt and every token so far; the stages hold KV caches of a prefix of it. All
//! that is ever lost are KV caches and messages, and both are mended in one way: ask every stage what it holds, then send what
//! some stage lacks.
//!
//! ```text
//!            a loss, or silence            every stage has answered
//! Flowing ───────────────────────► Probing ────────────────────────► Flowing
//!    │            an answer after silence ▲  │
//!    │                                    │  │ a stage's node is dead, or the instance is being placed anew
//!    └──────────► Waiting ◄───────────────┼──┘
//!                    └────────────────────┘
//!                      the instance is ready
//! ```
//!
//! A step goes only as far as it is needed: to the last stage that lacks its tokens. Stages before that one compute it again,
//! since their output is needed, and come to the same bits; stages after it are left alone. Answers are checked by position and
//! epoch, so whatever comes twice, late or from an old placement changes nothing.

use std::collections::VecDeque;

use shoal_proto::Epoch;

use crate::Time;

/// Pause before stages are probed again after a loss: they may be starting.
const PROBE_AGAIN: Time = Time::from_millis(200);
/// How often what stages of one placement had computed may be computed again without a further token of the log. Stages that
/// make room for others in turn lose it for ever.
const RECOMPUTATIONS_MAX: u32 = 8;
/// Longest time until a driver looks again. Whoever looks later was not running, which is no silence of the others.
const TICK: Time = Time::from_secs(5);

/// How patient a timeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Silence while steps are under way after which the stages are probed. Later waits grow, so that stages which are only
    /// slow are not buried in copies of their work.
    pub probe_after: Time,
    /// How long the log may stay as it is before the request fails.
    pub give_up_after: Time,
}

impl Default for Patience {
    /// Three seconds, the longest stall of a healthy phone, and two minutes.
    fn default() -> Self {
        Self { probe_after: Time::from_secs(3), give_up_after: Time::from_secs(120) }
    }
}

/// A placement as a timeline sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipeline {
    /// Its version.
    pub epoch: Epoch,
    /// Its stages.
    pub n_stages: usize,
    /// Whether steps may be sent: it is ready, and the nodes of all its stages live.
    pub is_whole: bool,
}

/// Something to do for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ask a stage how many of the first `n_tokens` tokens of the log it holds.
    Probe {
        /// The stage.
        stage: usize,
        /// Length of the log.
        n_tokens: u32,
    },
    /// Send the tokens `[from, to)` of the log to stage 0.
    Send {
        /// Position of the first.
        from: u32,
        /// One past the last.
        to: u32,
        /// The last stage that needs them.
        last_stage: usize,
        /// Whether the token after them is wanted: they reach the end of the log.
        wants_token: bool,
    },
    /// The answer has to wait; why is known to whoever told of the loss.
    Healing,
    /// The answer goes on.
    Resumed {
        /// Since the last answer before the loss.
        pause: Time,
        /// Tokens that were computed again.
        n_recomputed: u32,
    },
    /// The answer cannot be completed: nothing has moved for too long, or what moved was lost again each time
    /// ([`Timeline::lost_in_vain`]).
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// The stages are asked what they hold, and again at a moment. After silence alone, steps may still be answered.
    Probing {
        is_silence: bool,
        again_at: Time,
    },
    /// No stages can be asked.
    Waiting,
}

/// The state of a request's steps.
#[derive(Debug, Clone)]
pub struct Timeline {
    patience: Patience,
    /// Steps that may be under way at once.
    n_in_flight_max: usize,
    pipeline: Pipeline,
    phase: Phase,
    /// Tokens of the log.
    n_log: u32,
    /// The end of what was sent.
    n_sent: u32,
    /// The most that was ever sent: what is sent below it is sent again.
    n_sent_most: u32,
    /// The most that was ever done.
    n_done_most: u32,
    /// How often stages of this placement have lost what was done, since the log last grew.
    n_in_vain: u32,
    /// What each stage holds once the steps under way are done; not known of those that have not answered.
    held: Vec<Option<u32>>,
    /// Where the steps under way end.
    in_flight: VecDeque<u32>,
    /// When a step was last answered.
    heard: Time,
    /// When silence is next taken for a loss.
    silent_at: Time,
    /// When stages were last asked, if that was of this placement.
    asked: Option<Time>,
    /// When the driver is to look again.
    due: Time,
    outage: Option<Outage>,
    /// The end of an outage that is still to be told.
    resumed: Option<Order>,
}

/// A pause of the answer.
#[derive(Debug, Clone, Copy)]
struct Outage {
    /// The last answer before it.
    since: Time,
    /// How far steps had been sent by then: it is over when that much is done.
    n_sent: u32,
    was_told: bool,
    n_recomputed: u32,
}

impl Timeline {
    /// Begins a request: a log of `n_log` tokens, at least one, of which every stage is believed to hold `n_cached`.
    ///
    /// # Panics
    /// If the log or the pipeline is empty.
    pub fn new(
        now: Time,
        patience: Patience,
        pipeline: Pipeline,
        n_log: u32,
        n_cached: u32,
        n_in_flight_max: usize,
    ) -> Self {
        assert!(n_log > 0 && pipeline.n_stages > 0, "a log and stages");
        // At least one token is computed, since what follows it is wanted.
        let n_cached = n_cached.min(n_log - 1);
        let mut timeline = Self {
            patience,
            n_in_flight_max: n_in_flight_max.max(1),
            pipeline,
            phase: Phase::Flowing,
            n_log,
            n_sent: n_cached,
            n_sent_most: n_cached,
            n_done_most: 0,
            n_in_vain: 0,
            held: vec![Some(n_cached); pipeline.n_stages],
            in_flight: VecDeque::new(),
            heard: now,
            silent_at: now,
            asked: None,
            due: now + TICK,
            outage: None,
            resumed: None,
        };
        if !pipeline.is_whole {
            timeline.wait();
        }
        timeline
    }

    /// Tokens of the log.
    pub fn n_log(&self) -> u32 {
        self.n_log
    }

    /// The end of what was sent: what stages hold of the log when nothing is under way.
    pub fn n_sent(&self) -> u32 {
        self.n_sent
    }

    /// The placement that steps go through.
    pub fn pipeline(&self) -> Pipeline {
        self.pipeline
    }

    /// Takes in the newest placement. An older one than is known changes nothing.
    pub fn placed(&mut self, now: Time, pipeline: Pipeline) {
        if pipeline.epoch < self.pipeline.epoch || pipeline == self.pipeline {
            return;
        }
        if pipeline.epoch > self.pipeline.epoch {
            // Other stages may have the room that those before them lacked.
            self.n_in_vain = 0;
        }
        self.pipeline = pipeline;
        self.asked = None;
        if pipeline.is_whole { self.probe(now, false) } else { self.wait() }
    }

    /// Takes in that something of an epoch was lost on its way, or by a stage.
    pub fn lost(&mut self, now: Time, epoch: Epoch) {
        if epoch != self.pipeline.epoch {
            return;
        }
        match self.phase {
            // Who is asked again at once says again at once that it cannot answer.
            Phase::Probing { is_silence: false, .. } | Phase::Waiting => {}
            _ => self.probe(now, false),
        }
    }

    /// Takes in what a stage holds: the first `n_tokens` tokens of the log.
    pub fn have(&mut self, epoch: Epoch, stage: usize, n_tokens: u32) {
        let is_probing = matches!(self.phase, Phase::Probing { .. });
        if epoch != self.pipeline.epoch || !is_probing || stage >= self.held.len() {
            return;
        }
        self.held[stage] = Some(n_tokens.min(self.n_log));
        let Some(least) = self.held.iter().copied().min().flatten() else { return };
        self.in_flight.clear();
        self.n_sent = least.min(self.n_log - 1);
        self.phase = Phase::Flowing;
        if self.n_sent < self.n_done_most {
            self.n_in_vain += 1;
            self.n_done_most = self.n_sent;
        }
    }

    /// How often the stages have lost what they had computed, if that is why the request is given up: more than they have
    /// memory for is asked of them.
    pub fn lost_in_vain(&self) -> Option<u32> {
        (self.n_in_vain > RECOMPUTATIONS_MAX).then_some(self.n_in_vain)
    }

    /// Takes in that a step which ends before `position` is done. Returns whether a token that came with it is the next of the
    /// log.
    pub fn done(&mut self, now: Time, epoch: Epoch, position: u32, has_token: bool) -> bool {
        if epoch != self.pipeline.epoch || self.phase == Phase::Waiting {
            return false;
        }
        let n_before = self.in_flight.len();
        self.in_flight.retain(|&end| end > position);
        if self.in_flight.len() < n_before {
            self.n_done_most = self.n_done_most.max(position);
            self.heard = now;
            self.silent_at = now + self.patience.probe_after;
            if matches!(self.phase, Phase::Probing { is_silence: true, .. }) {
                self.phase = Phase::Flowing;
            }
            self.end_outage(now, position);
        }
        // While stages are probed after a loss, a token may still come of a step that was not lost: it is as good as any.
        let is_next = has_token && position == self.n_log;
        if is_next {
            self.n_log += 1;
            self.n_in_vain = 0;
            self.heard = now;
        }
        is_next
    }

    /// Returns what to do at `now`, and notes that it is being done. Steps have at most `chunk` tokens.
    pub fn orders(&mut self, now: Time, chunk: u32) -> Vec<Order> {
        let late = now.saturating_sub(self.due);
        self.heard += late;
        self.silent_at += late;
        self.due = now + TICK;
        if now >= self.heard + self.patience.give_up_after || self.lost_in_vain().is_some() {
            return vec![Order::GiveUp];
        }
        let mut orders: Vec<Order> = self.resumed.take().into_iter().collect();
        if self.phase == Phase::Flowing && !self.in_flight.is_empty() && now >= self.silent_at {
            self.probe(now, true);
        }
        if let Some(outage) = self.outage.as_mut().filter(|outage| !outage.was_told) {
            outage.was_told = true;
            orders.push(Order::Healing);
        }
        match self.phase {
            Phase::Waiting => {}
            Phase::Probing { is_silence, again_at } => {
                if now >= again_at {
                    let again_at = now + self.pause(now, is_silence);
                    self.phase = Phase::Probing { is_silence, again_at };
                    self.asked = Some(now);
                    let asked = (0..self.held.len()).filter(|&stage| self.held[stage].is_none());
                    let n_tokens = self.n_log;
                    orders.extend(asked.map(|stage| Order::Probe { stage, n_tokens }));
                }
            }
            Phase::Flowing => self.send(now, chunk, &mut orders),
        }
        self.due = self.due.min(self.next_at());
        orders
    }

    /// When to look again if nothing happens.
    pub fn wake_at(&self) -> Time {
        self.due
    }

    fn next_at(&self) -> Time {
        let given_up_at = self.heard + self.patience.give_up_after;
        match self.phase {
            Phase::Probing { again_at, .. } => again_at.min(given_up_at),
            Phase::Flowing if !self.in_flight.is_empty() => self.silent_at.min(given_up_at),
            _ => given_up_at,
        }
    }

    fn send(&mut self, now: Time, chunk: u32, orders: &mut Vec<Order>) {
        let last = self.pipeline.n_stages - 1;
        while self.n_sent < self.n_log && self.in_flight.len() < self.n_in_flight_max {
            let (from, to) = (self.n_sent, self.n_log.min(self.n_sent + chunk.max(1)));
            let wants_token = to == self.n_log;
            let lacks = |&stage: &usize| self.held[stage].is_none_or(|held| held < to);
            let last_needed = (0..=last).rev().find(lacks).unwrap_or(last);
            let last_stage = if wants_token { last } else { last_needed };
            self.held[..=last_stage].fill(Some(to));
            if let Some(outage) = &mut self.outage {
                outage.n_recomputed += to.min(self.n_sent_most).saturating_sub(from);
            }
            self.n_sent_most = self.n_sent_most.max(to);
            self.n_sent = to;
            if self.in_flight.is_empty() {
                self.silent_at = now + self.patience.probe_after;
            }
            self.in_flight.push_back(to);
            orders.push(Order::Send { from, to, last_stage, wants_token });
        }
    }

    fn probe(&mut self, now: Time, is_silence: bool) {
        if !is_silence {
            self.in_flight.clear();
        }
        self.held = vec![None; self.pipeline.n_stages];
        // Stages that answer, and lose the next step all the same, would be asked for ever, as fast as they answer.
        let in_vain = self.asked.filter(|&asked| asked >= self.heard);
        let again_at = in_vain.map_or(now, |asked| now.max(asked + self.pause(asked, is_silence)));
        self.phase = Phase::Probing { is_silence, again_at };
        self.begin_outage();
    }

    /// How long stages that were asked at `now` are left alone.
    fn pause(&self, now: Time, is_silence: bool) -> Time {
        let pause = if is_silence { self.patience.probe_after } else { PROBE_AGAIN };
        pause.max(now.saturating_sub(self.heard) / 4)
    }

    fn wait(&mut self) {
        self.in_flight.clear();
        self.phase = Phase::Waiting;
        self.begin_outage();
    }

    fn begin_outage(&mut self) {
        let (since, n_sent) = (self.heard, self.n_sent_most);
        let outage = Outage { since, n_sent, was_told: false, n_recomputed: 0 };
        self.outage.get_or_insert(outage);
    }

    /// Notes that everything before `position` is done.
    fn end_outage(&mut self, now: Time, position: u32) {
        let is_over = |outage: &mut Outage| position >= outage.n_sent;
        let Some(outage) = self.outage.take_if(is_over) else { return };
        let (pause, n_recomputed) = (now.saturating_sub(outage.since), outage.n_recomputed);
        self.resumed = outage.was_told.then_some(Order::Resumed { pause, n_recomputed });
    }
}

#[cfg(test)]
mod tests;
