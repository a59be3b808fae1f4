//! What must hold at every step, and what must hold some time after the last trouble.

use std::collections::BTreeMap;

use shoal_cluster::Liveness;
use shoal_proto::{
    Epoch, InstanceId,
    control::{InstanceRecord, Phase, Placement},
};

use crate::{
    actor::index,
    requests::{How, Request},
    world::{Ms, TICK, World, node_id},
};

/// Two nodes that reach each other find each other within this: the longest pause of dials, the time-out of one that was under
/// way, discovery's period, and a handshake with losses.
const FOUND: Ms = 30_000;
/// A node that was believed alive, and could be reached all the time since, is believed dead for at most this: as long as a dial
/// takes to set it right after the end of some connection was taken for the end of the node.
const MISJUDGED: Ms = 4_000;
/// Belief in a life is younger than this, with the second that a sleep may last unnoticed.
const HEARD: Ms = 2_600;
/// A node that is silent for this long, and up to two seconds before, is not dead yet.
const ASLEEP: Ms = 2_800;
/// Within this after it starts, or wakes from a sleep that its clock shows, a node takes
/// nobody for lost who is well.
const WOKEN: Ms = 4_500;
/// Everybody knows everybody this long after the last trouble.
pub(crate) const MET: Ms = 45_000;
/// Everything is settled this long after the last trouble: the longest pause between placements, and some that fail.
pub(crate) const SETTLED: Ms = 150_000;

/// What an observer of all nodes writes down.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Who made which placement public under which epoch.
    published: BTreeMap<(InstanceId, Epoch), (usize, u32, Placement)>,
    /// Messages that each node sent in which second.
    sent: BTreeMap<usize, (Ms, usize)>,
    pub(crate) n_placed: usize,
    pub(crate) n_heals: u64,
    pub(crate) sent_max: usize,
    pub(crate) answers: Answers,
}

/// How requests ended, and what that took.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    n_finished: u64,
    n_given_up: u64,
    n_dropped: u64,
    n_cancelled: u64,
    n_driver_died: u64,
    /// Outages that an answer survived.
    n_resumed: u64,
    n_tokens: u64,
    n_resent: u64,
    n_probes: u64,
    resent_max: u64,
    probes_max: u64,
}

impl Answers {
    pub(crate) fn add(&mut self, other: &Self) {
        self.n_finished += other.n_finished;
        self.n_given_up += other.n_given_up;
        self.n_dropped += other.n_dropped;
        self.n_cancelled += other.n_cancelled;
        self.n_driver_died += other.n_driver_died;
        self.n_resumed += other.n_resumed;
        self.n_tokens += other.n_tokens;
        self.n_resent += other.n_resent;
        self.n_probes += other.n_probes;
        self.resent_max = self.resent_max.max(other.resent_max);
        self.probes_max = self.probes_max.max(other.probes_max);
    }
}

impl Ledger {
    /// A node sends a message.
    pub(crate) fn sent(&mut self, node: usize, now: Ms, n_nodes: usize) {
        let (second, n) = self.sent.entry(node).or_default();
        if *second != now / 1000 {
            (*second, *n) = (now / 1000, 0);
        }
        *n += 1;
        self.sent_max = self.sent_max.max(*n);
        // Two a second to everybody; whenever somebody new comes, everybody tells everybody once; and eight instances that are
        // mended at once are told to everybody in each of their four phases.
        let bound = 200 + 42 * n_nodes + n_nodes * n_nodes;
        assert!(*n <= bound, "node {node} sent {n} messages within a second");
    }

    /// A request ends.
    pub(crate) fn ended(&mut self, it: &Request, how: How) {
        let answers = &mut self.answers;
        let n = match how {
            How::Finished => &mut answers.n_finished,
            How::GaveUp => &mut answers.n_given_up,
            How::Dropped => &mut answers.n_dropped,
            How::Cancelled => &mut answers.n_cancelled,
            How::DriverDied => &mut answers.n_driver_died,
        };
        *n += 1;
        answers.n_resumed += u64::from(it.watch.n_resumed);
        answers.n_tokens += (it.log.len() - it.n_prompt) as u64;
        answers.n_resent += it.watch.n_resent;
        answers.n_probes += it.watch.n_probes;
        answers.resent_max = answers.resent_max.max(it.watch.n_resent);
        answers.probes_max = answers.probes_max.max(it.watch.n_probes);
    }

    /// A node's state machine asked for so many actions at once.
    pub(crate) fn planned(&self, n: usize, n_nodes: usize) {
        // Eight heals, eight moves and eight preparations beside what goes to each node.
        assert!(n <= 3 * n_nodes + 24, "{n} actions in one plan");
    }
}

impl World {
    /// A node begins to mend an instance.
    pub(crate) fn check_heal(
        &mut self,
        node: usize,
        instance: InstanceId,
        epoch: Epoch,
        lost: &[usize],
    ) {
        self.ledger.n_heals += 1;
        let it = &self.nodes[node];
        let seen = it.seen.get(&instance).copied().unwrap_or_default();
        assert!(epoch > seen, "node {node} heals {instance} as {epoch}, but has seen {seen}");
        let record = it.state.instance(instance).expect("it is planned for");
        assert_ne!(record.phase, Phase::Dropped, "node {node} heals what was dropped");
        for &other in lost {
            let runner = self.nodes[other].runners.get(&instance);
            let runs = runner.is_some_and(|it| it.epoch == record.epoch);
            assert!(
                !(runs && self.must_believe(node, other)),
                "node {node} heals {instance}, whose stage at node {other} is well"
            );
        }
    }

    /// Whether a node has no excuse to take another for lost.
    fn must_believe(&self, node: usize, other: usize) -> bool {
        let (it, its) = (&self.nodes[node], &self.nodes[other]);
        let (now, cut) = (self.now, self.cut_until(node, other).max(self.cut_until(other, node)));
        let alive_at = |at: Ms| it.believed[other].is_some_and(|alive| alive + 2 * TICK >= at);
        if its.frozen_until > now {
            // Asleep for less than the silence that means death.
            return now < its.froze_at + ASLEEP && alive_at(its.froze_at) && cut < its.froze_at;
        }
        let Some(since) = self.healthy_since(node, other) else { return false };
        let slept = it.frozen_until.saturating_sub(it.froze_at);
        let has_just_woken = slept > 6_000 && !it.clock_pauses && since <= it.frozen_until;
        let has_just_started = since <= it.started_at;
        node == other
            || now >= since + FOUND
            || (has_just_woken && now < it.frozen_until + WOKEN && alive_at(it.froze_at))
            || (has_just_started && now < it.started_at + WOKEN)
    }

    /// A node makes a record public.
    pub(crate) fn check_publish(&mut self, node: usize, record: &InstanceRecord) {
        let (id, epoch, life) = (record.id, record.epoch, self.nodes[node].life);
        let seen = self.nodes[node].seen.get(&id).copied().unwrap_or_default();
        assert!(epoch >= seen, "node {node} publishes {id} as {epoch}, but has seen {seen}");
        if record.phase == Phase::Dropped {
            return;
        }
        let entry = || (node, life, record.placement.clone());
        let (other, other_life, placement) =
            self.ledger.published.entry((id, epoch)).or_insert_with(entry);
        assert!(
            (*other, *other_life) == (node, life) && *placement == record.placement,
            "node {node} acts on {id} under epoch {epoch}, which belongs to node {other}"
        );
    }

    /// A node begins to run a stage.
    pub(crate) fn check_runs(&self, node: usize, instance: InstanceId, epoch: Epoch) {
        let seen = self.nodes[node].seen.get(&instance).copied().unwrap_or_default();
        assert!(epoch >= seen, "node {node} runs {instance} as {epoch}, but has seen {seen}");
    }

    /// What a node believes of all others.
    pub(crate) fn believes(&self, node: usize) -> Vec<Liveness> {
        let it = &self.nodes[node];
        let now = it.clock(self.now);
        (0..self.nodes.len()).map(|other| it.state.liveness(node_id(other), now)).collect()
    }

    /// Since when nothing has stood between two nodes; `None` if something does.
    fn healthy_since(&self, a: usize, b: usize) -> Option<Ms> {
        let moved = self.nodes[a].moved_at.max(self.nodes[b].moved_at);
        self.reaches(a, b).then(|| moved.max(self.cut_until(a, b)).max(self.cut_until(b, a)))
    }

    /// After every step of a node: it believes what it may, and holds no more than it may.
    pub(crate) fn check_tick(&mut self, node: usize) {
        let n = self.nodes.len();
        let (now, at) = (self.now, self.nodes[node].clock(self.now));
        let state = &self.nodes[node].state;
        assert!(state.members().count() < n, "members that do not exist");
        assert!(state.instances_and_tombstones().count() <= self.ledger.n_placed);
        assert!(self.nodes[node].open.len() <= 16 * n, "connections pile up");
        assert!(self.n_in_flight() <= 100 * n * n + 1000, "{} in flight", self.n_in_flight());
        let ids = state.members().map(|member| member.record.id);
        let beliefs: Vec<_> = ids.map(|id| (index(id), state.liveness(id, at))).collect();
        for (other, belief) in beliefs {
            match belief {
                Liveness::Alive => self.nodes[node].believed[other] = Some(now),
                Liveness::Suspect => {}
                Liveness::Dead => self.check_dead(node, other),
            }
        }
    }

    /// A node believes that another is dead: if that is wrong, it is so for a short time only.
    fn check_dead(&self, node: usize, other: usize) {
        let Some(since) = self.healthy_since(node, other) else { return };
        // Believed for what came after whatever stood between them.
        let heard = |&believed: &Ms| believed >= since + HEARD;
        let believed = self.nodes[node].believed[other].filter(heard);
        let bound = believed.map_or(since + FOUND, |believed| believed + MISJUDGED);
        assert!(
            self.now <= bound,
            "node {node} believes that {other} is dead; reachable since {since} ms, believed in {believed:?}"
        );
    }

    /// Some time after the last trouble: everybody alive knows everybody alive, and the dead are dead.
    pub(crate) fn check_met(&self) {
        for node in (0..self.nodes.len()).filter(|&node| self.nodes[node].is_running) {
            let believes = self.believes(node);
            for (other, belief) in believes.into_iter().enumerate() {
                let is_running = self.nodes[other].is_running;
                // With a fifth of the packets lost, some peer is always a little late.
                assert!(
                    is_running == (belief != Liveness::Dead),
                    "node {node} believes that {other} is {belief:?}, running: {is_running}"
                );
            }
        }
    }

    /// At the end: everybody agrees, nothing is unfinished, and what is said to be ready runs.
    pub(crate) fn check_settled(&self) {
        self.check_met();
        self.check_requests_settled();
        let running: Vec<usize> =
            (0..self.nodes.len()).filter(|&node| self.nodes[node].is_running).collect();
        let Some(&first) = running.first() else { return };
        let known: Vec<&InstanceRecord> = self.nodes[first].state.instances().collect();
        for &node in &running {
            let it = &self.nodes[node];
            let now = it.clock(self.now);
            let others: Vec<&InstanceRecord> = it.state.instances().collect();
            assert_eq!(known, others, "nodes {first} and {node} know the same instances");
            let digest = self.nodes[first].state.instances_digest();
            assert_eq!(digest, it.state.instances_digest(), "and say so");
            for record in &known {
                let at = self.nodes[first].clock(self.now);
                let coordinator = self.nodes[first].state.coordinator(record.id, at);
                assert!(coordinator.is_some());
                assert_eq!(coordinator, it.state.coordinator(record.id, now), "one coordinator");
            }
            for (&instance, runner) in &it.runners {
                let record = it.state.instance(instance).expect("a runner's instance is known");
                assert_eq!(
                    record.epoch, runner.epoch,
                    "node {node} runs a stale stage of {instance}"
                );
            }
        }
        for record in known {
            match record.phase {
                Phase::Ready => self.check_ready(record),
                Phase::Failed(_) => {}
                _ => panic!("{} is still {}", record.id, record.phase.as_str()),
            }
        }
    }

    fn check_ready(&self, record: &InstanceRecord) {
        for stage in &record.placement.stages {
            let runs = self.nodes.iter().enumerate().any(|(node, it)| {
                node_id(node) == stage.node
                    && it.is_running
                    && it
                        .runners
                        .get(&record.id)
                        .is_some_and(|it| it.epoch == record.epoch && !it.is_fenced)
            });
            assert!(runs, "{} is ready, but {:?} does not run its stage", record.id, stage.node);
        }
    }
}
