//! The instances that a node knows: of two records of one the newer wins, and the dropped leave tombstones.

use std::{collections::BTreeMap, time::Duration};

use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{InstanceRecord, Phase},
};

use super::{
    heal::Heal,
    moves::{Move, Prepared},
};
use crate::Time;

/// Most instances that are kept, and most tombstones.
pub(super) const INSTANCES_MAX: usize = 256;
/// Most stages of an instance.
const STAGES_MAX: usize = 64;
/// Highest count of placements that is believed: beyond it an epoch could not be raised any more.
const COUNT_MAX: u64 = 1 << 39;
/// How long peers are told of a dropped instance, so that whoever slept through the end does not bring it back.
const TOMBSTONE_TOLD: Duration = Duration::from_secs(3600);
/// How long it is remembered: while others, who learnt of the end later, still tell of it, it must not become news again, or
/// nodes would give it to each other for ever.
const TOMBSTONE_KEPT: Duration = Duration::from_secs(2 * 3600);
/// An instance that stayed as it is for this long is settled: its next move is the first again.
const SETTLED_AFTER: Duration = Duration::from_secs(600);
/// Bits of the count by which a life may leap ahead.
const LEAP_BITS: u32 = 16;

/// An instance that was not dropped.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) record: InstanceRecord,
    /// When its epoch became known here.
    pub(super) placed_at: Time,
    /// When its phase became known here.
    pub(super) phase_at: Time,
    /// Newer placements in a row, none of which lasted.
    pub(super) n_moves: u32,
    /// Nodes of the placement whose runner died.
    pub(super) stages_lost: Vec<NodeId>,
    /// Whether an earlier life of this node kept the placement for this one, which takes its stage up again.
    pub(super) is_restored: bool,
    /// Whether this node's stage is lost and the coordinator is still to hear of it.
    pub(super) is_loss_untold: bool,
    /// What was last asked for to mend it.
    pub(super) heal: Option<Heal>,
    /// What was last asked for to empty nodes that drain.
    pub(super) moving: Option<Move>,
    /// Which suspects others were made ready for.
    pub(super) prepared: Option<Prepared>,
}

/// All instances.
#[derive(Debug, Clone, Default)]
pub(super) struct Instances {
    live: BTreeMap<InstanceId, Instance>,
    dropped: BTreeMap<InstanceId, (InstanceRecord, Time)>,
    /// The highest epoch that was given to this node in this life, by instance.
    reserved: BTreeMap<InstanceId, Epoch>,
    digest: u64,
}

impl Instances {
    pub(super) fn live(&self) -> impl Iterator<Item = &Instance> {
        self.live.values()
    }

    pub(super) fn live_mut(&mut self) -> impl Iterator<Item = (&InstanceId, &mut Instance)> {
        self.live.iter_mut()
    }

    pub(super) fn get_live(&self, id: InstanceId) -> Option<&Instance> {
        self.live.get(&id)
    }

    /// The newest record of an instance, dropped or not.
    pub(super) fn get(&self, id: InstanceId) -> Option<&InstanceRecord> {
        let live = self.live.get(&id).map(|instance| &instance.record);
        live.or_else(|| self.dropped.get(&id).map(|(record, _)| record))
    }

    /// What peers are told at `now`.
    pub(super) fn told(&self, now: Time) -> impl Iterator<Item = &InstanceRecord> {
        let is_told = move |since: Time| now.saturating_sub(since) < TOMBSTONE_TOLD;
        let dropped = self.dropped.values().filter(move |(_, since)| is_told(*since));
        self.live.values().map(|instance| &instance.record).chain(dropped.map(|(record, _)| record))
    }

    pub(super) fn highest_epoch(&self) -> Epoch {
        let live = self.live.values().map(|instance| instance.record.epoch);
        live.chain(self.dropped.values().map(|(record, _)| record.epoch)).max().unwrap_or_default()
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The highest epoch given to this node in this life.
    pub(super) fn reserved(&self, id: InstanceId) -> Option<Epoch> {
        self.reserved.get(&id).copied()
    }

    /// Takes in a record. Dropped is final; else the highest epoch wins, and within it the later phase, so that every node
    /// settles on the same record whatever the order of arrival.
    pub(super) fn apply(&mut self, record: InstanceRecord, now: Time) -> bool {
        let n_stages = record.placement.stages.len();
        let is_sound = n_stages <= STAGES_MAX
            && record.epoch.count() <= COUNT_MAX
            && record.placement.covers(record.model.n_layer);
        let is_dropped = record.phase == Phase::Dropped;
        let is_full = self.live.len() >= INSTANCES_MAX;
        let changed = is_sound
            && match (self.live.get_mut(&record.id), self.dropped.get_mut(&record.id)) {
                (Some(_), _) if is_dropped => {
                    self.bury(record, now);
                    true
                }
                (Some(known), _) => known.replace(record, now),
                (None, Some((tombstone, _))) if is_dropped => {
                    tombstone.epoch = tombstone.epoch.max(record.epoch);
                    false
                }
                (None, Some((_, since))) => {
                    // Somebody slept through the end and has to be told.
                    *since = now;
                    false
                }
                (None, None) if is_dropped => {
                    self.bury(record, now);
                    false
                }
                (None, None) if is_full => false,
                (None, None) => {
                    self.live.insert(record.id, Instance::new(record, now));
                    true
                }
            };
        if changed {
            self.digest =
                self.live.values().map(|it| digest(&it.record)).fold(0, u64::wrapping_add);
        }
        changed
    }

    /// Takes in what an earlier life of this node kept.
    pub(super) fn restore(&mut self, record: InstanceRecord, now: Time) {
        let id = record.id;
        self.apply(record, now);
        if let Some(instance) = self.live.get_mut(&id) {
            instance.is_restored = true;
        }
    }

    fn bury(&mut self, record: InstanceRecord, now: Time) {
        let id = record.id;
        self.live.remove(&id);
        self.reserved.remove(&id);
        if self.dropped.len() >= INSTANCES_MAX {
            let oldest = self.dropped.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(oldest) = oldest.map(|(&id, _)| id) {
                self.dropped.remove(&oldest);
            }
        }
        self.dropped.insert(id, (record, now));
    }

    /// Forgets tombstones that have served.
    pub(super) fn expire(&mut self, now: Time) {
        self.dropped.retain(|_, (_, since)| now.saturating_sub(*since) < TOMBSTONE_KEPT);
    }

    /// Notes that the runner of a stage died. Returns whether that was news.
    pub(super) fn stage_lost(&mut self, id: InstanceId, epoch: Epoch, node: NodeId) -> bool {
        let Some(instance) = self.live.get_mut(&id) else { return false };
        let runs_it = instance.record.placement.stages.iter().any(|stage| stage.node == node);
        if instance.record.epoch != epoch || !runs_it || instance.stages_lost.contains(&node) {
            return false;
        }
        instance.stages_lost.push(node);
        true
    }

    /// Forgets that an epoch was given to this node: nothing came of it, and it is to be tried again. Returns whether it was.
    pub(super) fn give_up(&mut self, id: InstanceId, epoch: Epoch) -> bool {
        let is_current = self.live.get(&id).is_some_and(|it| it.record.epoch == epoch);
        is_current && self.reserved.get(&id) == Some(&epoch) && self.reserved.remove(&id).is_some()
    }

    /// Returns an epoch for a placement that `node` makes now, in the life `run`: above all that are known, and never returned
    /// twice.
    ///
    /// A node that lost its memory may have used the next epoch already, in a life that only nodes out of reach remember. So
    /// whoever does not go on from an epoch of its own leaps ahead, by an amount that differs from life to life.
    pub(super) fn reserve(&mut self, id: InstanceId, node: NodeId, run: u64) -> Epoch {
        let known = self.get(id).map(|record| record.epoch);
        let reserved = self.reserved(id);
        let base = if known > reserved {
            let leap = mix(run ^ mix(id.0)) & ((1 << LEAP_BITS) - 1);
            let known = known.unwrap_or_default();
            Epoch(known.0.saturating_add(leap << (u64::BITS - COUNT_BITS)))
        } else {
            reserved.unwrap_or_default()
        };
        let epoch = base.next(node);
        if self.reserved.len() >= 2 * INSTANCES_MAX {
            let live = &self.live;
            self.reserved.retain(|id, _| live.contains_key(id));
        }
        self.reserved.insert(id, epoch);
        epoch
    }
}

/// Bits of an epoch that count; the others name the node.
const COUNT_BITS: u32 = 40;

impl Instance {
    fn new(record: InstanceRecord, now: Time) -> Self {
        Self {
            record,
            placed_at: now,
            phase_at: now,
            n_moves: 0,
            stages_lost: Vec::new(),
            is_restored: false,
            is_loss_untold: false,
            heal: None,
            moving: None,
            prepared: None,
        }
    }

    fn replace(&mut self, record: InstanceRecord, now: Time) -> bool {
        if (self.record.epoch, &self.record.phase) >= (record.epoch, &record.phase) {
            return false;
        }
        if record.epoch > self.record.epoch {
            let is_settled = now.saturating_sub(self.phase_at) >= SETTLED_AFTER;
            self.n_moves = if is_settled { 1 } else { self.n_moves.saturating_add(1) };
            self.placed_at = now;
            self.stages_lost.clear();
            (self.is_restored, self.is_loss_untold) = (false, false);
        }
        self.phase_at = now;
        self.record = record;
        true
    }
}

/// What one record adds to the digest.
fn digest(record: &InstanceRecord) -> u64 {
    let phase = record.phase.as_str().bytes();
    let reason = match &record.phase {
        Phase::Failed(reason) => reason.as_str(),
        _ => "",
    };
    let words = phase.chain(reason.bytes()).map(u64::from);
    [record.id.0, record.epoch.0].into_iter().chain(words).fold(0, |hash, word| mix(hash ^ word))
}

/// Spreads the bits of a number (the finaliser of SplitMix64; Steele et al., OOPSLA 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
