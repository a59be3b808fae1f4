//! Who coordinates an instance, and when it has to be placed anew.
//!
//! The coordinator is a rule, not an office: the first node of the placement that lives. Nodes of two halves of a cut cluster
//! see different nodes live and so have a coordinator each; the epochs that these give out differ by construction, and the
//! highest wins when the halves meet.

use std::time::Duration;

use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{InstanceRecord, NodeRecord, Phase},
};

use super::{Action, State, instances::Instance};
use crate::{Time, membership::Member};

/// Pause before the same loss is tried to be mended again; doubles with every trial.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Pause after the second placement in a row that did not last; doubles with each, so that two nodes that do not reach each
/// other, but share the others, soon stop to take an instance from each other.
const MOVE_MIN: Duration = Duration::from_secs(2);
/// The same when a node has come, whose record and whose vital signs are on their way.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// Longest pause of both kinds.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Most instances that are asked to be mended at once.
const HEALS_MAX: usize = 8;

/// What was asked for to mend an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heal {
    /// The epoch that was found broken.
    of: Epoch,
    lost: Vec<NodeId>,
    again_at: Time,
    n_tried: u32,
}

impl State {
    pub(super) fn coordinator_at(&self, instance: &Instance, now: Time) -> NodeId {
        let mut stages = instance.record.placement.stages.iter().map(|stage| stage.node);
        let first = stages.find(|&node| !self.is_lost(node, instance, now));
        first.unwrap_or_else(|| {
            let alive = self.members.values().filter(|member| !member.is_lost(&self.timing, now));
            alive.map(|member| member.record.id).fold(self.id, NodeId::min)
        })
    }

    /// Whether a node is dead as far as an instance is concerned. A node that is unknown here may only not have been told of
    /// yet.
    fn is_lost(&self, node: NodeId, instance: &Instance, now: Time) -> bool {
        match self.members.get(&node) {
            Some(member) => member.is_lost(&self.timing, now),
            None => node != self.id && now >= instance.placed_at + self.timing.dead_after,
        }
    }

    /// Whether this node does not know yet how the others are.
    pub(super) fn is_new_here(&self, now: Time) -> bool {
        // A radio needs seconds to come back, and the others may long have placed everything anew.
        self.woke_at.is_some_and(|woke| now < woke + self.timing.dead_after)
    }

    /// Whether others may only not have started yet, as after a power cut.
    pub(super) fn may_others_start(&self, now: Time) -> bool {
        self.restored_at.is_some_and(|at| now < at + 2 * self.timing.dead_after)
    }

    /// Whether a node's stage was lost in this life of this node: the node was heard, or somebody saw its end.
    fn was_seen_lost(&self, node: NodeId, instance: &Instance, now: Time) -> bool {
        let member = self.members.get(&node);
        instance.stages_lost.contains(&node)
            || member.is_some_and(|it| it.was_heard() && it.is_lost(&self.timing, now))
    }

    /// What was tried in vain is tried again soon: somebody has come who may take what is missing.
    pub(super) fn retry_soon(&mut self, now: Time) {
        let soon = now + RETRY_SOON;
        for (_, instance) in self.instances.live_mut() {
            if let Some(heal) = &mut instance.heal {
                heal.again_at = heal.again_at.min(soon);
            }
        }
    }

    /// Notes which placements count on a stage of this node that only an earlier life of it can have run: a placement is ready
    /// when all of its stages are, and a stage is published before it says so. Such a life ended too soon after the placement
    /// to keep it.
    pub(super) fn miss_own_stages(&mut self) {
        let Some(own) = &self.own else { return };
        for (_, instance) in self.instances.live_mut() {
            let (record, id) = (&instance.record, self.id);
            let is_placed_here = record.placement.stages.iter().any(|stage| stage.node == id);
            if is_placed_here
                && record.phase == Phase::Ready
                && !instance.is_restored
                && !instance.stages_lost.contains(&id)
                && !runs_stage(own, record)
            {
                instance.stages_lost.push(id);
                instance.is_loss_untold = true;
            }
        }
    }

    /// Whom to tell of the stages that this node misses. Once each: who is not reached sees the loss in this node's record.
    pub(super) fn tell_losses(&mut self, now: Time) -> Vec<Action> {
        let untold = self.instances.live().filter(|instance| instance.is_loss_untold);
        let actions: Vec<Action> = untold
            .filter_map(|instance| {
                let coordinator = self.coordinator_at(instance, now);
                let (instance, epoch) = (instance.record.id, instance.record.epoch);
                let is_reached = self.members.get(&coordinator).is_some_and(Member::is_connected);
                is_reached.then_some(Action::TellLost { instance, epoch, coordinator })
            })
            .collect();
        for action in &actions {
            if let Action::TellLost { instance: told, .. } = action
                && let Some((_, instance)) = self.instances.live_mut().find(|(id, _)| *id == told)
            {
                instance.is_loss_untold = false;
            }
        }
        actions
    }

    /// Whether any stage of an instance is gone.
    pub(super) fn has_lost_stage(&self, instance: &Instance, now: Time) -> bool {
        let mut nodes = instance.record.placement.stages.iter().map(|stage| stage.node);
        nodes.any(|node| self.is_stage_lost(node, instance, now))
    }

    /// The instances that this node has to mend now.
    pub(super) fn plan_heals(&mut self, now: Time) -> Vec<Action> {
        let broken: Vec<(InstanceId, Vec<NodeId>)> = self
            .instances
            .live()
            .filter_map(|it| Some((it.record.id, self.broken(it, now)?)))
            .take(HEALS_MAX)
            .collect();
        let mut actions = Vec::new();
        for (id, lost) in broken {
            let epoch = self.instances.reserve(id, self.id, self.run);
            let Some((_, instance)) = self.instances.live_mut().find(|(known, _)| **known == id)
            else {
                continue;
            };
            let of = instance.record.epoch;
            let same = instance.heal.take().filter(|heal| heal.of == of && heal.lost == lost);
            let n_tried = same.map_or(0, |heal| heal.n_tried);
            let again_at = now + (RETRY_MIN * (1 << n_tried.min(16))).min(PAUSE_MAX);
            let n_tried = n_tried + 1;
            instance.heal = Some(Heal { of, lost: lost.clone(), again_at, n_tried });
            actions.push(Action::Heal { instance: id, epoch, lost });
        }
        actions
    }

    /// The nodes whose stages of an instance are lost, if it is for this node to act on that now. None of them: whoever was at
    /// work on it is lost.
    fn broken(&self, instance: &Instance, now: Time) -> Option<Vec<NodeId>> {
        let record = &instance.record;
        let is_unsettled = match record.phase {
            Phase::Placing | Phase::Healing | Phase::Fetching | Phase::Loading => true,
            Phase::Ready => false,
            Phase::Failed(_) | Phase::Dropped => return None,
        };
        let is_coordinator = self.coordinator_at(instance, now) == self.id;
        // Work of an earlier life, which this one knows nothing of; or work that was ended for a later epoch of which nothing
        // came.
        let is_forgotten = is_unsettled
            && self.instances.reserved(record.id) != Some(record.epoch)
            && Self::made(record.epoch, self.id);
        if !is_coordinator && !is_forgotten {
            return None;
        }
        let lost: Vec<NodeId> = match record.phase {
            // Nothing is placed yet: who places it sees what it can have.
            Phase::Placing => Vec::new(),
            _ => {
                let nodes = record.placement.stages.iter().map(|stage| stage.node);
                nodes.filter(|&node| self.is_stage_lost(node, instance, now)).collect()
            }
        };
        if self.may_others_start(now) {
            let is_seen = lost.iter().all(|&node| self.was_seen_lost(node, instance, now));
            if lost.is_empty() || !is_seen {
                return None;
            }
        }
        let is_due = match lost.as_slice() {
            [] => is_unsettled && (is_forgotten || self.is_maker_lost(instance, now)),
            _ => is_coordinator,
        };
        let pause = match instance.n_moves {
            0 | 1 => Duration::ZERO,
            n => (MOVE_MIN * (1 << (n - 2).min(16))).min(PAUSE_MAX),
        };
        let is_held_back = now < instance.placed_at + pause
            || instance.heal.as_ref().is_some_and(|heal| {
                heal.of == record.epoch && heal.lost == lost && now < heal.again_at
            });
        (is_due && !is_held_back).then_some(lost)
    }

    /// Whether a node's stage of an instance is gone: with the node, by what was said, or by what the node publishes.
    fn is_stage_lost(&self, node: NodeId, instance: &Instance, now: Time) -> bool {
        self.is_lost(node, instance, now)
            || instance.stages_lost.contains(&node)
            || self.is_not_run(node, instance, now)
    }

    /// Whether a node's newest record, which it published after the instance was ready, knows nothing of the stage: its process
    /// ended and came back before anybody missed it.
    fn is_not_run(&self, node: NodeId, instance: &Instance, now: Time) -> bool {
        // By then every heartbeat on its way was sent after the stage was loaded.
        let is_settled = now >= instance.phase_at + self.timing.dead_after;
        let record = if node == self.id { self.own.as_ref() } else { self.current_record(node) };
        instance.record.phase == Phase::Ready
            && is_settled
            && record.is_some_and(|record| !runs_stage(record, &instance.record))
    }

    /// The record of a peer, if it is the one that its last heartbeat named.
    fn current_record(&self, node: NodeId) -> Option<&NodeRecord> {
        let member = self.members.get(&node)?;
        let is_current = member.told_version.is_some_and(|told| member.record.version >= told);
        is_current.then_some(&member.record)
    }

    /// Whether whoever was placing an instance is gone.
    fn is_maker_lost(&self, instance: &Instance, now: Time) -> bool {
        let epoch = instance.record.epoch;
        let nodes = [self.id].into_iter().chain(self.members.keys().copied());
        match nodes.into_iter().find(|&node| Self::made(epoch, node)) {
            Some(maker) => self.is_lost(maker, instance, now),
            None => now >= instance.placed_at + self.timing.dead_after,
        }
    }

    /// Whether an epoch names a node.
    fn made(epoch: Epoch, node: NodeId) -> bool {
        Epoch(epoch.0.saturating_sub(1 << 24)).next(node) == epoch
    }
}

/// Whether a node publishes a stage of a placement.
fn runs_stage(node: &NodeRecord, placed: &InstanceRecord) -> bool {
    let mut stages = node.stages.iter();
    stages.any(|stage| stage.instance == placed.id && stage.epoch == placed.epoch)
}
