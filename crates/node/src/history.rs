//! The last hour in numbers: how the devices felt, as their heartbeats said, and what this node's answers produced; one sample
//! every five seconds, in rings whose size does not depend on how long the node runs.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use shoal_proto::{NodeId, control::Vitals};
use tokio::time::Instant;

use crate::{Node, NodeStatus, clock, node::Inner};

/// Between two samples.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Samples of an hour.
const SAMPLES_MAX: usize = 720;
/// Devices that are remembered; a home has fewer.
const NODES_MAX: usize = 32;

/// How a device felt at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VitalsSample {
    /// Temperature of its processor, in tenths of a degree Celsius.
    pub temperature_dc: Option<i16>,
    /// Charge of its battery in percent, and whether it is plugged in.
    pub battery: Option<(u8, bool)>,
    /// Share of its processors that is busy, in percent.
    pub load_percent: Option<u8>,
    /// Memory that it could still give to models, in MiB; `None` if nothing was heard.
    pub free_mib: Option<u32>,
}

/// What this node's answers produced over one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WorkSample {
    /// Tokens generated per second.
    pub decode_per_s: f32,
    /// Tokens of prompts computed per second.
    pub prefill_per_s: f32,
    /// Answers under way at its end.
    pub n_requests: u16,
}

/// The past of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHistory {
    /// The device.
    pub node: NodeId,
    /// What it was called last.
    pub name: String,
    /// Its samples, the oldest first.
    pub samples: Vec<VitalsSample>,
}

/// The past: samples at common times, the last of them at `end`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// Between two samples.
    pub interval: Duration,
    /// When the last sample was taken.
    pub end: SystemTime,
    /// Samples.
    pub n_samples: usize,
    /// This device first.
    pub nodes: Vec<NodeHistory>,
    /// This node's answers; `None` where no sample was taken.
    pub own: Vec<Option<WorkSample>>,
}

/// The past of this node's cluster.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Rings>);

/// Samples by their slot: five seconds of the clock that goes on while the device sleeps, so that a sleep is a gap.
#[derive(Debug, Default)]
struct Rings {
    /// First and newest slot.
    slots: Option<(u64, u64)>,
    end: Option<SystemTime>,
    nodes: Vec<NodeRing>,
    own: Vec<Option<WorkSample>>,
}

#[derive(Debug)]
struct NodeRing {
    node: NodeId,
    name: String,
    /// The last slot in which anything was heard of it.
    heard: u64,
    samples: Vec<VitalsSample>,
}

/// What a sample is taken of.
#[derive(Debug)]
pub(crate) struct NodeSample<'a> {
    pub(crate) node: NodeId,
    pub(crate) name: &'a str,
    pub(crate) vitals: Option<Vitals>,
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % SAMPLES_MAX as u64).unwrap_or_default()
}

impl From<Vitals> for VitalsSample {
    fn from(vitals: Vitals) -> Self {
        Self {
            temperature_dc: vitals.temperature_dc,
            battery: vitals.battery.map(|battery| (battery.percent, battery.is_charging)),
            load_percent: vitals.load_percent,
            free_mib: Some(u32::try_from(vitals.free_bytes >> 20).unwrap_or(u32::MAX)),
        }
    }
}

impl Rings {
    /// Makes room for a slot; what is between it and the last one stays empty.
    fn advance(&mut self, slot: u64) {
        let (first, newest) = *self.slots.get_or_insert((slot, slot));
        let slot = slot.max(newest);
        let from = (newest + 1).max(slot.saturating_sub(SAMPLES_MAX as u64 - 1));
        for new in from..=slot {
            let at = index(new);
            self.nodes.iter_mut().for_each(|ring| ring.samples[at] = VitalsSample::default());
            if let Some(own) = self.own.get_mut(at) {
                *own = None;
            }
        }
        self.slots = Some((first, slot));
        self.nodes.retain(|ring| ring.heard + SAMPLES_MAX as u64 > slot);
    }

    fn take(&mut self, slot: u64, at: SystemTime, nodes: &[NodeSample<'_>], own: WorkSample) {
        self.advance(slot);
        self.end = Some(at);
        self.own.resize(SAMPLES_MAX, None);
        self.own[index(slot)] = Some(own);
        for NodeSample { node, name, vitals } in nodes {
            let Some(vitals) = *vitals else { continue };
            let known = self.nodes.iter().position(|ring| ring.node == *node);
            let known = match known {
                Some(known) => known,
                None if self.nodes.len() >= NODES_MAX => continue,
                None => {
                    let samples = vec![VitalsSample::default(); SAMPLES_MAX];
                    let ring = NodeRing { node: *node, name: String::new(), heard: slot, samples };
                    self.nodes.push(ring);
                    self.nodes.len() - 1
                }
            };
            let ring = &mut self.nodes[known];
            if ring.name != *name {
                ring.name = name.chars().take(64).collect();
            }
            ring.heard = slot;
            ring.samples[index(slot)] = vitals.into();
        }
    }

    fn page(&self, n_max: usize, own: NodeId) -> HistoryPage {
        let (first, newest) = self.slots.unwrap_or((1, 0));
        let n_known = usize::try_from((newest + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let n_samples = n_known.min(n_max).min(SAMPLES_MAX);
        let slots = || (newest + 1 - n_samples as u64)..=newest;
        let history = |ring: &NodeRing| NodeHistory {
            node: ring.node,
            name: ring.name.clone(),
            samples: slots().map(|slot| ring.samples[index(slot)]).collect(),
        };
        let mut nodes: Vec<NodeHistory> = self.nodes.iter().map(history).collect();
        nodes.sort_by(|a, b| {
            (a.node != own, &a.name, a.node).cmp(&(b.node != own, &b.name, b.node))
        });
        let own = match n_samples {
            0 => Vec::new(),
            _ => slots().map(|slot| self.own[index(slot)]).collect(),
        };
        let end = self.end.unwrap_or(SystemTime::UNIX_EPOCH);
        HistoryPage { interval: SAMPLE_EVERY, end, n_samples, nodes, own }
    }
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes samples until the node ends.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let node = Node::of(&inner);
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = (Instant::now(), inner.instruments.traces.requests.totals());
    loop {
        ticks.tick().await;
        let now = (Instant::now(), inner.instruments.traces.requests.totals());
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let per_s = |now: u64, before: u64| match seconds > 0.0 {
            true => (now.saturating_sub(before) as f64 / seconds) as f32,
            false => 0.0,
        };
        let n_running = inner.instruments.stats.n_running();
        let own = WorkSample {
            decode_per_s: per_s(now.1.0, before.1.0),
            prefill_per_s: per_s(now.1.1, before.1.1),
            n_requests: u16::try_from(n_running).unwrap_or(u16::MAX),
        };
        before = now;
        let nodes = node.nodes();
        let sample = |status: &NodeStatus| (status.record.id, status.vitals_now());
        let samples: Vec<(NodeId, Option<Vitals>)> = nodes.iter().map(sample).collect();
        let samples = samples.into_iter().zip(&nodes).map(|((node, vitals), status)| NodeSample {
            node,
            name: &status.record.name,
            vitals,
        });
        let slot = clock::since_start().as_secs() / SAMPLE_EVERY.as_secs();
        let samples: Vec<NodeSample<'_>> = samples.collect();
        inner.instruments.history.lock().take(slot, SystemTime::now(), &samples, own);
    }
}

impl NodeStatus {
    /// How it feels, unless it is gone or has not looked yet: then what it said last is no news.
    fn vitals_now(&self) -> Option<Vitals> {
        let vitals = self.vitals.filter(|vitals| *vitals != Vitals::default());
        vitals.filter(|_| self.liveness == "alive")
    }
}

impl Node {
    /// The past, at most so long.
    pub fn history(&self, period: Duration) -> HistoryPage {
        let n_max = period.as_secs() / SAMPLE_EVERY.as_secs();
        let n_max = usize::try_from(n_max).unwrap_or(usize::MAX);
        self.inner().instruments.history.lock().page(n_max, self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId([9; 32]);
    const PEER: NodeId = NodeId([1; 32]);

    fn warm(temperature_dc: i16) -> Option<Vitals> {
        Some(Vitals {
            temperature_dc: Some(temperature_dc),
            free_bytes: 5 << 20,
            ..Vitals::default()
        })
    }

    fn take(rings: &mut Rings, slot: u64, own: Option<Vitals>, peer: Option<Vitals>) {
        let samples = [
            NodeSample { node: PEER, name: "peer", vitals: peer },
            NodeSample { node: OWN, name: "own", vitals: own },
        ];
        let work = WorkSample { decode_per_s: slot as f32, ..WorkSample::default() };
        rings.take(slot, SystemTime::UNIX_EPOCH, &samples, work);
    }

    fn temperatures(history: &NodeHistory) -> Vec<Option<i16>> {
        history.samples.iter().map(|sample| sample.temperature_dc).collect()
    }

    #[test]
    fn a_sleep_is_a_gap_for_all() {
        let mut rings = Rings::default();
        assert_eq!(rings.page(720, OWN).n_samples, 0);
        take(&mut rings, 100, warm(300), None);
        take(&mut rings, 103, warm(301), warm(400));
        take(&mut rings, 104, None, warm(401));
        let page = rings.page(720, OWN);
        assert_eq!((page.n_samples, page.nodes.len(), page.nodes[0].node), (5, 2, OWN));
        let expected = [Some(300), None, None, Some(301), None];
        assert_eq!(temperatures(&page.nodes[0]), expected);
        assert_eq!(page.nodes[0].samples[0].free_mib, Some(5));
        assert_eq!(temperatures(&page.nodes[1]), [None, None, None, Some(400), Some(401)]);
        let decode: Vec<Option<f32>> =
            page.own.iter().map(|sample| sample.map(|it| it.decode_per_s)).collect();
        assert_eq!(decode, [Some(100.0), None, None, Some(103.0), Some(104.0)]);
        let short = rings.page(2, OWN);
        assert_eq!((short.n_samples, temperatures(&short.nodes[1]).len()), (2, 2));
        assert_eq!(temperatures(&short.nodes[0]), [Some(301), None]);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut rings = Rings::default();
        for slot in 0..3000 {
            let peer = warm(2).filter(|_| slot < 2500);
            take(&mut rings, slot, warm(i16::try_from(slot).expect("small")), peer);
        }
        let page = rings.page(usize::MAX, OWN);
        assert_eq!((page.n_samples, page.own.len()), (SAMPLES_MAX, SAMPLES_MAX));
        let own = temperatures(&page.nodes[0]);
        assert_eq!((own[0], own[SAMPLES_MAX - 1]), (Some(2280), Some(2999)));
        let peer = temperatures(&page.nodes[1]);
        assert_eq!(peer.iter().filter(|it| it.is_some()).count(), 220, "2280 to 2499");
        // A device that is gone for an hour is forgotten, a clock that goes back does no harm.
        take(&mut rings, 3300, warm(1), None);
        assert_eq!(rings.page(720, OWN).nodes.len(), 1);
        take(&mut rings, 10, warm(7), None);
        take(&mut rings, u64::MAX / 2, warm(8), None);
        let page = rings.page(720, OWN);
        assert_eq!(temperatures(&page.nodes[0]).iter().flatten().collect::<Vec<_>>(), [&8]);
    }

    #[test]
    fn a_crowd_takes_no_more_memory_than_a_home() {
        let mut rings = Rings::default();
        for i in 0..100 {
            let name = "n".repeat(10_000);
            let vitals = warm(1);
            let sample = NodeSample { node: NodeId([i; 32]), name: &name, vitals };
            rings.take(0, SystemTime::UNIX_EPOCH, &[sample], WorkSample::default());
        }
        assert_eq!(rings.nodes.len(), NODES_MAX);
        assert!(rings.nodes.iter().all(|ring| ring.name.len() == 64));
    }
}
