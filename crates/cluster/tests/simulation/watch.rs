//! What must hold of requests: at every step, and when they end.

use shoal_cluster::{
    Liveness,
    timeline::{Order, Pipeline},
};
use shoal_proto::{
    Epoch, InstanceId,
    control::{InstanceRecord, Phase},
};

use crate::{
    actor::index,
    requests::{CHUNK, How, N_CTX, Request},
    world::{Ms, TICK, World, duration, node_id},
};

/// An answer goes on within this while its pipeline is well, and a quarter of its patience more: a dial that was begun before
/// fails, the link is dialled again, the stages are probed, and everything is computed anew.
const GOES_ON: Ms = 20_000;
/// Most stages of a placement.
const STAGES_MAX: u64 = 4;

/// What an observer writes down about a request.
pub(crate) struct Watch {
    begun_at: Ms,
    /// When its log last grew, in the world's time, and ticks of its node since.
    grown_at: Ms,
    n_idle: u64,
    /// What each stage holds as far as the driver can know; `None` while it is asked.
    believed: Vec<Option<u32>>,
    /// Whether the driver may go by fewer answers, or earlier ones: steps were answered while stages were asked, or lost.
    is_vague: bool,
    sent_most: u32,
    n_cached: u32,
    well_since: Option<(Epoch, Ms)>,
    pub(crate) n_probes: u64,
    pub(crate) n_sent: u64,
    pub(crate) n_resent: u64,
    pub(crate) n_lost: u32,
    pub(crate) n_placed: u32,
    pub(crate) n_healing: u32,
    pub(crate) n_resumed: u32,
}

impl Watch {
    pub(crate) fn new(now: Ms, n_cached: u32, record: &InstanceRecord) -> Self {
        Self {
            begun_at: now,
            grown_at: now,
            n_idle: 0,
            believed: vec![Some(n_cached); record.placement.stages.len()],
            is_vague: false,
            sent_most: n_cached,
            n_cached,
            well_since: None,
            n_probes: 0,
            n_sent: 0,
            n_resent: 0,
            n_lost: 0,
            n_placed: 0,
            n_healing: 0,
            n_resumed: 0,
        }
    }

    pub(crate) fn placed(&mut self, old: Pipeline, new: Pipeline) {
        assert!(new.epoch >= old.epoch, "a driver goes back from {} to {}", old.epoch, new.epoch);
        self.n_placed += 1;
        self.believed = vec![None; new.n_stages];
        self.is_vague = false;
    }

    fn asked(&mut self, stage: usize) {
        if self.believed[stage].take().is_some() {
            self.is_vague = false;
        }
    }

    /// Something was lost: what stages answer before they are asked again counts too.
    pub(crate) fn lost(&mut self) {
        self.n_lost += 1;
        self.is_vague = true;
    }

    pub(crate) fn told(&mut self, is_current: bool, stage: usize, n_tokens: u32) {
        let is_asked = self.is_vague || self.believed.iter().any(Option::is_none);
        if let Some(believed) = self.believed.get_mut(stage).filter(|_| is_current && is_asked) {
            *believed = Some(n_tokens);
        }
    }

    pub(crate) fn done(&mut self) {
        self.is_vague |= self.believed.iter().any(Option::is_none);
    }

    pub(crate) fn grew(&mut self, now: Ms) {
        (self.grown_at, self.n_idle) = (now, 0);
    }

    /// Trouble must not be made worse: stages are asked ten times, and once a second more; and each time that some of them lack
    /// something, at most the log is sent again, which happens less often, since it takes time.
    fn check_modesty(&self, now: Ms) {
        let n_s = (now - self.begun_at) / 1000;
        let probes_max = STAGES_MAX * (10 + n_s);
        assert!(self.n_probes <= probes_max, "{} probes in {n_s} s", self.n_probes);
        let resent_max = u64::from(N_CTX) * (5 + n_s / 4);
        assert!(self.n_resent <= resent_max, "{} tokens sent again in {n_s} s", self.n_resent);
    }

    fn sends(&mut self, from: u32, to: u32, last_stage: usize, wants_token: bool) {
        let has_asked_all = self.is_vague || self.believed.iter().all(Option::is_some);
        assert!(has_asked_all, "a step is sent before every stage has answered");
        let lacks = |believed: &Option<u32>| believed.is_none_or(|held| held < to);
        let is_needed = wants_token || self.is_vague || lacks(&self.believed[last_stage]);
        assert!(is_needed, "stage {last_stage} holds {to} tokens already");
        let mut beyond = self.believed[last_stage + 1..].iter();
        assert!(
            self.is_vague || !beyond.any(lacks),
            "a stage behind {last_stage} lacks {to} tokens"
        );
        self.believed[..=last_stage].fill(Some(to));
        self.n_sent += u64::from(to - from);
        self.n_resent += u64::from(self.sent_most.min(to).saturating_sub(from));
        self.sent_most = self.sent_most.max(to);
    }
}

impl World {
    /// A driver gives an order.
    pub(crate) fn check_order(&mut self, request: usize, order: Order) {
        let now = self.now;
        let it = &mut self.requests[request];
        let (n_log, n_stages) = (it.log.len(), it.record.placement.stages.len());
        let pipeline = it.timeline.pipeline();
        assert_eq!(pipeline.epoch, it.record.epoch, "{it} follows its instance");
        if matches!(order, Order::Probe { .. } | Order::Send { .. }) {
            assert!(pipeline.is_whole, "{it} speaks to stages that are not there");
        }
        match order {
            Order::Probe { stage, n_tokens } => {
                assert!(stage < n_stages && n_tokens as usize == n_log, "{it} asks {order:?}");
                it.watch.n_probes += 1;
                it.watch.asked(stage);
            }
            Order::Send { from, to, last_stage, wants_token } => {
                let is_sound = from < to
                    && to <= from + CHUNK
                    && to as usize <= n_log
                    && last_stage < n_stages
                    && wants_token == (to as usize == n_log)
                    && (!wants_token || last_stage + 1 == n_stages);
                assert!(is_sound, "{it} sends {order:?} to {n_stages} stages");
                it.watch.sends(from, to, last_stage, wants_token);
            }
            Order::Healing => {
                it.watch.n_healing += 1;
                assert_eq!(it.watch.n_healing, it.watch.n_resumed + 1, "{it} waits twice");
            }
            Order::Resumed { n_recomputed, .. } => {
                it.watch.n_resumed += 1;
                assert_eq!(it.watch.n_healing, it.watch.n_resumed, "{it} goes on twice");
                assert!(u64::from(n_recomputed) <= it.watch.n_resent, "{it} exaggerates");
            }
            Order::GiveUp => {}
        }
        self.trace(|| {
            format!("{}: {} {order:?}", self.requests[request].node, self.requests[request])
        });
        self.requests[request].watch.check_modesty(now);
    }

    /// A frame reaches a runner: nothing newer than its epoch is known here.
    pub(crate) fn check_takes(&self, node: usize, instance: InstanceId, epoch: Epoch) {
        let seen = self.nodes[node].seen.get(&instance).copied().unwrap_or_default();
        assert!(
            epoch >= seen,
            "node {node} computes for {instance} as {epoch}, but has seen {seen}"
        );
    }

    /// Whether nothing stands in the way of a request's answer.
    fn is_well(&self, it: &Request) -> bool {
        let (id, epoch) = (it.record.id, it.record.epoch);
        let nodes = it.record.placement.stages.iter().map(|stage| index(stage.node));
        let nodes: Vec<usize> = nodes.collect();
        let trusts = |from: usize, to: usize| {
            let now = self.nodes[from].clock(self.now);
            from == to
                || (self.reaches(from, to)
                    && self.nodes[from].state.liveness(node_id(to), now) != Liveness::Dead)
        };
        let runs = |&node: &usize| {
            let its = &self.nodes[node];
            let runner = its.runners.get(&id);
            runner.is_some_and(|it| it.epoch == epoch && !it.is_fenced)
                && its.slow_until <= self.now
                && trusts(it.node, node)
                && trusts(node, it.node)
        };
        it.record.phase == Phase::Ready
            && it.timeline.pipeline().is_whole
            && nodes.iter().all(runs)
            && nodes.windows(2).all(|pair| trusts(pair[0], pair[1]))
    }

    /// After every tick of a node: its requests go on, or have an excuse.
    pub(crate) fn check_requests(&mut self, node: usize) {
        let requests: Vec<usize> = self.nodes[node].drivers.values().copied().collect();
        for request in requests {
            let it = &self.requests[request];
            let is_well = self.is_well(it);
            let stages = it.record.placement.stages.iter().map(|stage| index(stage.node));
            let disturbed = stages.map(|node| self.nodes[node].disturbed_at).max();
            let (epoch, disturbed) = (it.record.epoch, disturbed.unwrap_or_default());
            let (now, thawed) = (self.now, self.nodes[node].frozen_until);
            let it = &mut self.requests[request];
            it.watch.n_idle += 1;
            let patience = it.patience.give_up_after;
            assert!(
                duration(it.watch.n_idle * TICK) <= 3 * patience + duration(10_000),
                "{it} neither goes on nor ends"
            );
            let since = it.watch.well_since.filter(|&(of, _)| is_well && of == epoch);
            it.watch.well_since = is_well.then(|| since.unwrap_or((epoch, now)));
            let Some((_, since)) = it.watch.well_since else { continue };
            // A driver that stood still itself has had no time since.
            let since = since.max(disturbed).max(thawed).max(it.watch.grown_at);
            let quarter = Ms::try_from(patience.as_millis()).expect("minutes") / 4;
            assert!(
                now <= since + GOES_ON + quarter,
                "{it} stands still, though all is well since {since} ms"
            );
        }
    }

    /// A request ends.
    pub(crate) fn check_end(&mut self, request: usize, how: How) {
        let it = &self.requests[request];
        self.trace(|| {
            let watch = &it.watch;
            format!(
                "{}: {it} ended: {how:?}, {} probes, {} sent, {} sent again, {} losses, {} placements",
                it.node, watch.n_probes, watch.n_sent, watch.n_resent, watch.n_lost, watch.n_placed
            )
        });
        match how {
            How::Finished => {
                let n_needed = it.log.len() as u64 - 1 - u64::from(it.watch.n_cached);
                let n_new = it.watch.n_sent - it.watch.n_resent;
                assert!(n_new <= n_needed, "{it} sent {n_new} tokens for {n_needed}");
                if it.watch.n_healing == 0 {
                    assert_eq!((it.watch.n_resent, it.watch.n_probes), (0, 0), "{it}");
                }
            }
            How::GaveUp => {
                assert!(
                    duration(self.now - it.watch.grown_at) >= it.patience.give_up_after,
                    "{it} gives up early"
                );
            }
            How::Dropped | How::Cancelled | How::DriverDied => {}
        }
        let it = &self.requests[request];
        self.ledger.ended(it, how);
    }

    /// At the end: every request has ended, and no stage holds what nobody will use.
    pub(crate) fn check_requests_settled(&self) {
        for it in &self.requests {
            assert!(it.ended.is_some(), "{it} has not ended");
        }
        for (node, its) in self.nodes.iter().enumerate() {
            for (instance, runner) in &its.runners {
                for &(driver, sequence) in runner.sequences.keys() {
                    let driver = index(driver);
                    let idle = self.nodes[driver].idle.get(instance);
                    let is_kept = idle
                        .is_some_and(|idle| idle.iter().any(|it| it.0.without_use() == sequence));
                    assert!(
                        is_kept,
                        "node {node} holds sequence {sequence} of {instance}, which node {driver} has given up"
                    );
                }
            }
        }
    }
}
