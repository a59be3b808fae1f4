//! The state machine: what happened goes in, what to do comes out.

use std::{collections::BTreeMap, net::SocketAddr};

use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{InstanceRecord, NodeRecord, Phase, Vitals},
};

use self::{awake::AwakeClock, instances::Instances, life::OtherLife};
use crate::{
    Time,
    membership::{Liveness, Member, Timing},
};

mod awake;
mod heal;
mod instances;
mod life;
mod moves;

/// Most peers that are kept; a home has tens. The bound keeps a peer's gossip from filling the memory.
const MEMBERS_MAX: usize = 256;
/// Most dials of one plan: every peer of a home in parallel.
const DIALS_MAX: usize = 64;
/// Most exchanges of one plan. Each may be a megabyte.
const SYNCS_MAX: usize = 8;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer's record arrived, from itself or by way of another peer. This node's own record belongs here too, at the start
    /// and with every change.
    Record(NodeRecord),
    /// A control connection to the peer stands.
    Connected(NodeId),
    /// Anything arrived from the peer.
    Heard(NodeId),
    /// A heartbeat arrived from the peer.
    Heartbeat {
        /// The peer.
        node: NodeId,
        /// Version of its record.
        record_version: u64,
        /// Its [`State::instances_digest`].
        instances: u64,
        /// How it feels.
        vitals: Vitals,
    },
    /// The peer could not be reached.
    DialFailed(NodeId),
    /// The last control connection to the peer ended.
    Disconnected {
        /// The peer.
        node: NodeId,
        /// Whether that proves its end (a reset, a goodbye) or only says that nothing arrives.
        certain: bool,
    },
    /// The peer's process has ended: the system that it ran on says so, and nothing else was heard of it meanwhile.
    Gone(NodeId),
    /// Discovery saw a member. Nobody but members may be hinted at: an unknown one is taken for one whose record is still to
    /// come.
    Hint {
        /// The member.
        node: NodeId,
        /// Where it may be.
        addrs: Vec<SocketAddr>,
    },
    /// The peer left for good, or was removed. Its records must not be given to this state any more.
    Left(NodeId),
    /// This node has other addresses than before: what stands may be dead without knowing it.
    AddressesChanged,
    /// An instance was placed or changed, here or elsewhere.
    Instance(InstanceRecord),
    /// The runner of a stage died. It says nothing about the node, which may be this one.
    StageLost {
        /// The instance.
        instance: InstanceId,
        /// The placement's version.
        epoch: Epoch,
        /// The node whose stage it was.
        node: NodeId,
    },
    /// What this node was doing under an epoch of its own has failed for now: it is to be tried again.
    GivenUp {
        /// The instance.
        instance: InstanceId,
        /// The placement's version.
        epoch: Epoch,
    },
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect to a peer, even if a connection stands.
    Dial {
        /// The peer.
        node: NodeId,
        /// Where it may be, the likeliest first.
        addrs: Vec<SocketAddr>,
    },
    /// Tell a connected peer that this node lives.
    Heartbeat(NodeId),
    /// Exchange records and instances with a connected peer: they differ.
    Sync(NodeId),
    /// Place an instance anew, as its coordinator. It ends whatever this node was doing for an older epoch of it.
    Heal {
        /// The instance.
        instance: InstanceId,
        /// The epoch to use, given to this node for this purpose alone.
        epoch: Epoch,
        /// The nodes whose stages are lost; those that live may get them again. Empty if the stages may be well, but whoever
        /// was placing them is gone.
        lost: Vec<NodeId>,
    },
    /// Place an instance that runs anew, as its coordinator, over other nodes than these, which give their layers away. It goes
    /// on as it is until the others are ready, and if they cannot take it.
    Move {
        /// The instance.
        instance: InstanceId,
        /// The epoch to use, given to this node for this purpose alone.
        epoch: Epoch,
        /// The nodes that it is to leave.
        leaving: Vec<NodeId>,
    },
    /// See that other nodes have at hand what an instance would need without these, which are suspects. Nothing is placed.
    Prepare {
        /// The instance.
        instance: InstanceId,
        /// The suspects.
        without: Vec<NodeId>,
    },
    /// Tell the coordinator of an instance, a connected peer, that this node's stage of it is lost: it ran in an earlier life.
    TellLost {
        /// The instance.
        instance: InstanceId,
        /// The placement's version.
        epoch: Epoch,
        /// Whom to tell.
        coordinator: NodeId,
    },
}

/// What a node knows of its cluster.
#[derive(Debug, Clone)]
pub struct State {
    id: NodeId,
    run: u64,
    timing: Timing,
    clock: AwakeClock,
    /// When the device last woke from a sleep in which others may have given it up.
    woke_at: Option<Time>,
    /// When instances of an earlier life were taken in.
    restored_at: Option<Time>,
    members: BTreeMap<NodeId, Member>,
    instances: Instances,
    own: Option<NodeRecord>,
    other_life: OtherLife,
}

impl State {
    /// Returns the state of a node that knows nobody yet. `run` is the life of [`NodeRecord::run`].
    pub fn new(id: NodeId, run: u64, timing: Timing) -> Self {
        Self {
            id,
            run,
            timing,
            clock: AwakeClock::default(),
            woke_at: None,
            restored_at: None,
            members: BTreeMap::new(),
            instances: Instances::default(),
            own: None,
            other_life: OtherLife::default(),
        }
    }

    /// Takes in what happened at `now`. Returns whether anything changed that peers or people would see.
    pub fn apply(&mut self, event: Event, now: Time) -> bool {
        let now = self.advance(now);
        let timing = self.timing;
        match event {
            Event::Record(record) if record.id == self.id => {
                self.apply_own(record);
                false
            }
            Event::Record(record) => self.apply_record(record, now),
            Event::Connected(node) => {
                let changed = self.with(node, |member| member.connected(&timing, now));
                if changed {
                    self.retry_soon(now);
                }
                changed
            }
            Event::Heard(node) => self.with(node, |member| member.heard(&timing, now)),
            Event::Heartbeat { node, record_version, instances, vitals } => {
                let own = self.instances.digest();
                self.with(node, |member| {
                    member.compare(own, record_version, instances);
                    let changed = member.vitals.replace(vitals) != Some(vitals);
                    member.heard(&timing, now) || changed
                })
            }
            Event::DialFailed(node) => self.with(node, |member| {
                member.dial_failed(&timing, now);
                false
            }),
            Event::Disconnected { node, certain } => self.with(node, |member| {
                member.disconnected(certain, &timing, now);
                true
            }),
            Event::Gone(node) => self.with(node, |member| {
                member.gone(&timing, now);
                true
            }),
            Event::Hint { node, addrs } => {
                if node == self.id {
                    return false;
                }
                let is_new = !self.members.contains_key(&node)
                    && self.insert(NodeRecord::unknown(node), now);
                self.with(node, |member| member.hint(addrs, &timing, now)) || is_new
            }
            Event::Left(node) => self.members.remove(&node).is_some(),
            Event::AddressesChanged => {
                self.redial_all(now);
                false
            }
            Event::Instance(record) => self.instances.apply(record, now),
            Event::StageLost { instance, epoch, node } => {
                self.instances.stage_lost(instance, epoch, node)
            }
            Event::GivenUp { instance, epoch } => self.instances.give_up(instance, epoch),
        }
    }

    /// Takes in what an earlier life of this node knew of instances. For twice the time after which silence means death only
    /// that is mended which is lost before the eyes of this life: after a power cut the other nodes start when they can, and
    /// have their stages on disk as this one.
    pub fn restore(&mut self, instances: Vec<InstanceRecord>, now: Time) {
        let now = self.advance(now);
        for instance in instances {
            self.instances.restore(instance, now);
            self.restored_at = Some(now);
        }
    }

    /// Returns what to do at `now`, and notes that it is being done. To be called several times a second: a longer pause is
    /// taken for the sleep of this device, which is no silence of the others.
    pub fn plan(&mut self, now: Time) -> Vec<Action> {
        let now = self.advance(now);
        let timing = self.timing;
        self.members
            .retain(|_, member| member.is_connected() || member.silence(now) < timing.forget_after);
        self.instances.expire(now);
        let mut actions = Vec::new();
        let (mut n_dials, mut n_syncs) = (0, 0);
        for (&node, member) in &mut self.members {
            if member.heartbeat_due(&timing, now) {
                actions.push(Action::Heartbeat(node));
            }
            if n_syncs < SYNCS_MAX && member.sync_due(now) {
                n_syncs += 1;
                actions.push(Action::Sync(node));
            }
            if n_dials < DIALS_MAX
                && let Some(addrs) = member.dial_due(&timing, now)
            {
                n_dials += 1;
                actions.push(Action::Dial { node, addrs });
            }
        }
        self.miss_own_stages();
        actions.extend(self.tell_losses(now));
        if !self.is_new_here(now) {
            actions.extend(self.plan_heals(now));
        }
        if !self.is_new_here(now) && !self.may_others_start(now) {
            actions.extend(self.plan_moves(now));
            actions.extend(self.plan_preparations(now));
        }
        actions
    }

    /// The peers, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// What is believed of a node at `now`. A node never doubts itself.
    pub fn liveness(&self, node: NodeId, now: Time) -> Liveness {
        self.liveness_at(node, self.clock.at(now))
    }

    /// Whether the end of a peer's process is beyond doubt.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(Member::is_gone)
    }

    /// The newest record of a peer.
    pub fn record(&self, node: NodeId) -> Option<&NodeRecord> {
        self.members.get(&node).map(|member| &member.record)
    }

    /// How a peer felt at its last heartbeat.
    pub fn vitals(&self, node: NodeId) -> Option<&Vitals> {
        self.members.get(&node)?.vitals.as_ref()
    }

    /// The instances that were not dropped, by id.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceRecord> {
        self.instances.live().map(|instance| &instance.record)
    }

    /// The instances, with those that were dropped within the last hour: what a peer is told, and what is worth keeping over a
    /// restart.
    pub fn instances_and_tombstones(&self) -> impl Iterator<Item = &InstanceRecord> {
        self.instances.told(self.clock.last())
    }

    /// The newest record of an instance, which may say that it was dropped.
    pub fn instance(&self, id: InstanceId) -> Option<&InstanceRecord> {
        self.instances.get(id)
    }

    /// Whether an epoch of an instance may be acted on: this node knows of no newer one, and not that it was dropped.
    pub fn is_current(&self, id: InstanceId, epoch: Epoch) -> bool {
        self.instances
            .get(id)
            .is_none_or(|record| record.phase != Phase::Dropped && record.epoch <= epoch)
    }

    /// The node that is to mend an instance when it breaks: the first of its stages' nodes that is not dead, else the lowest
    /// that is not. `None` if the instance is unknown or was dropped.
    pub fn coordinator(&self, id: InstanceId, now: Time) -> Option<NodeId> {
        let instance = self.instances.get_live(id)?;
        Some(self.coordinator_at(instance, self.clock.at(now)))
    }

    /// Returns an epoch for a placement that this node makes now by itself: above all that are known, and never returned twice.
    /// To be used for new instances too, so that this node knows its own unfinished work from that of an earlier life.
    pub fn reserve_epoch(&mut self, id: InstanceId) -> Epoch {
        self.instances.reserve(id, self.id, self.run)
    }

    /// Names what is known of the instances that were not dropped, by their ids, epochs and phases: equal if that is equal. Who
    /// has dropped an instance that another still has differs from it; a tombstone alone matters to nobody.
    pub fn instances_digest(&self) -> u64 {
        self.instances.digest()
    }

    /// The highest epoch that is known.
    pub fn highest_epoch(&self) -> Epoch {
        self.instances.highest_epoch()
    }

    /// Whether members are missing that discovery might find.
    pub fn is_looking(&self, now: Time) -> bool {
        let now = self.clock.at(now);
        let is_missing = |member: &Member| {
            !member.is_connected() || member.liveness(&self.timing, now) == Liveness::Dead
        };
        self.members.values().any(is_missing)
    }

    /// The lowest version that this node's record may have, so that it outranks what is told of the node's earlier lives. The
    /// clock that versions start from may have gone back since.
    pub fn own_version_floor(&self) -> u64 {
        self.other_life.floor()
    }

    /// The other life that answers under this node's id at the same time: a copied data directory.
    pub fn duplicate_seen(&self) -> Option<u64> {
        self.other_life.duplicate()
    }

    /// Moves the clock on, and after a sleep looks for everybody again.
    fn advance(&mut self, now: Time) -> Time {
        let (now, slept) = self.clock.advance(now);
        if slept >= self.timing.dead_after {
            self.woke_at = Some(now);
            self.redial_all(now);
        }
        now
    }

    fn redial_all(&mut self, now: Time) {
        let timing = self.timing;
        self.members.values_mut().for_each(|member| member.redial(true, &timing, now));
    }

    fn liveness_at(&self, node: NodeId, now: Time) -> Liveness {
        if node == self.id {
            return Liveness::Alive;
        }
        self.members.get(&node).map_or(Liveness::Dead, |member| member.liveness(&self.timing, now))
    }

    fn with(&mut self, node: NodeId, change: impl FnOnce(&mut Member) -> bool) -> bool {
        self.members.get_mut(&node).is_some_and(change)
    }

    fn apply_own(&mut self, record: NodeRecord) {
        if record.run != self.run {
            self.other_life.seen(record.run, record.version);
        } else if self.own.as_ref().is_none_or(|own| own.version < record.version) {
            self.own = Some(record);
        }
    }

    fn apply_record(&mut self, record: NodeRecord, now: Time) -> bool {
        let Some(member) = self.members.get_mut(&record.id) else {
            return self.insert(record, now);
        };
        let is_newer = (record.version, record.run) > (member.record.version, member.record.run);
        if is_newer {
            let has_moved = record.addrs != member.record.addrs;
            member.record = record;
            if has_moved {
                member.redial(false, &self.timing, now);
            }
        }
        is_newer
    }

    fn insert(&mut self, record: NodeRecord, now: Time) -> bool {
        if self.members.len() >= MEMBERS_MAX {
            return false;
        }
        self.members.insert(record.id, Member::new(record, now));
        true
    }
}

#[cfg(test)]
mod tests;
