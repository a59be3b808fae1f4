//! Before anything is lost: instances leave the nodes that drain, and what a suspect runs is made ready elsewhere.

use std::time::Duration;

use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{NodeRecord, Phase},
};

use super::{Action, State, instances::Instance};
use crate::{Liveness, Time};

/// Pause before the same move is tried again: nobody could take the layers, and the next node to join may. Doubles with every
/// trial.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Most instances that are asked to move at once, and most that others are made ready for.
const MOVES_MAX: usize = 8;

/// What was asked for to empty nodes that drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    /// The epoch that was to be left.
    of: Epoch,
    leaving: Vec<NodeId>,
    again_at: Time,
    n_tried: u32,
}

/// Which suspects of a placement others were made ready for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    epoch: Epoch,
    without: Vec<NodeId>,
}

impl State {
    /// The instances that this node has to take away from nodes that drain.
    pub(super) fn plan_moves(&mut self, now: Time) -> Vec<Action> {
        let due: Vec<(InstanceId, Vec<NodeId>)> = self
            .instances
            .live()
            .filter_map(|it| Some((it.record.id, self.leaving(it, now)?)))
            .take(MOVES_MAX)
            .collect();
        let mut actions = Vec::new();
        for (id, leaving) in due {
            let epoch = self.instances.reserve(id, self.id, self.run);
            let Some((_, instance)) = self.instances.live_mut().find(|(known, _)| **known == id)
            else {
                continue;
            };
            let of = instance.record.epoch;
            let same = instance.moving.take().filter(|it| it.of == of && it.leaving == leaving);
            let n_tried = same.map_or(0, |it| it.n_tried);
            let again_at = now + (RETRY_MIN * (1 << n_tried.min(16))).min(RETRY_MAX);
            let n_tried = n_tried + 1;
            instance.moving = Some(Move { of, leaving: leaving.clone(), again_at, n_tried });
            actions.push(Action::Move { instance: id, epoch, leaving });
        }
        actions
    }

    /// The nodes of an instance that drain, if all of it runs and it is for this node to move it now.
    fn leaving(&self, instance: &Instance, now: Time) -> Option<Vec<NodeId>> {
        let is_mine = instance.record.phase == Phase::Ready
            && self.coordinator_at(instance, now) == self.id
            && !self.has_lost_stage(instance, now);
        if !is_mine {
            return None;
        }
        let nodes = instance.record.placement.stages.iter().map(|stage| stage.node);
        let leaving: Vec<NodeId> = nodes.filter(|&node| self.is_draining(node)).collect();
        let is_held_back = instance.moving.as_ref().is_some_and(|it| {
            it.of == instance.record.epoch && it.leaving == leaving && now < it.again_at
        });
        (!leaving.is_empty() && !is_held_back).then_some(leaving)
    }

    /// Whether a node gives its layers away.
    fn is_draining(&self, node: NodeId) -> bool {
        let record = if node == self.id { self.own.as_ref() } else { self.record(node) };
        record.is_some_and(|record: &NodeRecord| record.draining.is_some())
    }

    /// The instances that other nodes should be made ready for, since nodes of theirs are suspects. Once for the same suspects:
    /// a node that stalls every minute should not make the others read their disks again and again.
    pub(super) fn plan_preparations(&mut self, now: Time) -> Vec<Action> {
        let suspected: Vec<(InstanceId, Epoch, Vec<NodeId>)> = self
            .instances
            .live()
            .filter(|it| it.record.phase == Phase::Ready && !self.has_lost_stage(it, now))
            .filter_map(|it| Some((it.record.id, it.record.epoch, self.suspects(it, now)?)))
            .collect();
        let mut actions = Vec::new();
        for (id, epoch, without) in suspected {
            if actions.len() == MOVES_MAX {
                break;
            }
            let prepared = Some(Prepared { epoch, without: without.clone() });
            let found = self.instances.live_mut().find(|(known, _)| **known == id);
            let Some((_, instance)) = found.filter(|(_, it)| it.prepared != prepared) else {
                continue;
            };
            instance.prepared = prepared;
            actions.push(Action::Prepare { instance: id, without });
        }
        actions
    }

    /// The nodes of an instance that are suspects, if this is the first of the others.
    fn suspects(&self, instance: &Instance, now: Time) -> Option<Vec<NodeId>> {
        let nodes = instance.record.placement.stages.iter().map(|stage| stage.node);
        let (alive, silent): (Vec<NodeId>, Vec<NodeId>) =
            nodes.partition(|&node| self.liveness_at(node, now) == Liveness::Alive);
        let first = alive.first().copied().unwrap_or_else(|| {
            let members = self.members.keys().copied();
            let others = members.filter(|&id| self.liveness_at(id, now) == Liveness::Alive);
            others.fold(self.id, NodeId::min)
        });
        (!silent.is_empty() && first == self.id).then_some(silent)
    }
}
