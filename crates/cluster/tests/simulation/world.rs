//! The world around the nodes: time, links and connections between processes.
//!
//! A connection behaves as QUIC's do: what is lost arrives late, a link that carries nothing for six seconds ends it at each end
//! by itself, an end that is given up says so if it can, and who speaks on one that the other side has forgotten is told.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    io::Write as _,
    sync::Arc,
    time::Duration,
};

use shoal_cluster::{Event, State, Timing};
use shoal_proto::{
    Epoch, InstanceId, NodeId,
    control::{InstanceRecord, NodeRecord},
};

use crate::{
    actor::{Job, Node},
    data_plane::{Dialling, Wire},
    invariants::Ledger,
    random::Random,
    requests::Request,
    stage::Outgoing,
};

/// Milliseconds of virtual time since the start of the world.
pub(crate) type Ms = u64;

/// How often a node asks its state machine what to do.
pub(crate) const TICK: Ms = 200;
/// Silence after which an end of a connection is given up.
pub(crate) const IDLE: Ms = 6_000;
/// How long an answer, or a dial, is waited for.
pub(crate) const ANSWER_TIMEOUT: Ms = 5_000;

/// All that a node tells of what it knows.
pub(crate) struct Hello {
    pub(crate) record: NodeRecord,
    pub(crate) peers: Vec<NodeRecord>,
    pub(crate) instances: Vec<InstanceRecord>,
    /// The nodes that left, as the roll of members says.
    pub(crate) left: Vec<usize>,
}

#[derive(Clone)]
pub(crate) enum Message {
    Hello(Arc<Hello>),
    HelloAnswer {
        hello: Arc<Hello>,
        asked_at: Ms,
    },
    Heartbeat {
        version: u64,
        instances: u64,
        load: u8,
    },
    Ok {
        asked_at: Ms,
    },
    Publish(Arc<InstanceRecord>),
    Load(Arc<InstanceRecord>),
    Loaded {
        instance: InstanceId,
        epoch: Epoch,
        ok: bool,
    },
    StageLost {
        instance: InstanceId,
        epoch: Epoch,
    },
    Leave,
    /// The other end closed the connection.
    Closed,
    /// The other end knows nothing of the connection: it is alive, and has given it up.
    Forgotten,
}

pub(crate) enum What {
    Tick {
        node: usize,
        life: u32,
    },
    Deliver {
        conn: usize,
        to: usize,
        sent_at: Ms,
        tries: u32,
        message: Message,
    },
    Dial {
        from: usize,
        life: u32,
        to: usize,
        addr_is_right: bool,
    },
    DialFailed {
        from: usize,
        life: u32,
        to: usize,
        conn: Option<usize>,
    },
    Job {
        node: usize,
        life: u32,
        job: Job,
    },
    Trouble,
    CheckMet,
    Restart {
        node: usize,
    },
    /// Somebody asks something.
    Ask,
    Drive {
        request: usize,
    },
    Computed {
        node: usize,
        life: u32,
        instance: InstanceId,
        number: u64,
        frames: Outgoing,
    },
    Wire {
        wire: usize,
    },
    Link {
        from: usize,
        life: u32,
        to: usize,
        number: u64,
        dialling: Dialling,
    },
}

struct Entry {
    at: Ms,
    number: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A connection between two processes.
pub(crate) struct Conn {
    pub(crate) nodes: [usize; 2],
    lives: [u32; 2],
    pub(crate) open: [bool; 2],
    opened_at: Ms,
    /// Whether the end that dialled has had its answer.
    pub(crate) is_introduced: bool,
}

impl Conn {
    pub(crate) fn side(&self, node: usize) -> usize {
        usize::from(self.nodes[0] != node)
    }

    pub(crate) fn other(&self, node: usize) -> usize {
        self.nodes[1 - self.side(node)]
    }
}

/// What kind of world it is.
pub(crate) struct Climate {
    pub(crate) loss_percent: u64,
    pub(crate) delay_max: Ms,
    /// Share of messages that are asked twice.
    pub(crate) twice_percent: u64,
    /// Most instances that are placed.
    pub(crate) placed_max: usize,
    /// Mean time between troubles.
    pub(crate) calm: Ms,
    pub(crate) trouble_ends: Ms,
    /// Mean time between requests.
    pub(crate) curiosity: Ms,
    pub(crate) requests_max: usize,
    /// How long a dial to nobody takes: some systems say at once that nobody is there.
    pub(crate) dial_fails_after: Ms,
    pub(crate) ends: Ms,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: Ms,
    pub(crate) climate: Climate,
    pub(crate) nodes: Vec<Node>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) requests: Vec<Request>,
    /// Runners that died, by number.
    pub(crate) crashed_runners: BTreeSet<u64>,
    /// Numbers given to runners and links.
    pub(crate) n_numbers: u64,
    pub(crate) ledger: Ledger,
    /// Until when nothing passes from one node to another.
    cut_until: Vec<Ms>,
    queue: BinaryHeap<Reverse<Entry>>,
    n_queued: u64,
    is_traced: bool,
}

pub(crate) fn node_id(node: usize) -> NodeId {
    // Spread over all ids: the order of ids has nothing to do with the order of joining.
    let mut bytes = [u8::try_from(node).expect("at most 32 nodes"); 32];
    bytes[0] = bytes[0].wrapping_mul(167);
    NodeId(bytes)
}

pub(crate) fn duration(ms: Ms) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub(crate) fn new(seed: u64, n_hours: u64, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let n = match random.below(40) {
            0 => random.between(17, 32),
            1..=7 => random.between(9, 16),
            _ => random.between(2, 8),
        };
        let n = usize::try_from(n).expect("small");
        let trouble_ends =
            if n_hours > 0 { n_hours * 3_600_000 } else { random.between(60_000, 400_000) };
        let climate = Climate {
            loss_percent: random.pick(&[0, 1, 5, 20]).expect("some"),
            delay_max: random.pick(&[5, 50, 300]).expect("some"),
            twice_percent: random.pick(&[0, 2]).expect("some"),
            calm: random.pick(&[1_000, 5_000, 20_000]).expect("some")
                * if n_hours > 0 { 10 } else { 1 },
            placed_max: if n_hours > 0 { 200 } else { 24 },
            trouble_ends,
            curiosity: random.pick(&[500, 2_000, 8_000]).expect("some")
                * if n_hours > 0 { 10 } else { 1 },
            dial_fails_after: random.pick(&[1, 100, ANSWER_TIMEOUT]).expect("some"),
            requests_max: if n_hours > 0 { 400 } else { 80 },
            ends: trouble_ends + crate::invariants::SETTLED,
        };
        let mut world = Self {
            random,
            now: 0,
            climate,
            nodes: (0..n).map(Node::new).collect(),
            conns: Vec::new(),
            wires: Vec::new(),
            requests: Vec::new(),
            crashed_runners: BTreeSet::new(),
            n_numbers: 0,
            ledger: Ledger::default(),
            cut_until: vec![0; n * n],
            queue: BinaryHeap::new(),
            n_queued: 0,
            is_traced,
        };
        world.trace(|| format!("{n} nodes, trouble until {trouble_ends} ms"));
        for node in 0..n {
            let at = world.random.below(10_000);
            world.at(at, What::Restart { node });
        }
        world.at(10_000, What::Trouble);
        world.at(10_000, What::Ask);
        world.at(trouble_ends + crate::invariants::MET, What::CheckMet);
        world
    }

    /// Runs the world to its end. Returns how many events there were.
    pub(crate) fn run(&mut self) -> u64 {
        while let Some(Reverse(entry)) = self.queue.pop() {
            if entry.at > self.climate.ends {
                break;
            }
            self.now = entry.at;
            self.happen(entry.what);
        }
        self.check_settled();
        self.n_queued
    }

    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        if self.is_traced {
            let (s, ms) = (self.now / 1000, self.now % 1000);
            // A trace that nobody reads any more is no failure.
            let _ = writeln!(std::io::stderr().lock(), "{s:6}.{ms:03} {}", text());
        }
    }

    pub(crate) fn at(&mut self, at: Ms, what: What) {
        self.n_queued += 1;
        self.queue.push(Reverse(Entry { at, number: self.n_queued, what }));
    }

    pub(crate) fn n_in_flight(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, until: Ms) {
        let n = self.nodes.len();
        self.cut_until[from * n + to] = until;
    }

    pub(crate) fn cut_until(&self, from: usize, to: usize) -> Ms {
        self.cut_until[from * self.nodes.len() + to]
    }

    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        self.cut_until(from, to) <= self.now
    }

    pub(crate) fn is_awake(&self, node: usize) -> bool {
        self.nodes[node].is_running && self.nodes[node].frozen_until <= self.now
    }

    /// Whether a node that is asked again and again by another can answer.
    pub(crate) fn reaches(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a) && self.is_awake(a) && self.is_awake(b)
    }

    /// The time that a message takes.
    pub(crate) fn delay(&mut self) -> Ms {
        let mut delay = self.random.between(1, self.climate.delay_max);
        let mut late = 200;
        while late < 2_000 && self.random.chance(self.climate.loss_percent) {
            delay += late;
            late *= 2;
        }
        delay
    }

    pub(crate) fn send(&mut self, conn: usize, from: usize, message: Message) {
        self.ledger.sent(from, self.now, self.nodes.len());
        if matches!(message, Message::Heartbeat { .. } | Message::Publish(_) | Message::Load(_))
            && self.random.chance(self.climate.twice_percent)
        {
            self.put_on_the_wire(conn, from, message.clone());
        }
        self.put_on_the_wire(conn, from, message);
    }

    fn put_on_the_wire(&mut self, conn: usize, from: usize, message: Message) {
        let delay = self.delay();
        let to = self.conns[conn].other(from);
        let (sent_at, at) = (self.now, self.now + delay);
        self.at(at, What::Deliver { conn, to, sent_at, tries: 0, message });
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Tick { node, life } if self.nodes[node].life == life => self.tick_or_sleep(node),
            What::Deliver { conn, to, sent_at, tries, message } => {
                self.deliver(conn, to, sent_at, tries, message);
            }
            What::Dial { from, life, to, addr_is_right } => {
                self.dial_arrives(from, life, to, addr_is_right);
            }
            What::DialFailed { from, life, to, conn } => self.dial_failed(from, life, to, conn),
            What::Job { node, life, job } if self.nodes[node].life == life => {
                let thaws = self.nodes[node].frozen_until;
                if thaws > self.now {
                    self.at(thaws, What::Job { node, life, job });
                } else {
                    self.work(node, job);
                }
            }
            What::Computed { node, life, instance, number, frames }
                if self.nodes[node].life == life =>
            {
                let thaws = self.nodes[node].frozen_until;
                if thaws > self.now {
                    self.at(thaws, What::Computed { node, life, instance, number, frames });
                } else {
                    self.computed(node, instance, number, frames);
                }
            }
            What::Tick { .. } | What::Job { .. } | What::Computed { .. } => {}
            What::Ask => self.somebody_asks(),
            What::Drive { request } => self.drive(request),
            What::Wire { wire } => self.wire_is_due(wire),
            What::Link { from, life, to, number, dialling } => {
                self.link(from, life, to, number, dialling);
            }
            What::Trouble => self.make_trouble(),
            What::CheckMet => self.check_met(),
            What::Restart { node } => self.start(node),
        }
    }

    fn tick_or_sleep(&mut self, node: usize) {
        let thaws = self.nodes[node].frozen_until;
        let life = self.nodes[node].life;
        if thaws > self.now {
            self.at(thaws, What::Tick { node, life });
            return;
        }
        self.at(self.now + TICK, What::Tick { node, life });
        let it = &mut self.nodes[node];
        let slept = self.now - std::mem::replace(&mut it.last_tick, self.now);
        if slept >= IDLE && !it.clock_pauses {
            for conn in it.open.clone() {
                self.end(conn, node, false);
            }
        }
        self.time_out(node);
        self.time_out_links(node);
        self.tick(node);
        self.check_tick(node);
        self.check_requests(node);
    }

    /// Ends connections of `node` over which nothing can have come for too long.
    fn time_out(&mut self, node: usize) {
        for conn in self.nodes[node].open.clone() {
            let (other, side) = (self.conns[conn].other(node), self.conns[conn].side(node));
            let is_there = self.nodes[other].life == self.conns[conn].lives[1 - side]
                && self.nodes[other].is_running
                && self.conns[conn].open[1 - side];
            let is_heard = is_there && self.passes(other, node) && self.is_awake(other);
            let silent_since = &mut self.nodes[node].silent_since;
            if is_heard {
                silent_since.remove(&conn);
                continue;
            }
            let since = *silent_since.entry(conn).or_insert(self.now);
            if self.now >= since + IDLE {
                self.end(conn, node, false);
            }
        }
    }

    /// An end of a connection closes for its node.
    pub(crate) fn end(&mut self, conn: usize, node: usize, certain: bool) {
        let side = self.conns[conn].side(node);
        if !self.conns[conn].open[side] {
            return;
        }
        self.conns[conn].open[side] = false;
        let other = self.conns[conn].other(node);
        let it = &mut self.nodes[node];
        it.open.retain(|&open| open != conn);
        it.silent_since.remove(&conn);
        if it.current[other] == Some(conn) {
            it.current[other] = None;
            self.trace(|| format!("{node}: connection to {other} ended, certain: {certain}"));
            self.apply(node, Event::Disconnected { node: node_id(other), certain });
            if certain {
                self.drop_peer(node, other);
            }
        }
    }

    /// Gives up this node's end and says so, if anybody hears it.
    pub(crate) fn close(&mut self, conn: usize, node: usize) {
        let side = self.conns[conn].side(node);
        self.conns[conn].open[side] = false;
        self.nodes[node].open.retain(|&open| open != conn);
        self.nodes[node].silent_since.remove(&conn);
        self.put_on_the_wire(conn, node, Message::Closed);
    }

    fn deliver(&mut self, conn: usize, to: usize, sent_at: Ms, tries: u32, message: Message) {
        let (from, side) = (self.conns[conn].other(to), self.conns[conn].side(to));
        let is_notice = matches!(message, Message::Closed | Message::Forgotten);
        if !self.nodes[to].is_running || self.nodes[to].life != self.conns[conn].lives[side] {
            return;
        }
        if !self.passes(from, to) {
            // Sent again by QUIC until the sender gives up; a notice is sent once.
            if !is_notice && self.now < sent_at + IDLE && self.conns[conn].open[1 - side] {
                let at = self.now + (100 << tries.min(5));
                self.at(at, What::Deliver { conn, to, sent_at, tries: tries + 1, message });
            }
            return;
        }
        let thaws = self.nodes[to].frozen_until;
        if thaws > self.now {
            let at = thaws + self.random.below(50);
            self.at(at, What::Deliver { conn, to, sent_at, tries, message });
            return;
        }
        if !self.conns[conn].open[side] {
            if !is_notice && self.conns[conn].open[1 - side] {
                self.put_on_the_wire(conn, to, Message::Forgotten);
            }
            return;
        }
        if is_notice {
            self.end(conn, to, matches!(message, Message::Closed));
        } else {
            self.receive(conn, to, message);
        }
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize, addr_is_right: bool) {
        self.ledger.sent(from, self.now, self.nodes.len());
        let (at, life) = (self.now + 2 * self.delay(), self.nodes[from].life);
        self.at(at, What::Dial { from, life, to, addr_is_right });
    }

    fn dial_arrives(&mut self, from: usize, life: u32, to: usize, addr_is_right: bool) {
        if !self.nodes[from].is_running || self.nodes[from].life != life {
            return;
        }
        if !addr_is_right || !self.reaches(from, to) {
            self.at(self.now + ANSWER_TIMEOUT, What::DialFailed { from, life, to, conn: None });
            return;
        }
        let conn = self.conns.len();
        self.conns.push(Conn {
            nodes: [from, to],
            lives: [life, self.nodes[to].life],
            open: [true; 2],
            opened_at: self.now,
            is_introduced: false,
        });
        self.nodes[from].open.push(conn);
        self.at(self.now + ANSWER_TIMEOUT, What::DialFailed { from, life, to, conn: Some(conn) });
        self.serve(conn, to);
        let hello = Message::Hello(self.hello(from));
        self.send(conn, from, hello);
    }

    fn dial_failed(&mut self, from: usize, life: u32, to: usize, conn: Option<usize>) {
        if !self.nodes[from].is_running || self.nodes[from].life != life {
            return;
        }
        let thaws = self.nodes[from].frozen_until;
        if thaws > self.now {
            self.at(thaws, What::DialFailed { from, life, to, conn });
            return;
        }
        if let Some(conn) = conn {
            if self.conns[conn].is_introduced {
                return;
            }
            self.close(conn, from);
        }
        self.apply(from, Event::DialFailed(node_id(to)));
    }

    /// A connection stands for `node`: it takes the place of an older one.
    pub(crate) fn serve(&mut self, conn: usize, node: usize) {
        let other = self.conns[conn].other(node);
        self.nodes[node].current[other] = Some(conn);
        if !self.nodes[node].open.contains(&conn) {
            self.nodes[node].open.push(conn);
        }
        if self.apply(node, Event::Connected(node_id(other))) {
            self.trace(|| format!("{node}: connected to {other}"));
        }
        self.renew_link(node, other);
        self.forget_old(node, other);
    }

    /// Connections that neither end uses any more go quietly, so that they do not pile up.
    fn forget_old(&mut self, node: usize, other: usize) {
        let old: Vec<usize> = self.nodes[node]
            .open
            .iter()
            .copied()
            .filter(|&conn| {
                let it = &self.conns[conn];
                it.other(node) == other
                    && self.now > it.opened_at + 10_000
                    && self.nodes[node].current[other] != Some(conn)
                    && self.nodes[other].current[node] != Some(conn)
            })
            .collect();
        for conn in old {
            self.conns[conn].open = [false; 2];
            self.nodes[node].open.retain(|&open| open != conn);
            self.nodes[other].open.retain(|&open| open != conn);
            self.nodes[node].silent_since.remove(&conn);
            self.nodes[other].silent_since.remove(&conn);
        }
    }

    /// The process is gone: the kernel says nothing for it.
    pub(crate) fn kill(&mut self, node: usize) {
        self.end_data_plane(node);
        let it = &mut self.nodes[node];
        it.is_running = false;
        it.open.clear();
        it.silent_since.clear();
        it.current.fill(None);
        it.works.clear();
    }

    /// What a node's process begins a life with.
    pub(crate) fn new_state(node: usize, run: u64) -> State {
        State::new(node_id(node), run, Timing::default())
    }
}
