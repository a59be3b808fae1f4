//! The data plane: links between nodes as the router has them, and what a node does with the frames that arrive.
//!
//! A link sends in order over one connection at a time. When that fails, or there is a better way, what was sent last is sent
//! again over the next one, while some of it may still arrive over the old one.

use std::collections::VecDeque;

use shoal_cluster::Liveness;
use shoal_proto::{InstanceId, control::Phase, frame::FrameKey};

use crate::{
    actor::index,
    requests::How,
    stage::{Body, Frame, Input, Outgoing},
    world::{IDLE, Ms, What, World, node_id},
};

/// Frames that a link sends again, and how old they may be.
const RESENT_MAX: usize = 16;
const RESENT_AGE: Ms = 10_000;
/// How long a link to a node that lives is tried to be mended.
const GIVE_UP_AFTER: Ms = 30_000;
const RETRY_PAUSE: Ms = 250;
/// How often a node asks after the sequences that it keeps, and how long a stage keeps what nobody asks after. The real times
/// are ten times as long.
pub(crate) const VOUCH_EVERY: Ms = 12_000;
const EXPIRE_AFTER: Ms = 60_000;

/// The sending half of the way to another node.
pub(crate) struct Link {
    /// Unlike that of any other, and of any other trial of this one.
    number: u64,
    unsent: VecDeque<Frame>,
    recent: VecDeque<(Ms, Frame)>,
    wire: Option<usize>,
    given_up_at: Ms,
    silent_since: Option<Ms>,
}

/// A connection of the data plane, in one direction.
pub(crate) struct Wire {
    from: usize,
    to: usize,
    /// The life of the receiver.
    life: u32,
    /// What is on its way, and when it is there.
    frames: VecDeque<(Ms, Frame)>,
    last_at: Ms,
    blocked_since: Option<Ms>,
    is_awaited: bool,
}

/// What happens to a link.
pub(crate) enum Dialling {
    Begins,
    Arrives,
    Fails,
}

impl World {
    pub(crate) fn send_frame(&mut self, from: usize, to: usize, frame: Frame) {
        if from == to {
            self.deliver_frame(to, frame);
            return;
        }
        if !self.nodes[from].links.contains_key(&to) {
            let link = Link {
                number: 0,
                unsent: VecDeque::new(),
                recent: VecDeque::new(),
                wire: None,
                given_up_at: self.now + GIVE_UP_AFTER,
                silent_since: None,
            };
            self.nodes[from].links.insert(to, link);
            self.try_link(from, to, 0);
        }
        let link = self.nodes[from].links.get_mut(&to).expect("just made");
        link.unsent.push_back(frame);
        self.flush(from, to);
    }

    pub(crate) fn send_all(&mut self, from: usize, frames: Outgoing) {
        for (to, frame) in frames {
            self.send_frame(from, to, frame);
        }
    }

    fn flush(&mut self, from: usize, to: usize) {
        let link = self.nodes[from].links.get_mut(&to).expect("who flushes has a link");
        let Some(wire) = link.wire else { return };
        while let Some(frame) =
            self.nodes[from].links.get_mut(&to).and_then(|it| it.unsent.pop_front())
        {
            let at = self.wires[wire].last_at.max(self.now + self.delay());
            self.wires[wire].last_at = at;
            self.wires[wire].frames.push_back((at, frame.clone()));
            let (now, link) = (self.now, self.nodes[from].links.get_mut(&to).expect("as above"));
            if link.recent.len() >= RESENT_MAX {
                link.recent.pop_front();
            }
            link.recent.push_back((now, frame));
        }
        self.await_wire(wire);
    }

    fn await_wire(&mut self, wire: usize) {
        let it = &mut self.wires[wire];
        if let Some(&(at, _)) = it.frames.front().filter(|_| !it.is_awaited) {
            it.is_awaited = true;
            let at = at.max(self.now);
            self.at(at, What::Wire { wire });
        }
    }

    /// The first frame on a wire is there, or would be if nothing stood in its way.
    pub(crate) fn wire_is_due(&mut self, wire: usize) {
        let it = &mut self.wires[wire];
        it.is_awaited = false;
        let (from, to, life) = (it.from, it.to, it.life);
        if self.nodes[to].life != life || !self.nodes[to].is_running {
            self.cut_wire(wire, 0);
            return;
        }
        if !self.passes(from, to) {
            let since = *self.wires[wire].blocked_since.get_or_insert(self.now);
            if self.now >= since + IDLE {
                self.cut_wire(wire, 0);
            } else {
                self.wires[wire].is_awaited = true;
                self.at(self.now + 250, What::Wire { wire });
            }
            return;
        }
        self.wires[wire].blocked_since = None;
        let thaws = self.nodes[to].frozen_until;
        if thaws > self.now {
            self.wires[wire].is_awaited = true;
            self.at(thaws, What::Wire { wire });
            return;
        }
        if let Some((_, frame)) = self.wires[wire].frames.pop_front()
            && !self.nodes[to].left.contains(&from)
        {
            self.deliver_frame(to, frame);
        }
        self.await_wire(wire);
    }

    /// All but the first frames on a wire are lost.
    fn cut_wire(&mut self, wire: usize, n_arrive: usize) {
        self.wires[wire].frames.truncate(n_arrive);
    }

    /// A link begins to dial after a pause.
    fn try_link(&mut self, from: usize, to: usize, pause: Ms) {
        self.n_numbers += 1;
        let (number, life) = (self.n_numbers, self.nodes[from].life);
        let Some(link) = self.nodes[from].links.get_mut(&to) else { return };
        link.number = number;
        link.wire = None;
        let what = What::Link { from, life, to, number, dialling: Dialling::Begins };
        self.at(self.now + pause, what);
    }

    pub(crate) fn link(
        &mut self,
        from: usize,
        life: u32,
        to: usize,
        number: u64,
        dialling: Dialling,
    ) {
        let is_current = self.nodes[from].links.get(&to).is_some_and(|it| it.number == number);
        if self.nodes[from].life != life || !is_current {
            return;
        }
        let thaws = self.nodes[from].frozen_until;
        if thaws > self.now {
            self.at(thaws, What::Link { from, life, to, number, dialling });
            return;
        }
        let (at, dialling) = match dialling {
            Dialling::Begins if self.reaches(from, to) && !self.nodes[to].left.contains(&from) => {
                (self.now + 2 * self.delay(), Dialling::Arrives)
            }
            Dialling::Begins => (self.now + self.climate.dial_fails_after, Dialling::Fails),
            Dialling::Arrives if self.reaches(from, to) => return self.link_stands(from, to),
            Dialling::Arrives | Dialling::Fails => return self.link_failed(from, to),
        };
        self.at(at, What::Link { from, life, to, number, dialling });
    }

    fn link_stands(&mut self, from: usize, to: usize) {
        let wire = self.wires.len();
        let life = self.nodes[to].life;
        let last_at = self.now;
        let frames = VecDeque::new();
        let (blocked_since, is_awaited) = (None, false);
        self.wires.push(Wire { from, to, life, frames, last_at, blocked_since, is_awaited });
        let link = self.nodes[from].links.get_mut(&to).expect("it is current");
        (link.wire, link.silent_since) = (Some(wire), None);
        self.flush(from, to);
    }

    /// A connection failed, or could not be made.
    fn link_failed(&mut self, from: usize, to: usize) {
        self.take_back(from, to);
        let now = self.nodes[from].clock(self.now);
        let is_dead = self.nodes[from].state.liveness(node_id(to), now) == Liveness::Dead;
        let link = &self.nodes[from].links[&to];
        if !is_dead && self.now <= link.given_up_at {
            self.try_link(from, to, RETRY_PAUSE);
            return;
        }
        self.trace(|| format!("{from}: the link to {to} failed"));
        let link = self.nodes[from].links.remove(&to).expect("just looked at");
        for frame in link.unsent {
            self.undeliverable(from, &frame);
        }
    }

    /// What was sent over the last connection is to be sent again.
    fn take_back(&mut self, from: usize, to: usize) {
        let now = self.now;
        let link = self.nodes[from].links.get_mut(&to).expect("it is current");
        if !link.recent.is_empty() {
            link.given_up_at = now + GIVE_UP_AFTER;
        }
        let recent = std::mem::take(&mut link.recent).into_iter();
        let again = recent.filter(|(at, _)| now < at + RESENT_AGE).map(|(_, frame)| frame);
        link.unsent = again.chain(link.unsent.drain(..)).collect();
        if let Some(wire) = link.wire.take() {
            // Some of it may have arrived already, and only wait to be read.
            let n_arrive = self.random.index(self.wires[wire].frames.len() + 1);
            self.cut_wire(wire, n_arrive);
        }
    }

    /// The way to a node has changed.
    pub(crate) fn renew_link(&mut self, from: usize, to: usize) {
        if self.nodes[from].links.contains_key(&to) {
            self.take_back(from, to);
            self.try_link(from, to, 0);
        }
    }

    /// Ends connections over which nothing can have come for too long.
    pub(crate) fn time_out_links(&mut self, node: usize) {
        let open = self.nodes[node].links.iter().filter_map(|(&to, it)| Some((to, it.wire?)));
        for (to, wire) in open.collect::<Vec<_>>() {
            let is_same = self.nodes[to].life == self.wires[wire].life;
            let is_heard = is_same && self.reaches(node, to);
            let is_reset = !is_same && self.reaches(node, to) && self.random.chance(30);
            let now = self.now;
            let link = self.nodes[node].links.get_mut(&to).expect("just listed");
            if is_heard {
                link.silent_since = None;
                continue;
            }
            let since = *link.silent_since.get_or_insert(now);
            if is_reset || now >= since + IDLE {
                self.link_failed(node, to);
            }
        }
    }

    /// A node takes another for dead: its link goes, and the sequences that it drives.
    pub(crate) fn drop_peer(&mut self, node: usize, peer: usize) {
        if let Some(link) = self.nodes[node].links.remove(&peer)
            && link.wire.is_none()
        {
            for frame in link.unsent {
                self.undeliverable(node, &frame);
            }
        }
        let instances: Vec<InstanceId> = self.nodes[node].runners.keys().copied().collect();
        for instance in instances {
            self.hand_over(node, instance, Input::DropDriver(node_id(peer)));
        }
    }

    /// Asks each stage after the sequences that a node keeps, and ends what nobody asks after at its own stages.
    pub(crate) fn vouch(&mut self, node: usize) {
        let its = &self.nodes[node];
        let kept = its.idle.iter().flat_map(|(&id, idle)| idle.iter().map(move |it| (id, it.0)));
        for (id, sequence) in kept.collect::<Vec<_>>() {
            let Some(record) = self.nodes[node].state.instance(id).cloned() else { continue };
            let last_use = self.requests.iter().rposition(|it| {
                let is_of = it.node == node && it.record.id == id;
                is_of && it.sequence.without_use() == sequence.without_use()
            });
            let request = last_use.expect("it was used");
            if record.phase != Phase::Ready {
                continue;
            }
            let key =
                FrameKey { instance: id, epoch: record.epoch, sequence, driver: node_id(node) };
            for (stage, at) in record.placement.stages.iter().enumerate() {
                let body = Body::Probe { stage, n_tokens: 0 };
                self.send_frame(node, index(at.node), Frame { key, request, body });
            }
        }
        let Some(since) = self.now.checked_sub(EXPIRE_AFTER) else { return };
        let instances: Vec<InstanceId> = self.nodes[node].runners.keys().copied().collect();
        for instance in instances {
            self.hand_over(node, instance, Input::Expire(since));
        }
    }

    fn undeliverable(&mut self, node: usize, frame: &Frame) {
        if matches!(frame.body, Body::Step(_) | Body::Probe { .. }) {
            let lost = Frame { body: Body::Lost, ..frame.clone() };
            self.send_frame(node, index(frame.key.driver), lost);
        }
    }

    /// A frame has arrived: at a runner, or a driver.
    fn deliver_frame(&mut self, node: usize, frame: Frame) {
        let FrameKey { instance, epoch, sequence, .. } = frame.key;
        match frame.body {
            Body::Step(_) | Body::Probe { .. } | Body::Close => {
                let runner = self.nodes[node].runners.get(&instance);
                if runner.is_some_and(|it| it.epoch == epoch && !it.is_fenced) {
                    self.check_takes(node, instance, epoch);
                    self.hand_over(node, instance, Input::Frame(frame));
                } else {
                    self.undeliverable(node, &frame);
                }
            }
            Body::Done { .. } | Body::Have { .. } | Body::Lost => {
                if let Some(&request) = self.nodes[node].drivers.get(&(instance, sequence)) {
                    self.requests[request].inbox.push_back(frame);
                    self.wake(request, self.now);
                }
            }
        }
    }

    pub(crate) fn hand_over(&mut self, node: usize, instance: InstanceId, input: Input) {
        let runner = self.nodes[node].runners.get_mut(&instance).expect("it runs here");
        runner.inbox.push_back(input);
        self.run_stage(node, instance);
    }

    /// A runner looks into its inbox, unless it computes.
    fn run_stage(&mut self, node: usize, instance: InstanceId) {
        let Some(runner) = self.nodes[node].runners.get_mut(&instance) else { return };
        if runner.is_busy {
            return;
        }
        let work = runner.work(self.now, &self.requests);
        if work.n_rows > 0 {
            runner.is_busy = true;
            let number = runner.number;
            let takes = self.computing_takes(node, work.n_rows);
            let (life, frames) = (self.nodes[node].life, work.computed);
            self.at(self.now + takes, What::Computed { node, life, instance, number, frames });
        }
        self.send_all(node, work.at_once);
    }

    fn computing_takes(&mut self, node: usize, n_rows: usize) -> Ms {
        let takes = self.random.between(1, 10) + n_rows as Ms;
        if self.nodes[node].slow_until > self.now {
            takes * self.nodes[node].slowness
        } else {
            takes
        }
    }

    pub(crate) fn computed(
        &mut self,
        node: usize,
        instance: InstanceId,
        number: u64,
        frames: Outgoing,
    ) {
        if self.crashed_runners.contains(&number) {
            return;
        }
        if let Some(runner) = self.nodes[node].runners.get_mut(&instance)
            && runner.number == number
        {
            runner.is_busy = false;
        }
        self.send_all(node, frames);
        self.run_stage(node, instance);
    }

    /// The process of a node has ended, and its requests with it.
    pub(crate) fn end_data_plane(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.links.clear();
        it.runners.clear();
        it.idle.clear();
        let drivers = std::mem::take(&mut it.drivers);
        for request in drivers.into_values() {
            self.requests[request].ended = Some(How::DriverDied);
        }
    }
}
