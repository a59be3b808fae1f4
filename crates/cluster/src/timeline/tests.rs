//! A timeline alone, and against stages that lose what they hold over a network that loses what is said.

use std::collections::VecDeque;

use super::*;

const MS: Time = Time::from_millis(1);
const CHUNK: u32 = 4;

fn pipeline(epoch: u64, n_stages: usize) -> Pipeline {
    Pipeline { epoch: Epoch(epoch), n_stages, is_whole: true }
}

fn begin(n_stages: usize, n_log: u32) -> Timeline {
    Timeline::new(Time::ZERO, Patience::default(), pipeline(1, n_stages), n_log, 0, 2)
}

fn send(from: u32, to: u32, last_stage: usize, wants_token: bool) -> Order {
    Order::Send { from, to, last_stage, wants_token }
}

#[track_caller]
fn check_orders(timeline: &mut Timeline, now: Time, expected: &[Order]) {
    assert_eq!(timeline.orders(now, CHUNK), expected);
}

#[test]
fn a_prompt_goes_in_chunks_and_each_token_calls_for_the_next() {
    let mut timeline = begin(2, 10);
    check_orders(&mut timeline, MS, &[send(0, 4, 1, false), send(4, 8, 1, false)]);
    check_orders(&mut timeline, MS, &[]);
    assert!(!timeline.done(MS, Epoch(1), 4, false));
    check_orders(&mut timeline, MS, &[send(8, 10, 1, true)]);
    assert!(!timeline.done(MS, Epoch(1), 8, false));
    assert!(timeline.done(MS, Epoch(1), 10, true));
    assert!(!timeline.done(MS, Epoch(1), 10, true), "the same token again");
    check_orders(&mut timeline, MS, &[send(10, 11, 1, true)]);
}

#[test]
fn a_cached_prompt_computes_its_last_token_again() {
    let whole = pipeline(1, 1);
    let mut timeline = Timeline::new(MS, Patience::default(), whole, 10, 10, 2);
    check_orders(&mut timeline, MS, &[send(9, 10, 0, true)]);
}

#[test]
fn after_a_loss_stages_behind_the_lost_one_are_left_alone() {
    let mut timeline = begin(3, 9);
    timeline.orders(MS, 9);
    assert!(timeline.done(MS, Epoch(1), 9, true));
    timeline.orders(2 * MS, CHUNK);
    timeline.lost(3 * MS, Epoch(1));
    let probe = |stage| Order::Probe { stage, n_tokens: 10 };
    check_orders(&mut timeline, 3 * MS, &[Order::Healing, probe(0), probe(1), probe(2)]);
    // Stage 1 has lost everything, stage 2 all but eight tokens.
    timeline.have(Epoch(1), 0, 10);
    timeline.have(Epoch(1), 2, 8);
    check_orders(&mut timeline, 4 * MS, &[]);
    timeline.have(Epoch(1), 1, 0);
    check_orders(&mut timeline, 5 * MS, &[send(0, 4, 1, false), send(4, 8, 1, false)]);
    timeline.done(6 * MS, Epoch(1), 4, false);
    check_orders(&mut timeline, 6 * MS, &[send(8, 10, 2, true)]);
    timeline.done(7 * MS, Epoch(1), 8, false);
    assert!(timeline.done(8 * MS, Epoch(1), 10, true));
    let resumed = Order::Resumed { pause: 7 * MS, n_recomputed: 10 };
    check_orders(&mut timeline, 8 * MS, &[resumed, send(10, 11, 2, true)]);
}

#[test]
fn an_older_placement_says_nothing_any_more() {
    let mut timeline = begin(2, 3);
    timeline.orders(MS, CHUNK);
    timeline.placed(MS, pipeline(2, 1));
    assert!(!timeline.done(MS, Epoch(1), 3, true), "a token of a stale epoch");
    timeline.placed(MS, pipeline(1, 2));
    assert_eq!(timeline.pipeline(), pipeline(2, 1));
    timeline.have(Epoch(1), 0, 3);
    let probe = Order::Probe { stage: 0, n_tokens: 3 };
    check_orders(&mut timeline, MS, &[Order::Healing, probe]);
    timeline.have(Epoch(2), 0, 3);
    check_orders(&mut timeline, MS, &[send(2, 3, 0, true)]);
}

#[test]
fn nothing_is_sent_while_a_stage_is_missing() {
    let mut timeline = begin(2, 3);
    timeline.orders(MS, CHUNK);
    timeline.placed(MS, Pipeline { is_whole: false, ..pipeline(1, 2) });
    check_orders(&mut timeline, MS, &[Order::Healing]);
    timeline.lost(MS, Epoch(1));
    check_orders(&mut timeline, 2 * MS, &[]);
    assert!(!timeline.done(2 * MS, Epoch(1), 3, true));
    timeline.placed(3 * MS, pipeline(1, 2));
    let probe = |stage| Order::Probe { stage, n_tokens: 3 };
    check_orders(&mut timeline, 3 * MS, &[probe(0), probe(1)]);
}

#[test]
fn silence_is_asked_about_and_a_late_answer_ends_it() {
    let mut timeline = begin(1, 3);
    timeline.orders(Time::ZERO, CHUNK);
    assert_eq!(timeline.wake_at(), Time::from_secs(3));
    check_orders(&mut timeline, Time::from_secs(2), &[]);
    let probe = Order::Probe { stage: 0, n_tokens: 3 };
    check_orders(&mut timeline, Time::from_secs(3), &[Order::Healing, probe]);
    assert!(timeline.done(Time::from_secs(4), Epoch(1), 3, true));
    let resumed = Order::Resumed { pause: Time::from_secs(4), n_recomputed: 0 };
    check_orders(&mut timeline, Time::from_secs(4), &[resumed, send(3, 4, 0, true)]);
}

#[test]
fn a_stage_that_cannot_answer_yet_is_asked_again_but_not_at_once() {
    let mut timeline = begin(1, 3);
    timeline.orders(MS, CHUNK);
    timeline.lost(MS, Epoch(1));
    let probe = Order::Probe { stage: 0, n_tokens: 3 };
    check_orders(&mut timeline, MS, &[Order::Healing, probe]);
    timeline.lost(2 * MS, Epoch(1));
    check_orders(&mut timeline, 2 * MS, &[]);
    assert_eq!(timeline.wake_at(), MS + PROBE_AGAIN);
    check_orders(&mut timeline, MS + PROBE_AGAIN, &[probe]);
}

#[test]
fn stages_that_answer_and_lose_every_step_are_not_asked_without_a_pause() {
    let mut timeline = begin(1, 3);
    let (mut now, mut n_asked) = (MS, 0);
    while now < Time::from_secs(60) {
        for order in timeline.orders(now, CHUNK) {
            match order {
                Order::Probe { stage, .. } => {
                    n_asked += 1;
                    timeline.have(Epoch(1), stage, 3);
                }
                Order::Send { .. } => timeline.lost(now, Epoch(1)),
                _ => {}
            }
        }
        now += MS;
    }
    // Five pauses a second at first, then each a quarter of the time that has passed.
    assert!((10..40).contains(&n_asked), "asked {n_asked} times");
}

#[test]
fn gives_up_when_nothing_moves_for_too_long_but_not_for_having_slept() {
    let mut timeline = begin(1, 3);
    timeline.placed(Time::ZERO, Pipeline { is_whole: false, ..pipeline(1, 1) });
    let mut now = Time::ZERO;
    while now < Time::from_secs(100) {
        assert!(!timeline.orders(now, CHUNK).contains(&Order::GiveUp));
        now = timeline.wake_at();
    }
    now += Time::from_secs(3600);
    assert!(!timeline.orders(now, CHUNK).contains(&Order::GiveUp), "an hour of sleep");
    while !timeline.orders(now, CHUNK).contains(&Order::GiveUp) {
        now = timeline.wake_at();
        assert!(now < Time::from_secs(3600 + 130), "it never gives up");
    }
}

/// Lets a stage compute all of a log but its end, and lose it, `n_max` times or until the request is given up. Returns how often
/// that was.
fn lose_again_and_again(timeline: &mut Timeline, now: &mut Time, n_max: u32) -> u32 {
    let epoch = timeline.pipeline().epoch;
    let mut n_lost = 0;
    while n_lost < n_max {
        *now += 50 * MS;
        for order in timeline.orders(*now, CHUNK) {
            match order {
                Order::Probe { stage, .. } => timeline.have(epoch, stage, 0),
                Order::Send { wants_token: true, .. } => {
                    timeline.lost(*now, epoch);
                    n_lost += 1;
                }
                Order::Send { to, .. } => assert!(!timeline.done(*now, epoch, to, false)),
                Order::GiveUp => return n_lost,
                Order::Healing | Order::Resumed { .. } => {}
            }
        }
    }
    n_lost
}

#[test]
fn what_stages_cannot_keep_is_not_computed_for_ever() {
    let (mut timeline, mut now) = (begin(1, 30), MS);
    let n_lost = lose_again_and_again(&mut timeline, &mut now, 1000);
    assert_eq!(n_lost, RECOMPUTATIONS_MAX + 1);
    assert_eq!(timeline.lost_in_vain(), Some(n_lost));
}

#[test]
fn losses_between_which_the_answer_grows_or_its_stages_change_are_borne() {
    let (mut timeline, mut now) = (begin(1, 30), MS);
    for epoch in 2..20 {
        let n_lost = lose_again_and_again(&mut timeline, &mut now, RECOMPUTATIONS_MAX);
        assert_eq!(n_lost, RECOMPUTATIONS_MAX, "before epoch {epoch}");
        timeline.placed(now, pipeline(epoch, 1));
    }
    for n_log in 30..40 {
        let n_lost = lose_again_and_again(&mut timeline, &mut now, RECOMPUTATIONS_MAX);
        assert_eq!(n_lost, RECOMPUTATIONS_MAX, "before token {n_log}");
        // The token was only late.
        assert!(timeline.done(now, Epoch(19), n_log, true));
    }
}

/// A small generator of numbers (Steele, Lea and Flood 2014, "SplitMix64").
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Stages that hold tokens, and a network that may lose what is said. Answers come in any order.
struct World {
    random: Random,
    now: Time,
    epoch: u64,
    stages: Vec<Vec<u32>>,
    log: Vec<u32>,
    under_way: VecDeque<(Epoch, Said)>,
}

enum Said {
    Done { position: u32, token: Option<u32> },
    Have { stage: usize, n_tokens: u32 },
    Lost,
}

/// The token that follows others: any function of all of them.
fn next_token(tokens: &[u32]) -> u32 {
    tokens.iter().fold(7, |hash, &token| hash.wrapping_mul(31).wrapping_add(token + 1))
}

impl World {
    fn carry_out(&mut self, order: Order) {
        if self.random.below(8) == 0 && !matches!(order, Order::Healing | Order::Resumed { .. }) {
            return;
        }
        let said = match order {
            Order::Probe { stage, n_tokens } => {
                let held = &mut self.stages[stage];
                let same = held.iter().zip(&self.log).take_while(|(a, b)| a == b).count();
                let n_tokens = n_tokens.min(u32::try_from(same).unwrap());
                Said::Have { stage, n_tokens }
            }
            Order::Send { from, to, last_stage, wants_token } => {
                self.step(from as usize, to as usize, last_stage, wants_token)
            }
            Order::Healing | Order::Resumed { .. } => return,
            Order::GiveUp => panic!("given up at {:?}", self.now),
        };
        self.under_way.push_back((Epoch(self.epoch), said));
    }

    fn step(&mut self, from: usize, to: usize, last_stage: usize, wants_token: bool) -> Said {
        assert!(!wants_token || (last_stage + 1 == self.stages.len() && to == self.log.len()));
        let n_reached = (0..=last_stage).take_while(|_| self.random.below(30) > 0).count();
        for stage in &mut self.stages[..n_reached] {
            if stage.len() < from || stage[..from] != self.log[..from] {
                return Said::Lost;
            }
            stage.truncate(from);
            stage.extend(&self.log[from..to]);
        }
        if n_reached <= last_stage {
            return Said::Lost;
        }
        let token = wants_token.then(|| next_token(self.stages.last().unwrap()));
        Said::Done { position: u32::try_from(to).unwrap(), token }
    }

    fn trouble(&mut self, timeline: &mut Timeline) {
        let n = self.stages.len() as u64;
        let any = usize::try_from(self.random.below(n)).unwrap();
        match self.random.below(60) {
            0 => self.stages[any].clear(),
            1 => {
                let n_left = self.random.below(self.stages[any].len() as u64 + 1);
                self.stages[any].truncate(usize::try_from(n_left).unwrap());
            }
            2 => {
                let n_stages = usize::try_from(self.random.below(4) + 1).unwrap();
                self.stages.resize(n_stages, Vec::new());
                self.stages[0].clear();
                self.epoch += 1;
                timeline.placed(self.now, pipeline(self.epoch, n_stages));
            }
            3 => {
                let broken =
                    Pipeline { is_whole: false, ..pipeline(self.epoch, self.stages.len()) };
                timeline.placed(self.now, broken);
                self.now += Time::from_secs(self.random.below(6));
                timeline.placed(self.now, pipeline(self.epoch, self.stages.len()));
            }
            _ => {}
        }
    }

    fn answer(&mut self, timeline: &mut Timeline) {
        let n = self.under_way.len() as u64;
        let i = usize::try_from(self.random.below(n)).unwrap();
        let (epoch, said) = self.under_way.remove(i).unwrap();
        match said {
            Said::Done { position, token } => {
                if timeline.done(self.now, epoch, position, token.is_some()) {
                    self.log.extend(token);
                }
            }
            Said::Have { stage, n_tokens } => timeline.have(epoch, stage, n_tokens),
            Said::Lost => timeline.lost(self.now, epoch),
        }
    }
}

#[test]
fn whatever_is_lost_the_log_grows_by_the_right_tokens() {
    for seed in 0..2000 {
        let mut random = Random(seed);
        let n_prompt = u32::try_from(random.below(20) + 1).unwrap();
        let n_stages = usize::try_from(random.below(4) + 1).unwrap();
        let mut timeline = begin(n_stages, n_prompt);
        let mut world = World {
            random,
            now: Time::ZERO,
            epoch: 1,
            stages: vec![Vec::new(); n_stages],
            log: (0..n_prompt).collect(),
            under_way: VecDeque::new(),
        };
        let mut expected = world.log.clone();
        while expected.len() < 40 {
            expected.push(next_token(&expected));
        }
        while world.log.len() < 40 {
            for order in timeline.orders(world.now, CHUNK) {
                world.carry_out(order);
            }
            world.trouble(&mut timeline);
            if world.under_way.is_empty() {
                world.now = world.now.max(timeline.wake_at());
            } else {
                world.now += MS * u32::try_from(world.random.below(20)).unwrap();
                world.answer(&mut timeline);
            }
            assert_eq!(timeline.n_log() as usize, world.log.len(), "seed {seed}");
            assert!(world.now < Time::from_secs(3600), "seed {seed}: no end");
        }
        assert_eq!(world.log, expected, "seed {seed}");
    }
}
