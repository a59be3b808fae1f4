//! The state machine: what happened goes in, what to do comes out.

use std::{collections::BTreeMap, net::SocketAddr};

use shoal_proto::{
    InstanceId, NodeId,
    control::{InstanceRecord, NodeRecord},
};

use crate::{
    Time,
    membership::{Liveness, Member, Timing},
};

/// Most peers that are kept; a home has tens. The bound keeps a peer's gossip from filling the memory.
const MEMBERS_MAX: usize = 256;
/// Most instances that are kept.
const INSTANCES_MAX: usize = 256;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer's record arrived, from itself or by way of another peer.
    Record(NodeRecord),
    /// A control connection to the peer stands.
    Connected(NodeId),
    /// Anything arrived from the peer.
    Heard(NodeId),
    /// The peer could not be reached.
    DialFailed(NodeId),
    /// The last control connection to the peer ended.
    Disconnected {
        /// The peer.
        node: NodeId,
        /// Whether that proves its end (a reset, a goodbye) or only says that nothing arrives.
        certain: bool,
    },
    /// An instance was placed or changed.
    Instance(InstanceRecord),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect to a peer.
    Dial {
        /// The peer.
        node: NodeId,
        /// Where it may be.
        addrs: Vec<SocketAddr>,
    },
    /// Tell a connected peer that this node lives.
    Heartbeat(NodeId),
}

/// What a node knows of its cluster.
#[derive(Debug, Clone)]
pub struct State {
    id: NodeId,
    timing: Timing,
    members: BTreeMap<NodeId, Member>,
    instances: BTreeMap<InstanceId, InstanceRecord>,
}

impl State {
    /// Returns the state of a node that knows nobody yet.
    pub fn new(id: NodeId, timing: Timing) -> Self {
        Self { id, timing, members: BTreeMap::new(), instances: BTreeMap::new() }
    }

    /// Takes in what happened at `now`. Returns whether anything changed that peers or people would see.
    pub fn apply(&mut self, event: Event, now: Time) -> bool {
        match event {
            Event::Record(record) => self.apply_record(record, now),
            Event::Connected(node) => self.with_member(node, |member| {
                let changed = !member.connected;
                member.connected = true;
                member.last_heard = Some(now);
                member.n_failed_dials = 0;
                changed
            }),
            Event::Heard(node) => self.with_member(node, |member| {
                let changed = member.last_heard.is_none();
                member.last_heard = Some(now);
                changed
            }),
            Event::DialFailed(node) => {
                let timing = self.timing;
                self.with_member(node, |member| {
                    let pause = timing.redial_min * (1 << member.n_failed_dials.min(16));
                    member.redial_at = now + pause.min(timing.redial_max);
                    member.n_failed_dials += 1;
                    false
                })
            }
            Event::Disconnected { node, certain } => self.with_member(node, |member| {
                member.connected = false;
                member.redial_at = now;
                if certain {
                    member.last_heard = None;
                }
                true
            }),
            Event::Instance(record) => self.apply_instance(record),
        }
    }

    /// Returns what to do at `now`, and notes that it is being done.
    pub fn plan(&mut self, now: Time) -> Vec<Action> {
        let timing = self.timing;
        self.members.retain(|_, member| {
            let since = member.last_heard.unwrap_or(member.known_since);
            member.connected || now.saturating_sub(since) < timing.forget_after
        });
        let mut actions = Vec::new();
        for (&node, member) in &mut self.members {
            if member.connected {
                let due = member.last_heartbeat.is_none_or(|last| now >= last + timing.heartbeat);
                if due {
                    member.last_heartbeat = Some(now);
                    actions.push(Action::Heartbeat(node));
                }
            } else if now >= member.redial_at && !member.record.addrs.is_empty() {
                // Held back until the dial has succeeded, failed, or surely timed out.
                member.redial_at = now + timing.redial_max;
                actions.push(Action::Dial { node, addrs: member.record.addrs.clone() });
            }
        }
        actions
    }

    /// The peers, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// What is believed of a node at `now`. A node never doubts itself.
    pub fn liveness(&self, node: NodeId, now: Time) -> Liveness {
        if node == self.id {
            return Liveness::Alive;
        }
        self.members.get(&node).map_or(Liveness::Dead, |member| member.liveness(&self.timing, now))
    }

    /// The newest record of a peer.
    pub fn record(&self, node: NodeId) -> Option<&NodeRecord> {
        self.members.get(&node).map(|member| &member.record)
    }

    /// The instances, by id.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceRecord> {
        self.instances.values()
    }

    /// One instance.
    pub fn instance(&self, id: InstanceId) -> Option<&InstanceRecord> {
        self.instances.get(&id)
    }

    fn with_member(&mut self, node: NodeId, change: impl FnOnce(&mut Member) -> bool) -> bool {
        self.members.get_mut(&node).is_some_and(change)
    }

    fn apply_record(&mut self, record: NodeRecord, now: Time) -> bool {
        if record.id == self.id {
            return false;
        }
        if let Some(member) = self.members.get_mut(&record.id) {
            let newer = record.version > member.record.version;
            if newer {
                if record.addrs != member.record.addrs {
                    member.redial_at = now;
                }
                member.record = record;
            }
            return newer;
        }
        if self.members.len() >= MEMBERS_MAX {
            return false;
        }
        self.members.insert(record.id, Member::new(record, now));
        true
    }

    /// The highest epoch wins, and within it the later phase, so that every node settles on the same record whatever the order
    /// of arrival.
    fn apply_instance(&mut self, record: InstanceRecord) -> bool {
        if !record.placement.covers(record.model.n_layer) {
            return false;
        }
        match self.instances.get(&record.id) {
            Some(known) if (known.epoch, &known.phase) >= (record.epoch, &record.phase) => false,
            None if self.instances.len() >= INSTANCES_MAX => false,
            _ => {
                self.instances.insert(record.id, record);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
